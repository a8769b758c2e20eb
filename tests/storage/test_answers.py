"""Kept answers: who may read them, how long they stay, and what is said of those that could not be kept."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest

from engine.errors import AnswerMissing, DependencyAway
from engine.storage import answers
from engine.storage.answers import AnswerStore, Kept
from engine.storage.postgres import Database

Connection = psycopg.AsyncConnection[tuple[Any, ...]]
DAY_S = 86400.0


def make(name: str, previous: str | None = None, key: str = "key-1", text: str = "hi") -> Kept:
    said = json.dumps([{"role": "user", "content": text}]).encode()
    return Kept(key, name, previous, said, json.dumps({"id": name, "output": []}).encode())


@pytest.fixture
async def store(database: Database) -> AsyncIterator[AnswerStore]:
    started = AnswerStore(database, keep_s=30 * DAY_S, most_bytes=1000)
    await database.run(lambda connection: connection.execute("SELECT 1"), probe=True)
    started.start()
    yield started
    await started.stop()


async def settle(store: AnswerStore, kept: Kept) -> None:
    """Keep an answer and wait until it was written or given up."""
    before = sum(store.counts.values())
    store.keep(kept)
    async with asyncio.timeout(5):
        while sum(store.counts.values()) == before:
            await asyncio.sleep(0.01)


async def test_an_answer_is_read_as_it_was_kept(store: AnswerStore, connection: Connection) -> None:
    await settle(store, make("a"))
    assert await store.find("key-1", "a") == make("a")
    assert store.counts["stored"] == 1
    row = await (
        await connection.execute("SELECT expires_at - created_at > interval '29 days' FROM stored_answers")
    ).fetchone()
    assert row == (True,)


async def test_an_answer_can_be_read_before_it_is_written(database: Database) -> None:
    idle = AnswerStore(database, keep_s=DAY_S, most_bytes=1000)
    idle.keep(make("a"))
    assert await idle.find("key-1", "a") == make("a")
    await database.run(lambda connection: connection.execute("SELECT 1"), probe=True)
    await idle.stop()
    assert idle.counts["stored"] == 1


async def test_another_key_has_no_such_answer(store: AnswerStore) -> None:
    await settle(store, make("a"))
    with pytest.raises(AnswerMissing):
        await store.find("key-2", "a")
    with pytest.raises(AnswerMissing):
        await store.delete("key-2", "a")
    await settle(store, make("a", key="key-2", text="mine"))
    assert await store.find("key-1", "a") == make("a")


async def test_a_conversation_comes_oldest_first(store: AnswerStore) -> None:
    await settle(store, make("a", text="one"))
    await settle(store, make("b", "a", text="two"))
    store.keep(make("c", "b", text="three"))
    found = await store.find_conversation("key-1", "c")
    assert [exchange.input[0]["content"] for exchange in found] == ["one", "two", "three"]


async def test_a_conversation_with_a_gap_is_refused(store: AnswerStore) -> None:
    await settle(store, make("a"))
    await settle(store, make("b", "a"))
    await store.delete("key-1", "a")
    with pytest.raises(AnswerMissing, match="no response a is stored"):
        await store.find_conversation("key-1", "b")


async def test_a_conversation_without_an_end_is_refused(store: AnswerStore) -> None:
    await settle(store, make("a", "a"))
    with pytest.raises(AnswerMissing, match=f"longer than {answers.LONGEST_CHAIN}"):
        await store.find_conversation("key-1", "a")


async def test_an_expired_answer_is_gone_and_is_purged(database: Database, connection: Connection) -> None:
    short = AnswerStore(database, keep_s=0.05, most_bytes=1000)
    await database.run(lambda connection: connection.execute("SELECT 1"), probe=True)
    short.keep(make("a"))
    await short.stop()
    await asyncio.sleep(0.1)
    with pytest.raises(AnswerMissing):
        await short.find("key-1", "a")
    short.start()
    async with asyncio.timeout(5):
        while await (await connection.execute("SELECT 1 FROM stored_answers")).fetchone():
            await asyncio.sleep(0.02)
    await short.stop()


async def test_a_deleted_answer_is_gone(store: AnswerStore) -> None:
    await settle(store, make("a"))
    await store.delete("key-1", "a")
    with pytest.raises(AnswerMissing):
        await store.find("key-1", "a")


async def test_a_large_answer_is_not_kept_and_says_so(store: AnswerStore) -> None:
    store.keep(make("a", text="x" * 2000))
    assert store.counts["too_large"] == 1
    with pytest.raises(AnswerMissing, match="could not be stored: it is larger than 1000 bytes"):
        await store.find("key-1", "a")


async def test_an_answer_that_met_no_database_is_given_up_and_says_so() -> None:
    away = Database("postgresql://nobody@127.0.0.1:9/none")
    await away.open()
    store = AnswerStore(away, keep_s=DAY_S, most_bytes=1000)
    store.start()
    try:
        await settle(store, make("a"))
        assert store.counts["away"] == 1
        with pytest.raises(DependencyAway):
            await store.find("key-1", "a")
    finally:
        await store.stop()
        await away.close()
