"""What is given back takes back what it brought: an invoice its unused allowance, a top-up its credit."""

from decimal import Decimal

import pytest

from tests.payments.conftest import PLANS, House
from tests.payments.test_subscriptions import take_plan, use


@pytest.mark.parametrize(
    ("used", "cents", "left"),
    [("0.5", 800, "0"), ("0.5", 400, "7"), ("10", 400, "0"), ("10", 200, "1.25"), ("15", 800, "0")],
)
async def test_a_refunded_invoice_takes_its_share_of_the_allowance_at_most_what_is_left(
    house: House, used: str, cents: int, left: str
) -> None:
    _, subscription = await take_plan(house)
    await use(house, used)
    (invoice,) = house.stripe.list_invoices(subscription["id"])
    house.stripe.refund(house.stripe.find_intent_of(invoice), cents)
    for _ in range(3):
        await house.tell_all()
    assert (await house.balance("user:ann")).allowance_usd == Decimal(left)
    end = await house.read_end()
    assert end["plans"] == {"ann": "pro"}
    assert end["accounts"].get("house:expired", 0) == 15 - Decimal(used) - Decimal(left)
    assert "house:written_off" not in end["accounts"]


async def test_a_refund_takes_no_credit_that_was_bought_and_none_of_the_next_period(house: House) -> None:
    caller, subscription = await take_plan(house)
    begun = await house.begin(caller)
    house.stripe.pay_session(begun["session_id"])
    (invoice,) = house.stripe.list_invoices(subscription["id"])
    house.stripe.renew(subscription["id"])
    house.stripe.refund(house.stripe.find_intent_of(invoice), 800)
    await house.tell_all()
    balance = await house.balance("user:ann")
    assert (balance.credit_usd, balance.allowance_usd) == (10, 15)


async def test_the_event_that_names_the_payment_spares_the_question(house: House) -> None:
    _, subscription = await take_plan(house)
    (invoice,) = house.stripe.list_invoices(subscription["id"])
    house.stripe.refund(house.stripe.find_intent_of(invoice), 800)
    await house.tell_all()
    assert not [path for _, path, _ in house.stripe.asked if path.endswith("invoice_payments")]
    assert (await house.balance("user:ann")).allowance_usd == 0


async def test_a_dispute_of_an_invoice_asks_once_which_it_was(house: House) -> None:
    _, subscription = await take_plan(house)
    (invoice,) = house.stripe.list_invoices(subscription["id"])
    intent_id = house.stripe.find_intent_of(invoice)
    await house.rows("DELETE FROM stripe_invoice_payments RETURNING intent_id")
    house.stripe.dispute(intent_id, 800, "lost")
    await house.tell_all()
    asked = [params for _, path, params in house.stripe.asked if path.endswith("invoice_payments")]
    assert [each["payment"] for each in asked] == [{"type": "payment_intent", "payment_intent": intent_id}]
    assert (await house.balance("user:ann")).allowance_usd == 0


async def test_nobody_is_asked_for_invoices_where_no_plan_is_sold(house: House) -> None:
    sold = dict(PLANS)
    PLANS.pop("pro"), PLANS.pop("max")
    try:
        charge = {
            "id": "ch_x",
            "object": "charge",
            "payment_intent": "pi_of_somebody",
            "amount_refunded": 800,
        }
        house.stripe.tell("charge.refunded", charge)
        assert await house.tell_all() == ["done"]
        assert not [path for _, path, _ in house.stripe.asked if path.endswith("invoice_payments")]
    finally:
        PLANS.update(sold)


async def test_an_older_endpoints_invoice_names_its_payment_itself(house: House) -> None:
    _, subscription = await take_plan(house)
    (invoice,) = house.stripe.list_invoices(subscription["id"])
    await house.rows("DELETE FROM stripe_invoice_payments RETURNING intent_id")
    house.stripe.now += 5
    house.stripe.tell("invoice.updated", {**invoice, "payment_intent": "pi_older"})
    charge = {"id": "ch_older", "object": "charge", "payment_intent": "pi_older", "amount_refunded": 800}
    house.stripe.tell("charge.refunded", charge)
    await house.tell_all()
    assert (await house.balance("user:ann")).allowance_usd == 0


async def test_a_refunded_top_up_takes_back_bought_credit_and_no_allowance(house: House) -> None:
    caller, _ = await take_plan(house)
    begun = await house.begin(caller, save_payment_method=True)
    house.stripe.pay_session(begun["session_id"])
    await house.tell_all()
    customer = house.stripe.objects[begun["session_id"]]["customer"]
    house.stripe._keep("pm", "payment_method", customer=customer, type="card")
    charged = await house.payments.charges.charge_off_session("user:ann", Decimal(25), "top_up:1")
    assert charged.state == "charged"
    assert (await house.balance("user:ann")).credit_usd == 35
    row = await house.row("SELECT intent_id FROM payments WHERE kind = 'top_up'")
    assert row is not None
    house.stripe.refund(row["intent_id"], 1000)
    await house.tell_all()
    balance = await house.balance("user:ann")
    assert (balance.credit_usd, balance.allowance_usd) == (25, 15)
    house.stripe.refund(row["intent_id"], 1500)
    await house.tell_all()
    balance = await house.balance("user:ann")
    assert (balance.credit_usd, balance.allowance_usd) == (10, 15)
    await house.read_end()
