"""Any interleaving of tellings, failures in the middle, spending, refunds and disputes keeps what must hold."""

import random
from decimal import Decimal

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.payments.inbox import EventNotHandled
from engine.payments.room import Hooks, Payments, build_payments
from engine.storage.ledger import take_back
from engine.storage.postgres import Connection
from tests.payments.conftest import BOOKS, ENTRY, House
from tests.payments.stand_in import Object
from tests.payments.test_every_order import a_whole_life, live, play


class Flaky:
    """Whoever is told of purchases breaks now and then, after the money was booked in the same transaction."""

    def __init__(self, odds: random.Random) -> None:
        self._odds, self.told = odds, 0

    async def __call__(self, connection: Connection, payer: str, amount_usd: Decimal, ref: str) -> None:
        if self._odds.random() < 0.5:
            raise ValueError("broken in the middle")
        self.told += 1


def rebuild(house: House, flaky: Flaky) -> Payments:
    parts = house.payments
    return build_payments(
        house.database, parts.desk.ring, parts.stripe, lambda: BOOKS, ENTRY, Hooks(purchase_made=flaky)
    )


async def take_until_done(payments: Payments, event: Object) -> int:
    """As Stripe does: again until it is taken."""
    for tried in range(100):
        try:
            await payments.inbox.take(event)
        except EventNotHandled:
            continue
        return tried
    raise AssertionError("never taken")


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32))
async def test_failures_in_the_middle_change_no_end(house: House, seed: int) -> None:
    expected = await play(house, a_whole_life, list)
    odds = random.Random(seed)
    flaky = Flaky(odds)
    payments = rebuild(house, flaky)
    caller, events = await live(house, a_whole_life)
    told = events * 2
    odds.shuffle(told)
    for event in told:
        await take_until_done(payments, event)
    balance = await house.balance(caller.payer)
    assert (balance.credit_usd, balance.allowance_usd) == expected["balance"]
    assert flaky.told == 1
    assert await house.rows("SELECT * FROM stripe_event_failures") == []
    await house.read_end()


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32), spent=st.lists(st.integers(1, 600), max_size=8))
async def test_whoever_spends_in_between_never_goes_below_zero(
    house: House, seed: int, spent: list[int]
) -> None:
    caller, events = await live(house, a_whole_life)
    odds = random.Random(seed)
    steps: list[Object | int] = [*events, *events, *spent]
    odds.shuffle(steps)
    used = Decimal(0)
    for step in steps:
        if isinstance(step, int):
            used += await spend(house, caller.payer, Decimal(step) / 100, f"{caller.user_id}:{odds.random()}")
        else:
            await house.payments.inbox.take(step)
        balance = await house.balance(caller.payer)
        assert balance.credit_usd >= 0 and balance.allowance_usd >= 0
    (row,) = await house.rows(
        "SELECT granted_usd, taken_usd, really_taken_usd FROM payments WHERE payer = %s", caller.payer
    )
    assert 0 <= row["really_taken_usd"] <= row["taken_usd"] <= row["granted_usd"] == 10
    assert row["taken_usd"] == 6  # 4 refunded, 2 lost
    balance = await house.balance(caller.payer)
    assert balance.credit_usd == row["granted_usd"] - row["really_taken_usd"] - used
    await house.read_end()


async def spend(house: House, payer: str, amount: Decimal, ref: str) -> Decimal:
    """What a call takes of the credit, as far as it is there."""

    async def work(connection: Connection) -> Decimal:
        async with connection.transaction():
            taken = await take_back(
                connection, payer, amount, ref=f"spent:{ref}", kind="api_usage", target="house:usage"
            )
        assert taken is not None
        return taken[1]

    taken: Decimal = await house.run(work)
    return taken
