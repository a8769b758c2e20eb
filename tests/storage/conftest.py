"""One real embedded server for most tests; each test begins with empty tables."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from cryptography.fernet import Fernet

from engine.secret import Secret
from engine.storage.embedded import EmbeddedDatabase
from engine.storage.postgres import Database
from engine.storage.secrets import KeyRing
from tests.homes import lend_database

KEPT = ["schema_migrations", "change_counter", "audit_log"]
"""Tables that keep their rows between tests."""


@pytest.fixture
def ready_home(home: Path) -> Path:
    """A home whose embedded database is made already."""
    lend_database(home)
    return home


@contextmanager
def serve_database(home: Path) -> Iterator[str]:
    """A migrated server of its own; its URL."""
    lend_database(home)
    server = EmbeddedDatabase(home)
    yield asyncio.run(server.start())
    asyncio.run(server.stop())


@pytest.fixture(scope="session")
def server_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serve_database(tmp_path_factory.mktemp("server")) as url:
        yield url


@pytest.fixture
def database_url(server_url: str) -> str:
    """A migrated database without a row."""
    with psycopg.connect(server_url, autocommit=True) as connection:
        names = connection.execute(
            "SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename <> ALL(%s)", (KEPT,)
        ).fetchall()
        found = connection.execute(
            " UNION ALL ".join(f"SELECT '{name}' WHERE EXISTS (SELECT FROM {name})" for (name,) in names)
        ).fetchall()
        connection.execute("SET session_replication_role = replica")  # the ledger refuses to be emptied
        for (name,) in found:
            connection.execute(f"DELETE FROM {name}")
        connection.execute("UPDATE change_counter SET n = 0")
    return server_url


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    opened = Database(database_url)
    await opened.open()
    yield opened
    await opened.close()


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[psycopg.AsyncConnection[tuple[object, ...]]]:
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as opened:
        yield opened


@pytest.fixture
def ring() -> KeyRing:
    return KeyRing(Secret(Fernet.generate_key().decode()))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    made = tmp_path / "home"
    made.mkdir(mode=0o700)
    return made
