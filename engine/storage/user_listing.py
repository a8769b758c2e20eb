"""Users as administrators see them: listed, counted, and found by the text of a key. Nothing here holds a secret."""

from collections.abc import Mapping
from typing import Any, LiteralString

from psycopg.rows import dict_row

from engine.errors import NotFound
from engine.storage.postgres import Connection
from engine.storage.secrets import KeyRing

_FILTERS: Mapping[str, LiteralString] = {
    "email": "strpos(lower(u.email), lower(%(email)s)) > 0",
    "is_active": "u.active = %(is_active)s",
    "role": "u.role = %(role)s",
    "plan": "u.plan = %(plan)s",
    "status": "u.status = %(status)s",
    "key_id": "u.id = (SELECT user_id FROM api_keys WHERE id = %(key_id)s)",
}
_SHOWN: LiteralString = """
    SELECT u.id, u.email, u.name, u.role, u.plan, u.active AS is_active, u.status, u.prepaid, u.email_verified,
        u.created_at, u.updated_at, k.api_keys, k.active_api_keys, coalesce(c.balance_usd, 0) AS credit_usd,
        coalesce(a.balance_usd, 0) AS allowance_usd
    FROM u LEFT JOIN ledger_accounts c ON c.id = 'credit:user:' || u.id
    LEFT JOIN ledger_accounts a ON a.id = 'allowance:user:' || u.id
    CROSS JOIN LATERAL (SELECT count(*) AS api_keys, count(*) FILTER (
        WHERE revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())) AS active_api_keys
        FROM api_keys WHERE user_id = u.id AND team_id IS NULL) k
    ORDER BY u.created_at, u.id
"""
_POTS = ("credit_usd", "allowance_usd")


async def list_users(
    connection: Connection, filters: Mapping[str, Any], limit: int, offset: int
) -> tuple[int, list[dict[str, Any]]]:
    """How many users all the filters name, and some of them, oldest first."""
    where = " AND ".join(["true", *(_FILTERS[name] for name in filters)])
    found = await (
        await connection.execute(f"SELECT count(*) FROM users u WHERE {where}", filters)
    ).fetchone()
    page: LiteralString = (
        f"WITH u AS MATERIALIZED (SELECT * FROM users u WHERE {where}"
        " ORDER BY u.created_at, u.id LIMIT %(limit)s OFFSET %(offset)s)"
    )
    asked = {**filters, "limit": limit, "offset": offset}
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(page + _SHOWN, asked)
        return (int(found[0]) if found else 0), [_show(row) async for row in cursor]


async def read_user(connection: Connection, user_id: str) -> dict[str, Any]:
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute("WITH u AS (SELECT * FROM users WHERE id = %s)" + _SHOWN, (user_id,))
        row = await cursor.fetchone()
    if row is None:
        raise NotFound("there is no such user", code="user_not_found")
    return _show(row)


def _show(row: Mapping[str, Any]) -> dict[str, Any]:
    shown = {name: value for name, value in row.items() if name not in _POTS}
    return {**shown, "balance": {name: f"{row[name]:f}" for name in _POTS}}


async def find_by_key(connection: Connection, ring: KeyRing, key_text: str) -> dict[str, Any]:
    """Which key has this text, and whose it is; keys that no longer work are found too."""
    hashes = list(ring.hash_under_all(key_text))
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(
            "SELECT id, name AS key_name, environment AS environment_tag, role, last4, user_id, team_id, created_at,"
            " revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())"
            " AND (hash = ANY(%(hashes)s) OR replaced_until > now()) AS is_active"
            " FROM api_keys WHERE hash = ANY(%(hashes)s) OR replaced_hash = ANY(%(hashes)s)"
            " ORDER BY hash = ANY(%(hashes)s) DESC LIMIT 1",
            {"hashes": hashes},
        )
        key = await cursor.fetchone()
    if key is None:
        raise NotFound("nobody has this key", code="key_not_found")
    return {"key": key, "user": await read_user(connection, key["user_id"])}


async def count_users(connection: Connection) -> dict[str, int]:
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(
            "SELECT count(*) AS total_users, count(*) FILTER (WHERE active) AS active_users,"
            " count(*) FILTER (WHERE NOT active) AS inactive_users FROM users"
        )
        row = await cursor.fetchone()
    assert row is not None, "counts have one row"
    return row


async def sum_up_users(connection: Connection) -> dict[str, Any]:
    """Counts by what users are; of money, what all of them have together."""
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(
            "SELECT count(*) FILTER (WHERE prepaid) AS prepaid_users,"
            " count(*) FILTER (WHERE email_verified) AS verified_users,"
            " count(*) FILTER (WHERE created_at > now() - interval '1 day') AS new_in_a_day,"
            " count(*) FILTER (WHERE created_at > now() - interval '30 days') AS new_in_30_days FROM users"
        )
        sums = await cursor.fetchone()
    assert sums is not None, "counts have one row"
    roles = await connection.execute("SELECT role, count(*) FROM users GROUP BY role ORDER BY role")
    marks = await connection.execute("SELECT status, count(*) FROM users GROUP BY status ORDER BY status")
    plans = await connection.execute("SELECT plan, count(*) FROM users GROUP BY plan ORDER BY plan")
    pots = await connection.execute(
        "SELECT coalesce(sum(balance_usd) FILTER (WHERE id LIKE 'credit:%'), 0),"
        " coalesce(sum(balance_usd) FILTER (WHERE id LIKE 'allowance:%'), 0)"
        " FROM ledger_accounts WHERE id LIKE 'credit:user:%' OR id LIKE 'allowance:user:%'"
    )
    held = await pots.fetchone()
    assert held is not None, "sums have one row"
    return {
        **await count_users(connection),
        **sums,
        "by_role": dict(await roles.fetchall()),
        "by_plan": dict(await plans.fetchall()),
        "by_status": dict(await marks.fetchall()),
        "balance": {name: f"{amount:f}" for name, amount in zip(_POTS, held, strict=True)},
    }


async def list_growth(connection: Connection, days: int) -> list[dict[str, Any]]:
    """Each of the last days (UTC), today the last: who came, and how many there were at its end."""
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(
            "WITH today AS (SELECT (now() AT TIME ZONE 'UTC')::date AS d), days AS ("
            " SELECT d - back AS day FROM today, generate_series(0, %(days)s::int - 1) back),"
            " made AS (SELECT (created_at AT TIME ZONE 'UTC')::date AS day, count(*) AS n FROM users GROUP BY 1)"
            " SELECT days.day::text AS date, coalesce(made.n, 0)::bigint AS new_users,"
            " (SELECT coalesce(sum(n), 0)::bigint FROM made WHERE day < (SELECT min(day) FROM days))"
            " + (sum(coalesce(made.n, 0)) OVER (ORDER BY days.day))::bigint AS total_users"
            " FROM days LEFT JOIN made USING (day) ORDER BY days.day",
            {"days": days},
        )
        return list(await cursor.fetchall())
