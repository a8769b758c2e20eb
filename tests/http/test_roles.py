"""Roles over two real gateways on one database: changes are seen by both, and nobody gets more than he has."""

from collections.abc import Iterator

import httpx
import psycopg
import pytest

from tests.harness import Gateway
from tests.http.pairs import connect, make_key, pair_of_gateways, wait_for

AUDITOR = (
    "role: auditor\nextends: user\nlevel: 2\n"
    "permissions: {audit_logs: [read], any_api_keys: '*', roles: [read, update], users: [read]}\n"
)
ALL = ["inference", "read", "admin"]


@pytest.fixture(scope="module")
def gateways(tmp_path_factory: pytest.TempPathFactory, server_url: str) -> Iterator[tuple[Gateway, Gateway]]:
    with pair_of_gateways(
        tmp_path_factory.mktemp("roles"), server_url, {"policies.d/auditor.yaml": AUDITOR}
    ) as made:
        yield made


@pytest.fixture(scope="module")
def admin(gateways: tuple[Gateway, Gateway]) -> Iterator[httpx.Client]:
    with connect(gateways[0]) as made:
        yield made


def make_user(server_url: str, name: str, role: str = "user") -> str:
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO users (id, email, role) VALUES (%s, %s, %s)", (f"user_{name}", f"{name}@b.c", role)
        )
    return f"user_{name}"


def give(admin: httpx.Client, user_id: str, role: str) -> httpx.Response:
    body = {"user_id": user_id, "new_role": role, "reason": "tried"}
    return admin.post("/admin/roles/update", json=body)


def test_a_change_of_a_role_is_seen_by_another_gateway_within_a_second(
    gateways: tuple[Gateway, Gateway], admin: httpx.Client, server_url: str
) -> None:
    user_id = make_user(server_url, "changing")
    assert give(admin, user_id, "auditor").json()["old_role"] == "user"
    key = make_key(gateways[0], user_id, role="auditor", scope_permissions=ALL)["api_key"]
    with connect(gateways[1], key) as other:
        assert other.get("/admin/audit").status_code == 200
        assert give(admin, user_id, "user").status_code == 200
        wait_for(lambda: other.get("/admin/audit").status_code == 403)
        assert other.get("/user/api-keys").status_code == 200
        assert give(admin, user_id, "auditor").status_code == 200
        wait_for(lambda: other.get("/admin/audit").status_code == 200)
    shown = admin.get("/admin/roles/audit/log", params={"user_id": user_id}).json()["logs"]
    assert [(event["old_role"], event["new_role"]) for event in shown] == [
        ("user", "auditor"),
        ("auditor", "user"),
        ("user", "auditor"),
    ]
    assert {(event["changed_by"], event["reason"]) for event in shown} == {("admin", "tried")}


def test_roles_are_shown_with_what_they_may(admin: httpx.Client, server_url: str) -> None:
    user_id = make_user(server_url, "shown", "auditor")
    listed = admin.get("/admin/roles").json()["roles"]
    assert [role["role"] for role in listed if role["level"] != 2] == ["user", "admin"]
    assert "audit_logs:read" in admin.get("/admin/roles/permissions/auditor").json()["permissions"]
    assert admin.get(f"/admin/roles/{user_id}").json()["level"] == 2
    holders = admin.get("/admin/roles/list/auditor").json()
    assert user_id in [user["user_id"] for user in holders["users"]]
    assert admin.get("/admin/roles/permissions/ghost").status_code == 404
    assert admin.get("/admin/roles/user_nobody").json()["error"]["code"] == "user_not_found"


def test_a_user_whose_role_no_file_declares_may_infer_and_nothing_else(
    gateways: tuple[Gateway, Gateway], admin: httpx.Client, server_url: str
) -> None:
    user_id = make_user(server_url, "ghostly")
    key = make_key(gateways[0], user_id, scope_permissions=ALL)["api_key"]
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute("UPDATE users SET role = 'ghost' WHERE id = %s", (user_id,))
    with connect(gateways[0], key) as ghost:
        assert ghost.get("/user/api-keys").status_code == 403
        assert ghost.get("/v1/models").status_code == 200
        chat = {"model": "no-such-model", "messages": [{"role": "user", "content": "hi"}]}
        assert ghost.post("/v1/chat/completions", json=chat).json()["error"]["code"] == "model_not_found"
    assert admin.get(f"/admin/roles/{user_id}").json()["is_declared"] is False
    wait_for(lambda: "no file declares the role" in gateways[0].read_log(), 5)


