"""The pool of PostgreSQL connections, and whether the database is there.

No session state is kept between transactions, so that a pooler in transaction mode may stand in between.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias, TypeVar

import psycopg
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from engine.errors import DependencyAway

log = logging.getLogger(__name__)

Connection: TypeAlias = psycopg.AsyncConnection[Any]
T = TypeVar("T")

_AWAY = (psycopg.OperationalError, psycopg.errors.ReadOnlySqlTransaction, PoolTimeout, TimeoutError, OSError)
_CONNECT = {
    "prepare_threshold": None,
    "autocommit": True,
    "connect_timeout": 3,
    "tcp_user_timeout": 5000,
    "keepalives_idle": 30,
    "application_name": "gatewayz",
}
_BUSY_S = 1.0


class Database:
    """A small pool that opens without waiting. While the database is away, requests are told so at once."""

    def __init__(self, url: str, *, size: int = 4, answer_within_s: float = 5.0) -> None:
        self.available = False
        self.away_since: float | None = time.time()
        """Wall clock, seconds since the epoch; None while the database is there."""
        self._answered_at = float("-inf")
        self._answer_within_s = answer_within_s
        self._pool = AsyncConnectionPool(
            url,
            kwargs=_CONNECT,
            min_size=1,
            max_size=size,
            open=False,
            timeout=1.0,
            max_idle=60.0,
            reconnect_timeout=0.5,  # give up soon: whoever asks next makes the pool try again
            num_workers=2,
        )

    async def open(self) -> None:
        """Open the pool; does not wait for the database."""
        # The pool logs each failed try, several per second; this class logs when the state changes.
        logging.getLogger("psycopg.pool").setLevel(logging.ERROR)
        await self._pool.open(wait=False)

    async def close(self) -> None:
        await self._pool.close(timeout=2.0)

    async def run(self, work: Callable[[Connection], Awaitable[T]], *, probe: bool = False) -> T:
        """Do `work` on a connection. It must be safe to do twice: a connection found dead is replaced once.

        Raises DependencyAway when the database is away; only a `probe` asks again while it is known to be.
        """
        if not self.available and not probe:
            raise _say_away()
        try:
            try:
                result = await self._attempt(work)
            except psycopg.OperationalError as error:
                if isinstance(error, PoolTimeout):
                    raise
                await self._pool.check()
                result = await self._attempt(work)
        except _AWAY as error:
            self._note_away(error)
            raise _say_away() from error
        self._note_available()
        return result

    async def _attempt(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        async with asyncio.timeout(self._answer_within_s), self._pool.connection() as connection:
            return await work(connection)

    def _note_away(self, error: Exception) -> None:
        if isinstance(error, PoolTimeout) and time.monotonic() - self._answered_at < _BUSY_S:
            return  # others are being answered: it is busy, not away
        if self.available or self.away_since is None:
            self.away_since = time.time()
            log.error("the database is away: %s", error)
        self.available = False

    def _note_available(self) -> None:
        if not self.available:
            log.info("the database is there")
        self._answered_at = time.monotonic()
        self.available = True
        self.away_since = None


def _say_away() -> DependencyAway:
    return DependencyAway("The key database is not reachable.", code="database_unavailable", retry_after_s=2)


async def count_change(connection: Connection) -> int:
    """Raise the counter that every worker watches; first in its transaction, its row lock orders the
    commits.
    """
    row = await (await connection.execute("UPDATE change_counter SET n = n + 1 RETURNING n")).fetchone()
    assert row is not None, "change_counter has one row"
    return int(row[0])


async def cancel_tasks(*tasks: asyncio.Task[Any]) -> None:
    """Cancel background tasks until they are gone.

    Once is not enough: `asyncio.wait_for` of Python 3.11, which the pool uses, swallows a cancellation that
    arrives together with its result.
    """
    running = set(tasks)
    while running:
        for task in running:
            task.cancel()
        done, running = await asyncio.wait(running, timeout=0.2)
        for task in done:
            if not task.cancelled() and (error := task.exception()) is not None:
                log.error("a background task had ended: %r", error)
