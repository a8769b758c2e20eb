"""An invoice of a subscription is given back or disputed: its unused allowance goes, at most what is left.

An allowance that is taken expires before its day and no more: so it is the same whether the refund or the next period
is told first. What had been used stays used, and a dispute that is won brings back what was really taken, while its
period lasts. The plan itself is ended by cancelling the subscription.
"""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, LiteralString

from engine.payments.objects import read_id
from engine.payments.offers import share_of
from engine.storage.ledger import EXPIRED, grant, read_balance, take_back
from engine.storage.payment_rows import Row, fetch_rows
from engine.storage.postgres import Connection

NOTHING = Decimal(0)
_RUNNING: LiteralString = (
    "SELECT i.*, coalesce((SELECT sum(c.refunded_cents) FROM stripe_charges c JOIN stripe_invoice_payments p"
    " USING (intent_id) WHERE p.invoice_id = i.invoice_id), 0) + coalesce((SELECT sum(d.amount_cents)"
    " FROM stripe_disputes d JOIN stripe_invoice_payments p USING (intent_id) WHERE p.invoice_id = i.invoice_id"
    " AND (d.stage = 1 OR d.status = 'lost')), 0) AS back_cents FROM stripe_invoices i"
    " WHERE i.payer = %(payer)s AND i.subscription_id = %(subscription_id)s AND i.period_end = %(period_end)s"
    " AND i.booked IN ('set', 'added') AND i.paid_cents > 0 ORDER BY i.invoice_id"
)
"""Invoices whose allowance is that of the period which runs."""


async def note_invoice_payments(connection: Connection, found: Sequence[Mapping[str, Any]]) -> None:
    """Which payment intents paid for an invoice; Stripe names them in objects of their own."""
    for each in found:
        payment = each.get("payment") or {}
        intent_id, invoice_id = read_id(payment.get("payment_intent")), read_id(each.get("invoice"))
        if intent_id and invoice_id:
            await note_paid_by(connection, invoice_id, intent_id)


async def note_paid_by(connection: Connection, invoice_id: str, intent_id: str) -> None:
    await connection.execute(
        "INSERT INTO stripe_invoice_payments (intent_id, invoice_id) VALUES (%s, %s) ON CONFLICT DO NOTHING",
        (intent_id, invoice_id),
    )


async def list_payers_of(connection: Connection, intent_id: str) -> Sequence[str]:
    """Whose invoices an intent paid for, among those that are known."""
    rows = await fetch_rows(
        connection,
        "SELECT DISTINCT i.payer FROM stripe_invoices i JOIN stripe_invoice_payments p USING (invoice_id)"
        " WHERE p.intent_id = %s ORDER BY i.payer",
        (intent_id,),
    )
    return [row["payer"] for row in rows]


async def is_invoice_payment(connection: Connection, intent_id: str) -> bool:
    rows = await fetch_rows(
        connection, "SELECT 1 AS known FROM stripe_invoice_payments WHERE intent_id = %s", (intent_id,)
    )
    return bool(rows)


async def settle_given_back(connection: Connection, standing: Row) -> None:
    """Take, or give again, what the running period's invoices come to; `standing` is told what the period has."""
    for invoice in await fetch_rows(connection, _RUNNING, standing):
        back = int(invoice["back_cents"])
        wanted = share_of(invoice["allowance_usd"], back, invoice["paid_cents"]) if back else NOTHING
        if wanted != invoice["taken_usd"]:
            standing["allowance_usd"] -= await _move(connection, invoice, wanted)


async def _move(connection: Connection, invoice: Row, wanted: Decimal) -> Decimal:
    """How much was taken now; below zero: given again."""
    step, really = invoice["steps"] + 1, invoice["really_taken_usd"]
    ref = f"stripe:invoice_back:{invoice['invoice_id']}:{step}"
    if wanted > invoice["taken_usd"]:
        moved = await _take(connection, invoice, wanted - invoice["taken_usd"], ref)
    else:
        moved = -max(really - wanted, NOTHING)
        await _give(connection, invoice, -moved, ref)
    await connection.execute(
        "UPDATE stripe_invoices SET taken_usd = %s, really_taken_usd = %s, steps = %s WHERE invoice_id = %s",
        (wanted, really + moved, step, invoice["invoice_id"]),
    )
    return moved


async def _take(connection: Connection, invoice: Row, amount: Decimal, ref: str) -> Decimal:
    left = (await read_balance(connection, invoice["payer"])).allowance_usd
    really = min(amount, max(left, NOTHING))
    if really:
        await take_back(
            connection, invoice["payer"], really, ref=ref, kind="refund", target=EXPIRED, pot="allowance",
            description="an invoice was given back", metadata={"invoice_id": invoice["invoice_id"]},
        )  # fmt: skip
    return really


async def _give(connection: Connection, invoice: Row, amount: Decimal, ref: str) -> None:
    if amount:
        await grant(
            connection, invoice["payer"], amount, ref=ref, kind="refund", source=EXPIRED, pot="allowance",
            description="an invoice stays paid after all", metadata={"invoice_id": invoice["invoice_id"]},
        )  # fmt: skip
