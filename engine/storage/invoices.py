"""Invoices: a payer's month, from the ledger and the call records. Nothing is stored: a ledger keeps its past.

The month is that of a movement's own moment, so that a closing balance is the next month's opening one.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, LiteralString

from engine.storage.postgres import Connection
from engine.storage.usage_sums import Span, sum_usage

_SUMS: LiteralString = (
    "SELECT m.kind, sum(e.amount_usd), count(DISTINCT m.id) FROM ledger_movements m"
    " JOIN ledger_entries e ON e.movement_id = m.id WHERE m.payer = %(payer)s AND e.account = ANY(%(accounts)s)"
    " AND m.created_at < %(until)s AND m.created_at >= %(since)s GROUP BY m.kind ORDER BY m.kind"
)
_BEFORE: LiteralString = (
    "SELECT coalesce(sum(e.amount_usd), 0) FROM ledger_movements m JOIN ledger_entries e ON e.movement_id = m.id"
    " WHERE m.payer = %(payer)s AND e.account = ANY(%(accounts)s) AND m.created_at < %(since)s"
)
_MONTHS: LiteralString = (
    "SELECT DISTINCT to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM') FROM ledger_movements WHERE payer = %s"
    " ORDER BY 1 DESC LIMIT %s"
)
_POTS = ("credit", "allowance", "owed")
MOST_MONTHS = 120


@dataclass(frozen=True, slots=True)
class Invoice:
    """Amounts are exact, signed as the payer sees them."""

    number: str
    payer: str
    month: str
    since: datetime
    until: datetime
    opening_usd: Decimal
    movements: Sequence[tuple[str, Decimal, int]]
    """Kind, sum, how many."""
    lines: Sequence[dict[str, Any]]
    """What calls cost by model, as they were recorded."""

    @property
    def closing_usd(self) -> Decimal:
        return self.opening_usd + sum((amount for _, amount, _ in self.movements), Decimal(0))


def number_invoice(payer: str, month: str) -> str:
    """The same for ever: the month, and a few letters that tell payers apart."""
    return f"{month}-{hashlib.sha256(payer.encode()).hexdigest()[:10]}"


def find_month(text: str) -> tuple[datetime, datetime]:
    """First moment of the month, and of the next. Raises ValueError."""
    since = datetime.strptime(text, "%Y-%m").replace(tzinfo=UTC)
    return since, since.replace(year=since.year + since.month // 12, month=since.month % 12 + 1)


async def list_months(connection: Connection, payer: str) -> list[str]:
    """Months with movements, the latest first."""
    rows = await connection.execute(_MONTHS, (payer, MOST_MONTHS))
    return [month for (month,) in await rows.fetchall()]


async def read_invoice(connection: Connection, payer: str, month: str) -> Invoice:
    since, until = find_month(month)
    asked = {"payer": payer, "accounts": [f"{pot}:{payer}" for pot in _POTS], "since": since, "until": until}
    row = await (await connection.execute(_BEFORE, asked)).fetchone()
    movements = await (await connection.execute(_SUMS, asked)).fetchall()
    kind, _, name = payer.partition(":")
    where = {"team_id" if kind == "team" else "own_of": name}
    lines = await sum_usage(connection, Span(since, until, where), ["model"])
    opening = row[0] if row is not None else Decimal(0)
    return Invoice(number_invoice(payer, month), payer, month, since, until, opening, movements, lines)
