"""Reading the ledger: the movements of a payer as people see them, and the proof that nothing is amiss."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, LiteralString

from psycopg.rows import dict_row

from engine.storage.postgres import Connection

MOST_PER_PAGE = 1000
_MOST_PROBLEMS = 100
_BALANCE_AFTER: LiteralString = (
    "(SELECT coalesce(sum(last.balance_after), 0)"
    " FROM (VALUES ('credit:' || m.payer), ('allowance:' || m.payer)) AS pot (account)"
    " CROSS JOIN LATERAL (SELECT e.balance_after FROM ledger_entries e"
    " WHERE e.account = pot.account AND e.seq <= m.last_seq ORDER BY e.seq DESC LIMIT 1) AS last)"
)
_COLUMNS: LiteralString = (
    "m.id, m.ref, m.kind, m.payer, m.description, m.metadata, m.created_by, m.created_at"
)
_CHECKS: Mapping[str, LiteralString] = {
    "the entries of movement {} do not add up to zero": (
        "SELECT movement_id::text FROM ledger_entries GROUP BY movement_id HAVING sum(amount_usd) <> 0"
    ),
    "the balance of {} is not the sum of its entries": (
        "SELECT a.id FROM ledger_accounts a LEFT JOIN ledger_entries e ON e.account = a.id"
        " GROUP BY a.id HAVING a.balance_usd <> coalesce(sum(e.amount_usd), 0)"
    ),
    "an entry of {} does not go on from the one before it": (
        "SELECT DISTINCT account FROM (SELECT account, balance_after, sum(amount_usd)"
        " OVER (PARTITION BY account ORDER BY seq) AS expected FROM ledger_entries) AS e"
        " WHERE balance_after <> expected"
    ),
    "an entry of {} belongs to no movement or account": (
        "SELECT DISTINCT e.account FROM ledger_entries e LEFT JOIN ledger_movements m ON m.id = e.movement_id"
        " LEFT JOIN ledger_accounts a ON a.id = e.account WHERE m.id IS NULL OR a.id IS NULL"
    ),
    "the reference {} is there more than once": (
        "SELECT ref FROM ledger_movements GROUP BY ref HAVING count(*) > 1"
    ),
    "{} is below what it may be": (
        "SELECT id FROM ledger_accounts WHERE balance_usd < -grace_usd"
        " AND (id LIKE 'credit:%' OR id LIKE 'allowance:%')"
    ),
}


@dataclass(frozen=True, slots=True)
class LedgerVerdict:
    """What `verify_ledger` found."""

    movements: int
    entries: int
    accounts: int
    sum_usd: Decimal
    problems: tuple[str, ...] = ()


async def list_movements(  # noqa: PLR0913 - filters, by name
    connection: Connection,
    payer: str | None,
    *,
    kind: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    limit: int,
    offset: int = 0,
) -> list[dict[str, Any]]:
    """Newest first, of one payer or of all. Amounts are signed as the payer sees them."""
    conditions: list[LiteralString] = ["true"]
    if payer is not None:
        conditions.append("m.payer = %(payer)s")
    if kind is not None:
        conditions.append("m.kind = %(kind)s")
    if since is not None:
        conditions.append("m.created_at >= %(since)s")
    if until is not None:
        conditions.append("m.created_at < %(until)s")
    asked: dict[str, Any] = {
        "payer": payer,
        "kind": kind,
        "since": since,
        "until": until,
        "limit": max(1, min(limit, MOST_PER_PAGE + 1)),
        "offset": offset,
    }
    async with connection.cursor(row_factory=dict_row) as cursor:
        order: LiteralString = "m.id DESC" if payer is None else "m.created_at DESC, m.id DESC"
        await cursor.execute(_write_list(" AND ".join(conditions), order), asked)
        return [_show(row) async for row in cursor]


def _write_list(where: LiteralString, order: LiteralString) -> LiteralString:
    return f"""
    WITH m AS (
        SELECT {_COLUMNS}, coalesce(max(e.seq), 0) AS last_seq,
            coalesce(sum(e.amount_usd) FILTER (WHERE e.account = 'credit:' || m.payer), 0) AS credit_usd,
            coalesce(sum(e.amount_usd) FILTER (WHERE e.account = 'allowance:' || m.payer), 0) AS allowance_usd,
            coalesce(sum(e.amount_usd) FILTER (WHERE e.account = 'owed:' || m.payer), 0) AS owed_usd
        FROM (SELECT * FROM ledger_movements m WHERE {where} ORDER BY {order}
            LIMIT %(limit)s OFFSET %(offset)s) AS m
        LEFT JOIN ledger_entries e ON e.movement_id = m.id
        GROUP BY {_COLUMNS})
    SELECT {_COLUMNS}, m.credit_usd, m.allowance_usd, m.owed_usd, {_BALANCE_AFTER} AS balance_after,
        CASE WHEN c.id IS NOT NULL THEN jsonb_build_object('call_id', c.id, 'key_id', c.key_id, 'model', c.model,
            'provider', c.provider, 'surface', c.surface, 'tokens', c.tokens) END AS call
    FROM m LEFT JOIN call_records c ON m.ref = 'call:' || c.id
    ORDER BY {order}
    """


def _show(row: Mapping[str, Any]) -> dict[str, Any]:
    """A movement with amounts as Decimal; that of a call tells which model it asked, and for how much."""
    shown = {name: value for name, value in row.items() if name != "call"}
    own = row["credit_usd"] + row["allowance_usd"]
    shown["amount_usd"] = own + row["owed_usd"]
    shown["balance_before"] = row["balance_after"] - own
    shown["metadata"] = row["metadata"] | (row["call"] or {})
    return shown


async def verify_ledger(connection: Connection) -> LedgerVerdict:
    """Prove that the sum of all entries is zero, each movement's too, and that balances are their history."""
    async with connection.transaction():
        await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        row = await (
            await connection.execute(
                "SELECT (SELECT count(*) FROM ledger_movements), count(*),"
                " (SELECT count(*) FROM ledger_accounts), coalesce(sum(amount_usd), 0) FROM ledger_entries"
            )
        ).fetchone()
        assert row is not None, "counts have one row"
        problems = [f"all entries together are {row[3]:f}, not zero"] if row[3] else []
        problems += [problem async for problem in _find_problems(connection)]
    movements, entries, accounts, sum_usd = row
    return LedgerVerdict(movements, entries, accounts, sum_usd, tuple(problems[:_MOST_PROBLEMS]))


async def _find_problems(connection: Connection) -> AsyncIterator[str]:
    for sentence, select in _CHECKS.items():
        rows = await connection.execute(select)
        for (name,) in await rows.fetchmany(_MOST_PROBLEMS):
            yield sentence.format(name)
