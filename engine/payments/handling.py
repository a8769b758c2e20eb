"""Which event tells what. One row for each type: the facts it brings are kept, then what they belong to is settled.

What an event does not say itself is fetched from Stripe before the transaction begins, so that nothing waits for a
network while rows are locked.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from engine.payments import crediting
from engine.payments.crediting import Paid, Settler
from engine.payments.interfaces import Object, Stripe
from engine.payments.objects import Told, read_dispute, read_id, read_mark
from engine.payments.offers import Books
from engine.storage.outbox import queue_mail
from engine.storage.payment_rows import Row, fetch_row, list_people
from engine.storage.postgres import Connection

DONE, IGNORED, STORED = "done", "ignored", "stored"
"""What became of an event: it had its effect; it is not of this gateway; nobody here knows its type."""
Fetched = dict[str, Object]


class FetchFirst(Exception):
    """The event cannot be put in order by what it says: what `what` is now has to be asked for."""

    def __init__(self, what: str, name: str) -> None:
        super().__init__(f"{what} {name}")
        self.what, self.name = what, name


@dataclass(frozen=True, slots=True)
class Telling:
    """One event being done: in this transaction, by these files, with what was fetched for it."""

    connection: Connection
    told: Told
    books: Books
    fetched: Fetched = field(default_factory=dict)


Handle = Callable[[Telling], Awaitable[str]]
SettleIntent = Callable[[Telling, str], Awaitable[None]]
"""Told of facts of an intent that paid for none of our payments."""


class EventHandler:
    def __init__(self, stripe: Stripe, settler: Settler) -> None:
        self._stripe, self._settler = stripe, settler
        self._settle_other: SettleIntent | None = None
        self._handles: dict[str, Handle] = {
            "checkout.session.completed": self._note_session,
            "checkout.session.async_payment_succeeded": self._note_session,
            "checkout.session.async_payment_failed": self._note_session,
            "checkout.session.expired": self._note_session,
            "payment_intent.succeeded": self._note_intent,
            "payment_intent.payment_failed": self._note_failed_intent,
            "payment_intent.canceled": self._note_canceled_intent,
            "charge.refunded": self._note_charge,
            "refund.failed": self._note_failed_refund,
            "charge.dispute.created": self._note_dispute,
            "charge.dispute.updated": self._note_dispute,
            "charge.dispute.closed": self._note_dispute,
            "charge.dispute.funds_withdrawn": self._note_dispute,
            "charge.dispute.funds_reinstated": self._note_dispute,
        }

    def add(self, handles: Mapping[str, Handle], settle_other: SettleIntent | None = None) -> None:
        self._handles.update(handles)
        self._settle_other = settle_other

    @property
    def types(self) -> list[str]:
        return sorted(self._handles)

    async def fetch_before(self, told: Told) -> Fetched:
        """What has to be asked for in any case. Raises DependencyAway."""
        if told.type != "refund.failed":
            return {}
        charge_id = read_id(told.object.get("charge"))
        return {charge_id: await self._stripe.fetch("charges", charge_id)} if charge_id else {}

    async def fetch(self, missing: FetchFirst) -> Object:
        """Raises DependencyAway."""
        if missing.what != "invoice payments":
            return await self._stripe.fetch(missing.what, missing.name)
        asked = {"payment": {"type": "payment_intent", "payment_intent": missing.name}}
        return {"data": [each async for each in self._stripe.walk(missing.what, asked)]}

    async def handle(self, telling: Telling) -> str:
        """Raises FetchFirst, or whatever stands in the way: then nothing of it stays."""
        handle = self._handles.get(telling.told.type)
        return STORED if handle is None else await handle(telling)

    # --- what is paid

    async def _note_session(self, telling: Telling) -> str:
        told, session = telling.told, telling.told.object
        payment_id = read_mark(session, "payment_id")
        row = await _find_own(telling.connection, payment_id)
        if row is None:
            return IGNORED
        if told.type.endswith(("expired", "async_payment_failed")):
            status = "expired" if told.type.endswith("expired") else "failed"
            reason = "" if status == "expired" else "the payment failed"
            return await self._note_end(telling, payment_id, status, reason)
        if session.get("payment_status") == "unpaid":
            return DONE  # paid later, and told then
        paid = Paid(
            read_id(session.get("payment_intent")),
            int(session["amount_total"]) if session.get("mode") == "payment" else 0,
            str(session["currency"] if session.get("mode") == "payment" else row["currency"]),
            read_id(session),
            read_id(session.get("customer")),
        )
        return await self._note_paid(telling, payment_id, paid)

    async def _note_intent(self, telling: Telling) -> str:
        intent = telling.told.object
        payment_id = read_mark(intent, "payment_id")
        if await _find_own(telling.connection, payment_id) is None:
            return IGNORED
        paid = Paid(
            read_id(intent),
            int(intent["amount_received"]),
            str(intent["currency"]),
            customer_id=read_id(intent.get("customer")),
        )
        return await self._note_paid(telling, payment_id, paid)

    async def _note_paid(self, telling: Telling, payment_id: str, paid: Paid) -> str:
        odd = await crediting.note_paid(telling.connection, payment_id, paid)
        if odd:
            return f"odd: {odd}"
        await self._settler.settle(telling.connection, payment_id, telling.books.terms)
        return DONE

    async def note_intent(self, connection: Connection, intent: Object, books: Books) -> str:
        """An intent that Stripe just answered with, as if its event had come."""
        told = Told("", "payment_intent.succeeded", int(intent["created"]), intent)
        return await self._note_intent(Telling(connection, told, books))

    async def _note_failed_intent(self, telling: Telling) -> str:
        intent = telling.told.object
        error = intent.get("last_payment_error") or {}
        reason = str(error.get("decline_code") or error.get("code") or error.get("message") or "declined")[
            :300
        ]
        return await self._note_end(telling, read_mark(intent, "payment_id"), "failed", reason)

    async def _note_canceled_intent(self, telling: Telling) -> str:
        intent = telling.told.object
        reason = str(intent.get("cancellation_reason") or "")[:300]
        return await self._note_end(telling, read_mark(intent, "payment_id"), "canceled", reason)

    async def _note_end(self, telling: Telling, payment_id: str, status: str, reason: str) -> str:
        connection, told = telling.connection, telling.told
        row = await crediting.note_not_paid(connection, payment_id, status, reason, told.created)
        if row is None:
            return IGNORED
        if status == "failed" and row["paid_cents"] is None and row["kind"] == "top_up":
            await tell_failure(connection, row, reason)
        return DONE

    # --- what is given back

    async def _note_charge(self, telling: Telling) -> str:
        return await self._keep_charge(telling, telling.told.object)

    async def _note_failed_refund(self, telling: Telling) -> str:
        charge = telling.fetched.get(read_id(telling.told.object.get("charge")))
        return IGNORED if charge is None else await self._keep_charge(telling, charge)

    async def _keep_charge(self, telling: Telling, charge: Mapping[str, object]) -> str:
        intent_id = read_id(charge.get("payment_intent"))
        if not intent_id:
            return IGNORED
        refunded = int(str(charge["amount_refunded"]))
        await crediting.note_charge(
            telling.connection, read_id(charge), intent_id, refunded, telling.told.created
        )
        return await self._settle_intent(telling, intent_id)

    async def note_charge(self, connection: Connection, charge: Object, told_at: int, books: Books) -> str:
        """A charge that Stripe just answered with, as if its event had come."""
        told = Told("", "charge.refunded", told_at, charge)
        return await self._note_charge(Telling(connection, told, books))

    async def _note_dispute(self, telling: Telling) -> str:
        dispute = read_dispute(telling.told)
        if not dispute.intent_id:
            return IGNORED
        await crediting.note_dispute(telling.connection, dispute)
        return await self._settle_intent(telling, dispute.intent_id)

    async def _settle_intent(self, telling: Telling, intent_id: str) -> str:
        """Facts of an intent that nobody has told us of yet wait for it."""
        payment_id = await crediting.find_payment_of_intent(telling.connection, intent_id)
        if payment_id:
            await self._settler.settle(telling.connection, payment_id, telling.books.terms)
        elif self._settle_other is not None:
            await self._settle_other(telling, intent_id)
        return DONE


async def _find_own(connection: Connection, payment_id: str) -> Row | None:
    if not payment_id:
        return None
    return await fetch_row(connection, "SELECT * FROM payments WHERE id = %s", (payment_id,))


async def tell_failure(connection: Connection, row: Row, reason: str) -> None:
    """Once for each payment, whoever learned of it first."""
    data = {"amount_usd": str(row["credit_usd"]), "reason": reason}
    for user_id, address in await list_people(connection, row["payer"]):
        await queue_mail(
            connection,
            "payment_failed",
            address,
            data,
            ref=f"stripe:failed:{row['id']}:{user_id}",
            user_id=user_id,
        )