def test_no_way_leads_to_more_than_one_has(
    gateways: tuple[Gateway, Gateway], admin: httpx.Client, server_url: str
) -> None:
    chief, auditor = make_user(server_url, "chief", "admin"), make_user(server_url, "climber", "auditor")
    chiefs = make_key(gateways[0], chief, role="admin", scope_permissions=ALL)
    low_of_chief = make_key(gateways[0], chief, scope_permissions=ALL)["api_key"]
    key = make_key(gateways[0], auditor, role="auditor", scope_permissions=ALL)["api_key"]
    with connect(gateways[0], key) as climber, connect(gateways[0], low_of_chief) as lesser:
        update = "/admin/roles/update"
        tries = {
            "raise oneself": climber.post(update, json={"user_id": auditor, "new_role": "admin"}),
            "lower an administrator": climber.post(update, json={"user_id": chief, "new_role": "user"}),
            "own key of admin": climber.post("/user/api-keys", json={"key_name": "k", "role": "admin"}),
            "admin key of admin": climber.post(
                f"/admin/users/{chief}/api-keys", json={"key_name": "k", "role": "admin"}
            ),
            "above the owner": admin.post(
                f"/admin/users/{auditor}/api-keys", json={"key_name": "k", "role": "admin"}
            ),
            "rotate": climber.put(f"/admin/api-keys/{chiefs['id']}", json={"action": "rotate"}),
            "change": climber.put(f"/admin/api-keys/{chiefs['id']}", json={"ip_allowlist": []}),
            "rotate with a lesser key": lesser.put(
                f"/user/api-keys/{chiefs['id']}", json={"action": "rotate"}
            ),
            "admin with a lesser key": lesser.post(update, json={"user_id": chief, "new_role": "admin"}),
            "no such role": admin.post(update, json={"user_id": auditor, "new_role": "ghost"}),
            "raise a key": lesser.put(f"/user/api-keys/{chiefs['id']}", json={"role": "admin"}),
        }
        for name, answer in tries.items():
            assert answer.status_code in (400, 403), (name, answer.text)
        bulk = lesser.get("/user/api-keys").json()["keys"]
        own = next(row["id"] for row in bulk if row["role"] == "user")
        rotated = lesser.put(f"/user/api-keys/{own}", json={"action": "bulk_rotate"}).json()
        assert [row["id"] for row in rotated["keys"]] == [own]
    assert admin.get(f"/admin/roles/{auditor}").json()["role"] == "auditor"
    assert admin.get(f"/admin/roles/{chief}").json()["role"] == "admin"
    with connect(gateways[0], chiefs["api_key"]) as still:
        assert still.get("/admin/calls").status_code == 200


def test_a_key_may_be_given_a_declared_role_up_to_its_owners(
    gateways: tuple[Gateway, Gateway], admin: httpx.Client, server_url: str
) -> None:
    user_id = make_user(server_url, "developing", "developer")
    made = make_key(gateways[0], user_id, scope_permissions=ALL)
    changed = admin.put(f"/admin/api-keys/{made['id']}", json={"role": "developer"})
    assert changed.json()["key"]["role"] == "developer"
    over = admin.put(f"/admin/api-keys/{made['id']}", json={"role": "auditor"})
    assert (over.status_code, over.json()["error"]["param"]) == (400, "role")
    with connect(gateways[0], made["api_key"]) as developer:
        wait_for(
            lambda: developer.post("/user/api-keys", json={"key_name": "d", "role": "developer"}).is_success
        )


def test_the_last_administrator_cannot_erase_the_own_account(
    gateways: tuple[Gateway, Gateway], server_url: str
) -> None:
    last = make_user(server_url, "last", "admin")
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute("UPDATE users SET role = 'user' WHERE role = 'admin' AND id <> %s", (last,))
    key = make_key(gateways[0], last, role="admin", scope_permissions=ALL)["api_key"]
    erase = {"confirmation": "DELETE_ACCOUNT"}
    with connect(gateways[0], key) as chief:
        refused = chief.request("DELETE", "/user/account", json=erase)
        assert refused.json()["error"]["code"] == "last_administrator"
        make_user(server_url, "heir", "admin")
        assert chief.request("DELETE", "/user/account", json=erase).status_code == 200


@pytest.mark.parametrize(
    "body",
    [{}, {"user_id": "u"}, {"user_id": "u", "new_role": "a b"}, {"user_id": "u\0", "new_role": "user"},
     {"user_id": "u", "new_role": "user", "more": 1}, {"user_id": 5, "new_role": "user"},
     {"user_id": "u", "new_role": "user", "reason": "x" * 501}],
)  # fmt: skip
def test_bad_input_is_a_400(admin: httpx.Client, body: dict[str, object]) -> None:
    assert admin.post("/admin/roles/update", json=body).status_code == 400
