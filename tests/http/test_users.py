"""Users for administrators over two real gateways on one database: found, counted, changed, and ended by domain."""

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import httpx
import psycopg
import pytest

from engine.app import WorkerApp
from tests.harness import Gateway
from tests.http.pairs import connect, make_key, pair_of_gateways, wait_for
from tests.http.test_every_route import worker  # noqa: F401 - the fixture

CLERK = (
    "role: clerk\nextends: user\nlevel: 2\n"
    "permissions: {users: [list, read, update, delete], any_api_keys: '*'}\n"
)
ALL = ["inference", "read", "admin"]
Pair = tuple[Gateway, Gateway]


@pytest.fixture(scope="module")
def gateways(tmp_path_factory: pytest.TempPathFactory, server_url: str) -> Iterator[Pair]:
    files = {"policies.d/clerk.yaml": CLERK}
    with pair_of_gateways(tmp_path_factory.mktemp("users"), server_url, files) as made:
        yield made


@pytest.fixture(scope="module")
def admin(gateways: Pair) -> Iterator[httpx.Client]:
    with connect(gateways[0]) as made:
        yield made


def make_user(server_url: str, name: str, role: str = "user", domain: str = "some.example") -> str:
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO users (id, email, role, name) VALUES (%s, %s, %s, %s)",
            (f"user_{name}", f"{name}@{domain}", role, name.title()),
        )
    return f"user_{name}"


def end(client: httpx.Client, domain: str, **body: Any) -> httpx.Response:
    return client.request("DELETE", f"/admin/users/by-domain/{domain}", json=body)


def list_ids(admin: httpx.Client, **filters: Any) -> list[str]:
    answer = admin.get("/admin/users", params=filters)
    assert answer.status_code == 200, answer.text
    return [user["id"] for user in answer.json()["users"]]


def test_users_are_listed_in_pages_of_the_known_shape(admin: httpx.Client, server_url: str) -> None:
    made = [make_user(server_url, f"paged{n}", domain="paged.example") for n in range(5)]
    query = {"email": "@PAGED.example", "limit": 2, "offset": 2}
    page = admin.get("/admin/users", params=query).json()
    assert (page["status"], page["total_users"], page["has_more"]) == ("success", 5, True)
    assert page["pagination"] == {"limit": 2, "offset": 2, "current_page": 2, "total_pages": 3}
    assert page["filters_applied"] == {"email": "@PAGED.example"} and page["timestamp"]
    assert [user["id"] for user in page["users"]] == made[2:4]
    assert admin.get("/admin/users", params=query | {"offset": 4}).json()["has_more"] is False


def test_each_filter_finds_its_users_and_no_others(
    gateways: Pair, admin: httpx.Client, server_url: str
) -> None:
    one, other = make_user(server_url, "sought"), make_user(server_url, "unsought", "developer")
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute("UPDATE users SET active = false, plan = 'odd' WHERE id = %s", (other,))
    key_id = make_key(gateways[0], one)["id"]
    assert list_ids(admin, key_id=key_id) == [one]
    assert list_ids(admin, key_id="key_nobody") == []
    assert list_ids(admin, role="developer", email="sought") == [other]
    assert list_ids(admin, is_active="false", plan="odd") == [other]
    assert list_ids(admin, is_active="true", email="sought@") == [one]
    assert list_ids(admin, email="%") == []


def test_a_row_has_the_own_keys_and_the_balances_of_the_ledger(
    gateways: Pair, admin: httpx.Client, server_url: str
) -> None:
    user_id = make_user(server_url, "counted")
    keys = [make_key(gateways[0], user_id) for _ in range(2)]
    admin.request("DELETE", f"/admin/api-keys/{keys[0]['id']}", json={"confirmation": "DELETE_KEY"})
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO ledger_accounts (id, balance_usd) VALUES (%s, '1.000000000003'), (%s, '0.5')",
            (f"credit:user:{user_id}", f"allowance:user:{user_id}"),
        )
    answer = admin.get(f"/admin/users/{user_id}")
    user = answer.json()["user"]
    assert (user["email"], user["name"], user["role"]) == ("counted@some.example", "Counted", "user")
    assert (user["api_keys"], user["active_api_keys"]) == (2, 1)
    assert Decimal(user["balance"]["credit_usd"]) == Decimal("1.000000000003")
    assert Decimal(user["balance"]["allowance_usd"]) == Decimal("0.5")
    assert list_ids(admin, key_id=keys[1]["id"]) == [user_id]
    assert not {"password_hash", "limits", "preferences", "settings"} & set(user)
    assert admin.get("/admin/users/user_nobody").json()["error"]["code"] == "user_not_found"
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute("DELETE FROM ledger_accounts WHERE id LIKE %s", (f"%:user:{user_id}",))


