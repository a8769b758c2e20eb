"""How long a call waits for money, and what it is told when none comes."""

import asyncio
import time
from decimal import Decimal
from typing import Any

import pytest

from engine.billing.purse import Purse
from engine.billing.purses import PurseDesk
from engine.errors import CreditMissing, DependencyAway, LimitExceeded
from engine.storage.leases import LeaseBank, PurseTerms
from engine.storage.ledger import grant
from engine.storage.postgres import Connection, Database

TERMS = PurseTerms("credit:user:u1", label="the credit of this account")


class SlowBank(LeaseBank):
    """A bank before a real database, whose answers may take their time."""

    slow_s = 0.0

    async def _run(self, work: Any) -> Any:
        await asyncio.sleep(self.slow_s)
        return await super()._run(work)


class Desk:
    """One worker and its part of the credit of u1."""

    def __init__(self, database: Database, worker: str) -> None:
        self.bank = SlowBank(database)
        self.desk = PurseDesk(self.bank, worker, time.monotonic)

    @property
    def purse(self) -> Purse:
        return self.desk.find(TERMS)

    async def hold(self, amount: str, within_s: float, beyond: str | None = None) -> float:
        """Seconds until it was held."""
        began = time.monotonic()
        await self.desk.hold(
            self.purse, Decimal(amount), within_s, Decimal(beyond) if beyond is not None else None
        )
        return time.monotonic() - began


@pytest.fixture
async def rich(database: Database) -> Database:
    """A database in which u1 has a dollar."""

    async def work(connection: Connection) -> None:
        async with connection.transaction():
            await connection.execute("INSERT INTO users (id, email) VALUES ('u1', 'u1@b.c')")
            await grant(connection, "user:u1", Decimal(1), ref="g:1", kind="trial", source="house:trials")

    await database.run(work, probe=True)
    return database


async def test_a_call_that_does_not_wait_for_others_still_gets_what_is_free(rich: Database) -> None:
    first = Desk(rich, "w1")
    await first.hold("0.6", within_s=0)
    assert first.purse.held == Decimal("0.6")
    await first.hold("0.4", within_s=0)
    assert first.purse.held == 1


async def test_what_others_hold_is_waited_for_as_long_as_the_policy_says_and_then_it_is_in_use(
    rich: Database,
) -> None:
    first, second = Desk(rich, "w1"), Desk(rich, "w2")
    await first.hold("0.6", within_s=0)
    for desk in (first, second):
        with pytest.raises(LimitExceeded) as refused:
            await desk.hold("0.6", within_s=0)
        assert refused.value.code == "credit_in_use"
        assert refused.value.retry_after_s == 1
    waiting = asyncio.create_task(first.hold("0.6", within_s=30))
    await asyncio.sleep(0.2)
    assert not waiting.done()
    first.purse.settle(Decimal("0.6"), Decimal("0.1"), time.monotonic())
    assert await waiting < 20


async def test_what_the_balance_cannot_cover_is_refused_for_good_without_a_wait(rich: Database) -> None:
    desk = Desk(rich, "w1")
    began = time.monotonic()
    with pytest.raises(CreditMissing) as refused:
        await desk.hold("1.000001", within_s=60)
    assert refused.value.code == "insufficient_credits" and time.monotonic() - began < 20


async def test_a_database_that_says_nothing_is_away_and_the_credit_not_in_use(rich: Database) -> None:
    desk = Desk(rich, "w1")
    await desk.hold("0.1", within_s=2)
    desk.bank.slow_s = 30
    for within_s in (0, 1.6):
        with pytest.raises(DependencyAway) as refused:
            await desk.hold("0.6", within_s)
        assert refused.value.code == "database_unavailable"
        assert refused.value.retry_after_s == 2
    assert desk.desk.refused["database_away"] == 2 and desk.desk.refused["credit_in_use"] == 0
    await desk.hold("0.6", within_s=0, beyond="5")  # where the policy lends meanwhile
    assert desk.purse.held == Decimal("0.7")
    assert desk.purse.asker is not None
    desk.purse.asker.cancel()


async def test_a_database_that_is_slow_but_answers_is_not_away(rich: Database) -> None:
    first, second = Desk(rich, "w1"), Desk(rich, "w2")
    await first.hold("0.6", within_s=0)
    second.bank.slow_s = 0.3
    with pytest.raises(LimitExceeded) as refused:
        await second.hold("0.6", within_s=2)
    assert refused.value.code == "credit_in_use"


async def test_workers_that_wait_do_not_sit_on_what_the_others_lack(rich: Database) -> None:
    first, second = Desk(rich, "w1"), Desk(rich, "w2")
    for desk, amount in ((first, "0.6"), (second, "0.4")):
        await desk.hold(amount, within_s=0)
        desk.purse.settle(Decimal(amount), Decimal(0), time.monotonic())
        assert desk.purse.spare == Decimal(amount)

    async def call(desk: Desk) -> None:
        """Its ceiling is more than either worker has."""
        await desk.hold("0.8", within_s=15)
        desk.purse.settle(Decimal("0.8"), Decimal("0.01"), time.monotonic())

    keeping = [asyncio.create_task(desk.desk.run()) for desk in (first, second)]
    await asyncio.gather(call(first), call(second))
    for task in keeping:
        task.cancel()
