"""What people do with their subscription: take one, change it, end it, see it, or go to Stripe's own page for it.

An upgrade is charged at once and counts when it is paid: until then the plan stays as it is. A downgrade begins when
the paid period ends, so that nothing which was used is paid back. What really happened is told by Stripe's events.
"""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from engine.call import Caller
from engine.config.schema_plan import PlanFile
from engine.errors import InvalidRequest, NotFound
from engine.payments.allowances import find_plan_sold
from engine.payments.desk import PaymentDesk
from engine.payments.interfaces import Object
from engine.payments.objects import read_id, read_subscription
from engine.payments.offers import check_return_url
from engine.storage.audit import Actor, Event, write_event
from engine.storage.payment_rows import NewPayment, Row, fetch_row, find_customer, note_names
from engine.storage.postgres import Connection

_NEWEST = (
    "SELECT * FROM stripe_subscriptions WHERE payer = %s"
    " ORDER BY status IN ('active', 'trialing', 'past_due') DESC, started_at DESC, subscription_id DESC LIMIT 1"
)
LIVE = frozenset({"active", "trialing", "past_due"})


@dataclass(frozen=True, slots=True)
class Choice:
    """A plan and the price that it is to be paid at."""

    plan: PlanFile
    price_id: str

    @property
    def monthly_usd(self) -> Decimal:
        return self.plan.price.month

    @property
    def is_yearly(self) -> bool:
        return bool(self.price_id) and self.price_id == self.plan.stripe.year


