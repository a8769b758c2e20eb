"""Whatever Stripe tells in whatever order, however often, and at the same moment: the end is the same.

Each story happens at the played Stripe; its events, signed by the library's own generator, are delivered in an order,
three times each. What counts is read afterwards: every account of the payer, what the house's accounts moved by, the
payments, the plan, and that the ledger's balances are its history.
"""

import asyncio
import itertools
import random
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.call import Caller
from engine.storage.plan_terms import list_disagreeing
from tests.payments.conftest import House
from tests.payments.stand_in import Object, StripeStandIn, sign

TIMES = 3
BEGAN_AT = 1_795_000_000
QUIET = frozenset({"charge.succeeded", "invoice.created", "invoice.finalized", "invoice_payment.paid"})
"""Told in the large stories only: they change nothing, and each would multiply the orders."""
Story = Callable[[StripeStandIn, str, str], None]


def paid_checkout(stripe: StripeStandIn, session_id: str, customer: str) -> None:
    stripe.pay_session(session_id)


def checkout_paid_at_the_second_try_and_refunded_twice(
    stripe: StripeStandIn, session_id: str, customer: str
) -> None:
    stripe.pay_session(session_id)
    intent_id = stripe.objects[session_id]["payment_intent"]
    failed = stripe.decline_intent(intent_id)
    assert failed["status"] == "succeeded"
    stripe.now += 5
    stripe.refund(intent_id, 300)
    stripe.now += 5
    stripe.refund(intent_id, 700)


def dispute_that_is_won(stripe: StripeStandIn, session_id: str, customer: str) -> None:
    stripe.pay_session(session_id)
    dispute = stripe.dispute(stripe.objects[session_id]["payment_intent"], 1000)
    stripe.now += 60
    dispute["status"] = "won"
    stripe.tell("charge.dispute.closed", dispute)
    stripe.events = [each for each in stripe.events if each["type"] != "payment_intent.succeeded"]


def refund_and_dispute_that_is_lost(stripe: StripeStandIn, session_id: str, customer: str) -> None:
    stripe.pay_session(session_id)
    intent_id = stripe.objects[session_id]["payment_intent"]
    stripe.refund(intent_id, 250)
    dispute = stripe.dispute(intent_id, 750)
    stripe.now += 60
    dispute["status"] = "lost"
    stripe.tell("charge.dispute.closed", dispute)
    stripe.events = [each for each in stripe.events if each["type"] != "charge.dispute.funds_withdrawn"]


def session_that_expires_after_a_decline(stripe: StripeStandIn, session_id: str, customer: str) -> None:
    intent = stripe._keep("pi", "payment_intent", amount=1000, currency="usd", status="x",
                          metadata=stripe.objects[session_id]["metadata"])  # fmt: skip
    stripe.decline_intent(intent["id"])
    stripe.now += 9
    stripe.decline_intent(intent["id"], "expired_card")
    stripe.cancel_intent(intent["id"])
    stripe.expire_session(session_id)


def subscription_with_a_renewal(stripe: StripeStandIn, session_id: str, customer: str) -> None:
    subscription = stripe.subscribe(customer, "price_pro_month")
    stripe.renew(subscription["id"])


def subscription_that_is_upgraded(stripe: StripeStandIn, session_id: str, customer: str) -> None:
    subscription = stripe.subscribe(customer, "price_pro_month")
    stripe.now += 10 * 86400
    stripe._do("POST", f"subscriptions/{subscription['id']}", {
        "items": {"0": {"price": "price_max_month"}}, "proration_behavior": "always_invoice",
    })  # fmt: skip


def subscription_that_ends(stripe: StripeStandIn, session_id: str, customer: str) -> None:
    subscription = stripe.subscribe(customer, "price_pro_month")
    stripe.now += 86400
    stripe.end_subscription(subscription["id"])


def second_subscription_after_the_first(stripe: StripeStandIn, session_id: str, customer: str) -> None:
    first = stripe.subscribe(customer, "price_pro_month")
    stripe.now += 86400
    stripe.end_subscription(first["id"])
    stripe.now += 86400
    stripe.subscribe(customer, "price_max_month")
    made = "customer.subscription.created"
    stripe.events = [each for each in stripe.events if each["type"] != made]


def renewal_that_fails_and_ends(stripe: StripeStandIn, session_id: str, customer: str) -> None:
    subscription = stripe.subscribe(customer, "price_pro_month")
    stripe.events.pop()  # the first update says what the creation will
    invoice = stripe.renew(subscription["id"], paid=False)
    stripe.now += 9 * 86400
    invoice["status"] = "void"
    stripe.tell("invoice.voided", invoice)
    stripe.end_subscription(subscription["id"])
    stripe.events = [each for each in stripe.events if each["type"] != "customer.subscription.updated"]


