"""Secrets of accounts, payments, mail and identities: a thousand mixed calls later none of them is anywhere that it
was not sent to. tests/gateway/test_secrets.py does the same with the secrets of providers.
"""

import base64
import itertools
import json
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from psycopg import sql

from tests.gateway.job_upstream import JobUpstream
from tests.security.seeding import House, keep_house
from tests.security.test_bypasses import fill

MARK = "Canary9Xw"
PASSWORD, NEW_PASSWORD = f"{MARK}-first-password", f"{MARK}-second-password"
OWN_KEY = f"sk-{MARK}-of-a-user"
ADMIN = f"gw_live_{MARK}AdminQ7tR2vLx8kPz4mWc5YbJ3nHs6DgA1"
SECRETS = {
    "UPSTREAM_KEY": f"sk-{MARK}-upstream",
    "STRIPE_KEY": f"sk_test_{MARK}stripe",
    "STRIPE_WEBHOOK": f"whsec_{MARK}webhook",
    "MAIL_KEY": f"re_{MARK}-mail",
    "GATEWAYZ_ADMIN_KEY": ADMIN,
}
FILES = {
    "policies.d/mail/default.yaml": """
mail: default
sink: http
sender: house@example.org
url: {mail}/send
allow_private: true
headers: {{authorization: 'Bearer ${{MAIL_KEY}}'}}
body: {{text: '{{{{ mail.text }}}}', to: '{{{{ mail.to }}}}'}}
""",
    "policies.d/login/default.yaml": """
login: default
extends: default
verify_address: later
links: {{password_reset: 'https://app.example.org/reset?token={{token}}'}}
attempts:
  login: {{attempts: 1000, within_s: 900}}
  sign_up: {{attempts: 1000, within_s: 900}}
  password_reset: {{attempts: 1000, within_s: 900}}
""",
}
CALLS = 1000


@dataclass
class Found:
    """What came out, by where, and every text that must be nowhere in it."""

    texts: list[tuple[str, str]] = field(default_factory=list)
    secrets: list[str] = field(default_factory=lambda: [MARK])
    statuses: dict[int, int] = field(default_factory=dict)

    def add(self, source: str, text: str) -> None:
        self.texts.append((source, text))

    def note(self, answer: httpx.Response) -> None:
        self.statuses[answer.status_code] = self.statuses.get(answer.status_code, 0) + 1
        self.add(
            f"answer {answer.request.method} {answer.url.path}",
            f"{answer.headers.multi_items()}\n{answer.text}",
        )

    def find(self) -> list[str]:
        return [
            f"{source}: ...{text[max(0, text.find(secret) - 100) : text.find(secret) + 20]}"
            for source, text in self.texts
            for secret in self.secrets
            if secret in text
        ]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Found]:
    found, folder = Found(), tmp_path_factory.mktemp("canaries")
    with ExitStack() as stack:
        mail = stack.enter_context(JobUpstream())
        mail.answers["POST", "/send"] = [(200, {"id": "m"})]
        files = {name: text.format(mail=mail.url) for name, text in FILES.items()}
        house = stack.enter_context(keep_house(folder, files, GATEWAYZ_LOG_LEVEL="debug", **SECRETS))
        found.secrets += [key.removeprefix("gw_live_") for key in house.keys.values() if "gw_live_" in key]
        found.secrets += read_ring(house)
        client = stack.enter_context(httpx.Client(base_url=house.gateway.url, timeout=30))
        live(house, client, mail, found)
        make_calls(house, found)
        time.sleep(1.5)
        look_around(house, found)
        dump_tables(house, found)
        read_files(folder / "home", found)
        found.add("log", house.gateway.read_log())
    yield found


def read_ring(house: House) -> list[str]:
    with open(f"/proc/{house.gateway.process.pid}/environ", "rb") as file:
        entries = file.read().decode().split("\0")
    return [entry.partition("=")[2] for entry in entries if entry.startswith("GATEWAYZ_KEYRING=")]


