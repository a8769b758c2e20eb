"""Provider-private state that clients cannot carry, kept for each key and tool call until it is wanted or expires.

The newest stay in this process, bounded by bytes; behind the calls they are written to the database, encrypted, for
the other workers and the time after a restart. Nobody waits for the writing, and for the reading only a moment: a
conversation goes on without its state rather than late.
"""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import psycopg
from cryptography.fernet import InvalidToken

from engine.errors import DependencyAway
from engine.secret import Secret
from engine.storage.postgres import Connection, Database, cancel_tasks
from engine.storage.purging import purge_often
from engine.storage.secrets import KeyRing
from engine.wire.kept_state import CallState

log = logging.getLogger(__name__)

Name = tuple[str, str]
"""(key, tool call)"""

READ_WITHIN_S = 0.05
REST_S = 5.0
"""After a read that came too late, or not at all, the database is left alone for so long."""
WRITTEN_SOON_S = 2.0
"""What is missing so long after it was first missed is not about to be written by another worker."""
WRITTEN_AT_ONCE = 200
_ENTRY_BYTES = 400
"""What the memory of one entry costs beside its state."""
_PURGE_EACH_S = 600.0

_WRITE = (
    "INSERT INTO provider_state (key_id, call_id, expires_at, state)"
    " VALUES (%s, %s, now() + make_interval(secs => %s), %s)"
    " ON CONFLICT (key_id, call_id) DO UPDATE SET expires_at = EXCLUDED.expires_at, state = EXCLUDED.state"
)
_READ = (
    "SELECT call_id, state, extract(epoch FROM expires_at - now())::float8 FROM provider_state"
    " WHERE key_id = %s AND call_id = ANY(%s) AND expires_at > now()"
)
_PURGE = (
    "DELETE FROM provider_state WHERE ctid = ANY(ARRAY("
    "SELECT ctid FROM provider_state WHERE expires_at <= now() LIMIT %s))"
)


@dataclass(frozen=True, slots=True)
class Entry:
    """`state` None: there is nothing to put back, and nobody needs to look for it."""

    state: bytes | None
    expires_at: float

    def __len__(self) -> int:
        return _ENTRY_BYTES + len(self.state or b"")


