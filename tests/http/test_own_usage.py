"""What users see of their own use, over a whole gateway: in all, by day and environment, call by call, what is left."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import httpx
import psycopg
import pytest
from cryptography.fernet import Fernet

from tests.harness import ADMIN_KEY, Gateway, Simulator, running, write_files
from tests.http.pairs import connect, make_key, wait_for

MODELS = """
models:
  fable: {price: {input: "1", output: "2"}, targets: [{provider: near, model: sim/echo}]}
  poem: {price: {input: "10", output: "20"}, targets: [{provider: near, model: sim/tools}]}
"""
PLAN = "plan: small\nextends: free\nlimits: {requests: {day: 50, month: 500}, tokens: {day: 1000000}}\n"
VIEWS = (
    "/user/monitor",
    "/user/limit",
    "/user/activity/stats",
    "/user/activity/log",
    "/user/environment-usage",
)
ALL = ["inference", "read", "admin"]


@dataclass
class House:
    gateway: Gateway
    url: str
    keys: dict[str, dict[str, Any]]

    def ask(self, name: str) -> httpx.Client:
        return connect(self.gateway, self.keys[name]["api_key"])

    def call(self, name: str, model: str) -> None:
        with self.ask(name) as asking:
            body = {
                "model": model,
                "messages": [{"role": "user", "content": "hi"}],
                "metadata": {"job": name},
            }
            answer = asking.post("/v1/chat/completions", json=body)
            assert answer.status_code == 200, answer.text


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, server_url: str) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("own")
    simulator = Simulator(folder)
    near = (
        f"provider: near\nformat: openai-chat\nbase_url: {simulator.url}/v1\nallow_private: true\n"
        "auth: {bearer: key-near}\n"
    )
    files = {
        "gateway.yaml": "redis: none\n",
        "providers.d/near.yaml": near,
        "models.d/m.yaml": MODELS,
        "policies.d/small.yaml": PLAN,
    }
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO users (id, email, plan) VALUES ('user_ann', 'ann@own.example', 'small'),"
            " ('user_bob', 'bob@own.example', '')"
        )
    gateway = Gateway(
        write_files(folder, files), DATABASE_URL=server_url, GATEWAYZ_KEYRING=Fernet.generate_key().decode()
    )
    with running(simulator, gateway):
        made = House(gateway, server_url, {})
        for name, user, tag in (
            ("ann", "user_ann", "live"),
            ("ann-test", "user_ann", "test"),
            ("bob", "user_bob", "live"),
        ):
            made.keys[name] = make_key(gateway, user, environment_tag=tag, scope_permissions=ALL)
        for name, model in (
            ("ann", "fable"),
            ("ann", "fable"),
            ("ann", "poem"),
            ("ann-test", "fable"),
            ("bob", "poem"),
        ):
            made.call(name, model)
        wait_for(
            lambda: len(list_records(made, "user_ann")) == 4 and len(list_records(made, "user_bob")) == 1, 10
        )
        seed_the_past(server_url, made.keys["ann"]["id"])
        yield made


def seed_the_past(url: str, key_id: str) -> None:
    """A call of forty days ago, which no window and no month of today holds."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO call_records (id, request_id, started_at, key_id, user_id, status, cost_usd, tokens, attempts,"
            " requested_model, provider) VALUES ('call_old', 'call_old', now() - interval '40 days', %s, 'user_ann',"
            " 'ok', 1, '{\"input\": 1000, \"image_input\": 11}', '[{}]', 'old', 'near')",
            (key_id,),
        )


def read(house: House, name: str, path: str, **query: Any) -> dict[str, Any]:
    with house.ask(name) as asking:
        answer = asking.get(path, params=query)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def list_records(house: House, user_id: str) -> list[dict[str, Any]]:
    with connect(house.gateway, ADMIN_KEY) as admin:
        page = admin.get("/admin/calls", params={"user_id": user_id, "limit": 1000}).json()
    return [record for record in page["data"] if record["id"] != "call_old"]


def sum_costs(records: list[dict[str, Any]]) -> Decimal:
    return sum((Decimal(record["cost_usd"]) for record in records), Decimal(0))


def sum_tokens(records: list[dict[str, Any]]) -> int:
    return sum(
        int(count) for record in records for name, count in record["tokens"].items() if name != "estimated"
    )


