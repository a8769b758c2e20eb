"""Whatever happens at Stripe and by administrators, in whatever order it is told: plan, term and standing agree."""

import itertools
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.storage.ledger_reading import verify_ledger
from engine.storage.plan_terms import list_disagreeing, put_on_plan
from engine.storage.postgres import Connection
from engine.storage.renewals import end_expired_plans, renew_due_allowances
from engine.storage.teams import set_plan
from tests.payments.conftest import PLANS, House
from tests.payments.stand_in import Object

_numbers = itertools.count(1)
DAY = 86400


class Life:
    """One person: what happens at Stripe is kept as events, and told when the story says so."""

    def __init__(self, house: House, payer: str, customer: str, odds: random.Random) -> None:
        self.house, self.payer, self.customer, self.odds = house, payer, customer, odds
        self.stripe = house.stripe
        self.subscriptions: list[Object] = []

    # --- at Stripe

    def subscribe(self) -> None:
        if not any(each["status"] != "canceled" for each in self.subscriptions):
            price = self.odds.choice(["price_pro_month", "price_max_month", "price_pro_year"])
            self.subscriptions.append(self.stripe.subscribe(self.customer, price))

    def _live(self, work: Callable[[Object], object]) -> None:
        for each in self.subscriptions:
            if each["status"] != "canceled":
                work(each)

    def renew(self) -> None:
        self._live(lambda each: self.stripe.renew(each["id"], paid=self.odds.random() < 0.7))

    def pay_late(self) -> None:
        for invoice in [each for each in self.stripe.objects.values() if each["object"] == "invoice"]:
            if invoice["customer"] == self.customer and invoice["status"] == "open":
                self.stripe.pay_invoice(invoice["id"])

    def cancel_later(self) -> None:
        asked = {"cancel_at_period_end": self.odds.choice(["true", "false"])}
        self._live(lambda each: self.stripe._do("POST", f"subscriptions/{each['id']}", asked))

    def upgrade(self) -> None:
        asked = {"items": {"0": {"price": "price_max_month"}}, "proration_behavior": "always_invoice"}
        self._live(lambda each: self.stripe._do("POST", f"subscriptions/{each['id']}", asked))

    def end(self) -> None:
        self._live(lambda each: self.stripe.end_subscription(each["id"]))

    def give_back(self) -> None:
        paid = [each for each in self.stripe.objects.values() if each["object"] == "invoice_payment"
                and self.stripe.objects[each["invoice"]]["customer"] == self.customer]  # fmt: skip
        if paid:
            payment = self.odds.choice(paid)
            cents = self.odds.randint(1, payment["amount_paid"])
            if self.odds.random() < 0.5:
                self.stripe.dispute(
                    payment["payment"]["payment_intent"], cents, self.odds.choice(["won", "lost"])
                )
            else:
                self.stripe.refund(payment["payment"]["payment_intent"], 0 if cents > 400 else cents)

    # --- by administrators, and by time

    async def give_plan(self, connection: Connection) -> None:
        ends_at = datetime.now(UTC) + timedelta(days=self.odds.choice([-1, 30]))
        until = self.odds.choice([None, ends_at])
        plan = self.odds.choice(["pro", "max"])
        await put_on_plan(connection, self.payer, plan, source="admin", ends_at=until)

    async def take_plan_away(self, connection: Connection) -> None:
        await set_plan(connection, self.payer, self.odds.choice(["", "pro"]))

    async def tell(self) -> None:
        told = self.stripe.events * 2
        self.stripe.events.clear()
        self.odds.shuffle(told)
        for event in told:
            await self.house.payments.inbox.take(event)

    async def do_chores(self) -> None:
        async def work(connection: Connection) -> None:
            await end_expired_plans(connection, datetime.now(UTC))
            await renew_due_allowances(connection, PLANS, datetime.now(UTC))

        await self.house.run(work)

    async def step(self, name: str) -> None:
        self.stripe.now += self.odds.randint(1, 3 * DAY)
        if name in ("tell", "do_chores"):
            await getattr(self, name)()
        elif name in ("give_plan", "take_plan_away"):

            async def work(connection: Connection) -> None:
                async with connection.transaction():
                    await getattr(self, name)(connection)

            await self.house.run(work)
        else:
            getattr(self, name)()


AT_STRIPE = ["subscribe", "renew", "pay_late", "cancel_later", "upgrade", "end", "give_back"]
STEPS = [*AT_STRIPE, *["tell"] * 5, "give_plan", "take_plan_away", "do_chores"]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32), steps=st.lists(st.sampled_from(STEPS), min_size=5, max_size=30))
async def test_plan_term_and_standing_agree_after_every_step(
    house: House, seed: int, steps: list[str]
) -> None:
    house.stripe.now = 1_795_000_000
    house.stripe.events.clear()
    caller = await house.add_user(f"living{next(_numbers)}")
    customer = await house.payments.desk.get_customer(caller.payer, caller.user_id)
    life = Life(house, caller.payer, customer, random.Random(seed))
    for name in ["subscribe", "tell", *steps, "tell", "do_chores"]:
        await life.step(name)
        assert await house.run(list_disagreeing) == [], name
        assert (await house.balance(caller.payer)).allowance_usd >= 0
    verdict = await house.run(verify_ledger)
    assert not verdict.problems, verdict.problems
    row = await house.row(
        "SELECT s.plan, t.source, t.allowance_usd FROM stripe_standings s LEFT JOIN plan_terms t USING (payer)"
        " WHERE payer = %s",
        caller.payer,
    )
    assert row is not None and (row["plan"] or row["source"] != "stripe")