def test_the_owner_of_a_key_is_found_by_its_text_and_no_answer_holds_it(
    gateways: Pair, admin: httpx.Client, server_url: str
) -> None:
    user_id = make_user(server_url, "leaky")
    made = make_key(gateways[0], user_id)
    answer = admin.post("/admin/users/by-api-key", json={"api_key": made["api_key"]})
    found = answer.json()
    assert (found["user"]["id"], found["key"]["id"]) == (user_id, made["id"])
    assert found["key"]["is_active"] and made["api_key"] not in answer.text and "hash" not in answer.text
    rotated = admin.put(f"/admin/api-keys/{made['id']}", json={"action": "rotate", "grace_period_hours": 1})
    for text in (made["api_key"], rotated.json()["api_key"]):
        again = admin.post("/admin/users/by-api-key", json={"api_key": text})
        assert again.json()["key"]["id"] == made["id"] and text not in again.text
    admin.request("DELETE", f"/admin/api-keys/{made['id']}", json={"confirmation": "DELETE_KEY"})
    ended = admin.post("/admin/users/by-api-key", json={"api_key": rotated.json()["api_key"]})
    assert ended.json()["key"]["is_active"] is False
    unknown = admin.post("/admin/users/by-api-key", json={"api_key": "gw_live_unheard-of"})
    assert unknown.status_code == 404 and "unheard-of" not in unknown.text
    assert made["api_key"] not in gateways[0].read_log()


def test_who_is_no_longer_active_is_refused_by_another_gateway_within_a_second(
    gateways: Pair, admin: httpx.Client, server_url: str
) -> None:
    user_id = make_user(server_url, "resting")
    key = make_key(gateways[0], user_id, scope_permissions=ALL)["api_key"]
    with connect(gateways[1], key) as other:
        assert other.get("/user/api-keys").status_code == 200
        body = {"is_active": False, "name": "Rested"}
        changed = admin.patch(f"/admin/users/{user_id}", json=body).json()["user"]
        assert (changed["is_active"], changed["name"]) == (False, "Rested")
        wait_for(lambda: other.get("/user/api-keys").status_code == 401)
        assert admin.patch(f"/admin/users/{user_id}", json={"is_active": True}).status_code == 200
        wait_for(lambda: other.get("/user/api-keys").status_code == 200)
    events = admin.get("/admin/audit", params={"key_id": user_id, "action": "user.update"}).json()
    changes = [event["after"] for event in next(v for v in events.values() if isinstance(v, list))]
    assert changes == [{"is_active": True}, {"is_active": False, "name": "Rested"}]


def test_an_account_that_was_deleted_stays_deleted(admin: httpx.Client, server_url: str) -> None:
    user_id = make_user(server_url, "erased")
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute("UPDATE users SET active = false, erased_at = now() WHERE id = %s", (user_id,))
    refused = admin.patch(f"/admin/users/{user_id}", json={"is_active": True})
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "account_deleted")


def test_plan_and_prepaid_are_set_and_an_undeclared_plan_is_refused(
    admin: httpx.Client, server_url: str
) -> None:
    user_id = make_user(server_url, "planned")
    plan = admin.get("/plans").json()
    name = (plan if isinstance(plan, list) else plan["plans"])[0]["id"]
    changed = admin.patch(f"/admin/users/{user_id}", json={"plan": name, "prepaid": True}).json()["user"]
    assert (changed["plan"], changed["prepaid"]) == (name, True)
    refused = admin.patch(f"/admin/users/{user_id}", json={"plan": "no-such-plan"})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "plan")
    assert admin.patch(f"/admin/users/{user_id}", json={"plan": ""}).json()["user"]["plan"] == ""


def test_the_last_administrator_stays_active_and_nobody_above_is_changed(
    gateways: Pair, admin: httpx.Client, server_url: str
) -> None:
    clerk = make_user(server_url, "clerk", "clerk")
    chief = make_user(server_url, "chief", "admin", "chiefs.example")
    key = make_key(gateways[0], clerk, role="clerk", scope_permissions=ALL)["api_key"]
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute("UPDATE users SET active = false WHERE role = 'admin' AND id <> %s", (chief,))
    last = [
        admin.patch(f"/admin/users/{chief}", json={"is_active": False}),
        end(admin, "chiefs.example", confirmation="DELETE_USERS", dry_run=False),
    ]
    assert [(each.status_code, each.json()["error"]["code"]) for each in last] == [
        (403, "last_administrator")
    ] * 2
    with connect(gateways[0], key) as lesser:
        above = [
            lesser.patch(f"/admin/users/{chief}", json={"name": "x"}),
            end(lesser, "chiefs.example", confirmation="DELETE_USERS", dry_run=False),
        ]
        assert [each.json()["error"]["code"] for each in above] == ["role_too_high"] * 2
        assert lesser.patch(f"/admin/users/{clerk}", json={"name": "Me"}).status_code == 200
        assert lesser.get("/admin/users/count").status_code == 403
    assert admin.get(f"/admin/users/{chief}").json()["user"]["is_active"] is True
    make_user(server_url, "second", "admin")
    assert admin.patch(f"/admin/users/{chief}", json={"is_active": False}).status_code == 200


