"""Events as they come in: claimed by their id in the transaction that does what they tell, so each is done once.

A repeat, also one that comes at the same moment, finds the claim and does nothing. When something fails, the claim goes
with everything else, and whoever brought the event is told to bring it again.
"""

import logging
from collections.abc import Callable
from typing import Any, LiteralString

import orjson
import psycopg

from engine.errors import DependencyAway, GatewayError
from engine.payments.handling import IGNORED, STORED, EventHandler, Fetched, FetchFirst, Telling
from engine.payments.interfaces import Object
from engine.payments.objects import Told, read_event
from engine.payments.offers import Books
from engine.secret import Secret
from engine.storage.postgres import Connection, Database
from engine.storage.secrets import KeyRing

log = logging.getLogger(__name__)

REPEATED = "repeated"
_TRIES = 3
_CLAIM: LiteralString = (
    "INSERT INTO stripe_events (event_id, type, created, object_id, outcome, came_by)"
    " VALUES (%s, %s, %s, %s, 'claimed', %s) ON CONFLICT DO NOTHING"
)
_NOTE_FAILURE: LiteralString = (
    "INSERT INTO stripe_event_failures AS f (event_id, type, problem) VALUES (%s, %s, %s)"
    " ON CONFLICT (event_id) DO UPDATE SET tries = f.tries + 1, problem = excluded.problem, last_at = now()"
)


class EventNotHandled(GatewayError):
    """Stripe sends the event again."""

    status, type, code = 503, "service_unavailable_error", "event_not_handled"

    def __init__(self) -> None:
        super().__init__("the event could not be handled; send it again", retry_after_s=30)


class Inbox:
    def __init__(
        self,
        database: Database,
        ring: KeyRing,
        handler: EventHandler,
        read_books: Callable[[], Books],
        *,
        live: bool,
    ) -> None:
        self._database, self._ring = database, ring
        self._handler, self._read_books, self._live = handler, read_books, live
        self.counts: dict[str, int] = {}
        """Events by what became of them."""

    async def take(self, event: Object, came_by: str = "webhook") -> str:
        """Do what an event tells, once; returns what became of it. Raises EventNotHandled or DependencyAway."""
        try:
            outcome = await self._take(event, came_by)
        except DependencyAway as away:
            self._count("failed")
            log.warning("event %s waits: %s", event.get("id"), away)
            await self._note_failure(event, away)
            raise
        except (GatewayError, psycopg.Error, KeyError, TypeError, ValueError) as problem:
            self._count("failed")
            log.error("event %s was not handled: %r", event.get("id"), problem)
            await self._note_failure(event, problem)
            raise EventNotHandled() from problem
        self._count(outcome.partition(":")[0])
        return outcome

    async def _take(self, event: Object, came_by: str) -> str:
        told = read_event(event)
        fetched = await self._handler.fetch_before(told)
        for _ in range(_TRIES):
            try:
                return await self._do(told, event, fetched, came_by)
            except FetchFirst as missing:
                fetched[missing.name] = await self._handler.fetch(missing)
        raise ValueError("what it tells changes while it is looked at")

    async def _do(self, told: Told, event: Object, fetched: Fetched, came_by: str) -> str:
        books = self._read_books()

        async def work(connection: Connection) -> str:
            async with connection.transaction():
                await connection.execute("SELECT n FROM change_counter FOR UPDATE")
                claimed = await connection.execute(
                    _CLAIM, (told.event_id, told.type, told.created, told.object_id, came_by)
                )
                if not claimed.rowcount:
                    return REPEATED
                outcome = IGNORED
                if told.livemode == self._live and not told.account:
                    outcome = await self._handler.handle(Telling(connection, told, books, fetched))
                await self._finish(connection, told, event, outcome)
                return outcome

        return await self._database.run(work)

    async def _finish(self, connection: Connection, told: Told, event: Object, outcome: str) -> None:
        kept: Any = None
        if outcome == STORED:  # with people in it, so encrypted
            kept = self._ring.encrypt(Secret(orjson.dumps(event).decode()))
        await connection.execute(
            "UPDATE stripe_events SET outcome = %s, sealed = %s WHERE event_id = %s",
            (outcome, kept, told.event_id),
        )
        await connection.execute("DELETE FROM stripe_event_failures WHERE event_id = %s", (told.event_id,))

    async def _note_failure(self, event: Object, problem: Exception) -> None:
        facts = (str(event.get("id"))[:200], str(event.get("type"))[:200], repr(problem)[:500])

        async def work(connection: Connection) -> None:
            await connection.execute(_NOTE_FAILURE, facts)

        try:
            await self._database.run(work)
        except (DependencyAway, psycopg.Error):
            log.warning("the failure of event %s could not be noted", facts[0])

    def _count(self, outcome: str) -> None:
        self.counts[outcome] = self.counts.get(outcome, 0) + 1
