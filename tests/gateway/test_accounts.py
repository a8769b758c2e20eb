"""Accounts over HTTP, before two gateways on one database and one Redis: shapes, sessions, limits, deletion."""

import asyncio
import itertools
import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from cryptography.fernet import Fernet

from engine.storage.embedded import EmbeddedDatabase
from tests.accounts.issuer import AUDIENCE, Issuer
from tests.harness import Gateway, running, write_files
from tests.homes import lend_database
from tests.valkey import valkey

PASSWORD, NEW = "correct-Pferd-9-battery", "another-Hund-7-stapler"
SIGNED_IN = {
    "success", "message", "user_id", "api_key", "auth_method", "privy_user_id", "is_new_user", "display_name", "email",
    "phone_number", "credits", "timestamp", "subscription_status", "tier", "tier_display_name", "trial_expires_at",
    "subscription_end_date", "subscription_allowance", "purchased_credits", "total_credits", "allowance_reset_date",
}  # fmt: skip
PROFILE = {
    "user_id", "api_key", "credits", "subscription_allowance", "purchased_credits", "total_credits",
    "allowance_reset_date", "username", "email", "auth_method", "subscription_status", "tier", "tier_display_name",
    "trial_expires_at", "subscription_end_date", "is_active", "registration_date", "created_at", "updated_at",
    "settings",
}  # fmt: skip
_numbers = itertools.count(1)


