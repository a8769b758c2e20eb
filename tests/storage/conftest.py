"""One real embedded server for most tests; each test begins with empty tables."""

import asyncio
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psycopg
import pytest
from cryptography.fernet import Fernet

from engine.secret import Secret
from engine.storage.embedded import EmbeddedDatabase
from engine.storage.migrations import migrate_url
from engine.storage.postgres import Database
from engine.storage.secrets import KeyRing

KEPT = ["schema_migrations", "change_counter", "audit_log"]
"""Tables that keep their rows between tests."""


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database that was made and never used: copied, it saves each test a second."""

    async def make(home: Path) -> Path:
        server = EmbeddedDatabase(home)
        await server.start()
        await server.stop()
        return server.data

    return asyncio.run(make(tmp_path_factory.mktemp("cluster") / "home"))


@pytest.fixture
def ready_home(cluster: Path, home: Path) -> Path:
    """A home whose embedded database is made already."""
    subprocess.run(["cp", "-a", str(cluster), str(home / "postgres")], check=True)
    return home


@pytest.fixture(scope="session")
def server_url(cluster: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    home = tmp_path_factory.mktemp("server")
    subprocess.run(["cp", "-a", str(cluster), str(home / "postgres")], check=True)
    server = EmbeddedDatabase(home)
    url = asyncio.run(server.start())
    asyncio.run(migrate_url(url))
    yield url
    asyncio.run(server.stop())


@pytest.fixture
def database_url(server_url: str) -> str:
    """A migrated database without a row."""
    with psycopg.connect(server_url, autocommit=True) as connection:
        rows = connection.execute(
            "SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename <> ALL(%s)", (KEPT,)
        ).fetchall()
        connection.execute("SET session_replication_role = replica")  # the ledger refuses to be emptied
        connection.execute("TRUNCATE " + ", ".join(name for (name,) in rows))
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
