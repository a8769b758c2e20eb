"""Calls that are priced anew: the difference is one more movement of the ledger, and history stays as it is."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, LiteralString

from psycopg.rows import dict_row

from engine.storage.ledger import adjust
from engine.storage.postgres import Connection

_CHUNK = 500
_NEXT: LiteralString = """
SELECT c.seq, c.id, c.started_at, c.provider, c.model, c.tokens, c.pricing,
    coalesce((SELECT r.cost_usd FROM rerates r WHERE r.call_id = c.id ORDER BY r.at DESC, r.ref DESC LIMIT 1),
        c.cost_usd) AS cost_usd,
    coalesce(m.payer, CASE WHEN k.team_id IS NOT NULL THEN 'team:' || k.team_id ELSE 'user:' || c.user_id END) AS payer,
    CASE WHEN m.id IS NOT NULL THEN NOT EXISTS (
        SELECT 1 FROM ledger_entries e WHERE e.movement_id = m.id AND e.account = 'owed:' || m.payer)
        ELSE coalesce(t.prepaid, u.prepaid, false) END AS prepaid
FROM call_records c
LEFT JOIN ledger_movements m ON m.ref = 'call:' || c.id
LEFT JOIN api_keys k ON k.id = c.key_id
LEFT JOIN users u ON u.id = c.user_id
LEFT JOIN teams t ON t.id = k.team_id
WHERE c.seq > %(after)s AND c.started_at >= %(since)s AND c.started_at < %(until)s AND c.pricing ? 'listed'
    AND c.user_id IS NOT NULL
ORDER BY c.seq LIMIT %(chunk)s
"""
_FIRST: LiteralString = "SELECT min(seq) FROM call_records WHERE started_at >= %s"
_KNOWN: LiteralString = "SELECT 1 FROM rerates WHERE ref = %s"
_NOTE: LiteralString = (
    "INSERT INTO rerates (ref, call_id, cost_usd, adjusted_usd) VALUES (%s, %s, %s, %s)"
    " ON CONFLICT DO NOTHING"
)


@dataclass(frozen=True, slots=True)
class PricedCall:
    """A recorded call, what it costs by now, and who pays for it."""

    id: str
    provider: str
    model: str
    started_at: datetime
    tokens: dict[str, Any]
    pricing: dict[str, Any]
    cost_usd: Decimal
    payer: str
    prepaid: bool


async def list_priced_calls(
    connection: Connection, since: datetime, until: datetime
) -> AsyncIterator[PricedCall]:
    """In the order in which they were recorded; only calls that were charged by a price."""
    row = await (await connection.execute(_FIRST, (since,))).fetchone()
    asked = {"since": since, "until": until, "after": row[0] - 1 if row and row[0] else 0, "chunk": _CHUNK}
    while True:
        async with connection.cursor(row_factory=dict_row) as cursor:
            await cursor.execute(_NEXT, asked)
            rows = await cursor.fetchall()
        for row in rows:
            asked["after"] = row.pop("seq")
            yield PricedCall(**{**row, "provider": row["provider"] or "", "model": row["model"] or ""})
        if len(rows) < _CHUNK:
            return


async def is_rerated(connection: Connection, ref: str) -> bool:
    return await (await connection.execute(_KNOWN, (ref,))).fetchone() is not None


async def book_rerate(connection: Connection, call: PricedCall, cost_usd: Decimal, ref: str) -> bool:
    """Book the difference, once for each reference; False when that was done already."""
    async with connection.transaction():
        difference = cost_usd - call.cost_usd
        if difference:
            description = f"call {call.id} priced anew"
            done = await adjust(
                connection, call.payer, difference, ref=ref, prepaid=call.prepaid, description=description
            )
            if not done:
                return False
        noted = await connection.execute(_NOTE, (ref, call.id, cost_usd, difference))
        return noted.rowcount == 1