def subscription_whose_invoice_is_refunded(stripe: StripeStandIn, session_id: str, customer: str) -> None:
    subscription = stripe.subscribe(customer, "price_pro_month")
    stripe.now += 5 * 86400
    (invoice,) = stripe.list_invoices(subscription["id"])
    stripe.refund(stripe.find_intent_of(invoice), 200)
    stripe.now += 60
    stripe.refund(stripe.find_intent_of(invoice), 600)


def refund_of_a_period_that_is_over(stripe: StripeStandIn, session_id: str, customer: str) -> None:
    subscription = stripe.subscribe(customer, "price_pro_month")
    stripe.events = [each for each in stripe.events if each["type"].startswith("invoice")]
    (invoice,) = stripe.list_invoices(subscription["id"])
    stripe.renew(subscription["id"])
    stripe.refund(stripe.find_intent_of(invoice), 800)


def dispute_of_an_invoice_that_is_won(stripe: StripeStandIn, session_id: str, customer: str) -> None:
    subscription = stripe.subscribe(customer, "price_pro_month")
    (invoice,) = stripe.list_invoices(subscription["id"])
    dispute = stripe.dispute(stripe.find_intent_of(invoice), 800)
    stripe.now += 60
    dispute["status"] = "won"
    stripe.tell("charge.dispute.closed", dispute)
    left_out = ("charge.dispute.funds_withdrawn", "customer.subscription.created")
    stripe.events = [each for each in stripe.events if each["type"] not in left_out]


def cancellation_that_is_to_come(stripe: StripeStandIn, session_id: str, customer: str) -> None:
    subscription = stripe.subscribe(customer, "price_pro_month")
    stripe.now += 86400
    stripe._do("POST", f"subscriptions/{subscription['id']}", {"cancel_at_period_end": "true"})


SMALL: Sequence[Story] = (
    subscription_whose_invoice_is_refunded,
    refund_of_a_period_that_is_over,
    dispute_of_an_invoice_that_is_won,
    cancellation_that_is_to_come,
    paid_checkout,
    checkout_paid_at_the_second_try_and_refunded_twice,
    dispute_that_is_won,
    refund_and_dispute_that_is_lost,
    session_that_expires_after_a_decline,
    subscription_with_a_renewal,
    subscription_that_is_upgraded,
    subscription_that_ends,
    second_subscription_after_the_first,
    renewal_that_fails_and_ends,
)


def dispute_with_all_that_is_told(stripe: StripeStandIn, session_id: str, customer: str) -> None:
    stripe.pay_session(session_id)
    stripe.dispute(stripe.objects[session_id]["payment_intent"], 600, "won")
    told = "charge.dispute.updated"
    stripe.events = [each for each in stripe.events if each["type"] != told]


def subscription_that_is_upgraded_and_ends(stripe: StripeStandIn, session_id: str, customer: str) -> None:
    subscription_that_is_upgraded(stripe, session_id, customer)
    stripe.now += 86400
    stripe.end_subscription(next(each["id"] for each in reversed(stripe.objects.values())
                                 if each["object"] == "subscription"))  # fmt: skip


LARGE: Sequence[Story] = (dispute_with_all_that_is_told, subscription_that_is_upgraded_and_ends)
_numbers = itertools.count(1)


async def live(house: House, story: Story, *, quiet: bool = False) -> tuple[Caller, list[Object]]:
    """A new user to whom the story happens; its events, not yet delivered."""
    house.stripe.now = BEGAN_AT  # months are not equally long
    caller = await house.add_user(f"person{next(_numbers)}")
    begun = await house.begin(caller)
    house.stripe.events.clear()
    customer = house.stripe.objects[begun["session_id"]]["customer"]
    story(house.stripe, begun["session_id"], customer)
    return caller, [each for each in house.stripe.events if quiet or each["type"] not in QUIET]


async def deliver(house: House, events: Sequence[Object]) -> None:
    """Through the signature, as they come over the wire."""
    for event in events:
        raw, header = sign(event)
        await house.payments.inbox.take(house.payments.stripe.check_signature(raw, header))


async def read_house(house: House) -> dict[str, Decimal]:
    rows = await house.rows("SELECT id, balance_usd FROM ledger_accounts WHERE id LIKE 'house:%%'")
    return {row["id"]: row["balance_usd"] for row in rows}


