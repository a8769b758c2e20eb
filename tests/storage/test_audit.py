"""What was done is told by the audit log, and whoever tampers with the log is seen."""

import asyncio
import secrets
from collections.abc import AsyncIterator

import psycopg
import pytest
from cryptography.fernet import Fernet

from engine.secret import Secret
from engine.storage.audit import Actor, list_events, verify_chain
from engine.storage.issuing import KeyRequest, issue_key
from engine.storage.key_changes import Which, revoke_key, rotate_keys, update_key
from engine.storage.migrations import migrate_url
from engine.storage.postgres import Connection
from engine.storage.secrets import KeyRing

BY = Actor("user_1", "key_1", "192.0.2.7", "curl/8\r\nx: y")


@pytest.fixture
async def connection(server_url: str) -> AsyncIterator[Connection]:
    """A database of its own: the log of the shared one cannot be emptied."""
    name = f"audit_{secrets.token_hex(6)}"
    with psycopg.connect(server_url, autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name}".encode())
    url = server_url.replace("/postgres?", f"/{name}?")
    await migrate_url(url)
    async with await Connection.connect(url, autocommit=True) as opened:
        yield opened
    with psycopg.connect(server_url, autocommit=True) as admin:
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


async def tamper(connection: Connection, statement: str) -> None:
    """As somebody who owns the database would."""
    await connection.execute("ALTER TABLE audit_log DISABLE TRIGGER USER")
    await connection.execute(statement.encode())


async def make_events(connection: Connection, ring: KeyRing) -> str:
    issued = await issue_key(connection, ring, KeyRequest("ci", user="a@b.c"), BY)
    await update_key(connection, ring, issued.id, {"name": "other", "max_requests": 5}, BY)
    await rotate_keys(connection, ring, Which(issued.id), 60, BY)
    await revoke_key(connection, ring, issued.id, BY)
    return issued.id


async def test_each_change_of_a_key_is_one_event_with_before_and_after(connection: Connection, ring: KeyRing):
    key_id = await make_events(connection, ring)
    events, more = await list_events(connection, {"subject": key_id})
    assert not more
    assert [event["action"] for event in events] == ["key.revoke", "key.rotate", "key.update", "key.create"]
    update = events[2]
    assert update["before"] == {"name": "ci", "max_requests": None}
    assert update["after"] == {"name": "other", "max_requests": 5}
    assert update["by"] == {
        "user_id": "user_1",
        "key_id": "key_1",
        "address": "192.0.2.7",
        "agent": "curl/8x: y",
    }


async def test_no_event_holds_a_key(connection: Connection, ring: KeyRing):
    text = (await issue_key(connection, ring, KeyRequest("ci"))).key.reveal()
    (row,) = await (await connection.execute("SELECT content FROM audit_log")).fetchall()
    assert text not in row[0] and text[8:-4] not in row[0]


async def test_revoking_twice_is_one_event(connection: Connection, ring: KeyRing):
    issued = await issue_key(connection, ring, KeyRequest("ci"))
    assert await revoke_key(connection, ring, issued.id) and await revoke_key(connection, ring, issued.id)
    assert len((await list_events(connection, {"action": "key.revoke"}))[0]) == 1


async def test_a_change_that_is_undone_leaves_no_event(connection: Connection, ring: KeyRing):
    with pytest.raises(ZeroDivisionError):
        async with connection.transaction():
            await issue_key(connection, ring, KeyRequest("ci"))
            raise ZeroDivisionError
    assert await list_events(connection, {}) == ([], False)


async def test_an_untouched_log_holds_and_says_its_last_seal(connection: Connection, ring: KeyRing):
    await make_events(connection, ring)
    verdict = await verify_chain(connection, ring)
    assert (verdict.rows, verdict.broken_at) == (4, None) and verdict.head
    await make_events(connection, ring)
    assert (await verify_chain(connection, ring, verdict.head)).has_expected


@pytest.mark.parametrize(
    ("statement", "broken_at"),
    [
        ("UPDATE audit_log SET content = replace(content, 'other', 'else') WHERE seq = 2", 2),
        ("DELETE FROM audit_log WHERE seq = 1", 1),
        ("DELETE FROM audit_log WHERE seq = 3", 3),
        ("UPDATE audit_log SET seq = 9 WHERE seq = 2; UPDATE audit_log SET seq = 2 WHERE seq = 3", 2),
        ("INSERT INTO audit_log SELECT 5, content, seal FROM audit_log WHERE seq = 4", 5),
        ("UPDATE audit_log SET seal = '' WHERE seq = 4", 4),
    ],
)
async def test_every_tampering_shows(connection: Connection, ring: KeyRing, statement: str, broken_at: int):
    await make_events(connection, ring)
    await tamper(connection, statement)
    assert (await verify_chain(connection, ring)).broken_at == broken_at


async def test_rows_cut_off_at_the_end_show_to_who_noted_the_last_seal(connection: Connection, ring: KeyRing):
    await make_events(connection, ring)
    head = (await verify_chain(connection, ring)).head
    await tamper(connection, "DELETE FROM audit_log WHERE seq = 4")
    verdict = await verify_chain(connection, ring, head)
    assert verdict.broken_at is None and not verdict.has_expected


async def test_nobody_without_the_ring_can_write_a_row_that_holds(connection: Connection, ring: KeyRing):
    await issue_key(connection, KeyRing(Secret(Fernet.generate_key().decode())), KeyRequest("forged"))
    assert (await verify_chain(connection, ring)).broken_at == 1


@pytest.mark.parametrize(
    "statement",
    ["UPDATE audit_log SET content = '{}'", "DELETE FROM audit_log", "TRUNCATE audit_log"],
)
async def test_the_database_itself_refuses_to_change_the_log(
    connection: Connection, ring: KeyRing, statement: str
):
    await issue_key(connection, ring, KeyRequest("ci"))
    with pytest.raises(psycopg.errors.RaiseException, match="append-only"):
        await connection.execute(statement.encode())


async def test_many_writers_make_one_chain(connection: Connection, ring: KeyRing):
    url = connection.info.dsn

    async def write(number: int) -> None:
        async with await Connection.connect(url, autocommit=True) as own:
            for _ in range(5):
                await issue_key(own, ring, KeyRequest(f"n{number}", user="same@b.c"))

    await asyncio.gather(*(write(number) for number in range(6)))
    verdict = await verify_chain(connection, ring)
    assert (verdict.rows, verdict.broken_at) == (30, None)
