"""Plans that are paid by the month: taken, renewed, changed, ended; each paid period brings its allowance once."""

from decimal import Decimal

import pytest

from engine.call import Caller
from engine.errors import GatewayError, InvalidRequest, NotFound
from engine.payments.allowances import begin_of_month, read_what_it_brings
from engine.payments.objects import Invoice, Line, read_invoice, read_subscription
from engine.storage.audit import Actor
from engine.storage.ledger import take_back
from engine.storage.plan_terms import put_on_plan
from engine.storage.postgres import Connection
from tests.payments.conftest import PLANS, House
from tests.payments.stand_in import Object

BY = Actor("ann", "key_ann")
URLS = ("", "")


async def take_plan(house: House, price: str = "price_pro_month") -> tuple[Caller, Object]:
    caller = await house.add_user("ann")
    begun = await house.payments.subscriptions.begin(caller, price, None, URLS)
    subscription = house.stripe.pay_subscription_session(begun["session_id"])
    await house.tell_all()
    return caller, subscription


async def read_plan(house: House) -> str:
    row = await house.row("SELECT plan FROM users WHERE id = 'ann'")
    assert row is not None
    return str(row["plan"])


async def use(house: House, amount: str) -> None:
    async def work(connection: Connection) -> None:
        async with connection.transaction():
            await take_back(
                connection, "user:ann", Decimal(amount), ref=f"used:{amount}", kind="api_usage",
                target="house:usage", pot="allowance",
            )  # fmt: skip

    await house.run(work)


async def test_a_paid_subscription_gives_its_plan_and_one_allowance(house: House) -> None:
    caller, subscription = await take_plan(house)
    await house.tell_all()
    assert await read_plan(house) == "pro"
    assert (await house.balance("user:ann")).allowance_usd == 15
    shown = await house.payments.subscriptions.show(caller)
    assert (shown["has_subscription"], shown["tier"], shown["status"]) == (True, "pro", "active")
    assert shown["subscription_id"] == subscription["id"]
    assert shown["price_id"] == "price_pro_month"


async def test_a_renewal_sets_the_allowance_and_what_was_left_expires(house: House) -> None:
    _, subscription = await take_plan(house)
    await use(house, "4")
    house.stripe.renew(subscription["id"])
    await house.tell_all()
    end = await house.read_end()
    assert end["accounts"]["allowance:user:ann"] == 15
    assert end["accounts"]["house:expired"] == 11


async def test_a_renewal_that_is_not_paid_keeps_plan_and_rest_and_is_told(house: House) -> None:
    _, subscription = await take_plan(house)
    await use(house, "4")
    house.stripe.renew(subscription["id"], paid=False)
    await house.tell_all()
    assert await read_plan(house) == "pro"
    assert (await house.balance("user:ann")).allowance_usd == 11
    mails = await house.rows("SELECT template FROM mail_outbox")
    assert [mail["template"] for mail in mails] == ["payment_failed"]
    subscription["status"] = "unpaid"
    house.stripe.now += 9
    house.stripe.tell("customer.subscription.updated", subscription)
    await house.tell_all()
    assert await read_plan(house) == ""
    assert (await house.balance("user:ann")).allowance_usd == 0


async def test_an_upgrade_is_charged_once_and_brings_the_rest_of_the_better_plan_once(house: House) -> None:
    caller, subscription = await take_plan(house)
    item = subscription["items"]["data"][0]
    house.stripe.now = (item["current_period_start"] + item["current_period_end"]) // 2
    changed = await house.payments.subscriptions.upgrade(
        caller, "price_max_month", "prod_max", "create_prorations", BY
    )
    assert (changed["success"], changed["current_tier"]) == (True, "max")
    assert changed["proration_amount"] == round(7500 / 2) - round(800 / 2)
    for _ in range(3):
        await house.tell_all()
    assert await read_plan(house) == "max"
    month = item["current_period_end"] - begin_of_month(item["current_period_end"])
    part = Decimal(item["current_period_end"] - house.stripe.now) / month
    brought = (Decimal(150 - 15) * part).quantize(Decimal("0.01"), "ROUND_DOWN")
    assert (await house.balance("user:ann")).allowance_usd == 15 + brought
    mails = {mail["template"] for mail in await house.rows("SELECT template FROM mail_outbox")}
    assert mails == {"plan_upgraded"}


async def test_an_upgrade_on_the_last_day_brings_no_more_than_that_day(house: House) -> None:
    caller, subscription = await take_plan(house)
    house.stripe.now = subscription["items"]["data"][0]["current_period_end"] - 3600
    await house.payments.subscriptions.upgrade(caller, "price_max_month", None, "always_invoice", BY)
    await house.tell_all()
    assert (await house.balance("user:ann")).allowance_usd < Decimal("15.20")


