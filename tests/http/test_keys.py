"""The routes of keys over a real gateway: their shapes, whom they serve, and that bad input is told as what it is."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.harness import ADMIN_KEY, Gateway, clean_environment, running, write_files

CONFIG = "database: embedded\nredis: none\nserver: {trusted_proxies: [127.0.0.1]}\n"
CHAT = {"model": "sim/echo", "messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = write_files(tmp_path_factory.mktemp("keys"), {"gateway.yaml": CONFIG})
    made = Gateway(folder)
    with running(made):
        yield made


def issue(gateway: Gateway, *arguments: str) -> str:
    """A key made at the command line."""
    environ = clean_environment(GATEWAYZ_HOME=str(gateway.folder / "home"))
    command = [sys.executable, "-m", "engine.cli", "keys", "create", "--name", "made", *arguments]
    done = subprocess.run(
        command, cwd=gateway.folder, env=environ, capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()[-1]


def client(gateway: Gateway, key: str, **headers: str) -> httpx.Client:
    given = {"authorization": f"Bearer {key}", **headers}
    return httpx.Client(base_url=gateway.url, headers=given, timeout=30)


@pytest.fixture(scope="module")
def owner(gateway: Gateway) -> Iterator[httpx.Client]:
    key = issue(gateway, "--user", "owner@b.c", "--scope", "inference", "--scope", "admin")
    with client(gateway, key) as made:
        yield made


@pytest.fixture(scope="module")
def admin(gateway: Gateway) -> Iterator[httpx.Client]:
    with client(gateway, ADMIN_KEY) as made:
        yield made


@pytest.fixture(scope="module")
def user_id(owner: httpx.Client) -> str:
    found: str = owner.get("/user/api-keys").json()["keys"][0]["user_id"]
    return found


def make(admin: httpx.Client, user_id: str, **body: Any) -> dict[str, Any]:
    """Administrators make as many as they like."""
    answer = admin.post(f"/admin/users/{user_id}/api-keys", json={"key_name": "k", **body})
    assert answer.status_code == 200, answer.text
    made: dict[str, Any] = answer.json()
    return made


def ask(gateway: Gateway, key: str, **headers: str) -> httpx.Response:
    with client(gateway, key, **headers) as asking:
        return asking.post("/v1/chat/completions", json=CHAT)


def wait_for_code(gateway: Gateway, key: str, code: str, within_s: float = 1.0) -> None:
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        answer = ask(gateway, key)
        if answer.status_code != 200:
            assert answer.json()["error"]["code"] == code
            return
        time.sleep(0.05)
    raise AssertionError("the key still works")


def test_a_key_is_made_used_listed_without_its_text_and_revoked(
    gateway: Gateway, owner: httpx.Client
) -> None:
    body = {"key_name": "mine", "environment_tag": "development", "expiration_days": 30, "max_requests": 50}
    answer = owner.post("/user/api-keys", json={"action": "create", **body})
    made = answer.json()
    assert answer.status_code == 200 and answer.headers["cache-control"] == "no-store"
    assert made["api_key"].startswith("gw_dev_") and made["environment_tag"] == "development"
    assert made["security_features"]["max_requests"] and not made["security_features"]["ip_allowlist"]
    assert ask(gateway, made["api_key"]).status_code == 200

    listing = owner.get("/user/api-keys")
    (row,) = [key for key in listing.json()["keys"] if key["id"] == made["id"]]
    assert made["api_key"] not in listing.text and row["api_key"].endswith(made["api_key"][-4:])
    assert (row["is_active"], row["days_remaining"], row["is_primary"]) == (True, 29, False)
    shown = owner.get(f"/user/api-keys/{made['id']}").json()["key"]
    assert shown["id"] == made["id"] and shown["max_requests"] == 50

    assert owner.request("DELETE", f"/user/api-keys/{made['id']}", json={}).status_code == 400
    ended = owner.request("DELETE", f"/user/api-keys/{made['id']}", json={"confirmation": "DELETE_KEY"})
    assert ended.status_code == 200
    wait_for_code(gateway, made["api_key"], "invalid_api_key")
    changed = owner.put(f"/user/api-keys/{made['id']}", json={"key_name": "again"})
    assert (changed.status_code, changed.json()["error"]["code"]) == (403, "key_revoked")


def test_a_change_of_a_key_is_in_force_within_a_second(
    gateway: Gateway, admin: httpx.Client, owner: httpx.Client, user_id: str
) -> None:
    made = make(admin, user_id)
    assert ask(gateway, made["api_key"]).status_code == 200
    answer = owner.put(f"/user/api-keys/{made['id']}", json={"models": ["gpt-*"], "key_name": "less"})
    assert answer.json()["key"]["models"] == ["gpt-*"] and answer.json()["key"]["key_name"] == "less"
    wait_for_code(gateway, made["api_key"], "model_not_allowed")
    cleared = owner.put(f"/user/api-keys/{made['id']}", json={"models": None})
    assert cleared.json()["key"]["models"] is None and cleared.json()["key"]["key_name"] == "less"


def test_a_rotated_key_has_two_texts_for_its_grace_and_bulk_rotation_names_each(
    gateway: Gateway, admin: httpx.Client, user_id: str
) -> None:
    made = [make(admin, user_id, environment_tag="staging") for _ in range(2)]
    path = f"/admin/api-keys/{made[0]['id']}"
    answer = admin.put(path, json={"action": "rotate", "grace_period_hours": 1}).json()
    assert (answer["id"], answer["rotated"]) == (made[0]["id"], 1)
    for key in (made[0]["api_key"], answer["api_key"]):
        assert ask(gateway, key).status_code == 200
    many = admin.put(path, json={"action": "bulk_rotate", "environment_tag": "staging"}).json()
    assert {key["id"] for key in many["keys"]} == {key["id"] for key in made}
    assert all(ask(gateway, key["api_key"]).status_code == 200 for key in many["keys"])
    wait_for_code(gateway, made[1]["api_key"], "invalid_api_key")


def test_addresses_are_those_that_the_trusted_proxy_saw(
    gateway: Gateway, admin: httpx.Client, user_id: str
) -> None:
    made = make(admin, user_id, ip_allowlist=["203.0.113.0/24", "2001:db8::/32"])
    key = made["api_key"]
    for address, status in (
        ("203.0.113.5", 200),
        ("2001:db8::9", 200),
        ("203.0.113.5, 198.51.100.1", 403),
        ("198.51.100.1", 403),
    ):
        assert ask(gateway, key, **{"x-forwarded-for": address}).status_code == status, address
    assert ask(gateway, key).json()["error"]["code"] == "address_not_allowed"


def test_caps_and_limits_of_a_key_hold(gateway: Gateway, admin: httpx.Client, user_id: str) -> None:
    capped = make(admin, user_id, max_requests=2)["api_key"]
    assert [ask(gateway, capped).status_code for _ in range(3)] == [200, 200, 429]
    assert ask(gateway, capped).json()["error"]["code"] == "key_requests_used_up"
    limited = make(admin, user_id, limits={"requests": {"minute": 1}})["api_key"]
    assert [ask(gateway, limited).status_code for _ in range(2)] == [200, 429]


def test_scopes_are_kept_on_every_kind_of_route(gateway: Gateway, admin: httpx.Client, user_id: str) -> None:
    routes = {
        "infer": ("POST", "/v1/chat/completions", CHAT),
        "list models": ("GET", "/v1/models", None),
        "kept answer": ("GET", "/v1/responses/resp_none", None),
        "own keys": ("GET", "/user/api-keys", None),
        "make a key": ("POST", "/user/api-keys", {"key_name": "x"}),
        "records": ("GET", "/admin/calls", None),
        "audit": ("GET", "/admin/audit", None),
    }
    expected = {
        ("inference",): {"infer", "list models", "kept answer"},
        ("models:gpt-*",): {"list models", "kept answer"},
        ("read",): {"list models", "own keys"},
        ("admin",): {"list models", "own keys", "make a key"},
        (): set(),
    }
    for scopes, opened in expected.items():
        key = make(admin, user_id, scope_permissions=list(scopes))["api_key"]
        with client(gateway, key) as asking:
            answers = {name: asking.request(m, path, json=body) for name, (m, path, body) in routes.items()}
        allowed = {name for name, answer in answers.items() if answer.status_code in (200, 404, 429)}
        assert allowed == opened, scopes
        assert all(answers[name].status_code == 403 for name in set(routes) - opened)


def test_the_older_form_of_scopes_is_read(admin: httpx.Client, user_id: str) -> None:
    made = make(admin, user_id, scope_permissions={"read": ["*"], "write": ["gpt-*"], "admin": []})
    shown = admin.get(f"/admin/api-keys/{made['id']}").json()["key"]
    assert shown["scope_permissions"] == ["read", "models:gpt-*"]


def test_the_key_of_somebody_else_is_not_there(gateway: Gateway, owner: httpx.Client) -> None:
    mine = owner.get("/user/api-keys").json()["keys"][0]["id"]
    with client(gateway, issue(gateway, "--user", "other@b.c", "--scope", "admin")) as stranger:
        answers = []
        for key_id in (mine, "key_0000000000000000", "..", "%00", "usage/x", "' OR 1=1 --"):
            path = f"/user/api-keys/{key_id}"
            answers += [
                stranger.get(path),
                stranger.put(path, json={"key_name": "x"}),
                stranger.put(path, json={"action": "rotate"}),
                stranger.request("DELETE", path, json={"confirmation": "DELETE_KEY"}),
            ]
        assert {answer.status_code for answer in answers[:8]} == {404}
        said = {answer.json()["error"]["message"] for answer in answers[:8]}
        assert said == {"there is no such key"}
        assert all(answer.status_code in (404, 405) for answer in answers)
        assert [key["id"] for key in stranger.get("/user/api-keys").json()["keys"]] != [mine]
        assert stranger.get("/user/api-keys/audit-logs", params={"key_id": mine}).json()["logs"] == []
    assert owner.get(f"/user/api-keys/{mine}").status_code == 200


def test_ten_keys_in_an_hour_are_enough_for_a_user(gateway: Gateway) -> None:
    with client(gateway, issue(gateway, "--user", "eager@b.c", "--scope", "admin")) as eager:
        answers = [eager.post("/user/api-keys", json={"key_name": f"n{n}"}) for n in range(11)]
    assert [answer.status_code for answer in answers] == [200] * 9 + [429] * 2
    assert answers[-1].json()["error"]["code"] == "key_creation_limit" and answers[-1].headers["retry-after"]


def test_the_environments_key_has_no_account_of_its_own(admin: httpx.Client) -> None:
    answer = admin.post("/user/api-keys", json={"key_name": "x"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "no_account")
    assert admin.post("/admin/users/user_nobody/api-keys", json={"key_name": "x"}).status_code == 404


BAD = [
    {},
    {"key_name": ""},
    {"key_name": "x" * 101},
    {"key_name": 5},
    {"key_name": "a\0b"},
    {"key_name": "x", "surprise": 1},
    {"key_name": "x", "role": "admin"},
    {"key_name": "x", "environment_tag": "prod"},
    {"key_name": "x", "scope_permissions": ["everything"]},
    {"key_name": "x", "scope_permissions": {"root": ["*"]}},
    {"key_name": "x", "scope_permissions": {"admin": ["a"]}},
    {"key_name": "x", "scope_permissions": ["models:\0"]},
    {"key_name": "x", "expiration_days": 0},
    {"key_name": "x", "expiration_days": 10**30},
    {"key_name": "x", "max_requests": -1},
    {"key_name": "x", "max_requests": 1.5},
    {"key_name": "x", "max_spend_usd": "NaN"},
    {"key_name": "x", "max_spend_usd": 0.1},
    {"key_name": "x", "max_spend_usd": "1e15"},
    {"key_name": "x", "ip_allowlist": ["10.0.0.1/8"]},
    {"key_name": "x", "ip_allowlist": "10.0.0.0/8"},
    {"key_name": "x", "ip_allowlist": ["10.0.0.0/8"] * 101},
    {"key_name": "x", "domain_referrers": ["http://x.com"]},
    {"key_name": "x", "limits": {"requests": {"fortnight": 5}}},
    {"key_name": "x", "limits": {"requests": {"minute": -5}}},
    {"key_name": "x", "models": "gpt"},
    {"key_name": "x", "action": "destroy"},
]


@pytest.mark.parametrize("body", BAD, ids=range(len(BAD)))
def test_bad_input_is_a_400_that_says_where_and_never_what(owner: httpx.Client, body: dict[str, Any]) -> None:
    answer = owner.post("/user/api-keys", json=body)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error" and error["param"]


@pytest.mark.parametrize(
    ("content", "media_type", "status"),
    [
        (b"", "application/json", 400),
        (b"[1]", "application/json", 400),
        (b'{"key_name": "\\ud800"}', "application/json", 400),
        (b"{" * 5000, "application/json", 400),
        (b'{"key_name": "' + b"x" * 70_000 + b'"}', "application/json", 413),
        (b'{"key_name": "x"}', "text/plain", 415),
        (b"\xff\xfe", "application/json", 400),
    ],
)
def test_a_body_that_is_none_is_told_as_such(
    owner: httpx.Client, content: bytes, media_type: str, status: int
) -> None:
    answer = owner.post("/user/api-keys", content=content, headers={"content-type": media_type})
    assert answer.status_code == status and answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=x",
        "limit=1&limit=2",
        "surprise=1",
        "start_date=yesterday",
        "before=-1",
        "key_id=%00",
    ],
)
def test_bad_parameters_are_a_400(admin: httpx.Client, query: str) -> None:
    assert admin.get(f"/admin/audit?{query}").status_code == 400


def test_an_update_that_changes_nothing_or_mixes_with_a_rotation_is_refused(
    admin: httpx.Client, user_id: str
) -> None:
    path = f"/admin/api-keys/{make(admin, user_id)['id']}"
    bad = [{}, {"key_name": None}, {"scope_permissions": None}, {"grace_period_hours": 2}]
    bad += [{"action": "rotate", "key_name": "x"}, {"action": "rotate", "environment_tag": "live"}]
    assert [admin.put(path, json=body).status_code for body in bad] == [400] * len(bad)


def test_every_event_of_a_key_is_in_the_log_with_where_it_came_from(
    gateway: Gateway, admin: httpx.Client, owner: httpx.Client, user_id: str
) -> None:
    made = make(admin, user_id)
    headers = {"x-forwarded-for": "203.0.113.9", "user-agent": "a test"}
    owner.put(f"/user/api-keys/{made['id']}", json={"max_requests": 7}, headers=headers)
    admin.post("/admin/config/reload")
    own = owner.get("/user/api-keys/audit-logs", params={"key_id": made["id"]}).json()["logs"]
    assert [event["action"] for event in own] == ["key.update", "key.create"]
    assert own[0]["by"]["address"] == "203.0.113.9" and own[0]["by"]["agent"] == "a test"
    assert (own[0]["before"], own[0]["after"]) == ({"max_requests": None}, {"max_requests": 7})
    every = admin.get("/admin/audit", params={"limit": 3})
    assert every.json()["logs"][0]["action"] == "config.reload" and every.json()["has_more"]
    assert made["api_key"] not in every.text + json.dumps(own)
    environ = clean_environment(GATEWAYZ_HOME=str(gateway.folder / "home"))
    command = [sys.executable, "-m", "engine.cli", "audit", "verify"]
    done = subprocess.run(command, cwd=gateway.folder, env=environ, capture_output=True, text=True)
    assert done.returncode == 0 and "rows hold" in done.stderr, done.stderr


def test_usage_of_each_key_is_told(gateway: Gateway, admin: httpx.Client, owner: httpx.Client, user_id: str):
    made = make(admin, user_id, max_requests=4)
    ask(gateway, made["api_key"])
    until = time.monotonic() + 5
    while time.monotonic() < until:
        keys = owner.get("/user/api-keys/usage").json()["keys"]
        (row,) = [key for key in keys if key["id"] == made["id"]]
        if row["requests_used"]:
            break
        time.sleep(0.1)
    assert (row["requests_used"], row["requests_remaining"], row["usage_percentage"]) == (1, 3, 25.0)


def test_no_key_is_in_the_home_folder_or_the_log(gateway: Gateway, admin: httpx.Client, user_id: str) -> None:
    key = make(admin, user_id)["api_key"]
    ask(gateway, key)
    assert key not in gateway.read_log()
    for path in (gateway.folder / "home").rglob("*"):
        if path.is_file() and not Path(path).is_symlink():
            assert key.encode()[8:] not in path.read_bytes(), path


def test_an_administrator_pages_through_everybodys_keys(admin: httpx.Client, user_id: str) -> None:
    made = [make(admin, user_id)["id"] for _ in range(3)]
    seen: list[str] = []
    page: dict[str, Any] = {"has_more": True}
    while page["has_more"]:
        query = {"limit": 2} | ({"after": seen[-1]} if seen else {})
        page = admin.get("/admin/api-keys", params=query).json()
        seen += [key["id"] for key in page["keys"]]
    assert seen[-3:] == made and len(seen) == len(set(seen))
