"""Looking at API keys: never with anything that would let somebody use one."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, LiteralString

from psycopg.rows import dict_row

from engine.storage.postgres import Connection

_FIELDS: LiteralString = (
    "k.id, k.name, k.user_id, u.email AS user, u.role AS owner_role, k.team_id,"
    " k.role, k.environment, k.last4, k.models, k.scopes, k.providers,"
    " k.ip_allowlist, k.referrers, k.max_requests, k.max_spend_usd, k.limits, k.ceiling, k.budgets,"
    " k.is_primary, k.created_at,"
    " k.updated_at, k.last_used_at, k.expires_at, k.revoked_at, k.replaced_until"
)
_USED: LiteralString = (
    " LEFT JOIN LATERAL (SELECT count(*) AS requests_used, coalesce(sum(cost_usd), 0) AS spent_usd"
    " FROM call_records WHERE key_id = k.id AND attempts <> '[]') r ON true"
)


@dataclass(frozen=True, slots=True)
class Page:
    """At most `limit` rows, those behind the key of this id."""

    limit: int
    after: str | None = None


async def list_keys(
    connection: Connection,
    user_id: str | None = None,
    *,
    key_id: str | None = None,
    used: bool = False,
    page: Page | None = None,
    team_id: str | None = None,
) -> list[dict[str, Any]]:
    """Every key of a user, of a team or of all, newest last; with `used`, how often it was used and what that cost.

    A user's keys are not those that he made for a team.
    """
    fields: LiteralString = f"{_FIELDS}, r.requests_used, r.spent_usd" if used else _FIELDS
    join: LiteralString = _USED if used else ""
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(
            f"SELECT {fields} FROM api_keys k JOIN users u ON u.id = k.user_id{join}"
            " WHERE (%(user_id)s::text IS NULL OR (k.user_id = %(user_id)s AND k.team_id IS NULL))"
            " AND (%(team_id)s::text IS NULL OR k.team_id = %(team_id)s)"
            " AND (%(key_id)s::text IS NULL OR k.id = %(key_id)s)"
            " AND (%(after)s::text IS NULL OR (k.created_at, k.id) >"
            " (SELECT created_at, id FROM api_keys WHERE id = %(after)s))"
            " ORDER BY k.created_at, k.id LIMIT %(limit)s",
            {
                "user_id": user_id,
                "team_id": team_id,
                "key_id": key_id,
                "after": page.after if page is not None else None,
                "limit": page.limit if page is not None else None,
            },
        )
        rows = await cursor.fetchall()
    return [{name: _show(value) for name, value in row.items()} for row in rows]


async def describe_key(connection: Connection, key_id: str) -> dict[str, Any] | None:
    rows = await list_keys(connection, key_id=key_id)
    return rows[0] if rows else None


async def count_made(connection: Connection, user_id: str, within_s: float) -> int:
    """How many keys were made for a user in the last so many seconds."""
    row = await (
        await connection.execute(
            "SELECT count(*) FROM api_keys WHERE user_id = %s AND created_at > now() - make_interval(secs => %s)",
            (user_id, within_s),
        )
    ).fetchone()
    return int(row[0]) if row else 0


def _show(value: Any) -> Any:
    if isinstance(value, Decimal):
        return format(value.normalize(), "f")
    return value.isoformat() if isinstance(value, datetime) else value