def test_what_was_used_is_what_the_records_say_in_all_today_and_this_month(house: House) -> None:
    shown, records = read(house, "ann", "/user/monitor"), list_records(house, "user_ann")
    used = shown["usage_metrics"]
    assert (used["requests_today"], used["requests_this_month"], used["total_requests"]) == (4, 4, 5)
    assert used["tokens_today"] == used["tokens_this_month"] == sum_tokens(records) > 0
    assert used["total_tokens"] == used["tokens_today"] + 1011
    assert Decimal(used["cost_today"]) == sum_costs(records) > 0
    assert Decimal(used["total_cost"]) == sum_costs(records) + 1
    assert used["average_tokens_per_request"] == round(used["total_tokens"] / 5, 1)
    assert used["most_used_model"] == "fable"
    assert datetime.fromisoformat(used["last_request_time"]) == max(
        datetime.fromisoformat(record["started_at"]) for record in records
    )
    assert shown["user_id"] == "user_ann" and shown["current_credits"] == "0"
    assert shown["api_key"].startswith("gw_live_...") and house.keys["ann"]["api_key"] not in str(shown)
    assert shown["rate_limits"]["requests_per_day"] == 50


def test_nobody_sees_anything_of_somebody_else(house: House) -> None:
    for path in VIEWS:
        text = str(read(house, "bob", path))
        assert not any(word in text for word in ("user_ann", "fable", house.keys["ann"]["id"])), path
    assert read(house, "bob", "/user/monitor")["usage_metrics"]["total_requests"] == 1
    assert read(house, "bob", "/user/activity/log")["total"] == 1


@pytest.mark.parametrize("path", VIEWS)
def test_a_view_takes_no_user_and_is_for_accounts_only(house: House, path: str) -> None:
    with house.ask("ann") as asking:
        assert asking.get(path, params={"user_id": "user_bob"}).status_code == 400
        assert asking.post(path, json={}).status_code == 405
    with connect(house.gateway, ADMIN_KEY) as admin:
        refused = admin.get(path)
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "no_account")
    narrow = make_key(house.gateway, "user_ann", scope_permissions=["inference"])
    with connect(house.gateway, narrow["api_key"]) as asking:
        assert asking.get(path).json()["error"]["code"] == "scope_missing"
    assert httpx.get(house.gateway.url + path).status_code == 401


def test_the_limit_with_least_left_is_shown_with_what_was_used_of_it(house: House) -> None:
    with house.ask("ann") as asking:
        path = f"/user/rate-limits/{house.keys['ann']['id']}"
        changed = asking.put(path, json={"requests_per_day": 49, "requests_per_minute": 30, "burst_limit": 9})
        assert changed.status_code == 200, changed.text
    with connect(house.gateway, ADMIN_KEY) as admin:
        limits = {"user_id": "user_ann", "tokens_per_hour": 900000}
        assert admin.put("/admin/rate-limits/update", json=limits).status_code == 200
    until = datetime.now(UTC) + timedelta(seconds=3)
    while (shown := read(house, "ann", "/user/limit"))["current_limits"]["burst_limit"] != 9:
        assert datetime.now(UTC) < until, shown
    limits, used = shown["current_limits"], shown["current_usage"]
    # The plan counts four calls of 50, the key three of 49: both have 46 left, and the key is asked first.
    assert (limits["requests_per_day"], used["requests_per_day"]) == (49, 3)
    assert (limits["requests_per_month"], used["requests_per_month"]) == (500, 4)
    assert (limits["tokens_per_hour"], used["tokens_per_hour"]) == (
        900000,
        sum_tokens(list_records(house, "user_ann")),
    )
    assert limits["requests_per_hour"] is None and used["requests_per_hour"] == 3
    assert [each["scope"] for each in shown["scopes"]] == ["key", "user", "plan"]
    free_at = datetime.fromisoformat(shown["reset_times"]["day"])
    assert timedelta(hours=23) < free_at - datetime.now(UTC) < timedelta(hours=24)


def test_a_key_of_a_test_environment_has_its_part_of_the_plan(house: House) -> None:
    shown = read(house, "ann-test", "/user/limit")
    scopes = {each["scope"]: each for each in shown["scopes"]}
    assert scopes["plan"]["usage"]["requests_per_day"] == 4
    assert scopes["plan_environment"]["limits"]["requests_per_day"] == 25
    assert scopes["plan_environment"]["usage"]["requests_per_day"] == 1
    assert (shown["current_limits"]["requests_per_day"], shown["current_usage"]["requests_per_day"]) == (
        25,
        1,
    )


