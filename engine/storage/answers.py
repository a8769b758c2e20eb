"""Answers that clients asked to be kept: written behind them, read by the key that made them, gone after a month.

Nobody waits for the writing. What is waiting is read from memory; what cannot be written (the database is away, it is
too large, too much waits) is given up with a line in the log and a count, and whoever asks for it here is told.
"""

import asyncio
import logging
from collections import OrderedDict
from dataclasses import dataclass

import orjson
import psycopg

from engine.errors import AnswerMissing, DependencyAway
from engine.storage.postgres import Connection, Database, cancel_tasks
from engine.storage.purging import purge_often
from engine.wire.stored import Exchange

log = logging.getLogger(__name__)

Name = tuple[str, str]
"""(key, answer)"""

MOST_WAITING_BYTES = 64 << 20
LONGEST_CHAIN = 500
_MOST_LOST = 2000
_LAG_S = (0.05, 0.2)
_PURGE_EACH_S = 600.0

_WRITE = (
    "INSERT INTO stored_answers (key_id, id, previous_id, expires_at, input, answer)"
    " VALUES (%s, %s, %s, now() + make_interval(secs => %s), %s, %s)"
    " ON CONFLICT (key_id, id) DO NOTHING"
)
_READ = "SELECT previous_id, input, answer FROM stored_answers WHERE key_id = %s AND id = %s AND expires_at > now()"
_DELETE = "DELETE FROM stored_answers WHERE key_id = %s AND id = %s AND expires_at > now() RETURNING id"
_PURGE = (
    "DELETE FROM stored_answers WHERE ctid = ANY(ARRAY("
    "SELECT ctid FROM stored_answers WHERE expires_at <= now() LIMIT %s))"
)


@dataclass(frozen=True, slots=True)
class Kept:
    """One answer with what was said to get it, both as JSON."""

    key_id: str
    id: str
    previous_id: str | None
    input: bytes
    answer: bytes

    @property
    def name(self) -> Name:
        return self.key_id, self.id

    def __len__(self) -> int:
        return len(self.input) + len(self.answer)

    def read(self) -> Exchange:
        return Exchange(orjson.loads(self.input), orjson.loads(self.answer))


class AnswerStore:
    """`counts` are for `gatewayz_stored_answers_total{outcome}`."""

    def __init__(self, database: Database, *, keep_s: float, most_bytes: int) -> None:
        self.counts: dict[str, int] = {"stored": 0, "away": 0, "too_large": 0, "refused": 0}
        self._database = database
        self._keep_s, self._most_bytes = keep_s, most_bytes
        self._waiting: OrderedDict[Name, Kept] = OrderedDict()
        self._waiting_bytes = 0
        self._lost: OrderedDict[Name, str] = OrderedDict()
        self._wake = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def keeps(self) -> bool:
        return self._keep_s > 0

    def start(self) -> None:
        purging = purge_often(self._database, _PURGE, _PURGE_EACH_S, "answers are")
        self._tasks = [asyncio.create_task(self._write_often()), asyncio.create_task(purging)]

    async def stop(self, within_s: float = 3.0) -> None:
        """Write what waits, if the database takes it in time."""
        await cancel_tasks(*self._tasks)
        try:
            async with asyncio.timeout(within_s):
                await self._write_waiting()
        except TimeoutError:
            log.error(
                "%d answers were not stored: the database did not take them in time", len(self._waiting)
            )

    def keep(self, kept: Kept) -> None:
        """Take one answer to be written soon."""
        if len(kept) > self._most_bytes:
            self._give_up(kept, "too_large", f"it is larger than {self._most_bytes} bytes")
        elif self._waiting_bytes + len(kept) > MOST_WAITING_BYTES:
            self._give_up(kept, "away", "too many answers wait for the database")
        else:
            self._waiting[kept.name] = kept
            self._waiting_bytes += len(kept)
            self._wake.set()

    async def find(self, key_id: str, answer_id: str) -> Kept:
        """One kept answer of this key. Raises AnswerMissing, DependencyAway."""
        if not (answer_id.isascii() and answer_id.isprintable()):
            raise AnswerMissing(
                "no response has an id with such characters"
            )  # and the database no text for it
        kept = await self._look_up((key_id, answer_id))
        for pause_s in _LAG_S if kept is None and (key_id, answer_id) not in self._lost else ():
            await asyncio.sleep(pause_s)  # another worker may be about to write it
            kept = kept or await self._look_up((key_id, answer_id))
        if kept is None:
            raise self._say_missing((key_id, answer_id))
        return kept

    async def find_conversation(self, key_id: str, answer_id: str) -> list[Exchange]:
        """All that was said up to this answer, oldest first. Raises AnswerMissing, DependencyAway."""
        found: list[Exchange] = []
        name: str | None = answer_id
        while name is not None:
            kept = await self.find(key_id, name)
            found.append(kept.read())
            name = kept.previous_id
            if len(found) > LONGEST_CHAIN:
                raise AnswerMissing(
                    f"the conversation behind {answer_id} is longer than {LONGEST_CHAIN} answers"
                )
        return found[::-1]

    async def delete(self, key_id: str, answer_id: str) -> None:
        """Forget one answer. Raises AnswerMissing, DependencyAway."""

        async def delete(connection: Connection) -> bool:
            rows = await connection.execute(_DELETE, (key_id, answer_id))
            return await rows.fetchone() is not None

        waiting = self._take((key_id, answer_id)) is not None
        if not await self._database.run(delete) and not waiting:
            raise self._say_missing((key_id, answer_id))

    async def _look_up(self, name: Name) -> Kept | None:
        if (waiting := self._waiting.get(name)) is not None:
            return waiting

        async def select(connection: Connection) -> tuple[str | None, bytes, bytes] | None:
            found: tuple[str | None, bytes, bytes] | None = await (
                await connection.execute(_READ, name)
            ).fetchone()
            return found

        row = await self._database.run(select)
        return None if row is None else Kept(*name, row[0], bytes(row[1]), bytes(row[2]))

    def _say_missing(self, name: Name) -> AnswerMissing:
        if name in self._lost:
            return AnswerMissing(f"the response {name[1][:100]} could not be stored: {self._lost[name]}")
        return AnswerMissing(
            f"no response {name[1][:100]} is stored for this key: it is unknown, expired, deleted, or was never stored"
        )

    # --- writing

    def _take(self, name: Name) -> Kept | None:
        kept = self._waiting.pop(name, None)
        if kept is not None:
            self._waiting_bytes -= len(kept)
        return kept

    def _give_up(self, kept: Kept, outcome: str, reason: str) -> None:
        self.counts[outcome] += 1
        self._lost[kept.name] = reason
        if len(self._lost) > _MOST_LOST:
            self._lost.popitem(last=False)
        log.error("an answer was not stored: %s: %s", kept.id, reason)

    async def _write_often(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            await self._write_waiting()

    async def _write_waiting(self) -> None:
        for kept in list(self._waiting.values()):
            await self._write(kept)
            self._take(kept.name)

    async def _write(self, kept: Kept) -> None:
        async def insert(connection: Connection) -> None:
            values = (*kept.name, kept.previous_id, self._keep_s, kept.input, kept.answer)
            await connection.execute(_WRITE, values)

        try:
            await self._database.run(insert)
            self.counts["stored"] += 1
        except DependencyAway:
            self._give_up(kept, "away", "the database was away")
        except psycopg.Error as error:
            self._give_up(kept, "refused", f"the database refused it ({error.sqlstate})")