def test_a_domain_is_ended_after_a_dry_run_that_changes_nothing(
    gateways: Pair, admin: httpx.Client, server_url: str
) -> None:
    gone = [make_user(server_url, f"gone{n}", domain="Gone.example") for n in range(2)]
    stays = [
        make_user(server_url, "below", domain="sub.gone.example"),
        make_user(server_url, "beside", domain="begone.example"),
    ]
    key = make_key(gateways[0], gone[0], scope_permissions=ALL)
    team = admin.post("/admin/teams", json={"name": "Theirs", "owner": gone[0]}).json()
    team_id = team.get("team_id") or team["team"]["team_id"]
    with connect(gateways[0], key["api_key"]) as owner:
        of_team = owner.post(f"/teams/{team_id}/api-keys", json={"key_name": "k"}).json()["api_key"]
    tried = end(admin, "gone.example", confirmation="DELETE_USERS").json()
    assert (tried["dry_run"], tried["total_users"], tried["total_api_keys"]) == (True, 2, 1)
    assert set(list_ids(admin, is_active="true", email="gone.example")) == {*gone, *stays}
    with connect(gateways[1], key["api_key"]) as other, connect(gateways[1], of_team) as teams:
        assert other.get("/user/api-keys").status_code == 200
        done = end(admin, "gone.example", confirmation="DELETE_USERS", dry_run=False).json()
        assert [user["id"] for user in done["users"]] == gone
        wait_for(lambda: other.get("/user/api-keys").status_code == 401)
        assert teams.get("/v1/models").status_code == 200
    assert set(list_ids(admin, is_active="true", email="gone.example")) == set(stays)
    admin.patch(f"/admin/users/{gone[0]}", json={"is_active": True})
    assert admin.get(f"/admin/users/{gone[0]}").json()["user"]["active_api_keys"] == 0
    again = end(admin, "gone.example", confirmation="DELETE_USERS").json()
    assert [user["id"] for user in again["users"]] == gone[:1]


def test_counts_agree_with_each_other(admin: httpx.Client, server_url: str) -> None:
    make_user(server_url, "today")
    count = admin.get("/admin/users/count").json()
    stats = admin.get("/admin/users/stats").json()
    growth = admin.get("/admin/users/growth", params={"days": 7}).json()
    listed = admin.get("/admin/users", params={"limit": 1000}).json()["users"]
    assert count["total_users"] == len(listed) == count["active_users"] + count["inactive_users"]
    assert stats["total_users"] == sum(stats["by_role"].values()) == sum(stats["by_plan"].values())
    assert len(growth["data"]) == 7 and growth["data"][-1]["total_users"] == count["total_users"]
    assert growth["new_users"] == sum(day["new_users"] for day in growth["data"]) >= 1
    numbers = str({**count, **growth})
    assert "@" not in numbers and "user_today" not in numbers


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=1001", "offset=-1", "limit=x", "is_active=maybe", "more=1", "email=", "role=a%20b",
     "email=a%00", "api_key=gw_live_x", "limit=1&limit=2"],
)  # fmt: skip
def test_a_bad_query_is_a_400(admin: httpx.Client, query: str) -> None:
    assert admin.get(f"/admin/users?{query}").status_code == 400


@pytest.mark.parametrize(
    "body",
    [{}, {"name": None}, {"is_active": "no idea"}, {"role": "admin"}, {"email": "a@b.c"}, {"name": "x" * 201},
     {"name": "a\0"}, {"plan": 5}, {"balance": "1"}],
)  # fmt: skip
def test_a_bad_change_is_a_400(admin: httpx.Client, server_url: str, body: dict[str, object]) -> None:
    assert admin.patch("/admin/users/user_today", json=body).status_code == 400


@pytest.mark.parametrize(
    ("domain", "body"),
    [("x.example", {}), ("x.example", {"confirmation": "yes"}), ("nodot", {"confirmation": "DELETE_USERS"}),
     ("a@b.example", {"confirmation": "DELETE_USERS"}), ("%25.example", {"confirmation": "DELETE_USERS"}),
     ("x.example", {"confirmation": "DELETE_USERS", "dry_run": "perhaps"})],
)  # fmt: skip
def test_a_domain_is_not_ended_by_a_bad_word(admin: httpx.Client, domain: str, body: dict[str, Any]) -> None:
    assert end(admin, domain, **body).status_code == 400


@pytest.mark.parametrize("body", [{}, {"api_key": ""}, {"api_key": "x" * 301}, {"api_key": 5}])
def test_a_bad_key_text_is_a_400(admin: httpx.Client, body: dict[str, object]) -> None:
    assert admin.post("/admin/users/by-api-key", json=body).status_code == 400


def test_every_route_of_users_names_its_permission(worker: WorkerApp) -> None:  # noqa: F811
    routes = [route for route in worker.asgi.declared if route.path.startswith("/admin/users")]
    named = [route for route in routes if route.need is not None and route.need.permission]
    assert len(routes) >= 8 and named == routes
