"""The budgets that administrators set for a user or a team, and what is spent of them."""

from collections.abc import Sequence
from decimal import Decimal
from typing import Any, LiteralString

from engine.config.schema_policy import SpanBudgetEntry
from engine.errors import NotFound
from engine.storage.audit import Actor, Event, write_event
from engine.storage.key_rules import write_budgets
from engine.storage.postgres import Connection, count_change
from engine.storage.secrets import KeyRing

_TABLES: dict[str, LiteralString] = {"user": "users", "team": "teams"}
_SPENT: LiteralString = (
    "SELECT id, spent_usd, coalesce((SELECT sum(greatest(amount_usd, 0)) FROM leases WHERE purse = p.id), 0)"
    " FROM purses p WHERE id LIKE %s || '%%' AND (ends_at IS NULL OR ends_at > now()) ORDER BY id"
)


async def read_budgets(connection: Connection, kind: str, owner: str) -> dict[str, Any]:
    """What is set for `owner` (a `kind` user or team) and, of the spans that run, what is spent and in use."""
    row = await (
        await connection.execute(f"SELECT budgets FROM {_TABLES[kind]} WHERE id = %s", (owner,))
    ).fetchone()
    if row is None:
        raise NotFound(f"there is no such {kind}", code=f"{kind}_not_found")
    rows = await (await connection.execute(_SPENT, (f"budget:own:{kind}:{owner}:",))).fetchall()
    return {"budgets": row[0], "spent": [_show_spent(*facts) for facts in rows]}


def _show_spent(purse: str, spent: Decimal, leased: Decimal) -> dict[str, Any]:
    _, _, _, _, every, manner, *since = purse.split(":")
    return {
        "every": every,
        "hard": manner == "hard",
        "since": since[0] if since else None,
        "spent_usd": f"{spent.normalize():f}",
        "in_use_usd": f"{leased.normalize():f}",
    }


async def set_budgets(
    connection: Connection,
    ring: KeyRing,
    kind: str,
    owner: str,
    budgets: Sequence[SpanBudgetEntry],
    by: Actor,
) -> dict[str, Any]:
    """Put other budgets in force, on every worker within a second."""
    async with connection.transaction():
        n = await count_change(connection)
        before = await read_budgets(connection, kind, owner)
        await connection.execute(
            f"UPDATE {_TABLES[kind]} SET budgets = %s, changed_n = %s, updated_at = now() WHERE id = %s",
            (write_budgets(budgets), n, owner),
        )
        after = await read_budgets(connection, kind, owner)
        told = ({"budgets": facts["budgets"]} for facts in (before, after))
        await write_event(connection, ring, by, Event(f"{kind}.budgets", owner, owner, *told))
    return after
