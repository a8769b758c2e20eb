"""The routes of limits over a real gateway: what users see and may change, what administrators give, who is let in."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from tests.harness import ADMIN_KEY, Gateway, Simulator, running, write_files
from tests.http.test_keys import CHAT, client, issue

FILES = {
    "gateway.yaml": "database: embedded\nredis: none\nserver: {trusted_proxies: [127.0.0.1]}\n",
    "policies.d/edge.yaml": "edge: default\nextends: default\nper_address: 20\n",
    "policies.d/anonymous.yaml": "anonymous: default\nextends: default\nenabled: true\nmodels: [gift]\n",
    "models.d/gift.yaml": (
        "models:\n  gift: {price: {input: '0', output: '0'}, targets: [{provider: near, model: sim/echo}]}\n"
    ),
}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("limits")
    simulator = Simulator(folder)
    near = (
        f"provider: near\nformat: openai-chat\nbase_url: {simulator.url}/v1\nallow_private: true\n"
        "auth: {bearer: key-near}\n"
    )
    made = Gateway(write_files(folder, {**FILES, "providers.d/near.yaml": near}))
    with running(simulator, made):
        yield made


@pytest.fixture(scope="module")
def admin(gateway: Gateway) -> Iterator[httpx.Client]:
    with client(gateway, ADMIN_KEY) as made:
        yield made


@pytest.fixture(scope="module")
def owner(gateway: Gateway) -> Iterator[httpx.Client]:
    key = issue(gateway, "--user", "limited@b.c", "--scope", "inference", "--scope", "admin")
    with client(gateway, key) as made:
        yield made


def until(condition: Callable[[], Any], within_s: float = 6.0) -> None:
    end = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.1)


def find_key(owner: httpx.Client) -> str:
    found: str = owner.get("/user/rate-limits").json()["rate_limits"][0]["key_id"]
    return found


def ask_once(caller: httpx.Client) -> httpx.Response:
    return caller.post("/v1/chat/completions", json=CHAT)


def test_a_user_tightens_a_key_and_sees_what_it_used(gateway: Gateway, owner: httpx.Client) -> None:
    key_id = find_key(owner)
    changed = owner.put(f"/user/rate-limits/{key_id}", json={"requests_per_hour": 40, "burst_limit": 30})
    assert changed.status_code == 200, changed.text
    assert changed.json()["rate_limits"]["requests_per_hour"] == 40
    until(lambda: ask_once(owner).headers.get("x-ratelimit-limit-requests") == "40")
    until(
        lambda: (
            owner.get(f"/user/rate-limits/usage/{key_id}").json()["usage"]["requests_per_hour"]["used"] > 0
        )
    )
    usage = owner.get(f"/user/rate-limits/usage/{key_id}").json()["usage"]
    assert usage["requests_per_hour"]["limit"] == 40
    assert usage["requests_per_hour"]["remaining"] == 40 - usage["requests_per_hour"]["used"]
    assert usage["tokens_per_month"]["used"] > 0 and usage["tokens_per_month"]["limit"] is None
    many = owner.post(
        "/user/rate-limits/bulk-update", json={"updates": [{"key_id": key_id, "requests_per_hour": None}]}
    )
    assert many.json()["rate_limits"][0]["rate_limits"]["requests_per_hour"] is None
    assert many.json()["rate_limits"][0]["rate_limits"]["burst_limit"] == 30


def test_what_administrators_set_for_a_key_is_its_ceiling(owner: httpx.Client, admin: httpx.Client) -> None:
    key_id = find_key(owner)
    made = admin.put("/admin/rate-limits/update", json={"key_id": key_id, "requests_per_day": 500})
    assert made.status_code == 200, made.text
    refused = owner.put(f"/user/rate-limits/{key_id}", json={"requests_per_day": 501})
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "limit_not_allowed")
    bulk = {"updates": [{"key_id": key_id, "requests_per_day": 501}]}
    assert owner.post("/user/rate-limits/bulk-update", json=bulk).status_code == 403
    through_keys = owner.put(f"/user/api-keys/{key_id}", json={"limits": {"requests": {"day": 9999}}})
    assert through_keys.status_code == 200
    shown = owner.get("/user/rate-limits").json()["rate_limits"][0]
    assert (shown["rate_limits"]["requests_per_day"], shown["effective"]["requests_per_day"]) == (9999, 500)
    until(lambda: ask_once(owner).headers.get("x-ratelimit-limit-requests") == "500")
    users = admin.get("/admin/rate-limits/users").json()["users"]
    assert users[0]["keys"][key_id]["requests_per_day"] == 500
    assert admin.delete(f"/admin/rate-limits/delete?key_id={key_id}").json()["deleted"] is True
    until(lambda: ask_once(owner).headers.get("x-ratelimit-limit-requests") == "9999")
    owner.put(f"/user/rate-limits/{key_id}", json={"requests_per_day": None})


def test_a_users_own_limit_holds_for_all_its_keys_and_refusals_are_told(
    gateway: Gateway, owner: httpx.Client, admin: httpx.Client
) -> None:
    user_id = owner.get("/user/api-keys").json()["keys"][0]["user_id"]
    with client(gateway, issue(gateway, "--user", "limited@b.c")) as other:
        made = admin.put("/admin/rate-limits/update", json={"user_id": user_id, "requests_per_minute": 3})
        assert made.status_code == 200, made.text
        until(lambda: ask_once(other).status_code == 429)
        assert ask_once(owner).json()["error"]["code"] == "rate_limit_exceeded"
        until(lambda: admin.get("/admin/rate-limits/alerts").json()["alerts"], 15)
        alert = admin.get("/admin/rate-limits/alerts").json()["alerts"][0]
        assert alert["alert_type"] == "rate_limit_exceeded" and alert["user_id"] == user_id
        assert alert["details"]["threshold"] == 3 and alert["details"]["refused"] >= 1
        admin.delete(f"/admin/rate-limits/delete?user_id={user_id}")
        until(lambda: ask_once(other).status_code == 200)


def test_a_number_for_every_key_is_in_force_within_seconds_and_can_be_taken_back(
    owner: httpx.Client, admin: httpx.Client
) -> None:
    assert admin.get("/admin/rate-limits/config").json()["rate_limits"]["requests_per_day"] is None
    set_ = admin.post("/admin/rate-limits/config", json={"requests_per_day": 777, "concurrency_limit": 9})
    assert set_.json()["rate_limits"]["requests_per_day"] == 777
    until(lambda: ask_once(owner).headers.get("x-ratelimit-limit-requests") == "777")
    reset = admin.post("/admin/rate-limits/config/reset")
    assert reset.json()["rate_limits"]["requests_per_day"] is None
    until(lambda: ask_once(owner).headers.get("x-ratelimit-limit-requests") != "777")


def ask_as_stranger(gateway: Gateway, address: str, times: int, key: str = "") -> list[int]:
    headers = {"x-forwarded-for": address, "user-agent": f"test {address}"}
    if key:
        headers["authorization"] = f"Bearer {key}"
    with httpx.Client(base_url=gateway.url, headers=headers) as stranger:
        return [stranger.get("/user/api-keys").status_code for _ in range(times)]


def test_a_flood_without_keys_is_stopped_and_a_known_key_passes_from_there(
    gateway: Gateway, owner: httpx.Client, admin: httpx.Client
) -> None:
    assert ask_once(owner).status_code == 200
    statuses = ask_as_stranger(gateway, "203.0.113.7", 30)
    assert statuses == [401] * 20 + [429] * 10
    unread = httpx.post(
        gateway.url + "/v1/chat/completions", content=b"{", headers={
            "x-forwarded-for": "203.0.113.7", "content-type": "application/json"},
    )  # fmt: skip
    assert unread.status_code == 429, "the body is not read: it would be a 400"
    assert unread.headers["x-ratelimit-reason"] == "ip_limit" and int(unread.headers["retry-after"]) <= 60
    known = owner.post("/v1/chat/completions", json=CHAT, headers={"x-forwarded-for": "203.0.113.7"})
    assert known.status_code == 200
    status = admin.get("/velocity-mode-status").json()
    assert (status["mode"], status["closed"]) == ("normal", 1)
    assert owner.get("/velocity-mode-status").status_code == 403
    assert admin.get("/admin/rate-limits/system").json()["edge"]["closed"] == 1


def test_a_network_on_the_list_is_let_in_and_off_it_counted(gateway: Gateway, admin: httpx.Client) -> None:
    path = "/api/admin/ip-whitelist"
    made = admin.post(path, json={"ip_address": "198.51.100.0/24", "reason": "our office"})
    assert made.status_code == 200, made.text
    entry = made.json()
    assert admin.get(f"{path}/{entry['id']}").json() == entry
    assert entry in admin.get(path).json()["entries"]
    check = {"ip_address": "198.51.100.9"}
    assert admin.post(f"{path}/check", json=check).json()["is_whitelisted"] is True
    until(lambda: 429 not in ask_as_stranger(gateway, "198.51.100.9", 40), 70)
    changed = admin.patch(f"{path}/{entry['id']}", json={"enabled": False})
    assert changed.json()["enabled"] is False
    assert admin.post(f"{path}/check", json=check).json()["is_whitelisted"] is False
    until(lambda: 429 in ask_as_stranger(gateway, "198.51.100.9", 40))
    assert admin.delete(f"{path}/{entry['id']}").json()["deleted"] is True
    assert admin.get(f"{path}/{entry['id']}").status_code == 404


def test_guests_get_three_calls_a_day_of_what_costs_nothing(gateway: Gateway) -> None:
    headers = {"x-forwarded-for": "192.0.2.77", "user-agent": "guest"}
    with httpx.Client(base_url=gateway.url, headers=headers, timeout=30) as guest:
        restricted = guest.post("/v1/chat/completions", json=CHAT)
        assert restricted.status_code == 403
        assert restricted.json()["error"]["code"] == "anonymous_model_restricted"
        assert "gift" in restricted.json()["error"]["message"]
        asked = {**CHAT, "model": "gift"}
        assert [guest.post("/v1/chat/completions", json=asked).status_code for _ in range(3)] == [200] * 3
        over = guest.post("/v1/chat/completions", json=asked)
        assert (over.status_code, over.json()["error"]["code"]) == (429, "anonymous_daily_limit")
        assert int(over.headers["retry-after"]) > 86_000
        kept = {"model": "gift", "input": "hi", "previous_response_id": "resp_1"}
        assert guest.post("/v1/responses", json=kept).status_code in (400, 404)
        assert guest.get("/v1/responses/resp_1").status_code == 401
        assert guest.get("/v1/models").status_code == 401


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("PUT", "/user/rate-limits/nobody", {"requests_per_day": 1}),
        ("GET", "/user/rate-limits/usage/nobody", None),
        ("PUT", "/admin/rate-limits/update", {"user_id": "nobody", "requests_per_day": 1}),
        ("DELETE", "/admin/rate-limits/delete?key_id=nobody", None),
        ("PATCH", "/api/admin/ip-whitelist/nobody", {"reason": "r"}),
    ],
)
def test_what_is_not_there_is_404(
    admin: httpx.Client, owner: httpx.Client, method: str, path: str, body: Any
) -> None:
    caller = owner if path.startswith("/user") else admin
    assert caller.request(method, path, json=body).status_code == 404


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("PUT", "/user/rate-limits/k", {}),
        ("PUT", "/user/rate-limits/k", {"requests_per_day": 0}),
        ("PUT", "/user/rate-limits/k", {"requests_per_day": 1, "unknown": 1}),
        ("PUT", "/user/rate-limits/k", {"requests_per_day": 2**60}),
        ("POST", "/user/rate-limits/bulk-update", {"updates": []}),
        ("PUT", "/admin/rate-limits/update", {"requests_per_day": 1}),
        ("PUT", "/admin/rate-limits/update", {"key_id": "a", "user_id": "b", "requests_per_day": 1}),
        ("DELETE", "/admin/rate-limits/delete", None),
        ("GET", "/admin/rate-limits/alerts?limit=0", None),
        ("POST", "/admin/rate-limits/config", {"window_size_seconds": 30, "burst_limit": 1}),
        ("POST", "/api/admin/ip-whitelist", {"ip_address": "not an address"}),
        ("POST", "/api/admin/ip-whitelist", {"ip_address": "10.0.0.1", "metadata": {"a\0": 1}}),
        ("PATCH", "/api/admin/ip-whitelist/x", {}),
        ("PATCH", "/api/admin/ip-whitelist/x", {"enabled": None}),
        ("POST", "/api/admin/ip-whitelist/check", {"ip_address": "x"}),
    ],
)
def test_bad_input_is_400_with_the_field(
    admin: httpx.Client, owner: httpx.Client, method: str, path: str, body: Any
) -> None:
    caller = owner if path.startswith("/user") else admin
    answer = caller.request(method, path, json=body)
    assert answer.status_code == 400, answer.text
