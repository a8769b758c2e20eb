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
