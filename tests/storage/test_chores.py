"""One worker of many does what is due, and what fails is told and tried again."""

import asyncio
from collections.abc import AsyncIterator

import psycopg
import pytest

from engine.errors import DependencyAway
from engine.storage.chores import Chore, Chores
from engine.storage.postgres import Database


@pytest.fixture
async def databases(database_url: str) -> AsyncIterator[list[Database]]:
    """Those of four workers."""
    opened = [Database(database_url, size=2) for _ in range(4)]
    for database in opened:
        await database.open()
        await database.run(lambda connection: connection.execute("SELECT 1"), probe=True)
    yield opened
    for database in opened:
        await database.close()


async def test_of_many_workers_one_does_a_chore_until_it_is_due_again(databases: list[Database]) -> None:
    done: list[int] = []

    async def work() -> None:
        await asyncio.sleep(0.01)
        done.append(1)

    workers = [Chores(database) for database in databases]
    for worker in workers:
        worker.add(Chore("sweep", 3600, work))
    for _ in range(5):
        await asyncio.gather(*(worker.do_what_is_due() for worker in workers))
    assert len(done) == 1


async def test_a_chore_is_done_again_when_its_time_has_come(database: Database, database_url: str) -> None:
    done: list[int] = []

    async def work() -> None:
        done.append(1)

    chores = Chores(database, look_each_s=0.01)
    chores.add(Chore("often", 0.02, work))
    await database.run(lambda connection: connection.execute("SELECT 1"), probe=True)
    chores.start()
    async with asyncio.timeout(10):
        while len(done) < 3:
            await asyncio.sleep(0.01)
    await chores.stop()


async def test_a_failure_is_written_down_and_the_next_time_clears_it(
    database: Database, connection: psycopg.AsyncConnection[tuple[object, ...]]
) -> None:
    problems: list[Exception] = [ZeroDivisionError("a mistake"), DependencyAway("the mail house is closed")]

    async def work() -> None:
        if problems:
            raise problems.pop()

    await database.run(lambda opened: opened.execute("SELECT 1"), probe=True)
    chores = Chores(database)
    chores.add(Chore("post", 0, work))
    assert await chores.do_what_is_due() == []  # the first look makes the row
    assert await chores.do_what_is_due() == ["post"]
    row = await (await connection.execute("SELECT failures, error FROM chores")).fetchone()
    assert row == (1, "DependencyAway: the mail house is closed")
    assert await chores.do_what_is_due() == ["post"]
    row = await (await connection.execute("SELECT failures, error FROM chores")).fetchone()
    assert row == (2, "ZeroDivisionError: a mistake")
    assert await chores.do_what_is_due() == ["post"]
    row = await (await connection.execute("SELECT failures, error FROM chores")).fetchone()
    assert row == (0, "")


async def test_the_chore_of_a_worker_that_died_at_it_is_taken_up_when_its_time_is_over(
    database: Database, connection: psycopg.AsyncConnection[tuple[object, ...]]
) -> None:
    done: list[int] = []

    async def work() -> None:
        done.append(1)

    await database.run(lambda opened: opened.execute("SELECT 1"), probe=True)
    await connection.execute(
        "INSERT INTO chores (name, due_at, claimed_until) VALUES ('c', now(), now() + interval '1 hour')"
    )
    chores = Chores(database)
    chores.add(Chore("c", 0, work))
    assert await chores.do_what_is_due() == []
    await connection.execute("UPDATE chores SET claimed_until = now() - interval '1 second'")
    assert await chores.do_what_is_due() == ["c"]


async def test_a_chore_that_takes_too_long_is_ended(
    database: Database, connection: psycopg.AsyncConnection[tuple[object, ...]]
) -> None:
    await database.run(lambda opened: opened.execute("SELECT 1"), probe=True)
    chores = Chores(database)
    chores.add(Chore("long", 0, lambda: asyncio.sleep(60), takes_s=0.05))
    await chores.do_what_is_due()
    assert await chores.do_what_is_due() == ["long"]
    row = await (await connection.execute("SELECT error FROM chores")).fetchone()
    assert row == ("not done within 0.05 s",)
