"""Charging a payer who is not there: the saved card, once for each reference, booked at once or when Stripe tells."""

from collections.abc import Callable
from decimal import Decimal
from typing import Any

from engine.errors import DependencyAway, InvalidRequest
from engine.payments import crediting
from engine.payments.handling import EventHandler, tell_failure
from engine.payments.interfaces import Object, PaymentRefused, Stripe
from engine.payments.objects import read_id
from engine.payments.offers import CENT, Books
from engine.storage.payment_rows import (
    NewPayment,
    Row,
    add_payment,
    find_customer,
    list_people,
    make_payment_id,
    note_names,
)
from engine.storage.postgres import Connection, Database
from engine.storage.top_up_charging import Charged

NEEDS_ITS_OWNER = frozenset(
    {"authentication_required", "expired_card", "lost_card", "stolen_card", "pickup_card", "incorrect_number"}
)
"""Refusals that no later try can change."""


class OffSessionCharges:
    """The `OffSessionCharger` of automatic top-ups."""

    def __init__(
        self, database: Database, stripe: Stripe, handler: EventHandler, read_books: Callable[[], Books]
    ) -> None:
        self._database, self._stripe = database, stripe
        self._handler, self._read_books = handler, read_books

    async def charge_off_session(self, payer: str, amount_usd: Decimal, ref: str) -> Charged:
        if amount_usd <= 0 or amount_usd % CENT:
            raise ValueError("a charge is a positive number of whole cents")
        row = await self._find_or_write(payer, amount_usd, ref)
        if isinstance(row, Charged):
            return row
        if row["paid_cents"] is not None:
            return Charged("charged")
        if row["status"] != "pending":
            return _say_failed(row["failure"] or row["status"])
        try:
            intent = await self._stripe.create("payment intents", _write_params(row), row["id"])
        except PaymentRefused as refusal:
            return await self._fail(row, refusal.code or "declined")
        except InvalidRequest as refusal:
            return await self._fail(row, refusal.code or "refused")
        return await self._read_answer(row, intent)

    async def _find_or_write(self, payer: str, amount_usd: Decimal, ref: str) -> Row | Charged:
        """The row of this reference, with the card that it was first tried with: a repeat asks for the same."""

        async def read(connection: Connection) -> tuple[str, list[tuple[str, str]]]:
            return await find_customer(connection, payer), list(await list_people(connection, payer))

        customer_id, people = await self._database.run(read)
        if not customer_id:
            return Charged("failed", "no_customer", is_final=True)
        card = await self._find_card(customer_id)
        if not card:
            return Charged("failed", "no_payment_method", is_final=True)
        user_id = people[0][0] if people else payer.partition(":")[2]
        new = NewPayment(
            payer, user_id, "top_up", "usd", int(amount_usd / CENT), amount_usd,
            description="automatic top-up", metadata={"payment_method": card}, ref=ref,
        )  # fmt: skip
        payment_id = make_payment_id()

        async def write(connection: Connection) -> Row:
            async with connection.transaction():
                row = await add_payment(connection, payment_id, new)
                await note_names(connection, row["id"], customer_id=customer_id)
                return {**row, "customer_id": row["customer_id"] or customer_id}

        return await self._database.run(write)

    async def _find_card(self, customer_id: str) -> str:
        customer = await self._stripe.fetch("customers", customer_id)
        chosen = read_id((customer.get("invoice_settings") or {}).get("default_payment_method"))
        if chosen:
            return chosen
        async for method in self._stripe.walk("payment methods", {"customer": customer_id, "type": "card"}):
            return read_id(method)
        return ""

    async def _read_answer(self, row: Row, intent: Object) -> Charged:
        status = intent.get("status")
        if status == "succeeded":
            await self._book(intent)
            return Charged("charged")
        if status == "processing":
            await self._note_intent(row, intent)
            return Charged("charged")
        if status in ("requires_action", "requires_payment_method", "canceled"):
            return await self._fail(
                row, "authentication_required" if status == "requires_action" else "declined"
            )
        raise DependencyAway("Stripe did not say how it ended", code="payments_unavailable")

    async def _book(self, intent: Object) -> None:
        books = self._read_books()

        async def work(connection: Connection) -> None:
            async with connection.transaction():
                await connection.execute("SELECT n FROM change_counter FOR UPDATE")
                await self._handler.note_intent(connection, intent, books)

        await self._database.run(work)

    async def _note_intent(self, row: Row, intent: Object) -> None:
        async def work(connection: Connection) -> None:
            await note_names(connection, row["id"], intent_id=read_id(intent))

        await self._database.run(work)

    async def _fail(self, row: Row, reason: str) -> Charged:
        async def work(connection: Connection) -> None:
            async with connection.transaction():
                await crediting.note_not_paid(connection, row["id"], "failed", reason, 0)
                await tell_failure(connection, row, reason)

        await self._database.run(work)
        return _say_failed(reason)


def _write_params(row: Row) -> dict[str, Any]:
    return {
        "amount": row["amount_cents"],
        "currency": row["currency"],
        "customer": row["customer_id"],
        "payment_method": row["metadata"]["payment_method"],
        "off_session": True,
        "confirm": True,
        "description": row["description"],
        "metadata": {"payment_id": row["id"], "payer": row["payer"]},
    }


def _say_failed(reason: str) -> Charged:
    return Charged("failed", reason, is_final=reason in NEEDS_ITS_OWNER)
