"""What the whole gateway did, from the call records of this month."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, LiteralString

from psycopg.rows import dict_row

from engine.storage.own_usage import THIS_MONTH, TODAY
from engine.storage.postgres import Connection

_OF_EACH: LiteralString = (
    "coalesce(c.user_id, '') AS user_id, c.key_id,"
    " count(*) FILTER (WHERE c.started_at > now() - interval '1 hour') AS requests_last_hour,"
    " count(*) FILTER (WHERE c.started_at >= %(today)s AND c.status = 'error') AS errors_today,"
    " count(c.total_ms) FILTER (WHERE c.started_at >= %(today)s AND c.status = 'ok') AS timed,"
    " sum(c.total_ms) FILTER (WHERE c.started_at >= %(today)s AND c.status = 'ok') AS ms"
)
"""By user and key first: to count who is different among a few keys is cheap, among all calls it is not."""
_OF_ALL: LiteralString = ", ".join(
    [
        *(
            f"coalesce(sum({name}), 0){cast} AS {name}"
            for name, cast in (
                ("requests_today", "::bigint"), ("tokens_today", "::bigint"), ("cost_today", ""),
                ("requests_this_month", "::bigint"), ("tokens_this_month", "::bigint"), ("cost_this_month", ""),
                ("requests_last_hour", "::bigint"), ("errors_today", "::bigint"),
            )
        ),
        "round((sum(ms) / nullif(sum(timed), 0))::numeric, 1)::double precision AS average_ms_today",
        "count(DISTINCT user_id) FILTER (WHERE user_id <> '' AND requests_today > 0) AS active_users_today",
        "count(DISTINCT user_id) FILTER (WHERE user_id <> '' AND requests_this_month > 0)"
        " AS active_users_this_month",
        "count(DISTINCT key_id) FILTER (WHERE user_id <> '' AND requests_today > 0) AS active_keys_today",
    ]
)  # fmt: skip


async def sum_up_house(connection: Connection, today: datetime, month: datetime) -> Mapping[str, Any]:
    """Calls since `today` and since `month` began, how they went, and how many people made them."""
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(
            f"SELECT {_OF_ALL} FROM (SELECT {_OF_EACH}, {TODAY}, {THIS_MONTH} FROM call_records c"
            " WHERE c.started_at >= least(%(month)s, now() - interval '1 hour') GROUP BY 1, 2) each_key",
            {"today": today, "month": month},
        )
        row = await cursor.fetchone()
    assert row is not None, "sums have one row"
    return row


async def list_balances(
    connection: Connection, limit: int, offset: int
) -> tuple[Mapping[str, Any], list[dict[str, Any]]]:
    """How many users there are and what all of them have, and some of them, those that have most first."""
    both: LiteralString = (
        " FROM users u LEFT JOIN ledger_accounts c ON c.id = 'credit:user:' || u.id"
        " LEFT JOIN ledger_accounts a ON a.id = 'allowance:user:' || u.id"
    )
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(
            "SELECT count(*) AS users, coalesce(sum(c.balance_usd), 0) AS credit_usd,"
            f" coalesce(sum(a.balance_usd), 0) AS allowance_usd{both}"
        )
        sums = await cursor.fetchone()
        await cursor.execute(
            "SELECT u.id AS user_id, u.plan, u.prepaid, u.active AS is_active, u.created_at,"
            " coalesce(c.balance_usd, 0) AS credit_usd, coalesce(a.balance_usd, 0) AS allowance_usd"
            f"{both} ORDER BY coalesce(c.balance_usd, 0) + coalesce(a.balance_usd, 0) DESC, u.created_at, u.id"
            " LIMIT %(limit)s OFFSET %(offset)s",
            {"limit": limit, "offset": offset},
        )
        rows = await cursor.fetchall()
    assert sums is not None, "sums have one row"
    return sums, rows
