"""Whom limits refused, and how often: added up in memory, written down every few seconds, bounded in both places."""

import time
from datetime import UTC, datetime
from typing import Any, LiteralString

from psycopg.rows import dict_row

from engine.storage.postgres import Connection, Database

MOST_KEPT = 10_000
MOST_AT_ONCE = 500
_FLUSH_EACH_S = 5.0
_INSERT: LiteralString = (
    "INSERT INTO rate_limit_alerts (at, key_id, user_id, code, scope, kind, window_s, number, refused)"
    " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)"
)
_PRUNE: LiteralString = (
    "DELETE FROM rate_limit_alerts WHERE seq <= (SELECT max(seq) FROM rate_limit_alerts) - %s"
)

Refused = tuple[str, str, str, str, str, int, int]
"""Key, user, code, scope, kind (requests, tokens, concurrency), window in seconds, number."""


class LimitAlerts:
    def __init__(self) -> None:
        self._counts: dict[Refused, int] = {}
        self._flushed_at = time.monotonic()

    def note(self, refused: Refused) -> None:
        """One refusal more. Of more kinds than MOST_AT_ONCE within a few seconds the others are not kept."""
        if refused in self._counts or len(self._counts) < MOST_AT_ONCE:
            self._counts[refused] = self._counts.get(refused, 0) + 1

    async def flush(self, database: Database) -> None:
        """Raises DependencyAway; what was not written is written next time."""
        now = time.monotonic()
        if not self._counts or now - self._flushed_at < _FLUSH_EACH_S:
            return
        counts, at = dict(self._counts), datetime.now(UTC)

        async def insert(connection: Connection) -> None:
            async with connection.transaction(), connection.cursor() as cursor:
                await cursor.executemany(
                    _INSERT, [(at, *refused, count) for refused, count in counts.items()]
                )
                await cursor.execute(_PRUNE, (MOST_KEPT,))

        await database.run(insert)
        self._flushed_at = now
        for refused, count in counts.items():
            left = self._counts[refused] - count
            if left:
                self._counts[refused] = left
            else:
                del self._counts[refused]


async def list_alerts(
    connection: Connection, limit: int, before: int | None, key_id: str | None
) -> list[dict[str, Any]]:
    """Newest first."""
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(
            "SELECT * FROM rate_limit_alerts WHERE (%(before)s::bigint IS NULL OR seq < %(before)s)"
            " AND (%(key)s::text IS NULL OR key_id = %(key)s) ORDER BY seq DESC LIMIT %(limit)s",
            {"before": before, "key": key_id, "limit": limit},
        )
        return [dict(row) for row in await cursor.fetchall()]
