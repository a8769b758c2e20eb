"""The plan term that commerce reads follows what Stripe's facts come to, in the transaction of the event."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from engine.payments.allowances import add_months
from engine.payments.yearly import renew_yearly
from engine.storage.audit import Actor
from engine.storage.plan_terms import PlanTerm, end_plan, list_disagreeing, put_on_plan, read_term
from engine.storage.postgres import Connection
from engine.storage.renewals import end_expired_plans, renew_due_allowances
from engine.storage.teams import set_plan
from engine.storage.trials import close_ended_trials
from tests.payments.conftest import BOOKS, PLANS, House
from tests.payments.stand_in import Object
from tests.payments.test_subscriptions import read_plan, take_plan, use

BY = Actor("ann", "key_ann")
ANN = "user:ann"


async def read(house: House) -> PlanTerm | None:
    async def work(connection: Connection) -> PlanTerm | None:
        return await read_term(connection, ANN)

    found: PlanTerm | None = await house.run(work)
    return found


async def show(house: House) -> tuple[str, str, Decimal, int | None, int | None] | None:
    """Plan, why, allowance, until when, the end; and that nothing contradicts it."""
    assert await house.run(list_disagreeing) == []
    term = await read(house)
    if term is None:
        assert await read_plan(house) == ""
        return None
    assert await read_plan(house) == term.plan
    until, ends = (None if at is None else int(at.timestamp()) for at in (term.allowance_until, term.ends_at))
    return term.plan, term.source, term.allowance_usd, until, ends


async def give_plan(house: House, plan: str, **more: Any) -> None:
    async def work(connection: Connection) -> None:
        async with connection.transaction():
            await put_on_plan(connection, ANN, plan, source="admin", **more)

    await house.run(work)


async def do_chores(house: House, now: datetime) -> None:
    async def work(connection: Connection) -> None:
        await end_expired_plans(connection, now)
        await renew_due_allowances(connection, PLANS, now)

    await house.run(work)


def end_of(subscription: Object) -> int:
    return int(subscription["items"]["data"][0]["current_period_end"])


async def test_a_subscription_writes_its_term_with_allowance_and_its_day(house: House) -> None:
    _, subscription = await take_plan(house)
    assert await show(house) == ("pro", "stripe", 15, end_of(subscription), None)


async def test_an_upgrade_changes_the_term_at_once(house: House) -> None:
    caller, subscription = await take_plan(house)
    house.stripe.now += 10 * 86400
    await house.payments.subscriptions.upgrade(caller, "price_max_month", None, "create_prorations", BY)
    await house.tell_all()
    found = await show(house)
    balance = await house.balance(ANN)
    assert found == ("max", "stripe", balance.allowance_usd, end_of(subscription), None)
    assert 15 < balance.allowance_usd < 150


async def test_a_downgrade_changes_the_term_when_the_new_period_is_told(house: House) -> None:
    caller, subscription = await take_plan(house, "price_max_month")
    await house.payments.subscriptions.downgrade(caller, "price_pro_month", None, BY)
    await house.tell_all()
    assert await show(house) == ("max", "stripe", 150, end_of(subscription), None)
    house.stripe.renew(subscription["id"])
    await house.tell_all()
    assert await show(house) == ("pro", "stripe", 15, end_of(subscription), None)


async def test_a_cancellation_to_come_is_the_terms_end_and_stripe_ends_it(house: House) -> None:
    caller, subscription = await take_plan(house)
    await house.payments.subscriptions.cancel(caller, True, "", BY)
    await house.tell_all()
    end = end_of(subscription)
    assert await show(house) == ("pro", "stripe", 15, end, end)
    await do_chores(house, datetime.fromtimestamp(end + 3600, UTC))  # Stripe's word ends it, not our clock
    assert await show(house) == ("pro", "stripe", 15, end, end)
    house.stripe.now = end
    house.stripe.end_subscription(subscription["id"])
    await house.tell_all()
    assert await show(house) is None
    assert (await house.balance(ANN)).allowance_usd == 0


async def test_a_cancellation_that_is_taken_back_leaves_no_end(house: House) -> None:
    caller, subscription = await take_plan(house)
    await house.payments.subscriptions.cancel(caller, True, "", BY)
    house.stripe.now += 60
    subscription["cancel_at_period_end"] = False
    house.stripe.tell("customer.subscription.updated", subscription)
    await house.tell_all()
    assert await show(house) == ("pro", "stripe", 15, end_of(subscription), None)


async def test_past_due_keeps_the_old_month_and_the_payment_begins_the_new_one(house: House) -> None:
    _, subscription = await take_plan(house)
    old_end = end_of(subscription)
    await use(house, "4")
    invoice = house.stripe.renew(subscription["id"], paid=False)
    await house.tell_all()
    assert await show(house) == ("pro", "stripe", 15, old_end, None)
    assert (await house.balance(ANN)).allowance_usd == 11
    house.stripe.now += 86400
    house.stripe.pay_invoice(invoice["id"])
    subscription["status"] = "active"
    house.stripe.tell("customer.subscription.updated", subscription)
    await house.tell_all()
    assert await show(house) == ("pro", "stripe", 15, end_of(subscription), None)
    assert (await house.balance(ANN)).allowance_usd == 15


async def test_a_disputed_invoice_takes_the_allowance_and_leaves_the_plan(house: House) -> None:
    _, subscription = await take_plan(house)
    await use(house, "4")
    (invoice,) = house.stripe.list_invoices(subscription["id"])
    dispute = house.stripe.dispute(house.stripe.find_intent_of(invoice), 800)
    await house.tell_all()
    assert await show(house) == ("pro", "stripe", 4, end_of(subscription), None)
    assert (await house.balance(ANN)).allowance_usd == 0
    house.stripe.now += 60
    dispute["status"] = "won"
    house.stripe.tell("charge.dispute.closed", dispute)
    await house.tell_all()
    assert await show(house) == ("pro", "stripe", 15, end_of(subscription), None)
    assert (await house.balance(ANN)).allowance_usd == 11
    await house.read_end()


async def test_a_year_says_the_end_of_its_month(house: House) -> None:
    _, subscription = await take_plan(house, "price_pro_year")
    begins = int(subscription["items"]["data"][0]["current_period_start"])
    assert await show(house) == ("pro", "stripe", 15, add_months(begins, 1), None)
    await renew_yearly(house.database, lambda: BOOKS, add_months(begins, 3) + 60)
    assert await show(house) == ("pro", "stripe", 15, add_months(begins, 4), None)
    house.stripe.now += 60
    house.stripe.tell("customer.subscription.updated", subscription)
    await house.tell_all()
    assert await show(house) == ("pro", "stripe", 15, add_months(begins, 4), None)


async def test_a_trial_that_ends_takes_nothing_of_a_plan_that_was_paid_since(house: House) -> None:
    await take_plan(house)

    async def work(connection: Connection) -> list[str]:
        await connection.execute(
            "INSERT INTO trials (user_id, trial, ends_at, credit_usd, tokens, requests)"
            " VALUES ('ann', 'default', now() - interval '1 hour', 5, 1000, 10)"
        )
        return await close_ended_trials(connection)

    assert await house.run(work) == ["ann"]
    assert (await house.balance(ANN)).allowance_usd == 15


# --- beside what administrators give


async def test_a_renewal_leaves_what_an_administrator_gave_and_its_allowance(house: House) -> None:
    _, subscription = await take_plan(house)
    await give_plan(house, "max")
    await do_chores(house, datetime.now(UTC))
    assert (await house.balance(ANN)).allowance_usd == 150
    house.stripe.renew(subscription["id"])
    await house.tell_all()
    found = await show(house)
    assert found is not None and found[:3] == ("max", "admin", 150)
    assert (await house.balance(ANN)).allowance_usd == 150


async def test_when_an_administrators_plan_ends_the_subscriptions_is_in_force_again(house: House) -> None:
    _, subscription = await take_plan(house)
    ends_at = datetime.now(UTC) + timedelta(days=10)
    await give_plan(house, "max", ends_at=ends_at)
    await do_chores(house, datetime.now(UTC))
    await do_chores(house, ends_at + timedelta(hours=1))
    assert await show(house) == ("pro", "stripe", 15, end_of(subscription), None)
    assert (await house.balance(ANN)).allowance_usd == 15
    house.stripe.end_subscription(subscription["id"])
    await house.tell_all()
    assert await show(house) is None
    await house.read_end()


async def test_a_subscription_that_ends_beside_a_gift_takes_nothing_of_it(house: House) -> None:
    _, subscription = await take_plan(house)
    await give_plan(house, "max")
    await do_chores(house, datetime.now(UTC))
    house.stripe.end_subscription(subscription["id"])
    await house.tell_all()
    found = await show(house)
    assert found is not None and found[:3] == ("max", "admin", 150)
    assert (await house.balance(ANN)).allowance_usd == 150


async def test_what_is_bought_after_a_gift_goes_over_it(house: House) -> None:
    await house.add_user("ann")
    await give_plan(house, "pro")
    caller = (await house.rows("SELECT id FROM users"))[0]["id"]
    assert caller == "ann"
    customer = await house.payments.desk.get_customer(ANN, "ann")
    subscription = house.stripe.subscribe(customer, "price_max_month")
    await house.tell_all()
    assert await show(house) == ("max", "stripe", 150, end_of(subscription), None)


@pytest.mark.parametrize("plan", ["", "pro"])
async def test_an_administrators_word_never_ends_what_is_paid_for(house: House, plan: str) -> None:
    _, subscription = await take_plan(house, "price_max_month")

    async def work(connection: Connection) -> None:
        async with connection.transaction():
            await set_plan(connection, ANN, plan)

    await house.run(work)
    found = await show(house)
    assert found is not None and found[:2] == (("max", "stripe") if not plan else ("pro", "admin"))
    assert (await house.balance(ANN)).allowance_usd == 150

    async def take_away(connection: Connection) -> None:
        async with connection.transaction():
            await set_plan(connection, ANN, "")

    await house.run(take_away)
    assert await show(house) == ("max", "stripe", 150, end_of(subscription), None)
    assert (await house.balance(ANN)).allowance_usd == 150


async def test_a_plan_without_an_end_follows_one_with_an_end(house: House) -> None:
    await house.add_user("ann")
    await give_plan(house, "max", falls_back_to="pro")

    async def work(connection: Connection) -> bool:
        async with connection.transaction():
            return await end_plan(connection, ANN, ref="e", kind="subscription_cancellation")

    assert await house.run(work)
    found = await show(house)
    assert found is not None and found[:2] == ("pro", "admin")
    await do_chores(house, datetime.now(UTC))
    assert (await house.balance(ANN)).allowance_usd == 15


async def test_what_was_changed_by_hand_is_found_by_the_nightly_comparison(house: House) -> None:
    await take_plan(house)
    await house.payments.reconciler.compare(house.stripe.now - 86400, replay=False)
    assert await house.payments.reconciler.list_findings(10, resolved=False) == []

    async def work(connection: Connection) -> None:
        await connection.execute("UPDATE users SET plan = 'max'")

    await house.run(work)
    await house.payments.reconciler.compare(house.stripe.now - 86400, replay=False)
    (found,) = await house.payments.reconciler.list_findings(10, resolved=False)
    assert (found["kind"], found["subject"]) == ("plan_differs", ANN)
