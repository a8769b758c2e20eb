"""`/api/stripe`: buying credit, one's own payments, refunds by administrators, and Stripe's events."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from engine.http.endpoints import NOT_KEPT, Answer, Ask, Route
from engine.http.payment_bodies import (
    AllPaymentsQuery,
    CheckoutBody,
    IntentBody,
    PaymentsQuery,
    RefundBody,
)
from engine.payments.desk import PaymentDesk, Wish
from engine.payments.inbox import Inbox
from engine.payments.interfaces import PaymentsMissing
from engine.payments.offers import find_offer, find_package, show_packages
from engine.policies.access import ADMIN, READ, Need
from engine.storage.payment_rows import Row

PREFIX = "/api/stripe"
LARGEST_EVENT = 1024 * 1024
LOOK, CHANGE, FOR_ADMINS = Need(READ), Need(ADMIN), Need(ADMIN, "admin")


async def _refuse(ask: Ask) -> Answer:
    raise PaymentsMissing


def without_payments(routes: Sequence[Route]) -> Sequence[Route]:
    """The same routes where no key is configured: each says so, whatever it was sent."""
    return [replace(route, run=_refuse, takes_raw=True) for route in routes]


class PaymentRoutes:
    """Declared in any case; `without_payments` makes refusals of them where there are no rooms."""

    _desk: PaymentDesk
    _inbox: Inbox

    def __init__(self, desk: PaymentDesk | None, inbox: Inbox | None) -> None:
        if desk is not None and inbox is not None:
            self._desk, self._inbox = desk, inbox

    def list(self) -> Sequence[Route]:
        session, intent = f"{PREFIX}/checkout-session", f"{PREFIX}/payment-intent"
        return (
            Route("POST", session, self.begin_checkout, "Buy credit on a page of Stripe.", body=CheckoutBody,
                  need=CHANGE),
            Route("GET", f"{session}/{{session_id}}", self.show_session, "How a checkout of yours stands.",
                  need=LOOK),
            Route("POST", intent, self.begin_intent, "Buy credit on a page of your own.", body=IntentBody,
                  need=CHANGE),
            Route("GET", f"{intent}/{{payment_intent_id}}", self.show_intent, "How a payment of yours stands.",
                  need=LOOK),
            Route("GET", f"{PREFIX}/credit-packages", self.list_packages, "What credit may be bought for.",
                  public=True),
            Route("GET", f"{PREFIX}/payments", self.list_own, "List your payments.", query=PaymentsQuery, need=LOOK),
            Route("GET", f"{PREFIX}/payments/{{payment_id}}", self.show_own, "Show a payment of yours.", need=LOOK),
            Route("POST", f"{PREFIX}/refund", self.refund, "Give a payment back and take back its credit.",
                  body=RefundBody, need=FOR_ADMINS),
            Route("POST", f"{PREFIX}/webhook", self.take_event, "Stripe's events, signed.", public=True,
                  takes_raw=True, most_bytes=LARGEST_EVENT),
            Route("GET", "/admin/payments", self.list_all, "List everybody's payments.", query=AllPaymentsQuery),
        )  # fmt: skip

    async def begin_checkout(self, ask: Ask) -> Answer:
        body = ask.body
        return Answer(
            await self._desk.begin_checkout(
                ask.caller, self._read_wish(body), body.success_url, body.cancel_url
            )
        )

    async def begin_intent(self, ask: Ask) -> Answer:
        return Answer(await self._desk.begin_intent(ask.caller, self._read_wish(ask.body)), headers=NOT_KEPT)

    async def show_session(self, ask: Ask) -> Answer:
        return Answer(await self._desk.show_session(ask.caller, ask.names["session_id"]))

    async def show_intent(self, ask: Ask) -> Answer:
        shown = await self._desk.show_intent(ask.caller, ask.names["payment_intent_id"])
        return Answer(shown, headers=NOT_KEPT)

    async def list_packages(self, ask: Ask) -> Answer:
        packages = show_packages(self._desk.read_books())
        return Answer({"packages": packages, "currency": "usd", "credit_unit_usd": "1"})

    async def list_own(self, ask: Ask) -> Answer:
        query = ask.query
        rows = await self._desk.list_own(ask.caller, query.limit + 1, query.offset, query.status)
        return _show_page(rows, query.limit)

    async def list_all(self, ask: Ask) -> Answer:
        query = ask.query
        rows = await self._desk.list_all(
            query.limit + 1, query.offset, payer=query.payer, status=query.status, flagged=query.flagged
        )
        return _show_page(rows, query.limit)

    async def show_own(self, ask: Ask) -> Answer:
        return Answer(show_payment(await self._desk.find_own(ask.caller, ask.names["payment_id"])))

    async def refund(self, ask: Ask) -> Answer:
        body = ask.body
        return Answer(
            await self._desk.refund(body.payment_intent_id, body.amount, body.reason, body.metadata, ask.by)
        )

    async def take_event(self, ask: Ask) -> Answer:
        event = self._desk.stripe.check_signature(ask.raw, ask.find_header(b"stripe-signature"))
        outcome = await self._inbox.take(event)
        return Answer(
            {
                "success": True,
                "event_type": str(event.get("type")),
                "event_id": str(event.get("id")),
                "message": outcome,
                "processed_at": datetime.now(UTC).isoformat(),
            }
        )

    def _read_wish(self, body: Any) -> Wish:
        books = self._desk.read_books()
        if body.package_id is not None:
            offer = find_package(books, body.package_id)
        else:
            offer = find_offer(books, body.amount, body.currency, body.credit_value)
        return Wish(
            offer, body.description, body.customer_email, dict(body.metadata), body.save_payment_method
        )


def _show_page(rows: Sequence[Row], limit: int) -> Answer:
    shown = [show_payment(row) for row in rows[:limit]]
    return Answer({"payments": shown, "total": len(shown), "has_more": len(rows) > limit})


def show_payment(row: Row) -> dict[str, Any]:
    """A payment as its owner sees it."""
    return {
        "id": row["id"],
        "payer": row["payer"],
        "payment_method": row["kind"],
        "status": row["status"],
        "amount_cents": row["amount_cents"],
        "paid_cents": row["paid_cents"],
        "currency": row["currency"],
        "credits": _write(row["credit_usd"]),
        "credits_granted": _write(row["granted_usd"]),
        "credits_taken_back": _write(row["taken_usd"]),
        "package_id": row["package"] or None,
        "description": row["description"],
        "metadata": row["metadata"],
        "stripe_payment_intent_id": row["intent_id"],
        "stripe_checkout_session_id": row["session_id"],
        "failure": row["failure"] or None,
        "flag": row["flag"] or None,
        "created_at": row["created_at"].isoformat(),
        "completed_at": row["paid_at"].isoformat() if row["paid_at"] else None,
    }


def _write(amount: Any) -> str | None:
    return None if amount is None else f"{amount.normalize():f}"
