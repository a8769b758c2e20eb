"""What is told of subscriptions and their invoices, kept as facts in their newest version, in whatever order it comes.

What the facts come to is settled in the same transaction: the standing of the payer (standings.py).
"""

from collections.abc import Mapping
from decimal import Decimal
from typing import LiteralString

from engine.payments.allowances import read_what_it_brings
from engine.payments.handling import DONE, IGNORED, FetchFirst, Handle, Telling
from engine.payments.invoice_refunds import (
    is_invoice_payment,
    list_payers_of,
    note_invoice_payments,
    note_paid_by,
)
from engine.payments.objects import Invoice, Subscription, read_id, read_invoice, read_subscription
from engine.payments.standings import OVER, settle_standing, write_people
from engine.storage.payment_rows import Row, fetch_row, find_payer
from engine.storage.postgres import Connection

DELETED, CHANGED, MADE = 2, 1, 0
_STAGES = {"draft": 0, "open": 1, "uncollectible": 2, "void": 2, "paid": 3}
_KEEP: LiteralString = (
    "INSERT INTO stripe_subscriptions (subscription_id, payer, customer_id, status, product_id, price_id, item_id,"
    " period_start, period_end, cancel_at_period_end, canceled_at, schedule_id, started_at, told_at, told_rank,"
    " told_by) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"
    " ON CONFLICT (subscription_id) DO UPDATE SET status = excluded.status, product_id = excluded.product_id,"
    " price_id = excluded.price_id, item_id = excluded.item_id, period_start = excluded.period_start,"
    " period_end = excluded.period_end, cancel_at_period_end = excluded.cancel_at_period_end,"
    " canceled_at = excluded.canceled_at, schedule_id = excluded.schedule_id, told_at = excluded.told_at,"
    " told_rank = excluded.told_rank, told_by = excluded.told_by, updated_at = now()"
)
_KEEP_INVOICE: LiteralString = (
    "INSERT INTO stripe_invoices AS i (invoice_id, subscription_id, payer, stage, status, plan, allowance_usd,"
    " period_end, period_start, paid_cents, currency, made_at)"
    " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"
    " ON CONFLICT (invoice_id) DO UPDATE SET stage = excluded.stage, status = excluded.status, plan = excluded.plan,"
    " allowance_usd = excluded.allowance_usd, period_end = excluded.period_end,"
    " period_start = excluded.period_start, paid_cents = excluded.paid_cents"
    " WHERE excluded.stage > i.stage"
)


