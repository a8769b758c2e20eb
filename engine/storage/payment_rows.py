"""Payments, customers and refunds as rows. A payment is written before Stripe is asked; its id is the key there."""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, LiteralString

from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from engine.storage.postgres import Connection

Row = dict[str, Any]
MOST_PER_PAGE = 100
_FIND: LiteralString = (
    "SELECT * FROM payments WHERE id = %(name)s OR intent_id = %(name)s OR session_id = %(name)s"
)
_LIST: LiteralString = (
    "SELECT * FROM payments WHERE (%(payer)s::text IS NULL OR payer = %(payer)s)"
    " AND (%(status)s::text IS NULL OR status = %(status)s) AND (NOT %(flagged)s OR flag <> '')"
    " ORDER BY created_at DESC, id DESC LIMIT %(limit)s OFFSET %(offset)s"
)


@dataclass(frozen=True, slots=True)
class NewPayment:
    payer: str
    user_id: str
    kind: str
    currency: str
    amount_cents: int
    credit_usd: Decimal
    package: str = ""
    description: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    ref: str | None = None


async def fetch_row(connection: Connection, statement: LiteralString, values: Any) -> Row | None:
    async with connection.cursor(row_factory=dict_row) as cursor:
        return await (await cursor.execute(statement, values)).fetchone()


async def fetch_rows(connection: Connection, statement: LiteralString, values: Any) -> Sequence[Row]:
    async with connection.cursor(row_factory=dict_row) as cursor:
        return await (await cursor.execute(statement, values)).fetchall()


def make_payment_id() -> str:
    return f"pay_{secrets.token_hex(12)}"


async def add_payment(connection: Connection, payment_id: str, new: NewPayment) -> Row:
    """The row; of a `ref` that is there already, that one."""
    await connection.execute(
        "INSERT INTO payments (id, payer, user_id, kind, ref, currency, amount_cents, credit_usd, package, description,"
        " metadata) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING",
        (
            payment_id,
            new.payer,
            new.user_id,
            new.kind,
            new.ref,
            new.currency,
            new.amount_cents,
            new.credit_usd,
            new.package,
            new.description,
            Jsonb(dict(new.metadata)),
        ),
    )
    row = await fetch_row(
        connection, "SELECT * FROM payments WHERE id = %s OR ref = %s", (payment_id, new.ref)
    )
    assert row is not None, "it was just written"
    return row


async def note_names(
    connection: Connection,
    payment_id: str,
    *,
    session_id: str = "",
    intent_id: str = "",
    customer_id: str = "",
) -> None:
    """What Stripe calls it. Names that are known already stay."""
    await connection.execute(
        "UPDATE payments SET session_id = coalesce(session_id, nullif(%s, '')),"
        " intent_id = coalesce(intent_id, nullif(%s, '')),"
        " customer_id = CASE WHEN customer_id = '' THEN %s ELSE customer_id END, updated_at = now() WHERE id = %s",
        (session_id, intent_id, customer_id, payment_id),
    )


async def find_payment(connection: Connection, name: str, payer: str | None = None) -> Row | None:
    """By our id, that of its payment intent or of its session; with `payer`, only if it is that payer's."""
    row = await fetch_row(connection, _FIND, {"name": name})
    return row if row is not None and payer in (None, row["payer"]) else None


async def lock_payment(connection: Connection, payment_id: str) -> Row | None:
    return await fetch_row(connection, "SELECT * FROM payments WHERE id = %s FOR UPDATE", (payment_id,))


async def list_payments(
    connection: Connection,
    payer: str | None,
    limit: int,
    offset: int = 0,
    *,
    status: str | None = None,
    flagged: bool = False,
) -> Sequence[Row]:
    asked = {"payer": payer, "status": status, "flagged": flagged, "limit": limit, "offset": offset}
    return await fetch_rows(connection, _LIST, asked)


async def find_customer(connection: Connection, payer: str) -> str:
    """The payer's name at Stripe, or ""."""
    row = await (
        await connection.execute("SELECT customer_id FROM stripe_customers WHERE payer = %s", (payer,))
    ).fetchone()
    return "" if row is None else str(row[0])


async def find_payer(connection: Connection, customer_id: str) -> str:
    """Whose name at Stripe this is, or ""."""
    row = await (
        await connection.execute("SELECT payer FROM stripe_customers WHERE customer_id = %s", (customer_id,))
    ).fetchone()
    return "" if row is None else str(row[0])


async def add_customer(connection: Connection, payer: str, customer_id: str) -> str:
    """Who came first stays."""
    await connection.execute(
        "INSERT INTO stripe_customers (payer, customer_id) VALUES (%s, %s) ON CONFLICT DO NOTHING",
        (payer, customer_id),
    )
    return await find_customer(connection, payer)


async def find_address(connection: Connection, user_id: str) -> str:
    """The mail address of a user, or ""."""
    row = await (await connection.execute("SELECT email FROM users WHERE id = %s", (user_id,))).fetchone()
    return "" if row is None or row[0] is None else str(row[0])


async def list_people(connection: Connection, payer: str) -> Sequence[tuple[str, str]]:
    """Who is written to about a payer: the user, or who leads the team (id, address)."""
    kind, _, name = payer.partition(":")
    if kind == "user":
        address = await find_address(connection, name)
        return [(name, address)] if address else []
    rows = await connection.execute(
        "SELECT u.id, u.email FROM team_members m JOIN users u ON u.id = m.user_id"
        " WHERE m.team_id = %s AND m.role IN ('owner', 'admin') ORDER BY u.id",
        (name,),
    )
    return [(user_id, email) for user_id, email in await rows.fetchall()]


async def leads_team(connection: Connection, team_id: str, user_id: str) -> bool:
    row = await (
        await connection.execute(
            "SELECT 1 FROM team_members WHERE team_id = %s AND user_id = %s AND role IN ('owner', 'admin')",
            (team_id, user_id),
        )
    ).fetchone()
    return row is not None


# --- refunds


async def add_refund(
    connection: Connection, payment_id: str, amount_cents: int | None, reason: str, asked_by: str
) -> Row:
    """A row to ask Stripe under; the same one again while Stripe has not answered to it."""
    await fetch_row(connection, "SELECT id FROM payments WHERE id = %s FOR UPDATE", (payment_id,))
    open_row = await fetch_row(
        connection,
        "SELECT * FROM refunds WHERE payment_id = %s AND amount_cents IS NOT DISTINCT FROM %s AND refund_id IS NULL"
        " AND status = 'pending'",
        (payment_id, amount_cents),
    )
    if open_row is not None:
        return open_row
    row = await fetch_row(
        connection,
        "INSERT INTO refunds (id, payment_id, amount_cents, reason, asked_by) VALUES (%s, %s, %s, %s, %s) RETURNING *",
        (f"ref_{secrets.token_hex(12)}", payment_id, amount_cents, reason, asked_by),
    )
    assert row is not None, "RETURNING gives the row"
    return row


async def finish_refund(connection: Connection, name: str, refund_id: str | None, status: str) -> None:
    await connection.execute(
        "UPDATE refunds SET refund_id = coalesce(refund_id, %s), status = %s, answered_at = now() WHERE id = %s",
        (refund_id, status, name),
    )
