"""What a worker believes of its leases when nobody tells it what became of a change: never more than it has."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import psycopg
import pytest

from engine.errors import DependencyAway
from engine.storage.leases import close_journal
from engine.storage.postgres import Database
from tests.billing.desks import Worker, execute, give_credit, read_credit, select, usd
from tests.billing.lines import Line, lay_line
from tests.billing.test_leases import cut_off, read_leased
from tests.routing.things import make_policy

PURSE = "credit:user:alice"
HOW = ("nobody answers", "the line breaks")
LENT = make_policy(billing={"hold_wait_s": 0, "credit_when_database_away": {"up_to": "5"}})


@dataclass
class Place:
    """A worker that reaches the database by a line that can be bad, and a straight way beside it."""

    line: Line
    worker: Worker
    straight: Database


@pytest.fixture
async def place(database: Database, database_url: str, tmp_path: Path) -> AsyncIterator[Place]:
    await give_credit(database, "10")
    async with lay_line(database_url, tmp_path) as (line, url):
        bad = Database(url, answer_within_s=0.3)
        await bad.open()
        worker = Worker(bad)
        await select(bad, "SELECT 1")
        yield Place(line, worker, database)
        await bad.close()


async def leave_idle(place: Place, cents: int) -> None:
    """So much is leased, and no call holds any of it."""
    place.worker.end(await place.worker.begin(cents), 0)
    await settle(place)


async def settle(place: Place) -> None:
    asker = place.worker.desk.purses[PURSE].asker
    if asker is not None:
        await asyncio.wait([asker])


def lose(place: Place, how: str, word: bytes) -> None:
    if how == "nobody answers":
        place.line.lose_answer(word)
    else:
        place.line.cut_answers(word, 2)  # `Database.run` tries once more on another connection


async def give_back(place: Place) -> None:
    await place.worker.desk._give_back(place.worker.desk.purses[PURSE])


async def test_a_give_back_that_reaches_the_database_after_it_was_given_up_takes_nothing(
    place: Place,
) -> None:
    await leave_idle(place, 800)
    place.line.keep(b"return_lease")
    with pytest.raises(DependencyAway):
        await give_back(place)
    assert place.worker.room() == 0, "what may be gone is spent by nobody"
    await select(place.worker.database, "SELECT 1")  # the database is there again
    await place.worker.begin(100)  # it finds out that nothing was given back
    assert place.worker.room() == 8
    await place.line.deliver()
    assert place.line.faults == 1
    assert await read_leased(place.straight) == 8 == place.worker.room()


async def test_money_that_a_lost_change_gives_to_a_worker_again_is_enough_for_who_waits_for_it(
    place: Place,
) -> None:
    await leave_idle(place, 800)
    place.line.keep(b"return_lease")
    with pytest.raises(DependencyAway):
        await give_back(place)
    await select(place.worker.database, "SELECT 1")
    await place.worker.begin(900)  # lends one more, not nine
    assert await read_leased(place.straight) == 9 == place.worker.room()
    await place.line.deliver()


async def test_a_take_that_reaches_the_database_after_it_was_given_up_takes_nothing(place: Place) -> None:
    await leave_idle(place, 100)
    place.line.keep(b"take_lease")
    with pytest.raises(DependencyAway):
        await place.worker.begin(800)
    await settle(place)
    assert place.worker.room() == 1
    await select(place.worker.database, "SELECT 1")
    await place.worker.begin(300)
    await place.line.deliver()
    assert place.line.faults == 1
    assert await read_leased(place.straight) == 3 == place.worker.room()


@pytest.mark.parametrize("how", HOW)
async def test_a_give_back_whose_answer_got_lost_was_done_once(place: Place, how: str) -> None:
    await leave_idle(place, 800)
    lose(place, how, b"return_lease")
    with pytest.raises(DependencyAway):
        await give_back(place)
    assert (await read_leased(place.straight), place.worker.room()) == (0, 0)
    await select(place.worker.database, "SELECT 1")
    await place.worker.begin(900)
    assert await read_leased(place.straight) == 9 == place.worker.room()


@pytest.mark.parametrize("how", HOW)
async def test_a_take_whose_answer_got_lost_was_done_once_and_is_found_again(place: Place, how: str) -> None:
    await leave_idle(place, 100)
    lose(place, how, b"take_lease")
    with pytest.raises(DependencyAway):
        await place.worker.begin(800)
    await settle(place)
    assert (await read_leased(place.straight), place.worker.room()) == (8, 1)
    await select(place.worker.database, "SELECT 1")
    await place.worker.begin(900)
    assert await read_leased(place.straight) == 9 == place.worker.room()


async def test_what_is_tried_again_on_another_connection_counts_once(place: Place) -> None:
    await leave_idle(place, 400)
    place.line.cut_answers(b"take_lease", 1)
    await place.worker.begin(800)
    assert await read_leased(place.straight) == 8 == place.worker.room()
    place.worker.desk.purses[PURSE].held = usd("0")
    place.line.cut_answers(b"return_lease", 1)
    await give_back(place)
    assert await read_leased(place.straight) == 0 == place.worker.room()
    assert place.line.faults == 2


async def test_a_take_that_nobody_asks_about_again_is_found_out_and_given_back_when_it_is_idle(
    place: Place,
) -> None:
    await leave_idle(place, 100)
    await give_back(place)
    place.line.lose_answer(b"take_lease")
    with pytest.raises(DependencyAway):
        await place.worker.begin(800)
    await settle(place)
    assert (await read_leased(place.straight), place.worker.room()) == (8, 0)
    await select(place.worker.database, "SELECT 1")
    await place.worker.desk._drop_idle(place.worker.clock() + 31)
    assert place.worker.desk.purses == {} and await read_leased(place.straight) == 0


async def test_a_change_that_was_given_up_stays_so_when_its_purse_is_forgotten(place: Place) -> None:
    await leave_idle(place, 100)
    await give_back(place)
    place.line.keep(b"take_lease")
    with pytest.raises(DependencyAway):
        await place.worker.begin(800)
    await settle(place)
    await select(place.worker.database, "SELECT 1")
    await place.worker.desk._drop_idle(place.worker.clock() + 31)
    assert place.worker.desk.purses == {}
    await place.line.deliver()
    assert await read_leased(place.straight) == 0
    await place.worker.begin(1000)


async def test_a_give_back_whose_asker_hung_up_is_found_out(database: Database, database_url: str) -> None:
    """A budget was lowered; the caller who noticed hangs up while the row of the purse is locked."""
    await give_credit(database, "10")
    worker = Worker(database)
    worker.end(await worker.begin(800), 0)
    purse = worker.desk.purses[PURSE]
    async with await psycopg.AsyncConnection.connect(database_url) as other:
        await other.execute("SELECT 1 FROM purses WHERE id = %s FOR UPDATE", (PURSE,))
        giving = asyncio.create_task(worker.desk._give_back(purse))
        while purse.room:
            await asyncio.sleep(0.01)
        giving.cancel()
        await asyncio.wait([giving])
    await worker.begin(900)
    assert await read_leased(database) == 9 == worker.room()


async def test_a_closed_worker_that_posts_what_it_spent_beyond_its_lease_learns_that_it_was_closed(
    database: Database,
) -> None:
    await give_credit(database, "10")
    worker, other = Worker(database), Worker(database, "w2")
    worker.end(await worker.begin(800), 0)
    bank = cut_off(worker)
    worker.end(await worker.begin(900, LENT), 100)
    await database.run(lambda c: close_journal(c, "w1", Decimal(0)))
    await other.begin(1000)  # all of it is free
    bank.away = False
    await worker.post()  # this begins its lease again, as a debt
    await worker.desk._renew(worker.clock())
    assert worker.desk.worker == "w1~1"
    with pytest.raises(Exception, match="in use"):
        await worker.begin(700)
    assert await read_credit(database) == usd("9")


async def test_a_closed_worker_that_posts_what_it_spent_beyond_its_lease_lends_nothing_under_the_old_name(
    database: Database,
) -> None:
    await give_credit(database, "10")
    worker = Worker(database)
    worker.end(await worker.begin(100), 0)
    bank = cut_off(worker)
    worker.end(await worker.begin(200, LENT), 100)
    await database.run(lambda c: close_journal(c, "w1", Decimal(0)))
    bank.away = False
    await worker.post()
    with pytest.raises(DependencyAway, match="was closed"):
        await worker.begin(300)
    await worker.begin(300)
    assert await read_leased(database, "w1~1") == 3
    await execute(
        database, "UPDATE lease_workers SET renewed_at = now() - interval '61 s' WHERE worker = 'w1'"
    )
    assert await worker.desk._bank.close_dead(Decimal(0)) == ["w1"], "what is left of the name goes as usual"