class SubscriptionDesk:
    def __init__(self, desk: PaymentDesk) -> None:
        self._desk = desk

    async def begin(
        self, caller: Caller, price_id: str, product_id: str | None, urls: tuple[str, str], **wish: Any
    ) -> Object:
        choice = self._choose(price_id, product_id)
        addresses = self._desk.choose_urls(*urls)
        payer = await self._desk.find_payer(caller)
        row = await self._find(payer)
        if row is not None and row["status"] in LIVE:
            raise InvalidRequest(
                "there is a subscription already: upgrade or downgrade it", code="already_subscribed"
            )
        customer_id = await self._desk.get_customer(payer, caller.user_id, wish.get("email", ""))
        cents = int(choice.plan.price.month * 100)
        payment = await self._desk.write_payment(
            NewPayment(
                payer,
                caller.user_id,
                "subscription",
                "usd",
                cents,
                Decimal(0),
                description=f"subscription to {choice.plan.name_for_people}",
            )  # fmt: skip
        )
        words = {**wish.get("metadata", {}), "payment_id": payment["id"], "payer": payer}
        params = {
            "mode": "subscription",
            "customer": customer_id,
            "client_reference_id": payment["id"],
            "line_items": [{"price": price_id, "quantity": 1}],
            "metadata": words,
            "subscription_data": {"metadata": words},
            **addresses,
        }
        session = await self._desk.ask_stripe(payment, "checkout sessions", params)

        async def note(connection: Connection) -> None:
            await note_names(connection, payment["id"], session_id=read_id(session), customer_id=customer_id)

        await self._desk.database.run(note)
        return {
            "session_id": read_id(session),
            "url": session.get("url"),
            "customer_id": customer_id,
            "status": session.get("status") or "open",
            "payment_id": payment["id"],
        }

    async def show(self, caller: Caller) -> Object:
        row = await self._find(await self._desk.find_payer(caller))
        if row is None:
            return {"has_subscription": False, "tier": None, "status": None}
        plan = find_plan_sold(self._desk.read_books().plans, row["product_id"], row["price_id"])
        return {
            "has_subscription": row["status"] in LIVE,
            "subscription_id": row["subscription_id"],
            "status": row["status"],
            "tier": plan.plan if plan is not None else None,
            "current_period_start": write_moment(row["period_start"]),
            "current_period_end": write_moment(row["period_end"]),
            "cancel_at_period_end": row["cancel_at_period_end"],
            "canceled_at": write_moment(row["canceled_at"]),
            "product_id": row["product_id"],
            "price_id": row["price_id"],
        }

    async def upgrade(
        self, caller: Caller, price_id: str, product_id: str | None, proration: str, by: Actor
    ) -> Object:
        row, old, new = await self._compare(caller, price_id, product_id)
        if not _is_better(old, new):
            raise InvalidRequest("this is no better plan: use downgrade", code="not_an_upgrade")
        if proration == "none":
            raise InvalidRequest(
                "an upgrade is paid from the day on that it begins", code="invalid_value",
                param="proration_behavior",
            )  # fmt: skip
        await self._release(row)
        params = {
            "items": [{"id": row["item_id"], "price": price_id}],
            "proration_behavior": "always_invoice",
            "payment_behavior": "pending_if_incomplete",
            "expand": ["latest_invoice"],
        }
        changed = await self._desk.stripe.update(
            "subscriptions", row["subscription_id"], params, _name(row, f"upgrade:{price_id}")
        )
        await self._note(row, "subscription.upgrade", new, by)
        invoice = changed.get("latest_invoice")
        invoice = invoice if isinstance(invoice, Mapping) else {}
        pending = changed.get("pending_update") is not None
        shown = _show_change(row, old if pending else new, read_subscription(changed).status)
        return shown | {
            "success": not pending,
            "message": "the payment is still to be made" if pending else "the plan is changed",
            "effective_date": write_moment(int(datetime.now(UTC).timestamp())),
            "proration_amount": int(invoice.get("amount_due") or 0),
            "payment_url": invoice.get("hosted_invoice_url") if pending else None,
        }

    async def downgrade(self, caller: Caller, price_id: str, product_id: str | None, by: Actor) -> Object:
        row, old, new = await self._compare(caller, price_id, product_id)
        if old.price_id == new.price_id or _is_better(old, new):
            raise InvalidRequest("this is no smaller plan: use upgrade", code="not_a_downgrade")
        subscription_id = row["subscription_id"]
        schedule_id = row["schedule_id"]
        if not schedule_id:
            made = await self._desk.stripe.create(
                "subscription schedules", {"from_subscription": subscription_id}, _name(row, "schedule")
            )
            schedule_id = read_id(made)
        price = {"price": row["price_id"], "quantity": 1}
        phases = [
            {"items": [price], "start_date": row["period_start"], "end_date": row["period_end"]},
            {
                "items": [{"price": price_id, "quantity": 1}],
                "duration": {"interval": "year" if new.is_yearly else "month", "interval_count": 1},
            },
        ]
        params = {"end_behavior": "release", "proration_behavior": "none", "phases": phases}
        await self._desk.stripe.update(
            "subscription schedules", schedule_id, params, _name(row, f"downgrade:{schedule_id}:{price_id}")
        )
        await self._note(row, "subscription.downgrade", new, by)
        return _show_change(row, old, row["status"]) | {
            "success": True,
            "message": f"the plan is {new.plan.name_for_people} from then on",
            "effective_date": write_moment(row["period_end"]),
            "proration_amount": 0,
        }

    async def cancel(self, caller: Caller, at_period_end: bool, reason: str, by: Actor) -> Object:
        row = await self._find_live(caller)
        await self._release(row)
        details: dict[str, Any] = {"cancellation_details": {"comment": reason}} if reason else {}
        name = row["subscription_id"]
        if at_period_end:
            params = {"cancel_at_period_end": True, **details}
            changed = await self._desk.stripe.update(
                "subscriptions", name, params, _name(row, "cancel-later")
            )
        else:
            changed = await self._desk.stripe.act(
                "subscriptions", name, "cancel", details, _name(row, "cancel")
            )
        old = self._read_choice(row)
        await self._note(row, "subscription.cancel", old, by)
        ends = row["period_end"] if at_period_end else int(datetime.now(UTC).timestamp())
        return _show_change(row, old, read_subscription(changed).status) | {
            "success": True,
            "message": "it ends with the paid period" if at_period_end else "it is ended",
            "effective_date": write_moment(ends),
            "proration_amount": 0,
        }

    async def open_portal(self, caller: Caller, return_url: str) -> Object:
        """Stripe's own page: cards, invoices, cancelling."""
        url = return_url or self._desk.entry.cancel_url
        check_return_url(self._desk.entry.return_urls, url, "return_url")
        payer = await self._desk.find_payer(caller)

        async def read(connection: Connection) -> str:
            return await find_customer(connection, payer)

        customer_id = await self._desk.database.run(read)
        if not customer_id:
            raise NotFound("nothing was bought yet", code="no_customer")
        params = {"customer": customer_id, "return_url": url}
        if self._desk.entry.portal_configuration:
            params["configuration"] = self._desk.entry.portal_configuration
        session = await self._desk.stripe.create("portal sessions", params, uuid.uuid4().hex)
        return {"url": session["url"]}

    # --- what is there

    def _choose(self, price_id: str, product_id: str | None) -> Choice:
        """A price that an active plan is sold at: nobody subscribes to another thing of the account's."""
        plan = find_plan_sold(self._desk.read_books().plans, "", price_id)
        if plan is None or not plan.active or (product_id and product_id != plan.stripe.product):
            raise InvalidRequest("no plan is sold at this price", code="invalid_value", param="price_id")
        return Choice(plan, price_id)

    def _read_choice(self, row: Row) -> Choice:
        plans = self._desk.read_books().plans
        plan = find_plan_sold(plans, row["product_id"], row["price_id"]) or plans["default"]
        return Choice(plan, row["price_id"])

    async def _compare(
        self, caller: Caller, price_id: str, product_id: str | None
    ) -> tuple[Row, Choice, Choice]:
        row = await self._find_live(caller)
        return row, self._read_choice(row), self._choose(price_id, product_id)

    async def _find_live(self, caller: Caller) -> Row:
        row = await self._find(await self._desk.find_payer(caller))
        if row is None or row["status"] not in LIVE:
            raise NotFound("there is no subscription", code="no_subscription")
        return row

    async def _find(self, payer: str) -> Row | None:
        async def work(connection: Connection) -> Row | None:
            return await fetch_row(connection, _NEWEST, (payer,))

        return await self._desk.database.run(work)

    async def _release(self, row: Row) -> None:
        """A downgrade that was to come is called off: Stripe changes nothing that a schedule holds."""
        if row["schedule_id"]:
            await self._desk.stripe.act(
                "subscription schedules", row["schedule_id"], "release", {}, _name(row, "release")
            )

    async def _note(self, row: Row, action: str, choice: Choice, by: Actor) -> None:
        facts = {"payer": row["payer"], "plan": choice.plan.plan, "price_id": choice.price_id}
        event = Event(action, row["subscription_id"], by.user_id, after=facts)

        async def work(connection: Connection) -> None:
            async with connection.transaction():
                await write_event(connection, self._desk.ring, by, event)

        await self._desk.database.run(work)


def _is_better(old: Choice, new: Choice) -> bool:
    """By its monthly price; of one plan, the year is better than the month."""
    return (new.monthly_usd, new.is_yearly) > (old.monthly_usd, old.is_yearly)


def _name(row: Row, what: str) -> str:
    """The key of a request: the same one while the subscription is as it was, another after it changed."""
    return f"{row['subscription_id']}:{row['told_by']}:{what}"


def _show_change(row: Row, choice: Choice, status: str) -> dict[str, Any]:
    return {
        "subscription_id": row["subscription_id"],
        "status": status,
        "current_tier": choice.plan.plan,
    }


def write_moment(seconds: int | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat()
