"""A whole gateway on a database of its own with people in it: users of each role, their keys, a team, and ids."""

import asyncio
import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import uvicorn
from cryptography.fernet import Fernet
from psycopg import sql

from engine.storage.embedded import EmbeddedDatabase
from tests.harness import ADMIN_KEY, Gateway, Simulator, find_free_port, running, write_files
from tests.homes import lend_database
from tests.payments.stand_in import SECRET_KEY, WEBHOOK_SECRET, StripeStandIn

ROLES = ("user", "developer", "admin")
SCOPES = ("inference", "read", "admin")
UPSTREAM = """
provider: upstream
format: openai-chat
allow_private: true
auth: {{bearer: '${{UPSTREAM_KEY}}'}}
base_url: {url}/v1
"""
MODELS = """
models:
  gpt-rehearsal:
    price: {input: "1", output: "2"}
    targets: [{provider: upstream, model: sim/tokens@5}]
"""


GATEWAY = """
simulator: {{enabled: true}}
billing:
  stripe:
    secret_key: ${{STRIPE_KEY}}
    webhook_secret: ${{STRIPE_WEBHOOK}}
    api_base: {stripe}
    return_urls: ['https://app.example.org/*']
    success_url: https://app.example.org/done
    cancel_url: https://app.example.org/back
"""


@contextmanager
def serve_stripe(played: StripeStandIn) -> Iterator[str]:
    """The played Stripe at a port; its address."""
    config = uvicorn.Config(
        played.asgi, port=find_free_port(), log_config=None, lifespan="off", interface="asgi3"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{config.port}"
    finally:
        server.should_exit = True
        thread.join(10)


@dataclass
class House:
    """What runs, the keys of each role, and where everything is stored."""

    gateway: Gateway
    simulator: Simulator
    database_url: str
    stripe: StripeStandIn
    keys: dict[str, str] = field(default_factory=dict)

    def list_ids(self) -> dict[str, list[str]]:
        """By the name that paths have for it (`user_id`), what ids there are."""
        found: dict[str, list[str]] = {}
        with psycopg.connect(self.database_url) as connection:
            for table, kind in _list_tables(connection):
                query = sql.SQL("SELECT id::text FROM {} ORDER BY 1 LIMIT 20").format(sql.Identifier(table))
                ids = [row[0] for row in connection.execute(query)]
                name = re.sub(r"ies$", "y", table).removesuffix("s")
                found[f"{name}_id"] = ids
                found[f"{name.rpartition('_')[2]}_id"] = found.get(f"{name.rpartition('_')[2]}_id", []) + ids
                assert kind
        return found


def _list_tables(connection: psycopg.Connection[Any]) -> list[tuple[str, str]]:
    rows = connection.execute(
        "SELECT table_name, data_type FROM information_schema.columns"
        " WHERE table_schema = 'public' AND column_name = 'id'"
    ).fetchall()
    return [(str(table), str(kind)) for table, kind in rows]


def read_environ(gateway: Gateway) -> Mapping[str, str]:
    with open(f"/proc/{gateway.process.pid}/environ", "rb") as file:
        pairs = (entry.decode().partition("=") for entry in file.read().split(b"\0") if entry)
        return {name: value for name, _, value in pairs}


def run_command(gateway: Gateway, *words: str) -> str:
    """What a `gatewayz` command of the gateway's own installation prints."""
    done = subprocess.run(
        [sys.executable, "-m", "engine.cli", *words],
        cwd=Path(gateway.folder),
        env=dict(read_environ(gateway)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


@contextmanager
def keep_house(folder: Path, files: Mapping[str, str] | None = None, **environ: str) -> Iterator[House]:
    """A gateway that serves, with its people. `{database}` in a variable is the address of its database."""
    database = EmbeddedDatabase(lend_database(folder / "database"))
    url = asyncio.run(database.start())
    played = StripeStandIn()
    played.secret_key = environ.get("STRIPE_KEY", played.secret_key)
    try:
        with serve_stripe(played) as stripe:
            environ = {name: value.replace("{database}", url) for name, value in environ.items()}
            for gateway, simulator in _keep(folder, url, stripe, files or {}, environ):
                house = House(gateway, simulator, url, played, {"environment": ADMIN_KEY})
                seed_people(house)
                yield house
    finally:
        asyncio.run(database.stop())


def _keep(
    folder: Path, url: str, stripe: str, files: Mapping[str, str], environ: Mapping[str, str]
) -> Iterator[tuple[Gateway, Simulator]]:
    simulator = Simulator(folder)
    given = {
        "gateway.yaml": GATEWAY.format(stripe=stripe),
        "providers.d/upstream.yaml": UPSTREAM.format(url=simulator.url),
        "models.d/mine.yaml": MODELS,
    }
    write_files(folder, given | dict(files or {}))
    gateway = Gateway(
        folder,
        **{
            "DATABASE_URL": url,
            "GATEWAYZ_KEYRING": Fernet.generate_key().decode(),
            "UPSTREAM_KEY": "sk-of-the-upstream-0123456789",
            "STRIPE_KEY": SECRET_KEY,
            "STRIPE_WEBHOOK": WEBHOOK_SECRET,
            **environ,
        },
    )
    with running(simulator, gateway):
        yield gateway, simulator


def seed_people(house: House) -> None:
    for role in ROLES:
        scopes = [word for scope in SCOPES for word in ("--scope", scope)]
        words = [
            "keys",
            "create",
            "--name",
            role,
            "--user",
            f"{role}@example.org",
            "--format",
            "json",
            *scopes,
        ]
        made = json.loads(
            run_command(house.gateway, *words, *(["--role", "admin"] if role == "admin" else []))
        )
        house.keys[role] = made["key"]
        with psycopg.connect(house.database_url) as connection:
            connection.execute("UPDATE users SET role = %s WHERE email = %s", (role, f"{role}@example.org"))
            connection.execute("UPDATE api_keys SET role = %s WHERE name = %s", (role, role))
