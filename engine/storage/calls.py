"""Reading call records, for people and programs that page through them.

Records are numbered in the order in which they are committed (the writers take one lock), so that a page
never gains a record in the middle later: whoever continues after a record sees each one exactly once.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, LiteralString

from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from engine.errors import InvalidRequest
from engine.storage.postgres import Connection

MOST_PER_PAGE = 1000
FIELDS: LiteralString = (
    "id, request_id, started_at, key_id, user_id, surface, requested_model, model, provider, attempts,"
    " status, http_status, tokens, usage_source, cost_usd, first_token_ms, total_ms, tags, error,"
    " config_revision, stream, rescued_by, damaged, pricing"
)
_EQUAL: dict[str, LiteralString] = {
    "key_id": "key_id = %s",
    "user_id": "user_id = %s",
    "surface": "surface = %s",
    "requested_model": "requested_model = %s",
    "model": "model = %s",
    "provider": "provider = %s",
    "status": "status = %s",
    "request_id": "(id = %s OR (request_id = %s AND request_id <> id))",
    "since": "started_at >= %s::timestamptz",
    "until": "started_at < %s::timestamptz",
}
FILTERS = frozenset({*_EQUAL, "tags"})


@dataclass(frozen=True, slots=True)
class CallPage:
    records: list[dict[str, Any]]
    more: bool
    """There are further records after the last one of this page."""


async def list_calls(
    connection: Connection,
    after: str | None = None,
    limit: int = 100,
    filters: Mapping[str, Any] | None = None,
    *,
    oldest_first: bool = False,
) -> CallPage:
    """The records after the one whose id is `after` (newest first unless told), at most `limit`.

    `filters` names any of FILTERS; `tags` is a mapping whose pairs must all be there.
    """
    limit = max(1, min(limit, MOST_PER_PAGE))
    conditions: list[LiteralString] = ["true"]
    values: list[Any] = []
    for name, value in (filters or {}).items():
        condition, shown = _read_filter(name, value)
        conditions.append(condition)
        values += [shown] * condition.count("%s")
    if after:
        conditions.append("seq > %s" if oldest_first else "seq < %s")
        values.append(await _find_place(connection, after))
    order: LiteralString = "seq" if oldest_first else "seq DESC"
    where = " AND ".join(conditions)
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(
            f"SELECT {FIELDS} FROM call_records WHERE {where} ORDER BY {order} LIMIT %s", (*values, limit + 1)
        )
        rows = await cursor.fetchall()
    return CallPage([_show_record(row) for row in rows[:limit]], len(rows) > limit)


def _read_filter(name: str, value: Any) -> tuple[LiteralString, Any]:
    if any("\0" in text for text in ([*value, *value.values()] if name == "tags" else [str(value)])):
        raise InvalidRequest(f"{name} holds a NUL character.", param=name)
    if name == "tags":
        return "tags @> %s", Jsonb(dict(value))
    if name not in _EQUAL:
        raise InvalidRequest(f"Unknown filter: {name}. Known are {', '.join(sorted(FILTERS))}.", param=name)
    if name in ("since", "until"):
        return _EQUAL[name], _read_time(name, str(value))
    return _EQUAL[name], str(value)


def _read_time(name: str, text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidRequest(f"{name} is not a time such as 2026-01-31T12:00:00Z.", param=name) from None
    if moment.tzinfo is None:
        raise InvalidRequest(f"{name} has no time zone: write it as 2026-01-31T12:00:00Z.", param=name)
    return moment


async def _find_place(connection: Connection, call_id: str) -> int:
    call_id = call_id.replace("\0", "")
    row = await (
        await connection.execute("SELECT seq FROM call_records WHERE id = %s", (call_id,))
    ).fetchone()
    if row is None:
        raise InvalidRequest(f"There is no call {call_id[:80]} to continue after.", param="after")
    return int(row[0])


def _show_record(row: dict[str, Any]) -> dict[str, Any]:
    shown = dict(row)
    shown["started_at"] = row["started_at"].isoformat()
    cost: Decimal = row["cost_usd"]
    shown["cost_usd"] = format(cost.normalize(), "f")
    return shown