def live(house: House, client: httpx.Client, mail: JobUpstream, found: Found) -> None:
    """A person signs up, signs in, renews, brings a key along, forgets the password and sets a new one."""
    email = "person@example.org"

    def ask(path: str, body: dict[str, Any], token: str = "", status: int = 200) -> dict[str, Any]:
        headers = {"authorization": f"Bearer {token}"} if token else {}
        answer = client.post(path, json=body, headers=headers)
        assert answer.status_code == status, (path, answer.text)
        document: dict[str, Any] = answer.json()
        return document

    made = ask("/auth/register", {"email": email, "password": PASSWORD})
    keep(made, found)
    entered = ask("/auth/login", {"email": email, "password": PASSWORD})
    keep(entered, found)
    renewed = ask("/auth/refresh", {"refresh_token": find_word(entered, "refresh_token")})
    keep(renewed, found)
    house.keys["session"], house.keys["person"] = find_word(renewed, "access_token"), made["api_key"]
    ask("/user/provider-keys", {"provider_slug": "upstream", "api_key": OWN_KEY}, house.keys["session"])
    ask("/auth/password-reset", {"email": email})
    token = await_token(mail)
    found.secrets.append(token)
    ask("/auth/reset-password", {"token": token, "password": NEW_PASSWORD})
    keep(ask("/auth/login", {"email": email, "password": NEW_PASSWORD}), found)
    rotated = client.put(
        f"/admin/api-keys/{house.list_ids()['api_key_id'][0]}",
        json={"action": "rotate"},
        headers={"authorization": f"Bearer {ADMIN}"},
    )
    keep(rotated.json(), found)


def find_word(document: Any, name: str) -> str:
    """The text of this key, wherever it is."""
    text = re.search(rf'"{name}": ?"([^"]+)"', json.dumps(document))
    assert text is not None, document
    return text[1]


def keep(document: Any, found: Found) -> None:
    """Tokens and keys that were given out are secrets from now on."""
    for name in ("access_token", "refresh_token", "session_token", "api_key", "token"):
        for text in re.findall(rf'"{name}": ?"([^"]{{20,}})"', json.dumps(document)):
            found.secrets.append(text.removeprefix("gw_live_"))


def await_token(mail: JobUpstream) -> str:
    until = time.monotonic() + 30
    while time.monotonic() < until:
        if (told := re.search(r"token=([\w.~-]{20,})", json.dumps(mail.seen))) is not None:
            return told[1]
        time.sleep(0.1)
    raise AssertionError(f"no letter came: {len(mail.seen)}")


def make_calls(house: House, found: Found) -> None:
    """Every described operation with every key and bodies of every kind; secrets where they do not belong."""
    document = httpx.get(f"{house.gateway.url}/openapi.json").json()
    ids = house.list_ids()
    operations = [
        (method.upper(), url)
        for path, methods in document["paths"].items()
        for method in methods
        for url in itertools.islice(fill(path.replace("{model}", "gpt-rehearsal"), ids), 2)
        if "rotate" not in url and method != "delete"
    ]
    chat = {"messages": [{"role": "user", "content": "hi"}], "stream": False}
    bodies: list[Any] = [
        {},
        {**chat, "model": "gpt-rehearsal"},
        {**chat, "model": "sim/status@500", "stream": True},
        {"email": "person@example.org", "password": f"{MARK}-wrong-password"},
        {"password": NEW_PASSWORD, "token": f"{MARK}.{MARK}.{MARK}", "unknown": f"{MARK}-field"},
        {"refresh_token": f"{MARK}-refresh", "api_key": f"sk-{MARK}", "provider_slug": "nobody"},
        {"token": write_jwt(), "provider": "privy"},
        {"an_unknown_name": f"{MARK}-value"},
        f'{{"password": "{MARK}-broken"',
        [f"{MARK}-list"],
    ]
    headers = [{"authorization": f"Bearer {key}"} for key in house.keys.values()] + [
        {"authorization": f"Bearer {write_jwt()}"},
        {"authorization": f"Basic {base64.b64encode(f'{MARK}:x'.encode()).decode()}"},
        {"x-api-key": f"gw_live_{MARK}" + "x" * 30},
        {"stripe-signature": f"t=1,v1={MARK}", "cookie": f"session={MARK}"},
        {},
    ]
    mixed = itertools.islice(
        zip(itertools.cycle(operations), itertools.cycle(bodies), itertools.cycle(headers), strict=False),
        CALLS,
    )

    def call(what: tuple[tuple[str, str], Any, dict[str, str]]) -> httpx.Response | None:
        (method, url), body, named = what
        if url == "/admin/config/reload":
            return None
        content = body if isinstance(body, str) else json.dumps(body)
        return client.request(
            method, house.gateway.url + url, headers={"content-type": "application/json", **named},
            params={"secret": f"{MARK}-query"} if method == "GET" and "users" in url else None,
            content=None if method == "GET" else content,
        )  # fmt: skip

    with httpx.Client(timeout=60) as client, ThreadPoolExecutor(8) as threads:
        for answer in threads.map(call, mixed):
            if answer is not None:
                assert answer.status_code != 500, answer.text
                if not is_given_out(answer):
                    found.note(answer)
                else:
                    keep(answer.json(), found)