class StateVault:
    """`counts` are for `gatewayz_provider_state_total{outcome}`. `clock` is monotonic."""

    def __init__(
        self,
        database: Database,
        ring: KeyRing,
        *,
        keep_s: float,
        most_bytes: int,
        most_waiting_bytes: int = 16 << 20,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        outcomes = ("kept", "stored", "unstored", "found", "read", "missing", "late", "away")
        self.counts: dict[str, int] = dict.fromkeys(outcomes, 0)
        self._database, self._ring, self._clock = database, ring, clock
        self._keep_s, self._most_bytes = keep_s, most_bytes
        self._entries: OrderedDict[Name, Entry] = OrderedDict()
        self._bytes = 0
        self._missed: OrderedDict[Name, float] = OrderedDict()
        self._waiting: OrderedDict[Name, Entry] = OrderedDict()
        self._waiting_bytes, self._most_waiting_bytes = 0, most_waiting_bytes
        self._rests_until = float("-inf")
        self._wake = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._reads: set[asyncio.Task[None]] = set()

    @property
    def keeps(self) -> bool:
        return self._keep_s > 0

    def start(self) -> None:
        purging = purge_often(self._database, _PURGE, _PURGE_EACH_S, "state of tool calls is")
        self._tasks = [asyncio.create_task(self._write_often()), asyncio.create_task(purging)]

    async def stop(self, within_s: float = 3.0) -> None:
        """Write what waits, if the database takes it in time."""
        await cancel_tasks(*self._tasks, *self._reads)
        try:
            async with asyncio.timeout(within_s):
                await self._write_waiting()
        except TimeoutError:
            log.error("the state of %d tool calls was not stored: the database was slow", len(self._waiting))

    def keep(self, key_id: str, states: Mapping[str, CallState]) -> None:
        """Take the state of an answer's calls, to be put back from now on."""
        for call, state in states.items():
            name, packed = (key_id, call), None if state.is_empty else state.pack()
            entry = Entry(packed, self._clock() + self._keep_s)
            self._remember(name, entry)
            if packed is not None:
                self.counts["kept"] += 1
                self._write_later(name, entry)

    async def find(self, key_id: str, calls: Iterable[str]) -> dict[str, CallState]:
        """What is kept of these calls of this key. Waits for the database a moment, and only for unknown calls."""
        wanted = [(key_id, call) for call in calls]
        unknown = [name for name in wanted if self._look_up(name) is None]
        if unknown and self._may_read():
            await self._read_soon(key_id, unknown)
        found = {name[1]: state for name in wanted if (state := self._unpack(name)) is not None}
        self.counts["found"] += len(found)
        return found

    # --- in this process

    def _remember(self, name: Name, entry: Entry) -> None:
        self._forget(name)
        self._entries[name] = entry
        self._bytes += len(entry)
        self._missed.pop(name, None)
        while self._bytes > self._most_bytes and self._entries:
            self._forget(next(iter(self._entries)))

    def _forget(self, name: Name) -> None:
        entry = self._entries.pop(name, None)
        self._bytes -= len(entry) if entry is not None else 0

    def _look_up(self, name: Name) -> Entry | None:
        entry = self._entries.get(name) or self._waiting.get(name)
        if entry is not None and entry.expires_at <= self._clock():
            self._forget(name)
            return None
        if name in self._entries:
            self._entries.move_to_end(name)
        return entry

    def _unpack(self, name: Name) -> CallState | None:
        entry = self._look_up(name)
        return None if entry is None or entry.state is None else CallState.unpack(entry.state)

    # --- reading

    def _may_read(self) -> bool:
        return self._database.available and self._clock() >= self._rests_until

    async def _read_soon(self, key_id: str, unknown: list[Name]) -> None:
        """The read goes on behind a call that has waited long enough: the next one finds what it brings."""
        task = asyncio.create_task(self._read(key_id, unknown))
        self._reads.add(task)
        task.add_done_callback(self._reads.discard)
        _, late = await asyncio.wait([task], timeout=READ_WITHIN_S)
        if late:
            self._rest("late", f"it did not answer within {READ_WITHIN_S:g} s")

    async def _read(self, key_id: str, unknown: list[Name]) -> None:
        async def select(connection: Connection) -> list[tuple[str, bytes, float]]:
            rows = await connection.execute(_READ, (key_id, [call for _, call in unknown]))
            return await rows.fetchall()

        try:
            rows = await self._database.run(select)
        except (DependencyAway, psycopg.Error) as error:
            self._rest("away", str(error))
            return
        for call, sealed, left_s in rows:
            if (packed := self._open(sealed)) is not None:
                self._remember((key_id, call), Entry(packed, self._clock() + left_s))
                self.counts["read"] += 1
        self._note_missing([name for name in unknown if name not in self._entries])

    def _open(self, sealed: bytes) -> bytes | None:
        try:
            return self._ring.decrypt(bytes(sealed)).reveal().encode()
        except InvalidToken:
            log.error("the state of a tool call cannot be read: no entry of the key ring fits")
            return None

    def _rest(self, outcome: str, reason: str) -> None:
        self.counts[outcome] += 1
        if self._clock() >= self._rests_until:
            log.error("the state of tool calls is not read from the database for %g s: %s", REST_S, reason)
        self._rests_until = self._clock() + REST_S

    def _note_missing(self, names: list[Name]) -> None:
        """Look once more, in case another worker was about to write it; then never again."""
        now = self._clock()
        for name in names:
            self.counts["missing"] += 1
            if now - self._missed.setdefault(name, now) >= WRITTEN_SOON_S:
                self._remember(name, Entry(None, now + self._keep_s))
        while len(self._missed) > WRITTEN_AT_ONCE * 50:
            self._missed.popitem(last=False)

    # --- writing

    def _write_later(self, name: Name, entry: Entry) -> None:
        if self._waiting_bytes + len(entry) > self._most_waiting_bytes:
            self._give_up(1, "too much waits for the database")
            return
        self._take(name)
        self._waiting[name] = entry
        self._waiting_bytes += len(entry)
        self._wake.set()

    def _take(self, name: Name) -> None:
        entry = self._waiting.pop(name, None)
        self._waiting_bytes -= len(entry) if entry is not None else 0

    async def _write_often(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            await self._write_waiting()

    async def _write_waiting(self) -> None:
        while self._waiting:
            batch = list(self._waiting.items())[:WRITTEN_AT_ONCE]
            await self._write(batch)
            for name, entry in batch:
                if self._waiting.get(name) is entry:
                    self._take(name)

    async def _write(self, batch: list[tuple[Name, Entry]]) -> None:
        now = self._clock()
        rows = [
            (*name, entry.expires_at - now, self._ring.encrypt(Secret((entry.state or b"").decode())))
            for name, entry in batch
        ]

        async def insert(connection: Connection) -> None:
            async with connection.transaction(), connection.cursor() as cursor:
                await cursor.executemany(_WRITE, rows)

        try:
            await self._database.run(insert)
            self.counts["stored"] += len(batch)
        except (DependencyAway, psycopg.Error) as error:
            self._give_up(len(batch), str(error))

    def _give_up(self, number: int, reason: str) -> None:
        self.counts["unstored"] += number
        log.error("the state of %d tool calls stays in this process alone: %s", number, reason)
