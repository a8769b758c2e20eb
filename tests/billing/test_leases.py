"""Leases before a real database: how large they are, who hands them back, and what a dead or cut-off worker leaves."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

import orjson
import pytest

from engine.errors import CreditMissing, DependencyAway, LimitExceeded
from engine.storage.leases import LeaseBank, close_journal
from engine.storage.postgres import Database
from engine.storage.records import write_records
from tests.billing.desks import Worker, execute, give_credit, read_credit, select, usd
from tests.routing.things import make_policy

PURSE = "credit:user:alice"
CHARGED = make_policy(billing={"hold_wait_s": 0, "lost_call": "charge_hold"})


async def read_leased(database: Database, worker: str = "w1") -> Decimal:
    rows = await select(
        database, "SELECT amount_usd FROM leases WHERE purse = %s AND worker = %s", PURSE, worker
    )
    return Decimal(rows[0]) if rows else Decimal(0)


async def silence(database: Database, worker: str, seconds: int) -> None:
    await execute(
        database,
        "UPDATE lease_workers SET renewed_at = now() - make_interval(secs => %s) WHERE worker = %s",
        seconds,
        worker,
    )


@asynccontextmanager
async def alive(*workers: Worker) -> AsyncIterator[None]:
    """The loops of workers run: they renew, and hand back what others need."""
    tasks = [asyncio.create_task(worker.desk.run()) for worker in workers]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


# --- how large


async def test_a_worker_that_spent_nothing_lately_leases_what_the_call_needs(database: Database) -> None:
    await give_credit(database, "1000")
    worker = Worker(database)
    await worker.begin(100)
    assert await read_leased(database) == 1


async def test_a_lease_is_for_what_was_spent_in_about_the_last_minute(database: Database) -> None:
    await give_credit(database, "1000")
    worker = Worker(database)
    for _ in range(5):
        await worker.spend(100)  # a dollar each
    takes = [await read_leased(database)]
    while worker.room() >= 1:
        await worker.spend(100)
    spent = usd("1000") - await read_credit(database)
    await worker.begin(100)
    assert 5 <= await read_leased(database) <= spent
    worker.seconds += 200
    assert worker.desk.purses[PURSE].recent_minute(worker.clock()) == 0
    assert takes[0] >= 0


async def test_leases_shrink_with_the_balance_to_an_eighth_of_what_is_free_and_then_to_what_a_call_needs(
    database: Database,
) -> None:
    await give_credit(database, "40")
    worker = Worker(database)
    await worker.spend(3000)
    await worker.begin(100)  # 30 were spent lately, 10 are free, an eighth of them is 1.25
    assert await read_leased(database) == usd("1.25")
    await worker.begin(700)
    assert await read_leased(database) == 8


async def test_a_call_does_not_ask_the_database_while_the_lease_lasts(database: Database) -> None:
    await give_credit(database, "1000")
    worker = Worker(database)
    await worker.spend(1000)
    await worker.begin(10)
    before = await select(database, "SELECT turn FROM leases")
    for _ in range(20):
        await worker.begin(10)
    assert await select(database, "SELECT turn FROM leases") == before


# --- handed back


async def test_idle_money_of_others_is_called_back_before_anybody_is_refused(database: Database) -> None:
    await give_credit(database, "10")
    idle, asking = Worker(database, "w1"), Worker(database, "w2")
    patient = make_policy(billing={"hold_wait_s": 5})
    idle.end(await idle.begin(800), 0)
    assert idle.room() == 8
    async with alive(idle, asking):
        await asking.begin(1000, patient)
    assert await read_leased(database, "w2") == 10 and idle.room() == 0


async def test_what_running_calls_hold_is_not_called_back(database: Database) -> None:
    await give_credit(database, "10")
    busy, asking = Worker(database, "w1"), Worker(database, "w2")
    running = await busy.begin(800)
    async with alive(busy, asking):
        with pytest.raises(LimitExceeded) as refused:
            await asking.begin(300, make_policy(billing={"hold_wait_s": 0.6}))
        assert (refused.value.code, refused.value.retry_after_s) == ("credit_in_use", 1)
        busy.end(running, 100)
        await busy.post()
        await asking.begin(900, make_policy(billing={"hold_wait_s": 5}))


async def test_after_somebody_found_too_little_leases_are_as_large_as_calls_need(database: Database) -> None:
    await give_credit(database, "100")
    worker, other = Worker(database, "w1"), Worker(database, "w2")
    await worker.spend(1000)
    holding = await other.begin(8900)
    with pytest.raises(LimitExceeded):
        await worker.begin(500)
    other.end(holding, 0)
    await other.desk._give_back(other.desk.purses[PURSE])
    await worker.begin(500)
    assert await read_leased(database) == 5


async def test_a_lease_that_nobody_uses_for_half_a_minute_is_given_back_unasked(database: Database) -> None:
    await give_credit(database, "10")
    worker = Worker(database)
    worker.end(await worker.begin(800), 0)
    await worker.desk._drop_idle(worker.clock() + 29)
    assert await read_leased(database) == 8
    await worker.desk._drop_idle(worker.clock() + 31)
    assert await select(database, "SELECT * FROM leases") == [] and worker.desk.purses == {}


# --- dead workers


async def test_a_lease_that_is_not_renewed_for_60_s_is_closed_by_whoever_saw_the_database_for_as_long(
    database: Database,
) -> None:
    await give_credit(database, "10")
    dead, living = Worker(database, "w1"), Worker(database, "w2")
    await dead.begin(800)
    await living.spend(1)
    await silence(database, "w1", 61)
    await living.desk._renew(living.clock())  # has only just seen it
    assert await read_leased(database, "w1") == 8
    await living.desk._renew(living.clock() + 59)
    assert await read_leased(database, "w1") == 8
    await living.desk._renew(living.clock() + 61)
    assert await read_leased(database, "w1") == 0
    assert await read_credit(database) == usd("9.99"), "a call whose end nobody knows is free"


async def test_a_worker_that_is_silent_for_less_than_60_s_keeps_its_lease(database: Database) -> None:
    await give_credit(database, "10")
    quiet, living = Worker(database, "w1"), Worker(database, "w2")
    await quiet.begin(800)
    await silence(database, "w1", 55)
    await living.desk._renew(living.clock())
    await living.desk._renew(living.clock() + 61)
    assert await read_leased(database, "w1") == 8


async def test_a_call_of_a_lost_worker_costs_what_was_held_where_the_policy_says_so(
    database: Database,
) -> None:
    await give_credit(database, "10")
    worker = Worker(database)
    await worker.begin(300, CHARGED)
    await worker.begin(200)  # under a policy that releases
    await worker.desk._write_open_holds()
    await database.run(lambda c: close_journal(c, "w1", Decimal(0)))
    assert await read_credit(database) == 7
    assert await select(database, "SELECT * FROM open_holds") == []


async def test_a_journal_that_appears_later_corrects_what_was_charged_by_an_adjustment(
    database: Database,
) -> None:
    await give_credit(database, "10")
    worker = Worker(database)
    call = await worker.begin(300, CHARGED)
    await worker.desk._write_open_holds()
    worker.end(call, 120)  # written down, and then the disk was gone for a while
    await database.run(lambda c: close_journal(c, "w1", Decimal(0)))
    assert await read_credit(database) == 7
    for _ in range(2):
        worker.flushed = 0
        await worker.post()
        assert await read_credit(database) == usd("8.8")
    kinds = await select(database, "SELECT kind FROM ledger_movements WHERE kind <> 'trial' ORDER BY id")
    assert kinds == ["lost_call", "adjustment", "api_usage"]


async def test_a_journal_that_knows_no_end_either_leaves_what_was_charged(database: Database) -> None:
    await give_credit(database, "10")
    worker = Worker(database)
    call = await worker.begin(300, CHARGED)
    await worker.desk._write_open_holds()
    begun = orjson.dumps({"id": call.id, "request_id": call.id, "started_at": 0, "status": "interrupted"})
    await database.run(lambda c: write_records(c, [begun], "w1.jsonl", 1))
    await database.run(lambda c: close_journal(c, "w1", Decimal(0)))
    assert await read_credit(database) == 7


async def test_a_call_that_ended_is_not_charged_as_lost_too(database: Database) -> None:
    await give_credit(database, "10")
    worker = Worker(database)
    worker_call = await worker.begin(300, CHARGED)
    await worker.desk._write_open_holds()
    worker.end(worker_call, 120)
    await worker.post()
    await database.run(lambda c: close_journal(c, "w1", Decimal(0)))
    assert await read_credit(database) == usd("8.8")


async def test_a_worker_whose_lease_was_closed_while_it_lived_goes_on_under_another_name(
    database: Database,
) -> None:
    await give_credit(database, "10")
    worker = Worker(database)
    running = await worker.begin(300)
    await database.run(lambda c: close_journal(c, "w1", Decimal(0)))
    await worker.desk._renew(worker.clock())
    assert worker.desk.worker == "w1~1"
    await worker.begin(500)
    worker.end(running, 300)
    await worker.post()
    assert await read_credit(database) == 7
    assert await read_leased(database, "w1~1") == 5


# --- the database is away


class CutOffBank(LeaseBank):
    """A bank before a real database that may be out of reach."""

    away = False

    @property
    def available(self) -> bool:
        return not self.away

    async def _run(self, work: Any) -> Any:
        if self.away:
            raise DependencyAway("Credit cannot be read at the moment.", retry_after_s=2)
        return await super()._run(work)


def cut_off(worker: Worker) -> CutOffBank:
    bank = worker.desk._bank = CutOffBank(worker.database)
    bank.away = True
    return bank


async def test_with_the_database_away_calls_go_on_until_the_lease_is_used_up_and_then_it_is_503_never_402(
    database: Database,
) -> None:
    await give_credit(database, "10")
    worker = Worker(database)
    worker.end(await worker.begin(300), 0)
    cut_off(worker)
    worker.end(await worker.begin(300), 250)
    for most in (51, 100_000):
        with pytest.raises(DependencyAway) as refused:
            await worker.begin(most)
        assert refused.value.status == 503 and refused.value.retry_after_s
    await worker.begin(50)
    assert worker.desk.refused["database_away"] == 2 and worker.desk.refused["insufficient_credits"] == 0


async def test_with_up_to_a_worker_spends_so_much_more_and_not_a_cent_beyond(database: Database) -> None:
    await give_credit(database, "10")
    lent = make_policy(billing={"hold_wait_s": 0, "credit_when_database_away": {"up_to": "5"}})
    worker = Worker(database)
    worker.end(await worker.begin(300), 0)
    cut_off(worker)
    worker.end(await worker.begin(300, lent), 300)
    for _ in range(5):
        worker.end(await worker.begin(100, lent), 100)
    with pytest.raises(DependencyAway):
        await worker.begin(1, lent)


@pytest.mark.parametrize("before", ["leased", "registered", "born while it was away"])
async def test_what_was_spent_beyond_a_lease_is_paid_when_the_database_is_back_and_nothing_stays_leased(
    database: Database, before: str
) -> None:
    await give_credit(database, "10")
    lent = make_policy(billing={"hold_wait_s": 0, "credit_when_database_away": {"up_to": "5"}})
    worker = Worker(database)
    if before == "leased":
        worker.end(await worker.begin(100, lent), 0)
    elif before == "registered":
        await worker.desk._register()
    bank = cut_off(worker)
    worker.end(await worker.begin(400, lent), 400)
    bank.away = False
    await worker.post()
    assert await read_credit(database) == 6
    worker.end(await worker.begin(200, lent), 200)
    await worker.post()
    assert await read_credit(database) == 4
    worker.end(await worker.begin(400), 0)
    await worker.desk._drop_idle(worker.clock() + 31)
    assert await select(database, "SELECT amount_usd FROM leases") == []
    with pytest.raises(CreditMissing):
        await worker.begin(401)