async def test_an_upgrade_whose_payment_fails_changes_nothing(house: House) -> None:
    caller, _ = await take_plan(house)
    house.stripe.declines = "insufficient_funds"
    changed = await house.payments.subscriptions.upgrade(
        caller, "price_max_month", None, "create_prorations", BY
    )
    assert (changed["success"], changed["current_tier"]) == (False, "pro")
    await house.tell_all()
    assert await read_plan(house) == "pro"
    assert (await house.balance("user:ann")).allowance_usd == 15


async def test_a_downgrade_begins_when_the_paid_period_ends(house: House) -> None:
    caller, subscription = await take_plan(house, "price_max_month")
    changed = await house.payments.subscriptions.downgrade(caller, "price_pro_month", None, BY)
    assert (changed["success"], changed["current_tier"], changed["proration_amount"]) == (True, "max", 0)
    await house.tell_all()
    assert await read_plan(house) == "max"
    assert (await house.balance("user:ann")).allowance_usd == 150
    house.stripe.renew(subscription["id"])
    await house.tell_all()
    assert await read_plan(house) == "pro"
    assert (await house.balance("user:ann")).allowance_usd == 15


async def test_a_downgrade_that_is_to_come_is_called_off_by_an_upgrade_or_a_cancellation(
    house: House,
) -> None:
    caller, subscription = await take_plan(house, "price_max_month")
    await house.payments.subscriptions.downgrade(caller, "price_pro_month", None, BY)
    await house.tell_all()
    await house.payments.subscriptions.cancel(caller, True, "too dear", BY)
    assert subscription["schedule"] is None and subscription["cancel_at_period_end"]


async def test_cancelling_keeps_the_paid_period_and_then_ends_it(house: House) -> None:
    caller, subscription = await take_plan(house)
    changed = await house.payments.subscriptions.cancel(caller, True, "", BY)
    await house.tell_all()
    assert changed["current_tier"] == "pro" and await read_plan(house) == "pro"
    assert (await house.payments.subscriptions.show(caller))["cancel_at_period_end"] is True
    house.stripe.now += 31 * 86400
    house.stripe.end_subscription(subscription["id"])
    await house.tell_all()
    assert await read_plan(house) == ""
    end = await house.read_end()
    assert end["accounts"].get("allowance:user:ann", 0) == 0
    assert end["accounts"]["house:expired"] == 15
    assert (await house.payments.subscriptions.show(caller))["has_subscription"] is False


async def test_cancelling_now_ends_it_now_and_bought_credit_is_kept(house: House) -> None:
    caller, _ = await take_plan(house)
    begun = await house.begin(caller)
    house.stripe.pay_session(begun["session_id"])
    await house.tell_all()
    await house.payments.subscriptions.cancel(caller, False, "", BY)
    await house.tell_all()
    balance = await house.balance("user:ann")
    assert balance.allowance_usd == 0 and balance.credit_usd == 10
    assert await read_plan(house) == ""


async def test_a_plan_that_an_administrator_gave_since_is_not_taken_by_the_end(house: House) -> None:
    _, subscription = await take_plan(house)

    async def work(connection: Connection) -> None:
        async with connection.transaction():
            await put_on_plan(connection, "user:ann", "max", source="admin")

    await house.run(work)
    house.stripe.end_subscription(subscription["id"])
    await house.tell_all()
    assert await read_plan(house) == "max"


async def test_an_older_event_changes_nothing_that_a_newer_one_told(house: House) -> None:
    _, subscription = await take_plan(house)
    house.stripe.now += 60
    house.stripe.end_subscription(subscription["id"])
    again = next(each for each in house.stripe.events if each["type"] == "customer.subscription.updated")
    await house.tell_all()
    await house.tell({**again, "id": "evt_again"})
    assert await read_plan(house) == ""


async def test_two_changes_in_one_second_are_put_in_order_by_asking(house: House) -> None:
    _, subscription = await take_plan(house)
    subscription["cancel_at_period_end"] = True
    first = house.stripe.tell("customer.subscription.updated", subscription)
    subscription["cancel_at_period_end"] = False
    second = house.stripe.tell("customer.subscription.updated", subscription)
    await house.tell(second, first)
    row = await house.row("SELECT cancel_at_period_end FROM stripe_subscriptions")
    assert row is not None and row["cancel_at_period_end"] is False
    assert ("GET", f"/v1/subscriptions/{subscription['id']}", {}) in house.stripe.asked


