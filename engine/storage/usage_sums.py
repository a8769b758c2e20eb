"""Sums over call records for statements: by day, model, key and so on, of one user, key, team or of all.

Each reads the records of a span of time by an index: of a user, of a key, or of the time.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, LiteralString

from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from engine.storage.postgres import Connection
from engine.wire.usage import INPUT_CLASSES, OUTPUT_CLASSES

LISTED: LiteralString = "coalesce(c.pricing->>'listed', c.requested_model, '')"
"""The model of a record by the name that people ask for."""
GROUPS: Mapping[str, LiteralString] = {
    "day": "to_char(c.started_at AT TIME ZONE 'UTC', 'YYYY-MM-DD')",
    "month": "to_char(c.started_at AT TIME ZONE 'UTC', 'YYYY-MM')",
    "model": LISTED,
    "provider": "coalesce(c.provider, '')",
    "key": "coalesce(c.key_id, '')",
    "user": "coalesce(c.user_id, '')",
    "team": "coalesce((SELECT k.team_id FROM api_keys k WHERE k.id = c.key_id), '')",
    "status": "c.status",
    "book": "coalesce(c.pricing->>'book', '')",
}
_FILTERS: Mapping[str, LiteralString] = {
    "since": "c.started_at >= %(since)s",
    "until": "c.started_at < %(until)s",
    "user_id": "c.user_id = %(user_id)s",
    "key_id": "c.key_id = %(key_id)s",
    "model": f"{LISTED} = %(model)s",
    "own_of": "c.user_id = %(own_of)s AND NOT EXISTS (SELECT 1 FROM api_keys k WHERE k.id = c.key_id"
    " AND k.team_id IS NOT NULL)",
    "team_id": "c.key_id IN (SELECT id FROM api_keys WHERE team_id = %(team_id)s)",
    "tags": "c.tags @> %(tags)s",
}


def add_up(names: Sequence[str]) -> LiteralString:
    """The tokens of these classes of a record, added up."""
    known: Mapping[str, LiteralString] = {
        "input": "input", "cached_input": "cached_input", "cache_write": "cache_write",
        "cache_write_1h": "cache_write_1h", "audio_input": "audio_input", "image_input": "image_input",
        "output": "output", "reasoning": "reasoning", "audio_output": "audio_output",
        "image_output": "image_output",
    }  # fmt: skip
    places = [known[name] for name in names]
    return " + ".join(f"coalesce((c.tokens->>'{place}')::bigint, 0)" for place in places)


ALL_TOKENS: LiteralString = add_up([*INPUT_CLASSES, *OUTPUT_CLASSES])
_SUMS: LiteralString = (
    "count(*) AS calls, count(*) FILTER (WHERE c.status = 'error') AS errors,"
    f" coalesce(sum({add_up(INPUT_CLASSES)}), 0)::bigint AS input_tokens,"
    f" coalesce(sum({add_up(['cached_input'])}), 0)::bigint AS cached_tokens,"
    f" coalesce(sum({add_up(OUTPUT_CLASSES)}), 0)::bigint AS output_tokens,"
    " coalesce(sum(c.cost_usd), 0) AS cost_usd"
)
_COSTS: LiteralString = (
    ", coalesce(sum(coalesce((c.pricing->>'provider_cost_usd')::numeric, c.cost_usd)), 0) AS provider_cost_usd,"
    " count(*) FILTER (WHERE c.pricing ? 'unpriced') AS unpriced_calls,"
    " round(avg(c.total_ms)::numeric, 1)::double precision AS average_ms"
)


@dataclass(frozen=True, slots=True)
class Span:
    """Whose calls, of which time; `where` holds any of user_id, own_of (no teams), key_id, team_id, model, tags."""

    since: datetime
    until: datetime
    where: Mapping[str, Any] = field(default_factory=dict)


async def sum_usage(
    connection: Connection, span: Span, groups: Sequence[str], *, costs: bool = False, limit: int = 1000
) -> list[dict[str, Any]]:
    """One row for each combination of the groups, the dearest first unless days or months go first."""
    asked = {"since": span.since, "until": span.until, **span.where, "limit": limit}
    if "tags" in asked:
        asked["tags"] = Jsonb(asked["tags"])
    where = " AND ".join(_FILTERS[name] for name in asked if name in _FILTERS)
    keys: LiteralString = "".join(f'{GROUPS[name]} AS "{_NAMES[name]}", ' for name in groups)
    sums = _SUMS + _COSTS if costs else _SUMS
    text: LiteralString = f"SELECT {keys}{sums} FROM call_records c WHERE {where}"
    if groups:
        numbers = ", ".join(_NUMBERS[: len(groups)])
        order: LiteralString = "1" if groups[0] in ("day", "month") else "cost_usd DESC"
        text = f"{text} GROUP BY {numbers} ORDER BY {order}, {numbers} LIMIT %(limit)s"
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(text, asked)
        return await cursor.fetchall()


_NAMES: Mapping[str, LiteralString] = {
    "day": "day", "month": "month", "model": "model", "provider": "provider", "key": "key_id", "user": "user_id",
    "team": "team_id", "status": "status", "book": "book",
}  # fmt: skip
_NUMBERS: Sequence[LiteralString] = ("1", "2", "3")
MOST_GROUPS = len(_NUMBERS)
