"""What a payment's facts come to: credit for what was paid, taken back for what was refunded or disputed.

Facts arrive in any order and any number of times. Each is kept in its newest version, and then the payment is settled:
what all facts together ask for is compared with what was booked, and the difference is booked. So the end is the same
for every order, and a payment is credited once, by whichever event it was told. Everything happens in the caller's
transaction, which holds the change counter's row: payments are settled one after the other.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import LiteralString, Protocol

from engine.config.schema_payments import PaymentsFile
from engine.payments.objects import Dispute
from engine.payments.offers import check_amount, share_of
from engine.storage.ledger import Balance, grant, take_back
from engine.storage.outbox import queue_mail
from engine.storage.payment_rows import Row, fetch_row, list_people, lock_payment
from engine.storage.postgres import Connection

PURCHASES, REFUNDS, SPENT = "house:purchases", "house:refunds", "house:spent_before_refund"
NOTHING = Decimal(0)
_BACK: LiteralString = (
    "SELECT coalesce((SELECT sum(refunded_cents) FROM stripe_charges WHERE intent_id = %(intent)s), 0) AS refunded,"
    " coalesce((SELECT sum(amount_cents) FROM stripe_disputes WHERE intent_id = %(intent)s"
    " AND (stage = 1 OR status = 'lost')), 0) AS disputed"
)


class PurchaseMade(Protocol):
    """Told of each purchase in its transaction: bonuses for whoever brought the buyer, the end of a trial."""

    def __call__(
        self, connection: Connection, payer: str, amount_usd: Decimal, ref: str
    ) -> Awaitable[object]: ...


CountFlag = Callable[[str], None]
TopUpBooked = Callable[[Connection, str], Awaitable[object]]
"""Told in the transaction that books an automatic top-up, by the reference it was charged under."""


@dataclass(frozen=True, slots=True)
class Paid:
    """What Stripe says of money that arrived."""

    intent_id: str
    paid_cents: int
    currency: str
    session_id: str = ""
    customer_id: str = ""


async def note_paid(connection: Connection, payment_id: str, paid: Paid) -> str:
    """Keep that it was paid; a word when it cannot be true of this payment."""
    row = await lock_payment(connection, payment_id)
    if row is None:
        return "no_such_payment"
    if row["intent_id"] not in (None, "", paid.intent_id) and paid.intent_id:
        await _flag(connection, payment_id, "other_intent")
        return "other_intent"
    await connection.execute(
        "UPDATE payments SET intent_id = coalesce(intent_id, nullif(%s, '')),"
        " session_id = coalesce(session_id, nullif(%s, '')), paid_cents = least(coalesce(paid_cents, %s), %s),"
        " paid_currency = CASE WHEN paid_currency IN ('', currency) THEN %s ELSE paid_currency END,"
        " customer_id = CASE WHEN customer_id = '' THEN %s ELSE customer_id END,"
        " paid_at = coalesce(paid_at, now()), updated_at = now() WHERE id = %s",
        (
            paid.intent_id,
            paid.session_id,
            paid.paid_cents,
            paid.paid_cents,
            paid.currency,
            paid.customer_id,
            payment_id,
        ),
    )
    return ""


_ENDS = {"failed": 1, "expired": 2, "canceled": 3}


async def note_not_paid(
    connection: Connection, payment_id: str, status: str, reason: str, told_at: int
) -> Row | None:
    """Keep how an attempt ended: the later word goes over the earlier, and being paid over both."""
    row = await lock_payment(connection, payment_id)
    if row is None:
        return None
    if _ENDS[status] > _ENDS.get(row["status"], 0) and row["paid_cents"] is None:
        await connection.execute(
            "UPDATE payments SET status = %s, updated_at = now() WHERE id = %s", (status, payment_id)
        )
    if reason and (told_at, reason) > (row["failure_told_at"], row["failure"]):
        await connection.execute(
            "UPDATE payments SET failure = %s, failure_told_at = %s WHERE id = %s",
            (reason, told_at, payment_id),
        )
    return row


async def note_charge(
    connection: Connection, charge_id: str, intent_id: str, refunded_cents: int, told_at: int
) -> None:
    """How much of a charge was given back by now; what was told later goes over what was told earlier."""
    await connection.execute(
        "INSERT INTO stripe_charges AS c (charge_id, intent_id, refunded_cents, told_at) VALUES (%s, %s, %s, %s)"
        " ON CONFLICT (charge_id) DO UPDATE SET refunded_cents = CASE WHEN c.told_at = excluded.told_at"
        " THEN greatest(c.refunded_cents, excluded.refunded_cents) ELSE excluded.refunded_cents END,"
        " told_at = excluded.told_at WHERE excluded.told_at >= c.told_at",
        (charge_id, intent_id, refunded_cents, told_at),
    )


async def note_dispute(connection: Connection, dispute: Dispute) -> None:
    """What was won or lost stays so, whatever is told after it."""
    await connection.execute(
        "INSERT INTO stripe_disputes AS d (dispute_id, intent_id, amount_cents, stage, status)"
        " VALUES (%s, %s, %s, %s, %s) ON CONFLICT (dispute_id) DO UPDATE SET amount_cents = excluded.amount_cents,"
        " stage = excluded.stage, status = excluded.status"
        " WHERE excluded.stage > d.stage OR (excluded.stage = d.stage AND excluded.status > d.status)",
        (dispute.dispute_id, dispute.intent_id, dispute.amount_cents, dispute.stage, dispute.status),
    )


async def find_payment_of_intent(connection: Connection, intent_id: str) -> str:
    row = await fetch_row(connection, "SELECT id FROM payments WHERE intent_id = %s", (intent_id,))
    return "" if row is None else str(row["id"])


class Settler:
    """Books what the facts of a payment ask for and has not been booked."""

    def __init__(
        self,
        purchase_made: PurchaseMade | None = None,
        count_flag: CountFlag = lambda flag: None,
        top_up_booked: TopUpBooked | None = None,
    ) -> None:
        self._purchase_made, self._top_up_booked = purchase_made, top_up_booked
        self._count_flag = count_flag

    async def settle(self, connection: Connection, payment_id: str, terms: PaymentsFile) -> None:
        row = await lock_payment(connection, payment_id)
        if row is None or row["paid_cents"] is None:
            return
        if row["kind"] == "subscription":  # what it brings is told by its invoices
            await connection.execute("UPDATE payments SET status = 'completed' WHERE id = %s", (payment_id,))
            return
        if row["granted_usd"] is None:
            row = await self._grant(connection, row, terms)
        await self._take(connection, row)

    async def _grant(self, connection: Connection, row: Row, terms: PaymentsFile) -> Row:
        same = row["paid_currency"] == row["currency"]
        earned = check_amount(terms, row["amount_cents"], row["paid_cents"], row["credit_usd"], same)
        if earned.flag:
            self._count_flag(earned.flag)
            await _flag(connection, row["id"], earned.flag)
        ref = f"stripe:paid:{row['intent_id'] or row['session_id']}"
        if earned.credit_usd:
            balance = await grant(
                connection,
                row["payer"],
                earned.credit_usd,
                ref=ref,
                kind="purchase",
                source=PURCHASES,
                description=row["description"] or "credit bought",
                metadata={"payment_id": row["id"], "currency": row["currency"], "cents": row["paid_cents"]},
            )
            await self._tell(connection, row, earned.credit_usd, ref, balance)
        if row["kind"] == "top_up" and self._top_up_booked is not None:
            await self._top_up_booked(connection, row["ref"])
        await connection.execute(
            "UPDATE payments SET granted_usd = %s, status = 'completed', updated_at = now() WHERE id = %s",
            (earned.credit_usd, row["id"]),
        )
        return {**row, "granted_usd": earned.credit_usd, "status": "completed"}

    async def _tell(
        self, connection: Connection, row: Row, credit_usd: Decimal, ref: str, balance: Balance | None
    ) -> None:
        if self._purchase_made is not None:
            await self._purchase_made(connection, row["payer"], credit_usd, ref)
        total = balance.total_usd if balance is not None else credit_usd
        data = {
            "amount_usd": str(credit_usd),
            "balance_usd": str(total),
            "reason": row["description"] or "a purchase",
        }
        for user_id, address in await list_people(connection, row["payer"]):
            await queue_mail(
                connection, "credits_added", address, data, ref=f"{ref}:{user_id}", user_id=user_id
            )

    async def _take(self, connection: Connection, row: Row) -> None:
        back = await fetch_row(connection, _BACK, {"intent": row["intent_id"]})
        assert back is not None, "sums are always there"
        paid, granted = row["paid_cents"], row["granted_usd"]
        whole = int(back["refunded"] + back["disputed"])
        wanted = share_of(granted, whole, paid) if whole else NOTHING
        if wanted != row["taken_usd"]:
            await _move(connection, row, wanted)
        status = _name_status(paid, int(back["refunded"]), int(back["disputed"]))
        await connection.execute(
            "UPDATE payments SET status = %s, updated_at = now() WHERE id = %s AND status <> %s",
            (status, row["id"], status),
        )


def _name_status(paid: int, refunded: int, disputed: int) -> str:
    if disputed:
        return "disputed"
    if not refunded:
        return "completed"
    return "refunded" if refunded >= paid else "partially_refunded"


async def _move(connection: Connection, row: Row, wanted: Decimal) -> None:
    """Take the difference, or give it back: of what is given back the payer gets what had really been taken."""
    payer, step, really = row["payer"], row["steps"] + 1, row["really_taken_usd"]
    ref = f"stripe:back:{row['intent_id'] or row['session_id']}:{step}"
    facts = {"payment_id": row["id"]}
    if wanted > row["taken_usd"]:
        taken = await take_back(
            connection, payer, wanted - row["taken_usd"], ref=ref, kind="refund", target=REFUNDS,
            description="a payment was given back", metadata=facts,
        )  # fmt: skip
        really += taken[1] if taken is not None else NOTHING
    else:
        returned = row["taken_usd"] - wanted
        spent = returned - max(really - wanted, NOTHING)
        await grant(
            connection, payer, returned, ref=ref, kind="refund", source=REFUNDS,
            description="a payment stays after all", metadata=facts,
        )  # fmt: skip
        if spent:
            await take_back(
                connection, payer, spent, ref=f"{ref}:spent", kind="refund", target=SPENT,
                description="what of it had been spent before", metadata=facts,
            )  # fmt: skip
        really = min(really, wanted)
    await connection.execute(
        "UPDATE payments SET taken_usd = %s, really_taken_usd = %s, steps = %s WHERE id = %s",
        (wanted, really, step, row["id"]),
    )


async def _flag(connection: Connection, payment_id: str, flag: str) -> None:
    await connection.execute(
        "UPDATE payments SET flag = %s, updated_at = now() WHERE id = %s", (flag, payment_id)
    )
