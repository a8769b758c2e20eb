"""Migrations, applied by one, by many, and not at all when something was tampered with."""

import asyncio
import secrets
from collections.abc import Iterator

import psycopg
import pytest

from engine.storage.interfaces import StorageRefused
from engine.storage.migrations import Migration, list_migrations, migrate, migrate_url
from engine.storage.postgres import Connection


@pytest.fixture
def empty_url(server_url: str) -> Iterator[str]:
    name = f"empty_{secrets.token_hex(6)}"
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    yield server_url.replace("/postgres?", f"/{name}?")
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


async def test_many_at_once_apply_each_file_once(empty_url: str):
    applied = await asyncio.gather(*(migrate_url(empty_url) for _ in range(6)))
    shipped = [file.name for file in list_migrations()]
    assert sorted(name for names in applied for name in names) == shipped
    assert await migrate_url(empty_url) == []


async def test_a_file_that_fails_leaves_nothing_behind(empty_url: str):
    broken = [*list_migrations(), Migration("9999_broken.sql", "CREATE TABLE half (); SELECT nonsense;")]
    async with await Connection.connect(empty_url) as connection:
        with pytest.raises(psycopg.Error):
            await migrate(connection, broken)
        found = await (
            await connection.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'")
        ).fetchone()
        assert found == (0,)


async def test_a_file_changed_after_it_was_applied_is_refused(empty_url: str):
    await migrate_url(empty_url)
    changed = [Migration(file.name, file.sql + "-- edited") for file in list_migrations()]
    async with await Connection.connect(empty_url) as connection:
        with pytest.raises(StorageRefused, match="other content"):
            await migrate(connection, changed)


async def test_an_older_gateway_is_refused_by_a_newer_database(empty_url: str):
    async with await Connection.connect(empty_url) as connection:
        await migrate(
            connection, [*list_migrations(), Migration("9999_future.sql", "CREATE TABLE future ()")]
        )
        with pytest.raises(StorageRefused, match="newer than this gateway"):
            await migrate(connection)
