"""The gateway at a glance, over two real gateways on one database: calls, balances, caches, limits, a refresh."""

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import httpx
import psycopg
import pytest

from tests.harness import Gateway, Simulator, running
from tests.http.pairs import connect, make_key, pair_of_gateways, wait_for

CHAT = {"model": "fable", "messages": [{"role": "user", "content": "hi"}]}
MODEL = """
models:
  fable: {price: {input: "1", output: "2"}, targets: [{provider: near, model: sim/echo}]}
"""
NEAR = "provider: near\nformat: openai-chat\nbase_url: %s/v1\nallow_private: true\nauth: none\n"
ROUTES = (
    ("GET", "/admin/monitor", None),
    ("GET", "/admin/balance", None),
    ("GET", "/admin/cache-status", None),
    ("POST", "/admin/refresh-providers", None),
    ("POST", "/admin/limit", {"api_key": "x", "rate_limits": {"requests_per_minute": 1}}),
)


@dataclass
class House:
    one: Gateway
    other: Gateway
    admin: httpx.Client
    url: str
    keys: dict[str, dict[str, Any]]

    def read(self, path: str, **query: Any) -> dict[str, Any]:
        answer = self.admin.get(path, params=query)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def list_records(self) -> list[dict[str, Any]]:
        return [
            record
            for record in self.read("/admin/calls", limit=1000)["data"]
            if not record["id"].startswith("call_seeded")
        ]


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, server_url: str) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("house")
    simulator = Simulator(folder)
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO users (id, email) VALUES ('user_ann', 'ann@house.example'), ('user_bob', 'bob@house.example'),"
            " ('user_idle', 'idle@house.example')"
        )
        connection.execute(
            "INSERT INTO ledger_accounts (id, balance_usd) VALUES ('credit:user:user_ann', '1.000000000003'),"
            " ('allowance:user:user_ann', '0.5'), ('credit:user:user_bob', '7'), ('credit:team:t', '100')"
        )
    files = {"providers.d/near.yaml": NEAR % simulator.url, "models.d/m.yaml": MODEL}
    with (
        running(simulator),
        pair_of_gateways(folder, server_url, files) as (one, other),
        connect(one) as admin,
    ):
        made = House(one, other, admin, server_url, {})
        for name in ("ann", "bob"):
            made.keys[name] = make_key(one, f"user_{name}", scope_permissions=["inference", "read", "admin"])
        for name, count in (("ann", 1), ("bob", 3)):
            with connect(other, made.keys[name]["api_key"]) as asking:
                for _ in range(count):
                    assert asking.post("/v1/chat/completions", json=CHAT).status_code == 200
        wait_for(lambda: len(made.list_records()) == 4, 10)
        seed_records(server_url)
        yield made


def seed_records(url: str) -> None:
    """A failure of today, a guest's call of today, and a call of forty days ago."""
    rows = (
        ("call_seeded_error", "0 seconds", "user_ann", "error", "0"),
        ("call_seeded_guest", "0 seconds", "", "ok", "0"),
        ("call_seeded_old", "40 days", "user_idle", "ok", "9"),
    )
    with psycopg.connect(url, autocommit=True) as connection:
        for call_id, ago, user_id, status, cost in rows:
            connection.execute(
                "INSERT INTO call_records (id, request_id, started_at, key_id, user_id, status, cost_usd)"
                " VALUES (%s, %s, now() - %s::interval, 'key_seeded', %s, %s, %s)",
                (call_id, call_id, ago, user_id, status, cost),
            )


def test_the_monitor_agrees_with_the_records_of_all_gateways(house: House) -> None:
    shown, records = house.read("/admin/monitor"), house.list_records()
    spent = sum((Decimal(record["cost_usd"]) for record in records), Decimal(0))
    assert (shown["status"], shown["total_requests_today"], shown["active_users_today"]) == ("success", 6, 2)
    assert Decimal(shown["total_cost_today"]) == spent > 0
    assert shown["total_tokens_today"] == sum(sum(record["tokens"].values()) for record in records) > 0
    assert shown["total_users"] == house.read("/admin/users/count")["total_users"] >= 3
    metrics = shown["system_usage_metrics"]
    assert (metrics["requests_this_month"], metrics["requests_last_hour"]) == (6, 6)
    assert (metrics["errors_today"], metrics["error_rate_today"]) == (1, round(1 / 6, 4))
    assert metrics["average_ms_today"] > 0 and metrics["active_keys_today"] == 3


def test_who_used_most_comes_first_and_guests_are_nobody(house: House) -> None:
    users = house.read("/admin/monitor")["top_users_by_usage"]
    assert [(row["user_id"], row["requests"]) for row in users] == [("user_bob", 3), ("user_ann", 2)]
    assert Decimal(users[0]["spend"]) > Decimal(users[1]["spend"])
    assert len(house.read("/admin/monitor", top=1)["top_users_by_usage"]) == 1


def test_balances_are_those_of_the_ledger_most_first_and_teams_are_no_users(house: House) -> None:
    shown = house.read("/admin/balance")
    assert [row["user_id"] for row in shown["users"]][:3] == ["user_bob", "user_ann", "user_idle"]
    ann = shown["users"][1]
    assert (ann["credits"], ann["purchased_credits"], ann["subscription_allowance"]) == (
        "1.500000000003", "1.000000000003", "0.5",
    )  # fmt: skip
    assert (shown["total_credits"], shown["total_users"], shown["has_more"]) == ("8.500000000003", 4, False)
    pages = [house.read("/admin/balance", limit=2, offset=offset) for offset in (0, 2)]
    assert [row for page in pages for row in page["users"]] == shown["users"]
    assert [page["has_more"] for page in pages] == [True, False] and shown["users"][3]["credits"] == "0"
    assert "@" not in str(shown)


