"""How much a key has used, from the call records: only calls that asked somebody count."""

from collections.abc import Collection
from decimal import Decimal
from typing import Any, LiteralString, NamedTuple

import psycopg

from engine.errors import DependencyAway
from engine.storage.postgres import Connection, Database

_SUM: LiteralString = (
    "SELECT count(*), coalesce(sum(cost_usd), 0), coalesce(max(seq), %(after)s),"
    " coalesce(array_agg(id) FILTER (WHERE id = ANY(%(ids)s::text[])), '{}')"
    " FROM call_records WHERE key_id = %(key)s AND seq > %(after)s AND attempts <> '[]'"
)

SPANS = {"minute": 60, "hour": 3600, "day": 86_400, "month": 2_592_000}
"""The windows that limits have names for, in seconds."""
_TOKENS: LiteralString = " + ".join(
    f"coalesce((tokens->>'{name}')::numeric, 0)"
    for name in (
        "input",
        "cached_input",
        "cache_write",
        "cache_write_1h",
        "audio_input",
        "output",
        "reasoning",
    )
    + ("audio_output",)
)
_USED: LiteralString = ", ".join(
    f"count(*) FILTER (WHERE {recent}), coalesce(sum({_TOKENS}) FILTER (WHERE {recent}), 0)"
    for recent in (f"started_at > now() - {seconds} * interval '1 second'" for seconds in SPANS.values())
)


class KeyUsage(NamedTuple):
    requests: int
    spent_usd: Decimal
    until: int
    recorded: Collection[str]


class UsageRecords:
    """Records are committed in the order of their `seq`, so what lies behind a place is all that is new."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def read_usage(self, key_id: str, after: int, ids: Collection[str]) -> KeyUsage:
        async def select(connection: Connection) -> KeyUsage:
            return await sum_usage(connection, key_id, after, ids)

        try:
            return await self._database.run(select)
        except psycopg.Error as error:
            raise DependencyAway("The call records cannot be read.", retry_after_s=2) from error


async def sum_usage(
    connection: Connection, key_id: str, after: int = 0, ids: Collection[str] = ()
) -> KeyUsage:
    asked: dict[str, Any] = {"key": key_id, "after": after, "ids": list(ids)}
    row = await (await connection.execute(_SUM, asked)).fetchone()
    assert row is not None, "a sum has one row"
    return KeyUsage(*row)


async def read_span_usage(connection: Connection, key_id: str) -> dict[str, int]:
    """Requests and tokens of a key in the spans that limits have, as far as they are recorded."""
    row = await (
        await connection.execute(
            f"SELECT {_USED} FROM call_records WHERE key_id = %s AND attempts <> '[]'"
            " AND started_at > now() - interval '30 days'",
            (key_id,),
        )
    ).fetchone()
    assert row is not None, "a count has one row"
    names = [f"{kind}_per_{span}" for span in SPANS for kind in ("requests", "tokens")]
    return {name: int(value) for name, value in zip(names, row, strict=True)}
