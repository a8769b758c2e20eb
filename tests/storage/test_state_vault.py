"""Kept state of tool calls: whose it is, how long it stays, how much of it, and what happens without a database."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest
from cryptography.fernet import Fernet

from engine.secret import Secret
from engine.storage.postgres import Database
from engine.storage.secrets import KeyRing
from engine.storage.state_vault import READ_WITHIN_S, REST_S, WRITTEN_SOON_S, StateVault
from engine.wire.kept_state import CallState

Connection = psycopg.AsyncConnection[tuple[Any, ...]]
HOUR_S = 3600.0
SIGNED = CallState(
    "anthropic", None, ({"type": "reasoning", "text": "Hm.", "signature": "very-secret-proof"},)
)
CALLED = CallState("google", "c2ln")


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def make_vault(database: Database, ring: KeyRing, **changes: Any) -> StateVault:
    return StateVault(database, ring, **{"keep_s": HOUR_S, "most_bytes": 1 << 20, **changes})


@pytest.fixture
async def there(database: Database) -> Database:
    await database.run(lambda connection: connection.execute("SELECT 1"), probe=True)
    return database


@pytest.fixture
async def vault(there: Database, ring: KeyRing) -> AsyncIterator[StateVault]:
    started = make_vault(there, ring)
    started.start()
    yield started
    await started.stop()


async def settle(vault: StateVault, outcome: str, number: int) -> None:
    async with asyncio.timeout(5):
        while vault.counts[outcome] < number:
            await asyncio.sleep(0.01)


async def test_another_process_finds_what_was_kept_and_another_key_never_does(
    vault: StateVault, there: Database, ring: KeyRing
) -> None:
    vault.keep("key-1", {"call_a": SIGNED, "call_b": CALLED, "call_c": CallState("google")})
    assert await vault.find("key-1", ["call_a", "call_c"]) == {"call_a": SIGNED}
    await settle(vault, "stored", 2)
    other = make_vault(there, ring)
    assert await other.find("key-2", ["call_a", "call_b"]) == {}
    assert await other.find("key-1", ["call_b", "call_a", "call_z"]) == {"call_a": SIGNED, "call_b": CALLED}
    assert (other.counts["read"], other.counts["missing"], vault.counts["missing"]) == (2, 3, 0)
    await other.stop()


async def test_what_lies_in_the_database_says_nothing_without_the_ring(
    vault: StateVault, connection: Connection
) -> None:
    vault.keep("key-1", {"call_a": SIGNED})
    await settle(vault, "stored", 1)
    row = await (await connection.execute("SELECT state, expires_at - now() FROM provider_state")).fetchone()
    assert row is not None and b"secret" not in row[0] and b"anthropic" not in row[0]
    assert 3500 < row[1].total_seconds() <= HOUR_S


async def test_state_of_a_ring_that_is_gone_is_as_if_it_had_never_been(
    vault: StateVault, there: Database
) -> None:
    vault.keep("key-1", {"call_a": SIGNED})
    await settle(vault, "stored", 1)
    stranger = make_vault(there, KeyRing(Secret(Fernet.generate_key().decode())))
    assert await stranger.find("key-1", ["call_a"]) == {}
    await stranger.stop()


async def test_state_expires_in_memory_and_in_the_database(
    there: Database, ring: KeyRing, connection: Connection
) -> None:
    clock = Clock()
    vault = make_vault(there, ring, keep_s=0.4, clock=clock)
    vault.keep("key-1", {"call_a": SIGNED})
    assert await vault.find("key-1", ["call_a"]) == {"call_a": SIGNED}
    clock.now += 0.5
    await asyncio.sleep(0.5)
    assert await vault.find("key-1", ["call_a"]) == {}
    await vault.stop()
    purging = make_vault(there, ring)
    purging.start()
    async with asyncio.timeout(5):
        while await (await connection.execute("SELECT 1 FROM provider_state")).fetchone():
            await asyncio.sleep(0.02)
    await purging.stop()


async def test_memory_is_bounded_and_the_oldest_go_first(database: Database, ring: KeyRing) -> None:
    vault = make_vault(database, ring, most_bytes=2000)
    for number in range(10):
        vault.keep("key-1", {f"call_{number}": CALLED})
    found = await vault.find("key-1", [f"call_{number}" for number in range(10)])
    assert "call_9" in found and vault._bytes <= 2000
    assert {name[1] for name in vault._entries} == {f"call_{number}" for number in range(6, 10)}


async def test_while_the_database_is_away_the_process_knows_its_own_and_waits_for_nothing(
    database: Database, ring: KeyRing
) -> None:
    vault = make_vault(database, ring)
    vault.start()
    vault.keep("key-1", {"call_a": SIGNED})
    await settle(vault, "unstored", 1)
    began = asyncio.get_running_loop().time()
    assert await vault.find("key-1", ["call_a", "call_b"]) == {"call_a": SIGNED}
    assert asyncio.get_running_loop().time() - began < 0.05
    await vault.stop()


async def test_a_slow_database_is_waited_for_a_moment_and_then_left_alone(
    vault: StateVault,
    there: Database,
    ring: KeyRing,
    connection: Connection,
    caplog: pytest.LogCaptureFixture,
) -> None:
    vault.keep("key-1", {"call_a": SIGNED})
    await settle(vault, "stored", 1)
    clock, loop = Clock(), asyncio.get_running_loop()
    slow = make_vault(there, ring, clock=clock)
    async with connection.transaction():
        await connection.execute("LOCK TABLE provider_state IN ACCESS EXCLUSIVE MODE")
        began = loop.time()
        assert await slow.find("key-1", ["call_a"]) == {}
        assert READ_WITHIN_S <= loop.time() - began < 0.3 and slow.counts["late"] == 1
        began = loop.time()
        assert await slow.find("key-1", ["call_b"]) == {} and loop.time() - began < READ_WITHIN_S
    assert "is not read from the database" in caplog.text
    await settle(slow, "read", 1)
    assert await slow.find("key-1", ["call_a"]) == {"call_a": SIGNED}, (
        "what came late is there for the next call"
    )
    clock.now += REST_S
    assert await slow.find("key-1", ["call_b"]) == {} and slow.counts["missing"] == 1
    await slow.stop()


async def test_a_call_without_state_is_looked_for_until_nobody_can_be_about_to_write_it(
    vault: StateVault, there: Database, ring: KeyRing
) -> None:
    clock = Clock()
    reader = make_vault(there, ring, clock=clock)
    assert await reader.find("key-1", ["call_a"]) == {}
    vault.keep("key-1", {"call_a": SIGNED})
    await settle(vault, "stored", 1)
    assert await reader.find("key-1", ["call_a"]) == {"call_a": SIGNED}
    assert await reader.find("key-1", ["call_b"]) == {}
    clock.now += WRITTEN_SOON_S
    assert await reader.find("key-1", ["call_b"]) == {} and reader.counts["missing"] == 3
    assert await reader.find("key-1", ["call_b"]) == {} and reader.counts["missing"] == 3
    await reader.stop()


async def test_what_waits_is_written_when_the_process_stops(
    there: Database, ring: KeyRing, connection: Connection
) -> None:
    vault = make_vault(there, ring)
    vault.keep("key-1", {f"call_{number}": CALLED for number in range(450)})
    await vault.stop()
    row = await (await connection.execute("SELECT count(*) FROM provider_state")).fetchone()
    assert row == (450,) and vault.counts["stored"] == 450


async def test_more_than_may_wait_stays_in_memory_alone(there: Database, ring: KeyRing) -> None:
    vault = make_vault(there, ring, most_waiting_bytes=500)
    vault.keep("key-1", {"call_a": CALLED, "call_b": CALLED})
    assert vault.counts["unstored"] == 1
    assert await vault.find("key-1", ["call_b"]) == {"call_b": CALLED}
    await vault.stop()