def test_a_limit_by_the_text_of_a_key_is_that_keys_ceiling_at_every_gateway(house: House) -> None:
    made = make_key(house.one, "user_idle", scope_permissions=["inference", "read", "admin"])
    body = {"api_key": made["api_key"], "rate_limits": {"requests_per_minute": 7}}
    answer = house.admin.post("/admin/limit", json=body)
    assert answer.status_code == 200, answer.text
    assert (answer.json()["key_id"], answer.json()["user_id"]) == (made["id"], "user_idle")
    assert answer.json()["rate_limits"]["requests_per_minute"] == 7 and made["api_key"] not in answer.text
    with connect(house.other, made["api_key"]) as asking:
        wait_for(
            lambda: (
                asking.post("/v1/chat/completions", json=CHAT).headers.get("x-ratelimit-limit-requests")
                == "7"
            )
        )
        refused = asking.put(f"/user/rate-limits/{made['id']}", json={"requests_per_minute": 8})
        assert refused.json()["error"]["code"] == "limit_not_allowed"
    event = house.read("/admin/audit", key_id=made["id"])["logs"][0]
    assert (event["action"], event["after"]) == ("limits.key", {"requests": {"minute": 7}})


def test_a_refresh_brings_a_new_provider_to_the_worker_and_is_audited(house: House) -> None:
    before = house.read("/admin/cache-status")["cache_info"]
    (house.one.folder / "providers.d/far.yaml").write_text(
        "provider: far\nformat: openai-chat\nbase_url: https://far.example/v1\nauth: none\n"
    )
    answer = house.admin.post("/admin/refresh-providers")
    assert answer.status_code == 200, answer.text
    after = house.read("/admin/cache-status")["cache_info"]
    assert (
        answer.json()["total_providers"]
        == before["total_cached_providers"] + 1
        == after["total_cached_providers"]
    )
    assert answer.json()["revision"] == after["revision"] != before["revision"] and after["is_valid"]
    assert after["cache_age_seconds"] < 60
    assert house.read("/admin/audit", action="config.reload", limit=1)["logs"][0]["after"]["status"] == 200


def test_a_refresh_of_wrong_files_is_refused_with_every_problem_and_nothing_is_lost(house: House) -> None:
    before, wrong = (
        house.read("/admin/cache-status")["cache_info"],
        house.one.folder / "providers.d/wrong.yaml",
    )
    wrong.write_text("provider: wrong\nformat: nonsense\n")
    answer = house.admin.post("/admin/refresh-providers")
    during = house.read("/admin/cache-status")["cache_info"]
    wrong.unlink()
    assert answer.status_code == 422
    assert any("wrong.yaml" in problem["file"] for problem in answer.json()["last_refusal"]["problems"])
    assert during["revision"] == before["revision"] and not during["is_valid"]
    assert house.admin.post("/admin/refresh-providers").status_code == 200
    assert house.read("/admin/cache-status")["cache_info"]["is_valid"]


def test_what_is_in_memory_grows_with_what_was_asked(house: House) -> None:
    kept = house.read("/admin/cache-status")["in_memory"]
    made = make_key(house.one, "user_idle")
    with connect(house.one, made["api_key"]) as asking:
        assert asking.post("/v1/chat/completions", json=CHAT).status_code == 200
    after = house.read("/admin/cache-status")["in_memory"]
    assert after["keys"] == kept["keys"] + 1 and after["tariffs"] >= 1
    assert set(kept) == {"keys", "routes_of_models", "quotas_of_plans", "tariffs", "limits"}


@pytest.mark.parametrize(("method", "path", "body"), ROUTES)
def test_nobody_but_administrators_is_let_in(
    house: House, method: str, path: str, body: dict[str, Any] | None
) -> None:
    with connect(house.one, house.keys["ann"]["api_key"]) as asking:
        answer = asking.request(method, path, json=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "insufficient_permissions")
    assert httpx.request(method, house.one.url + path, json=body).status_code == 401


@pytest.mark.parametrize(
    "query",
    ["monitor?top=0", "monitor?top=101", "monitor?user_id=x", "balance?limit=0", "balance?limit=1001",
     "balance?offset=-1", "balance?offset=10000000000", "balance?email=a", "cache-status?x=1"],
)  # fmt: skip
def test_a_bad_question_is_a_400(house: House, query: str) -> None:
    assert house.admin.get(f"/admin/{query}").status_code == 400


@pytest.mark.parametrize(
    "body",
    [{}, {"api_key": "x"}, {"api_key": "x", "rate_limits": {}}, {"api_key": "", "rate_limits": {"burst_limit": 1}},
     {"api_key": "x", "rate_limits": {"burst_limit": 0}}, {"api_key": "x", "rate_limits": {"requests_per_year": 1}},
     {"api_key": "x\0", "rate_limits": {"burst_limit": 1}}, {"api_key": 5, "rate_limits": {"burst_limit": 1}}],
)  # fmt: skip
def test_a_bad_limit_is_a_400(house: House, body: dict[str, Any]) -> None:
    assert house.admin.post("/admin/limit", json=body).status_code == 400


def test_a_key_that_nobody_has_is_not_found(house: House) -> None:
    body = {"api_key": "gw_live_" + "a" * 43, "rate_limits": {"burst_limit": 1}}
    answer = house.admin.post("/admin/limit", json=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "key_not_found")
