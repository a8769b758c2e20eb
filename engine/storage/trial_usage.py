"""What somebody on trial has used, from the call records: only calls that asked somebody count."""

from collections.abc import Collection
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, LiteralString, NamedTuple

import psycopg

from engine.errors import DependencyAway
from engine.storage.postgres import Connection, Database
from engine.storage.trials import TOKENS

_SUM: LiteralString = (
    f"SELECT count(*), {TOKENS}, coalesce(sum(cost_usd), 0),"
    " coalesce(sum(cost_usd) FILTER (WHERE started_at >= %(today)s), 0),"
    " coalesce(array_agg(id) FILTER (WHERE id = ANY(%(ids)s::text[])), '{}')"
    " FROM call_records WHERE user_id = %(user)s AND started_at >= %(since)s AND attempts <> '[]'"
)


class TrialUsage(NamedTuple):
    requests: int
    tokens: int
    cost_usd: Decimal
    today_usd: Decimal
    recorded: Collection[str]
    """Of the calls that were asked about, those that are in the sums."""


class TrialRecords:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def read_usage(self, user_id: str, since: float, today: float, ids: Collection[str]) -> TrialUsage:
        """`since` and `today` are moments in seconds since the epoch."""
        asked: dict[str, Any] = {
            "user": user_id,
            "since": datetime.fromtimestamp(since, UTC),
            "today": datetime.fromtimestamp(today, UTC),
            "ids": list(ids),
        }

        async def select(connection: Connection) -> TrialUsage:
            row = await (await connection.execute(_SUM, asked)).fetchone()
            assert row is not None, "a sum has one row"
            return TrialUsage(*row)

        try:
            return await self._database.run(select)
        except psycopg.Error as error:
            raise DependencyAway("The call records cannot be read.", retry_after_s=2) from error
