"""Secrets of accounts, payments, mail and identities: a thousand mixed calls later none of them is anywhere that it
was not sent to. tests/gateway/test_secrets.py does the same with the secrets of providers.
"""

import base64
import itertools
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import psycopg
import pytest

from tests.security.canaries import (
    ADMIN,
    MARK,
    CanaryHouse,
    Found,
    dump_redis,
    dump_tables,
    keep_canaries,
    read_files,
)
from tests.security.story import LAST_PASSWORD, tell_everything
from tests.security.test_bypasses import fill

CALLS = 1000
LEFT_OUT = ("/admin/config/reload", "/admin/refresh-providers", "/admin/notifications/process")
"""They take seconds; the story has them."""
NOT_TOLD = {
    "POST /api/stripe/portal": "somebody who has paid by card before",
    "POST /api/stripe/subscription-checkout": "prices of plans in the environment",
    "POST /api/stripe/subscription/cancel": "a subscription",
    "POST /api/stripe/subscription/downgrade": "a subscription",
    "POST /api/stripe/subscription/upgrade": "a subscription",
    "POST /api/stripe/webhook": "a signature of its body: the story delivers by hand",
    "POST /admin/payments/reconcile": "a Stripe that lists events",
    "POST /partner-trials/start": "a partner",
    "POST /partner-trials/expire/{user_id}": "a partner",
    "POST /referral/validate": "somebody else's code",
    "POST /user/notifications/send-usage-report": "a month of usage",
}
"""What the story does not do with success, and what it would need."""


@pytest.fixture(scope="module")
def canary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CanaryHouse]:
    with keep_canaries(tmp_path_factory.mktemp("canaries")) as canary:
        keys = tell_everything(canary)
        canary.house.keys |= keys
        make_calls(canary, CALLS)
        look_around(canary)
        dump_redis(canary)
        canary.redis.kill()
        make_calls(canary, 60)
        await_quoted_mail(canary)
        dump_tables(canary)
        read_files(canary)
        canary.found.add("log", canary.house.gateway.read_log())
        yield canary


@pytest.fixture(scope="module")
def found(canary: CanaryHouse) -> Found:
    return canary.found


def await_quoted_mail(canary: CanaryHouse) -> None:
    """The sink quotes its key at the end: what it said is in the outbox."""
    with psycopg.connect(canary.house.database_url, autocommit=True) as connection:
        asked = "SELECT 1 FROM mail_outbox WHERE problem <> ''"
        until = time.monotonic() + 20
        while connection.execute(asked).fetchone() is None:
            assert time.monotonic() < until
            time.sleep(0.2)


def list_operations(canary: CanaryHouse) -> list[tuple[str, str]]:
    document = httpx.get(f"{canary.url}/openapi.json").json()
    ids = canary.house.list_ids()
    return [
        (method.upper(), url)
        for path, methods in document["paths"].items()
        for method in methods
        for url in itertools.islice(fill(path.replace("{model}", "gpt-rehearsal"), ids), 2)
        if path not in LEFT_OUT
    ]


def make_bodies() -> list[Any]:
    chat = {"messages": [{"role": "user", "content": f"tell me of {MARK}"}], "stream": False}
    return [
        {},
        {**chat, "model": "gpt-rehearsal"},
        {**chat, "model": "sim/status@500", "stream": True},
        {"email": "moved@example.org", "password": f"{MARK}-wrong-password"},
        {"email": "moved@example.org", "password": LAST_PASSWORD},
        {"password": LAST_PASSWORD, "token": f"{MARK}.{MARK}.{MARK}", "unknown": f"{MARK}-field"},
        {"refresh_token": f"{MARK}-refresh", "api_key": f"sk-{MARK}", "provider_slug": "nobody"},
        {"token": write_jwt(), "provider": "privy"},
        {"token": write_jwt(), "provider": "idp"},
        {"key_name": "k", "action": "rotate", "confirmation": f"{MARK}-confirmation"},
        {"an_unknown_name": f"{MARK}-value"},
        {f"{MARK}-name": 1},
        f'{{"password": "{MARK}-broken"',
        [f"{MARK}-list"],
    ]


