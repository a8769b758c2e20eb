"""What one user used, from the call records: in the windows of limits, in all, by environment, and call by call."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, LiteralString

from psycopg.rows import dict_row

from engine.storage.key_usage import SPANS
from engine.storage.postgres import Connection
from engine.storage.usage_sums import ALL_TOKENS, LISTED, add_up
from engine.wire.usage import OUTPUT_CLASSES

_RECENT: Mapping[str, LiteralString] = {
    "minute": "c.started_at > now() - interval '60 seconds'",
    "hour": "c.started_at > now() - interval '1 hour'",
    "day": "c.started_at > now() - interval '24 hours'",
    "month": "c.started_at > now() - interval '720 hours'",
}


def _sum_if(condition: LiteralString) -> LiteralString:
    return (
        f"count(*) FILTER (WHERE {condition}),"
        f" coalesce(sum({ALL_TOKENS}) FILTER (WHERE {condition}), 0)::bigint,"
        f" min(c.started_at) FILTER (WHERE {condition})"
    )


_WINDOWS: LiteralString = ", ".join([_sum_if(recent) for recent in _RECENT.values()])
_IN_ENVIRONMENT: LiteralString = (
    "c.key_id IN (SELECT id FROM api_keys WHERE user_id = %(user)s AND environment = %(environment)s"
    " AND team_id IS NULL)"
)
_PLACES = range(2, 2 + 3 * len(_RECENT), 3)
_SINCE: Mapping[str, LiteralString] = {
    "total": "true",
    "today": "c.started_at >= %(today)s",
    "month": "c.started_at >= %(month)s",
}


def _total(name: LiteralString, condition: LiteralString) -> LiteralString:
    return (
        f"count(*) FILTER (WHERE {condition}) AS requests_{name},"
        f" coalesce(sum({ALL_TOKENS}) FILTER (WHERE {condition}), 0)::bigint AS tokens_{name},"
        f" coalesce(sum(c.cost_usd) FILTER (WHERE {condition}), 0) AS cost_{name}"
    )


TODAY: LiteralString = _total("today", _SINCE["today"])
THIS_MONTH: LiteralString = _total("this_month", _SINCE["month"])
"""Sums over records `c`; they ask for the moments `today` and `month`."""
_TOTALS: LiteralString = f"{_total('total', _SINCE['total'])}, {TODAY}, {THIS_MONTH}"


@dataclass(frozen=True, slots=True)
class Window:
    """What was used of a window that slides."""

    requests: int
    tokens: int
    oldest: datetime | None
    """When the first call in it began: once that is a window old, there is room again."""


async def read_windows(
    connection: Connection, user_id: str, environment: str, key_id: str
) -> dict[str, Mapping[str, Window]]:
    """Of the `user`, of the keys of an `environment` and of one `key`, by the names of SPANS.

    Only calls that asked somebody count.
    """
    rows = await (
        await connection.execute(
            f"SELECT {_IN_ENVIRONMENT}, c.key_id = %(key)s, {_WINDOWS} FROM call_records c"
            " WHERE c.user_id = %(user)s AND c.attempts <> '[]'"
            " AND c.started_at > now() - interval '720 hours' GROUP BY 1, 2",
            {"user": user_id, "environment": environment, "key": key_id},
        )
    ).fetchall()
    return {
        "user": _add_windows(rows),
        "environment": _add_windows([row for row in rows if row[0]]),
        "key": _add_windows([row for row in rows if row[1]]),
    }


def _add_windows(rows: Sequence[Sequence[Any]]) -> dict[str, Window]:
    return {
        span: _add_window([row[at : at + 3] for row in rows]) for at, span in zip(_PLACES, SPANS, strict=True)
    }


def _add_window(parts: Sequence[Sequence[Any]]) -> Window:
    began = [oldest for _, _, oldest in parts if oldest is not None]
    return Window(
        sum(requests for requests, _, _ in parts),
        sum(tokens for _, tokens, _ in parts),
        min(began, default=None),
    )


async def read_totals(
    connection: Connection, user_id: str, today: datetime, month: datetime
) -> dict[str, Any]:
    """All calls ever, those since `today` and since `month`; the model asked for most and the last call."""
    asked = {"user": user_id, "today": today, "month": month}
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(
            f"SELECT {_TOTALS}, max(c.started_at) AS last_request_time,"
            f" mode() WITHIN GROUP (ORDER BY {LISTED}) FILTER (WHERE {LISTED} <> '') AS most_used_model"
            " FROM call_records c WHERE c.user_id = %(user)s",
            asked,
        )
        row = await cursor.fetchone()
    assert row is not None, "sums have one row"
    return row


async def sum_environments(
    connection: Connection, user_id: str, today: datetime, month: datetime
) -> dict[str, dict[str, Any]]:
    """By the environment of the user's own keys: how many there are, and what they used."""
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(
            "SELECT k.environment, count(DISTINCT k.id) AS api_keys, count(DISTINCT k.id) FILTER ("
            " WHERE k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > now())) AS active_api_keys,"
            f" {TODAY}, {THIS_MONTH}"
            " FROM api_keys k LEFT JOIN call_records c ON c.key_id = k.id AND c.started_at >= %(month)s"
            " WHERE k.user_id = %(user)s AND k.team_id IS NULL GROUP BY k.environment",
            {"user": user_id, "today": today, "month": month},
        )
        return {row.pop("environment"): row for row in await cursor.fetchall()}


_FILTERS: Mapping[str, LiteralString] = {
    "since": "c.started_at >= %(since)s",
    "until": "c.started_at < %(until)s",
    "model": f"{LISTED} = %(model)s",
    "provider": "c.provider = %(provider)s",
}
_LOGGED: LiteralString = (
    f"c.id, c.user_id, c.key_id, c.started_at, {LISTED} AS model, c.provider, c.surface, c.stream, c.status,"
    f" c.http_status, ({ALL_TOKENS}) AS tokens, ({add_up(OUTPUT_CLASSES)}) AS written, c.cost_usd, c.total_ms,"
    " c.first_token_ms, c.tags"
)


async def list_activity(
    connection: Connection, user_id: str, filters: Mapping[str, Any], limit: int, offset: int
) -> tuple[int, list[dict[str, Any]]]:
    """How many calls all the filters name, and some of them, newest first."""
    where = " AND ".join(["c.user_id = %(user)s", *(_FILTERS[name] for name in filters)])
    asked = {**filters, "user": user_id, "limit": limit, "offset": offset}
    found = await (
        await connection.execute(f"SELECT count(*) FROM call_records c WHERE {where}", asked)
    ).fetchone()
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(
            f"SELECT {_LOGGED} FROM call_records c WHERE {where} ORDER BY c.seq DESC"
            " LIMIT %(limit)s OFFSET %(offset)s",
            asked,
        )
        return (int(found[0]) if found else 0), list(await cursor.fetchall())