class Pair:
    def __init__(self, a: Gateway, b: Gateway, issuer: Issuer, database_url: str) -> None:
        self.a, self.b, self.issuer, self.database_url = a, b, issuer, database_url

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        at: str = "",
        on: Gateway | None = None,
        bearer: str = "",
    ) -> httpx.Response:
        """From an address of its own, unless `at` names one."""
        number = next(_numbers)
        headers = {"x-forwarded-for": at or f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"}
        if bearer:
            headers["authorization"] = f"Bearer {bearer}"
        return httpx.request(method, (on or self.a).url + path, json=body, headers=headers, timeout=30)

    def register(self, email: str = "", **more: Any) -> dict[str, Any]:
        email = email or f"u{next(_numbers)}@example.com"
        answer = self.ask("POST", "/auth/register", {"email": email, "password": PASSWORD, **more})
        assert answer.status_code == 200, answer.text
        document: dict[str, Any] = answer.json()
        return document

    def read(self, statement: str, *values: Any) -> list[Any]:
        with psycopg.connect(self.database_url, autocommit=True) as connection:
            return connection.execute(statement, values).fetchall()  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("accounts")
    database = EmbeddedDatabase(lend_database(folder / "database"))
    environ = {
        "DATABASE_URL": asyncio.run(database.start()),
        "GATEWAYZ_KEYRING": Fernet.generate_key().decode(),
    }
    with ExitStack() as stack:
        stack.callback(lambda: asyncio.run(database.stop()))
        (folder / "valkey").mkdir()
        redis = stack.enter_context(valkey(folder / "valkey"))
        issuer = stack.enter_context(Issuer().serving())
        login = f"""
login: default
extends: default
providers:
  privy: {{issuer: "{issuer.name}", audience: {AUDIENCE}, jwks_url: "{issuer.url}/jwks.json", allow_private: true,
          needs_email: true}}
"""
        files = {
            "gateway.yaml": f"redis: '{redis.url}'\nserver: {{trusted_proxies: [127.0.0.1]}}\n",
            "policies.d/login.yaml": login,
        }
        gateways = [Gateway(write_files(folder / name, files), **environ) for name in "ab"]
        stack.enter_context(running(*gateways))
        yield Pair(*gateways, issuer, environ["DATABASE_URL"])


def read_code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def test_registering_and_signing_in_answer_in_the_known_shape(pair: Pair) -> None:
    made = pair.register(username="Ada", environment_tag="development", key_name="first")
    assert set(made) >= SIGNED_IN | {"username", "environment_tag", "scope_permissions", "access_token"}
    assert made["api_key"].startswith("gw_dev_") and made["environment_tag"] == "development"
    for path in ("/auth", "/auth/login"):
        answer = pair.ask("POST", path, {"email": made["email"], "password": PASSWORD}, on=pair.b)
        document = answer.json()
        assert answer.status_code == 200 and set(document) >= SIGNED_IN
        assert (document["user_id"], document["api_key"], document["is_new_user"]) == (
            made["user_id"],
            None,
            False,
        )
        assert answer.headers["cache-control"] == "no-store"
    keys = pair.ask("GET", "/user/api-keys", bearer=made["access_token"]).json()["keys"]
    assert [key["key_name"] for key in keys] == ["first"]


def test_a_privy_client_may_send_all_it_ever_sent_and_only_its_token_counts(pair: Pair) -> None:
    victim = pair.register()
    linked = [{"type": "wallet", "address": "0x1"}, {"type": "email", "address": "eve@example.org", "lv": 1}]
    body = {
        "user": {
            "id": "did:privy:victim",
            "created_at": 1,
            "linked_accounts": [{"type": "email", "email": victim["email"], "address": victim["email"]}],
            "mfa_methods": [], "has_accepted_terms": True, "is_guest": False,
        },
        "token": pair.issuer.sign("did:privy:1"),
        "privy_access_token": pair.issuer.sign("did:privy:1"),
        "identity_token": pair.issuer.sign("did:privy:1", linked_accounts=json.dumps(linked)),
        "email": victim["email"],
        "refresh_token": "of privy",
        "session_update_action": "set",
        "is_new_user": False,
        "environment_tag": "live",
        "auto_create_api_key": True,
    }  # fmt: skip
    document = pair.ask("POST", "/auth", body).json()
    assert document["success"], document
    assert (document["email"], document["is_new_user"]) == ("eve@example.org", True)
    assert document["user_id"] != victim["user_id"]
    assert (document["privy_user_id"], document["auth_method"]) == ("did:privy:1", "privy")
    unsigned = {**body, "token": "nonsense"}
    assert read_code(pair.ask("POST", "/auth", unsigned)) == (401, "identity_token_invalid")
    nothing = {**body, "token": None, "privy_access_token": None, "identity_token": None}
    assert pair.ask("POST", "/auth", nothing).status_code == 400


def test_a_session_is_good_on_both_gateways_and_its_end_too(pair: Pair) -> None:
    made = pair.register()
    for on in (pair.a, pair.b):
        profile = pair.ask("GET", "/user/profile", on=on, bearer=made["access_token"]).json()
        assert set(profile) >= PROFILE and profile["user_id"] == made["user_id"]
        assert made["api_key"] not in str(profile) and profile["api_key"].startswith("gw_live_...")
    renewed = pair.ask("POST", "/auth/refresh", {"refresh_token": made["refresh_token"]}, on=pair.b).json()
    assert pair.ask("GET", "/user/profile", bearer=renewed["access_token"]).status_code == 200
    assert pair.ask("POST", "/auth/logout", {"refresh_token": renewed["refresh_token"]}).status_code == 200
    for on, token in itertools.product((pair.a, pair.b), (made["access_token"], renewed["access_token"])):
        assert read_code(pair.ask("GET", "/user/profile", on=on, bearer=token)) == (401, "session_ended")
    again = pair.ask("POST", "/auth/refresh", {"refresh_token": renewed["refresh_token"]})
    assert read_code(again) == (401, "refresh_token_invalid")


def test_a_session_sees_what_its_holder_used_and_no_limits_of_a_key(pair: Pair) -> None:
    bearer = pair.register()["access_token"]
    assert pair.ask("GET", "/user/monitor", bearer=bearer).json()["api_key"] is None
    shown = pair.ask("GET", "/user/limit", on=pair.b, bearer=bearer).json()
    assert shown["api_key"] is None and not {"key", "plan_environment"} & {
        each["scope"] for each in shown["scopes"]
    }
    for path in ("/user/activity/stats", "/user/activity/log", "/user/environment-usage"):
        assert pair.ask("GET", path, bearer=bearer).status_code == 200


def test_a_session_opens_no_inference_and_administration_only_with_the_role(pair: Pair) -> None:
    made = pair.register()
    bearer = made["access_token"]
    call = {"model": "sim/echo", "messages": [{"role": "user", "content": "hi"}]}
    for path in ("/v1/chat/completions", "/v1/messages", "/v1/responses"):
        assert pair.ask("POST", path, call, bearer=bearer).status_code == 403
    assert read_code(pair.ask("GET", "/admin/calls", bearer=bearer)) == (403, "insufficient_permissions")
    pair.read("UPDATE users SET role = 'admin' WHERE id = %s RETURNING 1", made["user_id"])
    for on in (pair.a, pair.b):
        assert pair.ask("GET", "/admin/calls", on=on, bearer=bearer).status_code == 200
    assert pair.ask("POST", "/admin/invitations", {}, bearer=bearer).json()["invitation"].startswith("gwi_")
    pair.read("UPDATE users SET role = 'user' WHERE id = %s RETURNING 1", made["user_id"])
    assert pair.ask("GET", "/admin/calls", on=pair.b, bearer=bearer).status_code == 403


def test_limits_hold_over_both_gateways_with_a_true_retry_after(pair: Pair) -> None:
    made = pair.register()
    body, place = {"email": made["email"], "password": "wrong-password-1"}, "192.0.2.77"
    answers = [pair.ask("POST", "/auth/login", body, at=place, on=on) for on in (pair.a, pair.b) * 8]
    statuses = [answer.status_code for answer in answers]
    assert statuses == [401] * 10 + [429] * 6
    assert all(0 < int(answer.headers["retry-after"]) <= 900 for answer in answers[10:])
    assert read_code(answers[-1]) == (429, "too_many_attempts")
    assert pair.ask("POST", "/auth/login", {**body, "password": PASSWORD}).status_code == 200

    resets = [
        pair.ask("POST", "/auth/password-reset", {"email": f"x{at}@example.com"}, at=place, on=on).status_code
        for at, on in enumerate((pair.a, pair.b) * 3)
    ]
    assert resets == [200] * 3 + [429] * 3
    made_here = [
        pair.ask(
            "POST", "/auth/register", {"email": f"l{at}@example.com", "password": PASSWORD}, at=place, on=on
        )
        for at, on in enumerate((pair.a, pair.b) * 3)
    ]
    assert [answer.status_code for answer in made_here] == [200] * 3 + [429] * 3


def test_answers_do_not_tell_who_has_an_account(pair: Pair) -> None:
    made = pair.register()
    pairs = [
        ("/auth/login", {"password": "wrong-password-1"}),
        ("/auth/password-reset", {}),
    ]
    for path, more in pairs:
        known = pair.ask("POST", path, {"email": made["email"], **more})
        unknown = pair.ask("POST", path, {"email": "nobody@example.com", **more})
        kept = [
            {name: value for name, value in one.json().items() if name not in ("timestamp", "request_id")}
            for one in (known, unknown)
        ]
        assert kept[0] == kept[1] and known.status_code == unknown.status_code
        assert set(known.headers) == set(unknown.headers)


def test_password_reset_takes_the_address_in_the_query_as_well(pair: Pair) -> None:
    made = pair.register()
    assert pair.ask("POST", f"/auth/password-reset?email={made['email']}").status_code == 200
    statement = "SELECT count(*) FROM mail_outbox WHERE address = %s AND template = 'password_reset'"
    assert pair.read(statement, made["email"]) == [(1,)]
    assert pair.ask("POST", "/auth/password-reset").status_code == 400


def test_a_password_is_changed_by_who_is_signed_in_and_knows_it(pair: Pair) -> None:
    made = pair.register()
    other = pair.ask("POST", "/auth", {"email": made["email"], "password": PASSWORD}).json()
    change = {"current_password": PASSWORD, "new_password": NEW}
    wrong = pair.ask(
        "POST", "/user/password", {**change, "current_password": NEW}, bearer=made["access_token"]
    )
    assert read_code(wrong) == (403, "password_wrong")
    weak = pair.ask(
        "POST", "/user/password", {**change, "new_password": "password123"}, bearer=made["access_token"]
    )
    assert read_code(weak) == (400, "password_refused")
    assert pair.ask("POST", "/user/password", change, bearer=made["access_token"]).status_code == 200
    assert pair.ask("GET", "/user/profile", bearer=made["access_token"]).status_code == 200
    assert read_code(pair.ask("GET", "/user/profile", bearer=other["access_token"])) == (401, "session_ended")
    assert pair.ask("POST", "/auth", {"email": made["email"], "password": PASSWORD}).status_code == 401


def test_a_key_with_every_scope_changes_neither_password_nor_address(pair: Pair) -> None:
    made = pair.register()
    asked = {"key_name": "all", "scope_permissions": ["inference", "read", "admin"]}
    key = pair.ask("POST", "/user/api-keys", asked, bearer=made["access_token"]).json()["api_key"]
    change = {"current_password": PASSWORD, "new_password": NEW}
    assert read_code(pair.ask("POST", "/user/password", change, bearer=key)) == (403, "session_required")
    moved = {"email": "thief@example.com", "current_password": PASSWORD}
    assert read_code(pair.ask("PUT", "/user/profile", moved, bearer=key)) == (403, "session_required")
    assert pair.ask("PUT", "/user/profile", {"name": "Ada"}, bearer=key).json()["username"] == "Ada"


def test_a_profile_is_changed_and_a_new_address_waits_for_its_proof(pair: Pair) -> None:
    made = pair.register()
    bearer = made["access_token"]
    changed = pair.ask(
        "PUT", "/user/profile", {"settings": {"a": [1]}, "preferences": {"b": 2}}, bearer=bearer
    )
    assert (changed.json()["settings"], changed.json()["preferences"]) == ({"a": [1]}, {"b": 2})
    new = f"new{next(_numbers)}@example.com"
    assert pair.ask("PUT", "/user/profile", {"email": new}, bearer=bearer).status_code == 400
    moved = pair.ask("PUT", "/user/profile", {"email": new, "current_password": PASSWORD}, bearer=bearer)
    assert moved.status_code == 200 and moved.json()["email"] == made["email"]
    assert pair.read("SELECT template FROM mail_outbox WHERE address = %s", new) == [("verify_address",)]


def test_sessions_are_listed_and_ended_and_others_are_not_there(pair: Pair) -> None:
    made, stranger = pair.register(), pair.register()
    other = pair.ask("POST", "/auth", {"email": made["email"], "password": PASSWORD}).json()
    listed = pair.ask("GET", "/user/sessions", bearer=made["access_token"]).json()["sessions"]
    [ended] = [one["id"] for one in listed if not one["is_current"]]
    path = f"/user/sessions/{ended}"
    assert read_code(pair.ask("DELETE", path, bearer=stranger["access_token"])) == (404, "session_not_found")
    assert pair.ask("GET", "/user/profile", bearer=other["access_token"]).status_code == 200
    assert pair.ask("DELETE", path, bearer=made["access_token"]).status_code == 200
    assert pair.ask("GET", "/user/profile", on=pair.b, bearer=other["access_token"]).status_code == 401
    assert read_code(pair.ask("DELETE", path, bearer=made["access_token"])) == (404, "session_not_found")


def test_a_deleted_account_leaves_its_books_and_nothing_of_the_person(pair: Pair) -> None:
    made = pair.register(username="Grace Person")
    bearer, email, user_id = made["access_token"], made["email"], made["user_id"]
    assert pair.ask("GET", "/v1/models", bearer=made["api_key"]).status_code == 200
    assert pair.ask("DELETE", "/user/account", {"confirmation": "yes"}, bearer=bearer).status_code == 400
    assert (
        pair.ask("DELETE", "/user/account", {"confirmation": "DELETE_ACCOUNT"}, bearer=bearer).status_code
        == 200
    )
    assert pair.ask("GET", "/user/profile", bearer=bearer).status_code == 401
    time.sleep(1.0)
    for on in (pair.a, pair.b):
        assert pair.ask("GET", "/v1/models", on=on, bearer=made["api_key"]).status_code == 401
    assert pair.ask("POST", "/auth", {"email": email, "password": PASSWORD}).status_code == 401
    assert pair.ask("POST", "/auth/refresh", {"refresh_token": made["refresh_token"]}).status_code == 401
    for (table,) in pair.read("SELECT tablename FROM pg_tables WHERE schemaname = 'public'"):
        rows = str(pair.read(f"SELECT t::text FROM {table} t"))
        assert email not in rows and "Grace Person" not in rows, table
    assert pair.read("SELECT active, erased_at IS NOT NULL FROM users WHERE id = %s", user_id) == [
        (False, True)
    ]
    assert pair.ask("POST", "/auth/register", {"email": email, "password": PASSWORD}).json()["is_new_user"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/auth", {}),
        ("/auth", {"email": "a@example.com"}),
        ("/auth", {"password": PASSWORD}),
        ("/auth", {"email": "a@example.com", "password": PASSWORD, "token": "x.y.z"}),
        ("/auth", {"email": "a@example.com\r\nBcc: b@example.com", "password": PASSWORD}),
        ("/auth", {"email": ["a@example.com"], "password": PASSWORD}),
        ("/auth", {"email": "a@example.com", "password": {"$ne": ""}}),
        ("/auth", {"email": "a@example.com", "password": "x" * 9000}),
        ("/auth", {"email": "a@example.com", "password": PASSWORD, "role": "admin"}),
        ("/auth", {"token": 7}),
        ("/auth/register", {"email": "a@example.com"}),
        ("/auth/register", {"email": "a@example.com", "password": "short"}),
        ("/auth/register", {"email": "no address", "password": PASSWORD}),
        ("/auth/register", {"email": "a@example.com", "password": PASSWORD, "prepaid": False}),
        ("/auth/register", {"email": "a@example.com", "password": PASSWORD, "environment_tag": "prod"}),
        ("/auth/register", {"email": "a\u0000@example.com", "password": PASSWORD}),
        ("/auth/refresh", {}),
        ("/auth/refresh", {"refresh_token": None}),
        ("/auth/logout", {"refresh_token": []}),
        ("/auth/reset-password", {"password": PASSWORD}),
        ("/auth/reset-password", {"password": PASSWORD, "token": "gwp_" + "x" * 43}),
        ("/auth/verify-email", {"token": "\u0000"}),
        ("/auth/password-reset", {"email": "x"}),
        ("/auth/password-reset", []),
    ],
)
def test_bad_bodies_are_answered_400_with_a_sentence(pair: Pair, path: str, body: Any) -> None:
    answer = pair.ask("POST", path, body)
    assert answer.status_code == 400, answer.text
    assert PASSWORD not in answer.text and answer.json()["error"]["message"]


