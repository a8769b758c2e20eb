"""Stripe's books beside ours: what never came is found, done when that is wanted, and resolved when it is there."""

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from engine.payments.reconciling import Reconciler, Report
from engine.payments.yearly import count_months, renew_yearly
from engine.storage.chores import Chores
from engine.storage.postgres import Connection
from tests.payments.conftest import BOOKS, House

SINCE = 1_794_000_000


async def wait_until(fact: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not fact():
            await asyncio.sleep(0.01)


async def buy(house: House) -> str:
    """Paid a while ago; the id of the payment intent."""
    caller = await house.add_user("ann")
    begun = await house.begin(caller)
    house.stripe.pay_session(begun["session_id"])
    return str(house.stripe.objects[begun["session_id"]]["payment_intent"])


def kinds(report: Report) -> list[str]:
    return sorted(each.kind for each in report.findings)


async def test_books_that_agree_have_no_findings(house: House) -> None:
    intent_id = await buy(house)
    house.stripe.refund(intent_id, 300)
    await house.tell_all()
    report = await house.payments.reconciler.compare(SINCE, replay=False)
    assert (kinds(report), report.replayed, report.intents) == ([], [], 1)
    assert report.events == len(house.stripe.events)


async def test_what_never_came_is_found_and_resolved_when_it_came(house: House) -> None:
    await buy(house)
    report = await house.payments.reconciler.compare(SINCE, replay=False)
    assert kinds(report) == ["event_missing", "event_missing", "payment_missing"]
    assert house.payments.reconciler.open_findings == 3
    await house.tell_all()
    assert kinds(await house.payments.reconciler.compare(SINCE, replay=False)) == []
    assert house.payments.reconciler.open_findings == 0
    assert len(await house.payments.reconciler.list_findings(10, resolved=True)) == 3
    assert list(await house.payments.reconciler.list_findings(10, resolved=False)) == []


async def test_every_worker_counts_the_findings_of_whichever_looked(house: House) -> None:
    other = Reconciler(house.database, house.payments.stripe, house.payments.inbox, house.payments.handler)
    await buy(house)
    await house.payments.reconciler.compare(SINCE, replay=False)
    looks = Chores(house.database, look_each_s=0.01)
    looks.add_look(other.count_open)
    looks.start()
    await wait_until(lambda: other.open_findings == 3)
    await house.tell_all()
    await house.payments.reconciler.compare(SINCE, replay=False)
    await wait_until(lambda: other.open_findings == 0)
    await looks.stop()


async def test_with_replay_the_missing_events_are_done_by_the_same_handler(house: House) -> None:
    intent_id = await buy(house)
    house.stripe.refund(intent_id, 250)
    report = await house.payments.reconciler.compare(SINCE, replay=True)
    assert len(report.replayed) == 3 and kinds(report) == []
    assert (await house.balance("user:ann")).credit_usd == Decimal("7.50")
    rows = await house.rows("SELECT came_by FROM stripe_events")
    assert {row["came_by"] for row in rows} == {"reconcile"}
    await house.tell_all()
    assert (await house.balance("user:ann")).credit_usd == Decimal("7.50")


async def test_what_stripe_does_not_know_and_amounts_that_differ_are_found(house: House) -> None:
    intent_id = await buy(house)
    await house.tell_all()
    house.stripe.objects[intent_id]["amount_received"] = 900
    charge = next(each for each in house.stripe.objects.values() if each["object"] == "charge")
    charge["amount_refunded"] = 100
    house.stripe.events = house.stripe.events[:-1]
    assert kinds(await house.payments.reconciler.compare(SINCE, replay=False)) == [
        "event_unknown", "payment_differs", "refund_differs"
    ]  # fmt: skip
    del house.stripe.objects[intent_id]
    await house.run(make_old)
    found = await house.payments.reconciler.compare(SINCE, replay=False)
    assert "payment_unknown_at_stripe" in kinds(found)


async def make_old(connection: Connection) -> None:
    await connection.execute("UPDATE payments SET paid_at = to_timestamp(1795000000)")


async def test_a_payment_that_only_stripe_has_is_found(house: House) -> None:
    await buy(house)
    await house.tell_all()
    house.stripe.pay_intent(house.stripe._keep(
        "pi", "payment_intent", amount=500, amount_received=0, currency="usd", customer="cus_x",
        metadata={"payment_id": "pay_gone"},
    )["id"])  # fmt: skip
    report = await house.payments.reconciler.compare(SINCE, replay=True)
    assert kinds(report) == ["payment_unknown_here"]


async def test_what_is_young_may_still_be_on_its_way(house: House) -> None:
    house.stripe.now = int(time.time()) - 30
    await buy(house)
    report = await house.payments.reconciler.compare(house.stripe.now - 3600, replay=True)
    assert (kinds(report), report.replayed) == ([], [])


async def test_all_pages_are_read(house: House) -> None:
    for number in range(230):
        house.stripe.tell("balance.available", {"id": f"bal_{number}", "object": "balance"})
    report = await house.payments.reconciler.compare(SINCE, replay=False)
    assert report.events == 230


# --- charges without anybody there


async def save_card(house: House) -> str:
    caller = await house.add_user("ann")
    customer = await house.payments.desk.get_customer(caller.payer, caller.user_id)
    house.stripe._keep("pm", "payment_method", type="card", customer=customer)
    return customer


async def test_a_saved_card_is_charged_once_for_a_reference_and_booked_at_once(house: House) -> None:
    await save_card(house)
    charge = house.payments.charges.charge_off_session
    assert (await charge("user:ann", Decimal(25), "topup:1")).state == "charged"
    assert (await charge("user:ann", Decimal(25), "topup:1")).state == "charged"
    assert (await house.balance("user:ann")).credit_usd == 25
    await house.tell_all()
    assert (await house.balance("user:ann")).credit_usd == 25
    assert len([name for name in house.stripe.objects if name.startswith("pi_")]) == 1
    intent = next(asked for method, path, asked in house.stripe.asked if path == "/v1/payment_intents")
    assert (intent["off_session"], intent["confirm"], intent["amount"]) == ("true", "true", "2500")


@pytest.mark.parametrize(("why", "is_final"), [("insufficient_funds", False)])
async def test_a_card_that_is_declined_fails_once_and_is_told(house: House, why: str, is_final: bool) -> None:
    await save_card(house)
    house.stripe.declines = why
    charge = house.payments.charges.charge_off_session
    first = await charge("user:ann", Decimal(25), "topup:1")
    assert (first.state, first.is_final) == ("failed", is_final)
    house.stripe.declines = ""
    assert (await charge("user:ann", Decimal(25), "topup:1")).state == "failed"
    await house.tell_all()
    assert (await house.balance("user:ann")).credit_usd == 0
    mails = await house.rows("SELECT template FROM mail_outbox")
    assert [mail["template"] for mail in mails] == ["payment_failed"]
    assert (await charge("user:ann", Decimal(25), "topup:2")).state == "charged"


async def test_nobody_is_charged_without_a_card_or_a_name_at_stripe(house: House) -> None:
    caller = await house.add_user("ann")
    charge = house.payments.charges.charge_off_session
    assert (await charge("user:ann", Decimal(25), "topup:1")).reason == "no_customer"
    await house.payments.desk.get_customer(caller.payer, caller.user_id)
    found = await charge("user:ann", Decimal(25), "topup:1")
    assert (found.reason, found.is_final) == ("no_payment_method", True)
    with pytest.raises(ValueError, match="whole cents"):
        await charge("user:ann", Decimal("0.001"), "topup:1")


# --- years


async def test_a_year_brings_its_allowance_every_month_once(house: House) -> None:
    caller = await house.add_user("ann")
    begun = await house.payments.subscriptions.begin(caller, "price_pro_year", None, ("", ""))
    house.stripe.pay_subscription_session(begun["session_id"])
    await house.tell_all()
    assert (await house.balance("user:ann")).allowance_usd == 15
    began = datetime.fromtimestamp(house.stripe.now, UTC)

    async def renew(days: int) -> int:
        return await renew_yearly(house.database, lambda: BOOKS, int((began + timedelta(days)).timestamp()))

    assert [await renew(days) for days in (1, 27, 32, 33, 63, 63, 364, 366)] == [0, 0, 1, 0, 1, 0, 1, 0]
    end = await house.read_end()
    assert (end["accounts"]["allowance:user:ann"], end["accounts"]["house:expired"]) == (15, 45)


async def test_a_month_brings_no_more_by_the_year(house: House) -> None:
    caller = await house.add_user("ann")
    begun = await house.payments.subscriptions.begin(caller, "price_pro_month", None, ("", ""))
    house.stripe.pay_subscription_session(begun["session_id"])
    await house.tell_all()
    assert await renew_yearly(house.database, lambda: BOOKS, house.stripe.now + 29 * 86400) == 0


@pytest.mark.parametrize(
    ("begins", "now", "months"),
    [
        ("2026-01-31T10:00", "2026-02-28T23:00", 0),
        ("2026-01-31T10:00", "2026-03-31T09:59", 1),
        ("2026-01-31T10:00", "2026-03-31T10:00", 2),
        ("2026-11-15T00:00", "2027-01-15T00:00", 2),
    ],
)
def test_months_are_counted_by_the_calendar(begins: str, now: str, months: int) -> None:
    moments = [int(datetime.fromisoformat(f"{text}+00:00").timestamp()) for text in (begins, now)]
    assert count_months(*moments) == months