class Subscriber:
    @property
    def handles(self) -> Mapping[str, Handle]:
        told = ("created", "updated", "deleted", "paused", "resumed", "pending_update_applied",
                "pending_update_expired", "trial_will_end")  # fmt: skip
        billed = ("created", "finalized", "finalization_failed", "paid", "payment_action_required",
                  "payment_failed", "payment_succeeded", "updated", "voided", "marked_uncollectible")  # fmt: skip
        return {
            **{f"customer.subscription.{word}": self._note_subscription for word in told},
            **{f"invoice.{word}": self._note_invoice for word in billed},
            "invoice_payment.paid": self._note_invoice_payment,
        }

    async def settle_intent(self, telling: Telling, intent_id: str) -> None:
        """Facts of an intent that paid for none of our payments: an invoice's, or one that nobody has told of yet."""
        connection = telling.connection
        if not any(plan.stripe.is_sold for plan in telling.books.plans.values()):
            return  # so there are no invoices, and a key that may not read any is enough
        if not await is_invoice_payment(connection, intent_id):
            found = telling.fetched.get(intent_id)
            if found is None:
                raise FetchFirst("invoice payments", intent_id)
            await note_invoice_payments(connection, found["data"])
        for payer in await list_payers_of(connection, intent_id):
            await settle_standing(connection, payer, telling.books.plans)

    async def _note_invoice_payment(self, telling: Telling) -> str:
        found = telling.told.object
        await note_invoice_payments(telling.connection, [found])
        intent_id = read_id((found.get("payment") or {}).get("payment_intent"))
        for payer in await list_payers_of(telling.connection, intent_id):
            await settle_standing(telling.connection, payer, telling.books.plans)
        return DONE

    async def _note_subscription(self, telling: Telling) -> str:
        told, connection = telling.told, telling.connection
        fetched = telling.fetched.get(told.object_id)
        found = read_subscription(fetched or told.object)
        payer = await find_payer(connection, found.customer_id)
        if not payer:
            return IGNORED
        rank = _rank(told.type, found)
        kept = await fetch_row(
            connection,
            "SELECT * FROM stripe_subscriptions WHERE subscription_id = %s FOR UPDATE",
            (found.subscription_id,),
        )
        if kept is not None and fetched is None:
            if _is_older(kept, told.created, rank):
                return DONE
            if (told.created, rank) == (kept["told_at"], kept["told_rank"]) and rank == CHANGED:
                raise FetchFirst("subscriptions", found.subscription_id)
        await _keep(connection, payer, found, (told.created, rank, told.event_id))
        await settle_standing(connection, payer, telling.books.plans)
        return DONE

    async def _note_invoice(self, telling: Telling) -> str:
        connection, plans = telling.connection, telling.books.plans
        invoice = read_invoice(telling.told.object)
        payer = await find_payer(connection, invoice.customer_id)
        if not payer or not invoice.subscription_id:
            return IGNORED
        brings = read_what_it_brings(invoice, plans)
        stage = _STAGES.get(invoice.status, 0)
        await connection.execute(
            _KEEP_INVOICE,
            (
                invoice.invoice_id,
                invoice.subscription_id,
                payer,
                stage,
                invoice.status,
                brings.plan,
                brings.allowance_usd,
                brings.period_end,
                brings.period_start,
                invoice.paid_cents,
                invoice.currency,
                invoice.made_at,
            ),
        )
        if invoice.intent_id:
            await note_paid_by(connection, invoice.invoice_id, invoice.intent_id)
        if telling.told.type == "invoice.payment_failed":
            await _tell_failed(connection, payer, invoice, telling.told.object.get("amount_due"))
        if stage == _STAGES["paid"]:
            await settle_standing(connection, payer, plans)
        return DONE


def _rank(kind: str, found: Subscription) -> int:
    if kind.endswith("deleted") or found.status in OVER:
        return DELETED
    return MADE if kind.endswith("created") else CHANGED


def _is_older(kept: Row, created: int, rank: int) -> bool:
    """Nothing comes after an end; otherwise time decides, and within a second what an event is."""
    if (rank == DELETED) != (kept["told_rank"] == DELETED):
        return bool(kept["told_rank"] == DELETED)
    return (created, rank) < (kept["told_at"], kept["told_rank"])


async def _keep(
    connection: Connection, payer: str, found: Subscription, version: tuple[int, int, str]
) -> None:
    await connection.execute(
        _KEEP,
        (
            found.subscription_id,
            payer,
            found.customer_id,
            found.status,
            found.product_id,
            found.price_id,
            found.item_id,
            found.period_start,
            found.period_end,
            found.cancel_at_period_end,
            found.canceled_at,
            found.schedule_id,
            found.started_at,
            *version,
        ),
    )


async def _tell_failed(connection: Connection, payer: str, invoice: Invoice, due: object) -> None:
    paid = await fetch_row(
        connection,
        "SELECT 1 AS paid FROM stripe_invoices WHERE invoice_id = %s AND stage = 3",
        (invoice.invoice_id,),
    )
    if paid is None:
        data = {"amount_usd": str(Decimal(str(due or 0)).scaleb(-2)), "reason": "the subscription's invoice"}
        await write_people(connection, payer, "payment_failed", data, f"stripe:failed:{invoice.invoice_id}")
