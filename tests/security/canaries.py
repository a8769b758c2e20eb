"""A house in which every secret is a canary, and a note of everything that comes out of it."""

import json
import re
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psycopg
from psycopg import sql

from engine.secret import Secret
from engine.storage.secrets import KeyRing
from tests.accounts.issuer import AUDIENCE, Issuer
from tests.gateway.job_upstream import JobUpstream
from tests.security.seeding import House, keep_house, read_environ
from tests.valkey import Valkey, valkey

MARK = "Canary9Xw"
ADMIN = f"gw_live_{MARK}AdminQ7tR2vLx8kPz4mWc5YbJ3nHs6DgA1"
SECRETS = {
    "UPSTREAM_KEY": f"sk-{MARK}-upstream",
    "STRIPE_KEY": f"sk_test_{MARK}stripe",
    "STRIPE_WEBHOOK": f"whsec_{MARK}webhook",
    "MAIL_KEY": f"re_{MARK}-mail",
    "GATEWAYZ_ADMIN_KEY": ADMIN,
}
GIVEN_OUT = re.compile(
    r'"(access_token|refresh_token|session_token|api_key|new_api_key|token|invitation)": ?"([^"*]{20,})"'
)
"""What answers give to whom it is for, once; from then on it is a secret."""
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
links:
  password_reset: 'https://app.example.org/reset?token={{token}}'
  verify_address: 'https://app.example.org/verify?token={{token}}'
attempts:
  login: {{attempts: 1000, within_s: 900}}
  account: {{attempts: 1000, within_s: 900}}
  sign_up: {{attempts: 1000, within_s: 900}}
  password_reset: {{attempts: 1000, within_s: 900}}
  redeem: {{attempts: 1000, within_s: 900}}
providers:
  idp:
    issuer: '{issuer}'
    audience: {audience}
    jwks_url: '{issuer}/jwks.json'
    algorithms: [ES256]
    allow_private: true
""",
    "policies.d/default.yaml": """
policy: default
extends: default
limits:
  key: {{requests: {{minute: 100000}}, tokens: {{minute: 100000000}}, concurrency: 500}}
  user: {{requests: {{day: 100000}}}}
""",
}


@dataclass
class Found:
    """What came out, by where, and every text that must be nowhere in it."""

    texts: list[tuple[str, str]] = field(default_factory=list)
    secrets: set[str] = field(default_factory=lambda: {MARK})
    statuses: dict[int, int] = field(default_factory=dict)
    done: set[str] = field(default_factory=set)
    """The routes that were used with success, as they are declared."""

    def add(self, source: str, text: str) -> None:
        self.texts.append((source, text))

    def note(self, answer: httpx.Response) -> None:
        """An answer without what it gave out, which is nobody else's business from now on."""
        self.statuses[answer.status_code] = self.statuses.get(answer.status_code, 0) + 1
        text = answer.text
        if answer.request.method != "GET" and answer.is_success:
            self.secrets |= {given.removeprefix("gw_live_") for _, given in GIVEN_OUT.findall(text)}
            text = GIVEN_OUT.sub(r'"\1": "(given out)"', text)
        source = f"answer {answer.request.method} {answer.url.path}"
        self.add(source, f"{answer.status_code} {answer.headers.multi_items()}\n{text}")

    def find(self) -> list[str]:
        return [
            f"{source}: ...{text[max(0, text.find(secret) - 100) : text.find(secret) + 20]}"
            for source, text in self.texts
            for secret in self.secrets
            if secret in text
        ]


@dataclass
class CanaryHouse:
    house: House
    mail: JobUpstream
    issuer: Issuer
    redis: Valkey
    found: Found

    @property
    def url(self) -> str:
        return self.house.gateway.url


@contextmanager
def keep_canaries(folder: Path) -> Iterator[CanaryHouse]:
    with ExitStack() as stack:
        mail = stack.enter_context(JobUpstream())
        mail.answers["POST", "/send"] = [(200, {"id": "m"})]
        issuer = stack.enter_context(Issuer().serving())
        (folder / "valkey").mkdir()
        redis = stack.enter_context(valkey(folder / "valkey"))
        set_redis_password(redis)
        named = {"mail": mail.url, "issuer": issuer.url, "audience": AUDIENCE}
        house = stack.enter_context(
            keep_house(
                folder,
                {name: text.format(**named) for name, text in FILES.items()},
                GATEWAYZ_LOG_LEVEL="debug",
                DATABASE_URL=f"{{database}}&password={MARK}-database",
                REDIS_URL=f"redis://house:{MARK}-redis@127.0.0.1:{redis.port}/0",
                **SECRETS,
            )
        )
        found = Found()
        found.secrets |= {key.removeprefix("gw_live_") for key in house.keys.values()} - {
            house.keys["environment"]
        }
        found.secrets |= read_ring(house)
        house.keys["environment"] = ADMIN
        yield CanaryHouse(house, mail, issuer, redis, found)


def set_redis_password(redis: Valkey) -> None:
    with redis.client as client:
        client.acl_setuser(
            "house", enabled=True, passwords=f"+{MARK}-redis", keys="*", channels="*", commands=["+@all"]
        )


def read_ring(house: House) -> set[str]:
    """The key ring, and every key that is made of it: seals, sessions, receipts."""
    ring = read_environ(house.gateway)["GATEWAYZ_KEYRING"]
    entry = KeyRing(Secret(ring)).newest
    keys = (entry.seal, entry.sessions, entry.receipts)
    return {ring} | {
        form for key in keys for form in (key.hex(), urlsafe_b64encode(key).decode().rstrip("="))
    }


# --- where things come to lie


def dump_tables(canary: CanaryHouse) -> None:
    with psycopg.connect(canary.house.database_url) as connection:
        tables = connection.execute(
            "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'"
        ).fetchall()
        assert len(tables) > 20
        for (table,) in tables:
            rows = connection.execute(
                sql.SQL("SELECT t::text FROM {} t").format(sql.Identifier(table))
            ).fetchall()
            canary.found.add(f"table {table}", "\n".join(row[0] for row in rows))


def dump_redis(canary: CanaryHouse) -> None:
    """Every name, and what is under it in the form in which it would move to another server."""
    with canary.redis.client as client:
        for name in client.scan_iter():
            canary.found.add("redis", f"{name!r} {read_value(client, name)!r}")


def read_value(client: Any, name: bytes) -> Any:
    kind = client.type(name)
    if kind == b"hash":
        return client.hgetall(name)
    if kind == b"zset":
        return client.zrange(name, 0, -1, withscores=True)
    return client.get(name) if kind == b"string" else client.dump(name)


def read_files(canary: CanaryHouse) -> None:
    home = canary.house.gateway.folder / "home"
    for path in home.rglob("*"):
        if path.is_file():
            text = path.read_bytes().decode("utf-8", "replace")
            canary.found.add(f"file {path.relative_to(home)}", text)


def find_in_mail(mail: JobUpstream, link: str) -> set[str]:
    """The tokens of such links that letters had."""
    return set(
        re.findall(rf"{link}\?token=([\w.~-]{{20,}})", json.dumps([body for _, _, body, _ in mail.seen]))
    )