def test_health_says_which_ways_in_there_are(pair: Pair) -> None:
    document = pair.ask("GET", "/auth/health").json()
    assert document == {
        "status": "healthy",
        "sign_up": "open",
        "passwords": True,
        "verifies_first": False,
        "providers": ["privy"],
    }


def test_neither_passwords_nor_tokens_are_in_the_logs(pair: Pair) -> None:
    made = pair.register()
    linked = [{"type": "email", "address": "log@example.org"}]
    token = pair.issuer.sign("log", linked_accounts=linked)
    pair.ask("POST", "/auth", {"token": token})
    said = pair.a.read_log() + pair.b.read_log()
    for secret in (
        PASSWORD,
        NEW,
        made["refresh_token"],
        made["access_token"],
        made["api_key"],
        token,
        "@example.",
    ):
        assert secret not in said


def test_without_redis_two_workers_together_let_in_no_more_than_the_number(tmp_path: Path) -> None:
    files = {"gateway.yaml": "database: embedded\nredis: none\nlimits: {without_redis: divide}\n"}
    gateway = Gateway(write_files(tmp_path, files), workers=2)
    body = {"email": "nobody@example.com", "password": "wrong-password-1"}
    with running(gateway):
        statuses = [
            httpx.post(f"{gateway.url}/auth/login", json=body, timeout=30).status_code for _ in range(30)
        ]
    assert set(statuses) == {401, 429}
    assert 5 <= statuses.count(401) <= 10