def is_given_out(answer: httpx.Response) -> bool:
    """An answer that gives a secret to whom it is for, once."""
    made = re.search(
        r'"(api_key|access_token|token)": ?"(gw_(live|test)_[\w-]{43}|[\w.-]{40,})"', answer.text
    )
    return answer.status_code in (200, 201) and answer.request.method != "GET" and made is not None


def write_jwt() -> str:
    parts = [{"alg": "RS256", "kid": MARK}, {"sub": MARK, "email": "x@example.org"}]
    return ".".join(
        [*(base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts), MARK]
    )


def look_around(house: House, found: Found) -> None:
    """What an administrator can see."""
    document = httpx.get(f"{house.gateway.url}/openapi.json").json()
    ids = house.list_ids()
    headers = {"authorization": f"Bearer {ADMIN}"}
    for path, operations in document["paths"].items():
        if "get" in operations and path.startswith(
            ("/admin", "/api/admin", "/metrics", "/health", "/v1/models")
        ):
            for url in fill(path, ids):
                found.note(httpx.get(house.gateway.url + url, headers=headers, timeout=30))


def dump_tables(house: House, found: Found) -> None:
    with psycopg.connect(house.database_url) as connection:
        tables = connection.execute(
            "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'"
        ).fetchall()
        assert len(tables) > 20
        for (table,) in tables:
            rows = connection.execute(
                sql.SQL("SELECT t::text FROM {} t").format(sql.Identifier(table))
            ).fetchall()
            found.add(f"table {table}", "\n".join(row[0] for row in rows))


def read_files(home: Path, found: Found) -> None:
    for path in home.rglob("*"):
        if path.is_file():
            found.add(f"file {path.relative_to(home)}", path.read_bytes().decode("utf-8", "replace"))


def test_no_secret_of_an_account_or_an_integration_is_anywhere(found: Found) -> None:
    leaks = found.find()
    assert not leaks, "\n".join(leaks[:20])


def test_the_search_looked_at_everything_that_was_made(found: Found) -> None:
    sources = {source.split()[0] for source, _ in found.texts}
    assert sources >= {"answer", "table", "file", "log"}
    tables = {source.split()[1]: text for source, text in found.texts if source.startswith("table ")}
    assert all(
        tables[name]
        for name in ("sessions", "refresh_tokens", "user_provider_keys", "audit_log", "mail_outbox")
    )
    log = next(text for source, text in found.texts if source == "log")
    assert '"level":"debug"' in log and "Traceback" not in log
    assert sum(found.statuses.values()) > 900 and found.statuses[200] > 100
    assert {400, 401, 403, 404} <= set(found.statuses) and len(found.secrets) > 12