async def test_what_may_not_be_subscribed_to(house: House) -> None:
    caller, _ = await take_plan(house)
    desk = house.payments.subscriptions
    for work, code in (
        (desk.begin(caller, "price_pro_month", None, URLS), "already_subscribed"),
        (desk.begin(caller, "price_other", None, URLS), "invalid_value"),
        (desk.begin(caller, "price_pro_month", "prod_max", URLS), "invalid_value"),
        (desk.begin(caller, "price_pro_month", None, ("https://evil.com/", "")), "url_not_allowed"),
        (desk.upgrade(caller, "price_pro_month", None, "create_prorations", BY), "not_an_upgrade"),
        (desk.upgrade(caller, "price_max_month", None, "none", BY), "invalid_value"),
        (desk.downgrade(caller, "price_max_month", None, BY), "not_a_downgrade"),
        (desk.open_portal(caller, "https://evil.com/"), "url_not_allowed"),
    ):
        with pytest.raises(InvalidRequest) as refused:
            await work
        assert refused.value.code == code
    assert (await desk.open_portal(caller, ""))["url"].startswith("https://billing.stripe.test/")


async def test_nobody_touches_anothers_subscription(house: House) -> None:
    await take_plan(house)
    eve = await house.add_user("eve")
    desk = house.payments.subscriptions
    assert (await desk.show(eve))["has_subscription"] is False
    for work in (
        desk.upgrade(eve, "price_max_month", None, "create_prorations", BY),
        desk.cancel(eve, True, "", BY),
        desk.open_portal(eve, ""),
    ):
        with pytest.raises(NotFound):
            await work


async def test_the_key_of_the_environment_buys_nothing(house: House) -> None:
    from_environment = Caller("admin-environment", "admin", role="admin", unlimited=True)
    with pytest.raises(GatewayError) as refused:
        await house.payments.subscriptions.begin(from_environment, "price_pro_month", None, URLS)
    assert refused.value.code == "no_account"


# --- what an invoice brings

DAY = 86400
END = 1_795_000_000


def invoice(reason: str, *lines: Line) -> Invoice:
    return Invoice("in_1", "sub_1", "cus_1", "paid", reason, 100, "usd", 1, lines)


def line(plan: str, cents: int, days: float, proration: bool = False, ends: int = END) -> Line:
    product = f"prod_{plan}"
    return Line(product, "", cents, proration, int(ends - days * DAY), ends)


MONTH_DAYS = (END - begin_of_month(END)) / DAY


@pytest.mark.parametrize(
    ("told", "plan", "allowance"),
    [
        (invoice("subscription_create", line("pro", 800, MONTH_DAYS)), "pro", "15"),
        (invoice("subscription_cycle", line("max", 7500, MONTH_DAYS)), "max", "150"),
        (invoice("subscription_create", line("pro", 0, 7)), "pro", "15"),
        (invoice("subscription_cycle", line("pro", 8000, 365)), "pro", "15"),
        (
            invoice("subscription_cycle", line("pro", -30, 2, True, END - 9), line("max", 7500, MONTH_DAYS)),
            "max", "150",
        ),
        (
            invoice("subscription_update", line("pro", -400, MONTH_DAYS / 2, True),
                    line("max", 3750, MONTH_DAYS / 2, True)),
            "max", "67.50",
        ),
        (
            invoice("subscription_update", line("pro", -400, 10, True, END - 300 * DAY), line("pro", 8000, 365)),
            "pro", "15.00",
        ),
        (invoice("subscription_update", line("max", -99, 9, True), line("pro", 9, 9, True)), "pro", "0.00"),
        (invoice("subscription_create", line("other", 800, 30)), "", "0"),
        (invoice("manual"), "", "0"),
    ],
)  # fmt: skip
def test_an_invoice_brings_a_months_allowance_or_the_rest_of_a_better_one(
    told: Invoice, plan: str, allowance: str
) -> None:
    brings = read_what_it_brings(told, PLANS)
    assert (brings.plan, brings.allowance_usd) == (plan, Decimal(allowance))


def test_invoices_and_subscriptions_of_older_endpoints_are_read() -> None:
    older = {
        "id": "in_1", "object": "invoice", "created": 5, "status": "paid", "billing_reason": "subscription_cycle",
        "subscription": "sub_1", "customer": "cus_1", "amount_paid": 800, "currency": "usd",
        "lines": {"data": [{"amount": 800, "proration": False, "period": {"start": 1, "end": 2},
                            "price": {"id": "price_pro_month", "product": "prod_pro"}}]},
    }  # fmt: skip
    read = read_invoice(older)
    assert (read.subscription_id, read.lines[0].product_id) == ("sub_1", "prod_pro")
    found = read_subscription(
        {"id": "sub_1", "customer": {"id": "cus_1"}, "status": "active", "created": 1, "current_period_end": 9,
         "items": {"data": [{"id": "si_1", "price": {"id": "price_x", "product": "prod_x"}}]}}
    )  # fmt: skip
    assert (found.customer_id, found.period_end, found.price_id) == ("cus_1", 9, "price_x")