def make_headers(canary: CanaryHouse) -> list[dict[str, str]]:
    return [{"authorization": f"Bearer {key}"} for key in canary.house.keys.values()] + [
        {"authorization": f"Bearer {write_jwt()}"},
        {"authorization": f"Bearer {canary.house.keys['session'][:-4]}AAAA"},
        {"authorization": f"Basic {base64.b64encode(f'{MARK}:x'.encode()).decode()}"},
        {"x-api-key": f"gw_live_{MARK}" + "x" * 30},
        {"x-goog-api-key": canary.house.keys["user"], "cookie": f"session={MARK}"},
        {"stripe-signature": f"t=1,v1={MARK}", "referer": f"https://x.example/?token={MARK}"},
        {},
    ]


QUERIES: list[dict[str, str]] = [
    {},
    {"secret": f"{MARK}-query"},
    {},
    {"key": f"gw_live_{MARK}{'x' * 30}"},
    {"token": f"{MARK}-{'t' * 30}", "limit": f"{MARK}"},
    {},
    {"api_key": f"sk-{MARK}", "email": f"{MARK}@example.org"},
]


def make_calls(canary: CanaryHouse, count: int) -> None:
    """Every described operation with every key and bodies of every kind; secrets where they do not belong."""
    mixed = itertools.islice(
        zip(
            itertools.cycle(list_operations(canary)), itertools.cycle(make_bodies()),
            itertools.cycle(make_headers(canary)), itertools.cycle(QUERIES), strict=False,
        ),
        count,
    )  # fmt: skip

    def call(what: tuple[tuple[str, str], Any, dict[str, str], dict[str, str]]) -> httpx.Response:
        (method, url), body, named, query = what
        content = body if isinstance(body, str) else json.dumps(body)
        return client.request(
            method, canary.url + url, headers={"content-type": "application/json", **named},
            params=query or None, content=None if method == "GET" else content,
        )  # fmt: skip

    with httpx.Client(timeout=60) as client, ThreadPoolExecutor(8) as threads:
        for answer in threads.map(call, mixed):
            assert answer.status_code != 500, (answer.request.method, answer.url, answer.text)
            canary.found.note(answer)


def write_jwt() -> str:
    parts = [{"alg": "RS256", "kid": MARK}, {"sub": MARK, "email": "x@example.org"}]
    return ".".join(
        [*(base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts), MARK]
    )


def look_around(canary: CanaryHouse) -> None:
    """What an administrator can see, and what the person can see of the own account."""
    document = httpx.get(f"{canary.url}/openapi.json").json()
    ids = canary.house.list_ids()
    for path, operations in document["paths"].items():
        if "get" not in operations:
            continue
        for key in (ADMIN, canary.house.keys["session"], canary.house.keys["person"]):
            for url in fill(path, ids):
                headers = {"authorization": f"Bearer {key}"}
                answer = httpx.get(canary.url + url, headers=headers, timeout=30)
                assert answer.status_code != 500, (url, answer.text)
                canary.found.note(answer)


def test_no_secret_of_an_account_or_an_integration_is_anywhere(found: Found) -> None:
    leaks = found.find()
    assert not leaks, f"{len(leaks)} leaks\n" + "\n".join(leaks[:20])


def test_the_search_looked_at_everything_that_was_made(found: Found) -> None:
    sources = {source.split()[0] for source, _ in found.texts}
    assert sources >= {"answer", "table", "file", "log", "redis"}
    tables = {source.split()[1]: text for source, text in found.texts if source.startswith("table ")}
    assert all(
        tables[name]
        for name in ("sessions", "refresh_tokens", "user_provider_keys", "audit_log", "mail_outbox")
    )
    assert "401: " in tables["mail_outbox"] and "is no key of ours" in tables["mail_outbox"]
    log = next(text for source, text in found.texts if source == "log")
    assert '"level":"debug"' in log and "redis is away" in log and "Traceback" not in log
    assert sum(found.statuses.values()) > CALLS and found.statuses[200] > 300
    assert {400, 401, 403, 404} <= set(found.statuses) and len(found.secrets) > 40


def test_the_story_has_every_route_that_changes_something(canary: CanaryHouse) -> None:
    document = httpx.get(f"{canary.url}/openapi.json").json()
    changing = {
        f"{method.upper()} {path}"
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
        if method != "get" and "inference" not in operation["tags"]
    }
    done = {route.partition("?")[0] for route in canary.found.done}
    assert changing - done - {"POST /auth/login"} == set(NOT_TOLD)