async def read_end(house: House, caller: Caller, before: dict[str, Decimal]) -> dict[str, Any]:
    after = await read_house(house)
    balance = await house.balance(caller.payer)
    payments = await house.rows(
        "SELECT status, paid_cents, granted_usd, taken_usd, really_taken_usd, flag, failure FROM payments"
        " WHERE payer = %s",
        caller.payer,
    )
    plan = await house.row("SELECT plan FROM users WHERE id = %s", caller.user_id)
    standing = await house.row(
        "SELECT plan, period_end > 0 AS runs FROM stripe_standings WHERE payer = %s", caller.payer
    )
    term = await house.row(
        "SELECT plan, source, ends_at, allowance_usd, allowance_until FROM plan_terms WHERE payer = %s",
        caller.payer,
    )
    assert await house.run(list_disagreeing) == []
    moved = {name: after[name] - before.get(name, Decimal(0)) for name in after}
    return {
        "balance": (balance.credit_usd, balance.allowance_usd),
        "house": {name: amount for name, amount in moved.items() if amount},
        "payments": payments,
        "plan": plan,
        "standing": standing,
        "term": term,
    }


async def play(house: House, story: Story, order: Callable[[list[Object]], list[Object]]) -> dict[str, Any]:
    before = await read_house(house)
    caller, events = await live(house, story)
    await deliver(house, order(events))
    return await read_end(house, caller, before)


async def try_every_order(house: House, story: Story, count: range) -> None:
    expected = await play(house, story, list)
    _, events = await live(house, story)
    assert len(events) in count, [each["type"] for each in events]
    for order in itertools.permutations(range(len(events))):

        def arrange(told: list[Object], order: Sequence[int] = order) -> list[Object]:
            return [told[at] for at in order] * TIMES

        assert await play(house, story, arrange) == expected, [events[at]["type"] for at in order]
    await house.read_end()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("story", SMALL, ids=lambda story: story.__name__)
async def test_every_order_of_a_story_ends_the_same(house: House, story: Story) -> None:
    await try_every_order(house, story, range(2, 6))


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("story", LARGE, ids=lambda story: story.__name__)
async def test_every_order_of_six_events_ends_the_same(house: House, story: Story) -> None:
    await try_every_order(house, story, range(6, 7))


@pytest.mark.parametrize("story", SMALL, ids=lambda story: story.__name__)
async def test_a_storys_events_at_the_same_moment_end_the_same(house: House, story: Story) -> None:
    expected = await play(house, story, list)
    before = await read_house(house)
    caller, events = await live(house, story)
    gate = asyncio.Semaphore(4)

    async def take(event: Object) -> str:
        async with gate:
            return await house.payments.inbox.take(event)

    told = events * TIMES
    random.Random(7).shuffle(told)
    outcomes = await asyncio.gather(*(take(event) for event in told))
    assert outcomes.count("repeated") == len(events) * (TIMES - 1)
    assert await read_end(house, caller, before) == expected


def a_whole_life(stripe: StripeStandIn, session_id: str, customer: str) -> None:
    """All events of the inventory and the others that are handled, in one story."""
    stripe.pay_session(session_id)
    intent_id = stripe.objects[session_id]["payment_intent"]
    stripe.decline_intent(intent_id)
    subscription = stripe.subscribe(customer, "price_pro_month")
    stripe.now += 5 * 86400
    stripe.refund(intent_id, 400)
    stripe.dispute(intent_id, 100, "won")
    stripe.dispute(intent_id, 200, "lost")
    stripe._do("POST", f"subscriptions/{subscription['id']}", {
        "items": {"0": {"price": "price_max_month"}}, "proration_behavior": "always_invoice",
    })  # fmt: skip
    stripe.renew(subscription["id"])
    stripe.now += 86400
    failed = stripe.invoice(subscription["id"], "subscription_cycle", paid=False)
    stripe.now += 60
    failed["status"] = "void"
    stripe.tell("invoice.voided", failed)
    stripe.end_subscription(subscription["id"])
    stripe.tell("balance.available", {"id": "bal_1", "object": "balance"})


INVENTORY = {
    "checkout.session.completed", "payment_intent.succeeded", "payment_intent.payment_failed",
    "customer.subscription.created", "customer.subscription.updated", "customer.subscription.deleted",
    "invoice.paid", "invoice.payment_failed",
}  # fmt: skip


async def test_the_whole_life_tells_every_event_of_the_inventory(house: House) -> None:
    _, events = await live(house, a_whole_life, quiet=True)
    await deliver(house, events)
    kinds = {each["type"] for each in events}
    assert kinds >= INVENTORY
    assert {"charge.refunded", "charge.dispute.closed", "invoice.voided", "invoice.finalized"} <= kinds


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32))
async def test_random_orders_of_a_whole_life_end_the_same(house: House, seed: int) -> None:
    expected = await play(house, a_whole_life, list)

    def shuffle(events: list[Object]) -> list[Object]:
        told = events * TIMES
        random.Random(seed).shuffle(told)
        return told

    assert await play(house, a_whole_life, shuffle) == expected