def test_activity_is_summed_by_day_model_and_provider(house: House) -> None:
    shown = read(house, "ann", "/user/activity/stats")
    assert shown["total_requests"] == 4
    assert {name: row["requests"] for name, row in shown["by_model"].items()} == {"fable": 3, "poem": 1}
    assert shown["by_provider"]["near"]["requests"] == 4
    assert [day["date"] for day in shown["daily_stats"]] == [f"{datetime.now(UTC):%Y-%m-%d}"]
    spent = [Decimal(row["spend"]) for row in shown["by_model"].values()]
    assert sum(spent) == Decimal(shown["total_spend"]) == sum_costs(list_records(house, "user_ann"))
    assert read(house, "ann", "/user/activity/stats", days=45)["total_requests"] == 5


def test_the_last_day_of_a_span_is_in_it(house: House) -> None:
    day = f"{datetime.now(UTC) - timedelta(days=40):%Y-%m-%d}"
    for path, count in (("stats", "total_requests"), ("log", "total")):
        assert read(house, "ann", f"/user/activity/{path}", **{"from": day, "to": day})[count] == 1


def test_the_log_is_paged_newest_first_and_filtered(house: House) -> None:
    whole = read(house, "ann", "/user/activity/log", limit=100)
    assert (whole["total"], whole["has_more"], whole["page"]) == (5, False, 1)
    assert len({row["id"] for row in whole["logs"]}) == 5
    pages = [read(house, "ann", "/user/activity/log", limit=2, page=page) for page in (1, 2, 3)]
    assert [row["id"] for page in pages for row in page["logs"]] == [row["id"] for row in whole["logs"]]
    assert [page["has_more"] for page in pages] == [True, True, False]
    assert read(house, "ann", "/user/activity/log", limit=2, offset=2)["logs"] == pages[1]["logs"]
    poems = read(house, "ann", "/user/activity/log", model="poem")
    assert [row["model"] for row in poems["logs"]] == ["poem"] and poems["total"] == 1
    assert read(house, "ann", "/user/activity/log", provider="nobody")["logs"] == []


def test_a_logged_call_tells_what_its_record_does_and_nothing_of_the_house(house: House) -> None:
    (row,) = read(house, "bob", "/user/activity/log")["logs"]
    (record,) = list_records(house, "user_bob")
    assert (row["id"], row["cost"], row["provider"], row["endpoint"]) == (
        record["id"], record["cost_usd"], "near", "/v1/chat/completions",
    )  # fmt: skip
    assert row["tokens"] == sum_tokens([record]) and row["speed"] > 0
    assert not {"attempts", "pricing", "error", "config_revision"} & set(row)


def test_environments_have_their_own_keys_use_and_part_of_the_plan(house: House) -> None:
    shown = read(house, "ann", "/user/environment-usage")["environment_usage"]
    assert set(shown) == {"live", "test", "staging", "development"}
    assert [shown[tag]["requests_today"] for tag in ("live", "test", "staging")] == [3, 1, 0]
    assert shown["test"]["api_keys"] == shown["test"]["active_api_keys"] == 1
    assert [shown[tag]["limits"]["requests_per_day"] for tag in ("live", "test")] == [50, 25]
    assert Decimal(shown["live"]["cost_today"]) + Decimal(shown["test"]["cost_today"]) == sum_costs(
        list_records(house, "user_ann")
    )


@pytest.mark.parametrize(
    "query",
    ["stats?days=0", "stats?days=366", "stats?days=3&from=2026-01-01", "stats?from=2026-02-01&to=2026-01-01",
     "stats?from=2020-01-01&to=2026-01-01", "stats?to=9999-12-31", "stats?to=0001-01-01", "log?limit=0",
     "log?limit=1001", "log?offset=-1", "log?page=0", "log?page=2&offset=1", "log?model=a%00", "log?from=now",
     "log?to=9999-12-31"],
)  # fmt: skip
def test_a_bad_question_is_a_400(house: House, query: str) -> None:
    with house.ask("ann") as asking:
        assert asking.get(f"/user/activity/{query}").status_code == 400


@pytest.mark.parametrize("day", ["0001-01-01", "9999-12-31"])
def test_a_moment_that_no_calendar_reaches_is_a_400_in_statements_too(house: House, day: str) -> None:
    with house.ask("ann") as asking:
        assert asking.get("/user/usage", params={"until": day}).status_code == 400
