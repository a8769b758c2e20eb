"""What people and administrators do with payments: begin one, look at their own, give one back.

A row is written before Stripe is asked, and its id is the key of the request there: asked again after a cut line,
Stripe answers with what it made the first time. Whose a payment is, is a question to our rows and never to Stripe.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from engine.call import Caller
from engine.config.schema_payments import StripeEntry
from engine.errors import DependencyAway, GatewayError, InvalidRequest, NotAllowed, NotFound
from engine.payments import crediting
from engine.payments.handling import EventHandler
from engine.payments.interfaces import Object, Stripe
from engine.payments.objects import read_id
from engine.payments.offers import Books, Offer, check_return_url
from engine.storage.audit import Actor, Event, write_event
from engine.storage.outbox import is_address
from engine.storage.payment_rows import (
    NewPayment,
    Row,
    add_customer,
    add_payment,
    add_refund,
    find_address,
    find_customer,
    find_payment,
    finish_refund,
    leads_team,
    list_payments,
    make_payment_id,
    note_names,
)
from engine.storage.postgres import Connection, Database
from engine.storage.secrets import KeyRing


@dataclass(frozen=True, slots=True)
class Wish:
    """What somebody wants to pay, checked."""

    offer: Offer
    description: str = ""
    customer_email: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    save_payment_method: bool = False


class PaymentDesk:
    def __init__(
        self,
        database: Database,
        ring: KeyRing,
        stripe: Stripe,
        handler: EventHandler,
        read_books: Callable[[], Books],
        entry: StripeEntry,
    ) -> None:
        self.database, self.stripe, self.entry = database, stripe, entry
        self.ring, self._handler, self.read_books = ring, handler, read_books

    # --- whose

    async def find_payer(self, caller: Caller) -> str:
        """Who pays with this key. A team's money is moved by those who lead it."""
        if caller.unlimited:
            raise NotAllowed("the key of GATEWAYZ_ADMIN_KEY belongs to no account", code="no_account")
        if caller.team_id:
            team_id = caller.team_id

            async def work(connection: Connection) -> bool:
                return await leads_team(connection, team_id, caller.user_id)

            if not await self.database.run(work):
                raise NotAllowed("a team's payments are for its owners and admins", code="not_team_admin")
        return caller.payer

    async def get_customer(self, payer: str, user_id: str, email: str = "") -> str:
        """The payer's name at Stripe, made when there is none."""

        async def read(connection: Connection) -> tuple[str, str]:
            return await find_customer(connection, payer), await find_address(connection, user_id)

        known, own_address = await self.database.run(read)
        if email and is_address(own_address) and email.lower() != own_address.lower():
            raise InvalidRequest(
                "this is not the account's address", code="invalid_value", param="customer_email"
            )
        if known:
            return known
        address = own_address if is_address(own_address) else email
        params: dict[str, Any] = {"metadata": {"payer": payer}}
        if address:
            params["email"] = address
        customer = await self.stripe.create("customers", params, f"customer:{payer}:{address}")

        async def write(connection: Connection) -> str:
            return await add_customer(connection, payer, read_id(customer))

        return await self.database.run(write)

    # --- paying

    async def begin_checkout(self, caller: Caller, wish: Wish, success_url: str, cancel_url: str) -> Object:
        urls = self.choose_urls(success_url, cancel_url)
        row, customer_id = await self._write_wish(caller, wish, "checkout")
        offer = wish.offer
        name = wish.description or f"{offer.credit_usd.normalize():f} credits"
        price = {
            "currency": offer.currency,
            "unit_amount": offer.amount_cents,
            "product_data": {"name": name[:250]},
        }
        params: dict[str, Any] = {
            "mode": "payment",
            "customer": customer_id,
            "client_reference_id": row["id"],
            "line_items": [{"price_data": price, "quantity": 1}],
            "metadata": _mark(wish, row),
            "payment_intent_data": {"metadata": _mark(wish, row), "description": name[:500]},
            **urls,
        }
        if wish.save_payment_method:
            params["payment_intent_data"]["setup_future_usage"] = "off_session"
        session = await self.ask_stripe(row, "checkout sessions", params)
        await self._note(row["id"], session_id=read_id(session), customer_id=customer_id)
        return {
            "session_id": read_id(session),
            "url": session.get("url"),
            "payment_id": row["id"],
            "status": session.get("status") or "open",
            "amount": offer.amount_cents,
            "currency": offer.currency,
            "credits": str(offer.credit_usd),
            "expires_at": session.get("expires_at"),
        }

    async def begin_intent(self, caller: Caller, wish: Wish) -> Object:
        row, customer_id = await self._write_wish(caller, wish, "intent")
        params: dict[str, Any] = {
            "amount": wish.offer.amount_cents,
            "currency": wish.offer.currency,
            "customer": customer_id,
            "description": wish.description or f"{wish.offer.credit_usd.normalize():f} credits",
            "metadata": _mark(wish, row),
            "automatic_payment_methods": {"enabled": True},
        }
        if wish.save_payment_method:
            params["setup_future_usage"] = "off_session"
        intent = await self.ask_stripe(row, "payment intents", params)
        await self._note(row["id"], intent_id=read_id(intent), customer_id=customer_id)
        return _show_intent(intent, row)

    async def show_session(self, caller: Caller, session_id: str) -> Object:
        row = await self.find_own(caller, session_id)
        session = await self.stripe.fetch("checkout sessions", session_id)
        names = ("status", "payment_status", "mode", "url", "expires_at")
        return {
            "session_id": session_id,
            "payment_id": row["id"],
            "amount": session.get("amount_total"),
            "currency": session.get("currency"),
            "customer_email": (session.get("customer_details") or {}).get("email"),
            "credited": row["granted_usd"] is not None,
            **{name: session.get(name) for name in names},
        }

    async def show_intent(self, caller: Caller, intent_id: str) -> Object:
        row = await self.find_own(caller, intent_id)
        return _show_intent(await self.stripe.fetch("payment intents", intent_id), row)

    async def find_own(self, caller: Caller, name: str) -> Row:
        payer = await self.find_payer(caller)

        async def work(connection: Connection) -> Row | None:
            return await find_payment(connection, name, payer)

        row = await self.database.run(work)
        if row is None:
            raise _say_unknown()
        return row

    async def list_own(self, caller: Caller, limit: int, offset: int, status: str | None) -> Sequence[Row]:
        payer = await self.find_payer(caller)

        async def work(connection: Connection) -> Sequence[Row]:
            return await list_payments(connection, payer, limit, offset, status=status)

        return await self.database.run(work)

    async def list_all(self, limit: int, offset: int, **filters: Any) -> Sequence[Row]:
        payer = filters.pop("payer", None)

        async def work(connection: Connection) -> Sequence[Row]:
            return await list_payments(connection, payer, limit, offset, **filters)

        return await self.database.run(work)

    def choose_urls(self, success_url: str, cancel_url: str) -> dict[str, str]:
        """Where Stripe's page sends people; each must be among those that are declared."""
        chosen = {
            "success_url": success_url or self.entry.success_url,
            "cancel_url": cancel_url or self.entry.cancel_url,
        }
        return {name: check_return_url(self.entry.return_urls, url, name) for name, url in chosen.items()}

    async def _write_wish(self, caller: Caller, wish: Wish, kind: str) -> tuple[Row, str]:
        payer = await self.find_payer(caller)
        customer_id = await self.get_customer(payer, caller.user_id, wish.customer_email)
        offer = wish.offer
        new = NewPayment(
            payer, caller.user_id, kind, offer.currency, offer.amount_cents, offer.credit_usd,
            offer.package, wish.description, wish.metadata,
        )  # fmt: skip
        return await self.write_payment(new), customer_id

    async def write_payment(self, new: NewPayment) -> Row:
        payment_id = make_payment_id()

        async def work(connection: Connection) -> Row:
            return await add_payment(connection, payment_id, new)

        return await self.database.run(work)

    async def ask_stripe(self, row: Row, what: str, params: Mapping[str, Any]) -> Object:
        """Raises what Stripe says; a refusal ends the payment, a cut line leaves it open: Stripe may have begun."""
        try:
            return await self.stripe.create(what, params, row["id"])
        except DependencyAway:
            raise
        except GatewayError as refusal:
            await self.note_refusal(row["id"], refusal.code or "refused")
            raise

    async def note_refusal(self, payment_id: str, reason: str) -> None:
        async def work(connection: Connection) -> None:
            async with connection.transaction():
                await crediting.note_not_paid(connection, payment_id, "failed", reason, 0)

        await self.database.run(work)

    async def _note(self, payment_id: str, **names: str) -> None:
        async def work(connection: Connection) -> None:
            await note_names(connection, payment_id, **names)

        await self.database.run(work)

    # --- giving back

    async def refund(
        self, name: str, amount_cents: int | None, reason: str, metadata: Mapping[str, str], by: Actor
    ) -> Object:
        """Give a payment back, or a part of it, and take back what it brought."""
        row = await self._find_paid(name)

        async def write(connection: Connection) -> Row:
            async with connection.transaction():
                return await add_refund(connection, row["id"], amount_cents, reason, by.user_id)

        asked = await self.database.run(write)
        params: dict[str, Any] = {
            "payment_intent": row["intent_id"],
            "metadata": {**metadata, "payment_id": row["id"], "refund_id": asked["id"]},
            "expand": ["charge"],
        }
        if amount_cents is not None:
            params["amount"] = amount_cents
        if reason in ("duplicate", "fraudulent", "requested_by_customer"):
            params["reason"] = reason
        refund = await self._ask_refund(asked["id"], params)
        await self._book_refund(row, asked["id"], refund, by)
        return {
            "refund_id": read_id(refund),
            "payment_intent_id": row["intent_id"],
            "payment_id": row["id"],
            "amount": refund["amount"],
            "currency": refund["currency"],
            "status": refund["status"],
            "reason": reason,
            "created_at": refund["created"],
        }

    async def _find_paid(self, name: str) -> Row:
        async def work(connection: Connection) -> Row | None:
            return await find_payment(connection, name)

        row = await self.database.run(work)
        if row is None:
            raise _say_unknown()
        if row["paid_cents"] is None or not row["intent_id"]:
            raise InvalidRequest("this payment was not paid", code="payment_not_paid")
        return row

    async def _ask_refund(self, name: str, params: Mapping[str, Any]) -> Object:
        try:
            return await self.stripe.create("refunds", params, name)
        except DependencyAway:
            raise
        except GatewayError:

            async def close(connection: Connection) -> None:
                await finish_refund(connection, name, None, "refused")

            await self.database.run(close)
            raise

    async def _book_refund(self, row: Row, name: str, refund: Object, by: Actor) -> None:
        books = self.read_books()
        told = {"payment": row["id"], "refund": read_id(refund), "amount_cents": refund["amount"]}
        event = Event("payment.refund", row["id"], row["user_id"], after=told)

        async def work(connection: Connection) -> None:
            async with connection.transaction():
                await write_event(connection, self.ring, by, event)
                await finish_refund(connection, name, read_id(refund), str(refund["status"]))
                if isinstance(refund.get("charge"), Mapping):
                    await self._handler.note_charge(
                        connection, refund["charge"], int(refund["created"]), books
                    )

        await self.database.run(work)


def _mark(wish: Wish, row: Row) -> dict[str, str]:
    """What Stripe carries for us; our own words go over those of the caller."""
    return {**wish.metadata, "payment_id": row["id"], "payer": row["payer"]}


def _show_intent(intent: Object, row: Row) -> Object:
    return {
        "payment_intent_id": read_id(intent),
        "client_secret": intent.get("client_secret"),
        "payment_id": row["id"],
        "status": intent.get("status"),
        "amount": intent.get("amount"),
        "currency": intent.get("currency"),
        "credits": str(row["credit_usd"].normalize() if isinstance(row["credit_usd"], Decimal) else ""),
        "next_action": intent.get("next_action"),
    }


def _say_unknown() -> NotFound:
    return NotFound("there is no such payment", code="payment_not_found")
