"""Accounts that are marked, over two real gateways on one database: no inference anywhere, all else stays open."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import psycopg
import pytest

from tests.harness import Gateway, Simulator, running
from tests.http.pairs import connect, make_key, pair_of_gateways, wait_for

CHAT = {"model": "fable", "messages": [{"role": "user", "content": "hi"}]}
MODEL = """
models:
  fable: {price: {input: "1", output: "1"}, targets: [{provider: near, model: sim/echo}]}
"""
NEAR = "provider: near\nformat: openai-chat\nbase_url: %s/v1\nallow_private: true\nauth: none\n"
ALL = ["inference", "read", "admin"]


@dataclass
class House:
    one: Gateway
    other: Gateway
    admin: httpx.Client
    url: str
    marked: str = ""
    """A key of an account that is suspended."""

    def make_user(self, name: str) -> dict[str, Any]:
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(
                "INSERT INTO users (id, email, email_verified) VALUES (%s, %s, true)",
                (f"user_{name}", f"{name}@marked.example"),
            )
        return make_key(self.one, f"user_{name}", scope_permissions=ALL)

    def mark(self, name: str, status: str) -> None:
        answer = self.admin.patch(f"/admin/users/user_{name}", json={"status": status})
        assert answer.status_code == 200, answer.text
        assert answer.json()["user"]["status"] == status

    def make_team(self, owner: str) -> tuple[str, str]:
        """A team and the text of a key of it."""
        with connect(self.one, owner) as asking:
            team: str = asking.post("/teams", json={"name": "t"}).json()["team"]["team_id"]
            made = asking.post(f"/teams/{team}/api-keys", json={"key_name": "k"})
        return team, made.json()["api_key"]


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, server_url: str) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("marked")
    simulator = Simulator(folder)
    files = {"providers.d/near.yaml": NEAR % simulator.url, "models.d/m.yaml": MODEL}
    pair = pair_of_gateways(folder, server_url, files)
    with running(simulator), pair as (one, other), connect(one) as admin:
        made = House(one, other, admin, server_url)
        made.marked = made.make_user("marked")["api_key"]
        made.mark("marked", "suspended")
        yield made


def ask(gateway: Gateway, key: str) -> httpx.Response:
    with connect(gateway, key) as asking:
        return asking.post("/v1/chat/completions", json=CHAT)


def find_code(gateway: Gateway, key: str) -> str:
    answer = ask(gateway, key)
    return "" if answer.status_code == 200 else f"{answer.status_code} {answer.json()['error']['code']}"


@pytest.mark.parametrize("status", ["bot", "suspended"])
def test_a_marked_account_gets_403_at_every_gateway_within_a_second_and_calls_again_when_it_is_lifted(
    house: House, status: str
) -> None:
    key = house.make_user(f"is_{status}")["api_key"]
    assert find_code(house.one, key) == find_code(house.other, key) == ""
    house.mark(f"is_{status}", status)
    for gateway in (house.one, house.other):
        wait_for(lambda gateway=gateway: find_code(gateway, key) == f"403 subscription_{status}")  # type: ignore[misc]
    house.mark(f"is_{status}", "active")
    for gateway in (house.one, house.other):
        wait_for(lambda gateway=gateway: find_code(gateway, key) == "")  # type: ignore[misc]


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/v1/chat/completions"), ("POST", "/v1/messages"), ("POST", "/v1/responses"), ("POST", "/v1/embeddings"),
     ("POST", "/v1beta/models/fable:generateContent"), ("POST", "/model/fable/converse"), ("POST", "/v2/chat"),
     ("POST", "/v1/images/generations"), ("GET", "/v1/responses/resp_1")],
)  # fmt: skip
def test_no_dialect_is_open_to_a_marked_account(house: House, method: str, path: str) -> None:
    with connect(house.one, house.marked) as asking:
        answer = asking.request(method, path, json=CHAT if method == "POST" else None)
    assert answer.status_code == 403 and "is suspended" in answer.text, answer.text


def test_a_marked_account_stays_open_in_everything_else(house: House) -> None:
    with connect(house.one, house.marked) as asking:
        assert asking.get("/v1/models").status_code == 200
        assert asking.get("/user/usage").status_code == 200
        assert asking.get("/user/profile").json()["subscription_status"] == "suspended"
        fresh = asking.post("/user/api-keys", json={"key_name": "fresh", "scope_permissions": ["inference"]})
    assert find_code(house.other, fresh.json()["api_key"]) == "403 subscription_suspended"


def test_a_team_is_marked_when_all_of_its_owners_are(house: House) -> None:
    first, second = house.make_user("first")["api_key"], house.make_user("second")["api_key"]
    team, key = house.make_team(first)
    assert find_code(house.other, key) == ""
    house.mark("first", "bot")
    wait_for(lambda: find_code(house.other, key) == "403 subscription_bot")
    with connect(house.one, first) as owner, connect(house.one, second) as joining:
        asked = owner.post(
            f"/teams/{team}/members", json={"email": "second@marked.example", "role": "member"}
        )
        assert asked.status_code == 200, asked.text
        assert joining.post(f"/teams/invitations/{team}", json={}).status_code == 200
        assert find_code(house.other, key) == "403 subscription_bot"
        assert owner.put(f"/teams/{team}/members/user_second", json={"role": "owner"}).status_code == 200
    wait_for(lambda: find_code(house.other, key) == "")
    house.admin.patch("/admin/users/user_second", json={"is_active": False})
    wait_for(lambda: find_code(house.other, key) == "403 subscription_bot")


def test_marks_are_found_counted_and_in_the_audit_log(house: House) -> None:
    house.make_user("seen")
    house.mark("seen", "bot")
    found = house.admin.get("/admin/users", params={"status": "bot", "email": "seen@"}).json()["users"]
    assert [user["id"] for user in found] == ["user_seen"]
    assert house.admin.get("/admin/users/stats").json()["by_status"]["bot"] >= 1
    events = house.admin.get("/admin/audit", params={"key_id": "user_seen"}).json()
    (event,) = events["logs"]
    assert (event["before"], event["after"]) == ({"status": "active"}, {"status": "bot"})
    assert event["action"] == "user.update" and event["by"]["key_id"] == "admin-environment"


def test_nobody_marks_or_unmarks_but_administrators(house: House) -> None:
    with connect(house.one, house.marked) as asking:
        answer = asking.patch("/admin/users/user_marked", json={"status": "active"})
        assert answer.json()["error"]["code"] == "insufficient_permissions"
        assert asking.put("/user/profile", json={"status": "active"}).status_code == 400
    for body in ({"status": "gone"}, {"status": None}, {"status": ""}, {"status": 1}):
        assert house.admin.patch("/admin/users/user_marked", json=body).status_code == 400
