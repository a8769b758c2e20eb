"""Who a key belongs to: known keys from this process's memory, others from the database.

A key is found by its keyed hash and the whole hash is compared in constant time. Every change of a key or
user raises `change_counter`; each process reads that row every 400 ms and forgets what changed. While the
database is away nothing is forgotten: known keys keep working, unknown ones are answered 503, never 401.
"""

import asyncio
import contextlib
import hmac
import logging
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import psycopg

from engine.call import Caller
from engine.errors import DependencyAway, KeyRefused
from engine.storage.key_cache import KeyCacheFile, KnownKey
from engine.storage.key_rows import SELECT_KEY, KeyRow, read_key_row
from engine.storage.postgres import Connection, Database, cancel_tasks
from engine.storage.provider_keys import open_own_keys
from engine.storage.secrets import KeyRing, is_key

log = logging.getLogger(__name__)

MOST_KNOWN = 20_000
_MOST_REFUSED = 10_000
_REFUSED_FOR_S = 3.0
_POLL_S = 0.4
_ANSWER_WITHIN_S = 4.0
_SAVE_EACH_S = 5.0
_USE_EACH_S = 15.0
_USED_AT_ONCE = 1000
_MOST_DROPPED = 20_000
_PREFIX = 16

_SELECT_CHANGED = (
    "SELECT k.id, k.hash FROM api_keys k JOIN users u ON u.id = k.user_id WHERE k.changed_n > %s"
    " UNION SELECT k.id, k.hash FROM users u JOIN api_keys k ON k.user_id = u.id WHERE u.changed_n > %s"
    " UNION SELECT k.id, k.hash FROM teams t JOIN api_keys k ON k.team_id = t.id WHERE t.changed_n > %s"
    " LIMIT %s"
)

_Known = tuple[bytes, Caller]


class KeyStore:
    """Implements KeyLookup. `start` reads the last known keys and begins to watch for changes."""

    def __init__(
        self, database: Database, ring: KeyRing, home: Path, *, most_known: int = MOST_KNOWN
    ) -> None:
        self._database = database
        self._ring = ring
        self._file = KeyCacheFile(home, ring)
        self._digests = tuple(entry.keys.digest for entry in ring.entries)
        # Two halves instead of a list in order of use: a hit costs one look-up, and what the older half still
        # holds when the newer one is full has not been used for a while.
        self._newer: dict[bytes, _Known] = {}
        self._older: dict[bytes, _Known] = {}
        self._half = max(1, most_known // 2)
        self._refused: dict[bytes, tuple[float, str]] = {}
        self._asking: dict[bytes, asyncio.Task[Caller]] = {}
        self._seen_n = -1
        self._dropped: dict[str, int] = {}
        self._used: set[str] = set()
        self._learned: set[bytes] = set()
        self._scopes: dict[frozenset[str], frozenset[str]] = {}  # one set for all keys alike
        self._forgot = False
        self._tasks: list[asyncio.Task[None]] = []

    def __len__(self) -> int:
        return len(self._newer) + len(self._older)

    async def start(self) -> None:
        """Load the last known keys, forget at once what changed since if the database can tell, and watch."""
        known = await asyncio.to_thread(self._file.load)
        for key in known:
            self._remember(key.hash, key.caller)
        self._seen_n = min((key.n for key in known), default=-1)
        self._learned.clear()
        with contextlib.suppress(DependencyAway):
            await self._read_changes()
        self._tasks = [asyncio.create_task(self._watch_changes()), asyncio.create_task(self._save_often())]

    async def stop(self) -> None:
        await cancel_tasks(*self._tasks, *self._asking.values())
        await self._save()
        await self._note_used()

    def find(self, key_text: str) -> Caller | None:
        """The caller when this process knows the key already; never waits. Raises KeyRefused once it expired."""
        if is_key(key_text) is None:
            return None
        message = key_text.encode()
        for digest in self._digests:
            hashed = digest(message)
            known = self._newer.get(hashed[:_PREFIX]) or self._promote(hashed[:_PREFIX])
            if known is not None and hmac.compare_digest(known[0], hashed):
                caller = known[1]
                if caller.expires_at is not None and caller.expires_at <= time.time():
                    raise KeyRefused("This API key has expired.")
                self._used.add(caller.key_id)
                return caller
        return None

    async def fetch(self, key_text: str) -> Caller:
        """The caller from the database. Raises KeyRefused for an unknown key, DependencyAway if nobody can
        tell.

        Whoever asks for the same key meanwhile waits for the same answer.
        """
        if is_key(key_text) is None:
            raise KeyRefused("This is not an API key of this gateway: keys begin with gw_live_ or gw_test_.")
        hashed = self._ring.hash_key(key_text)
        refused = self._refused.get(hashed)
        if refused is not None and refused[0] > time.monotonic():
            raise KeyRefused(refused[1])
        asking = self._asking.get(hashed)
        if asking is None:
            asking = self._asking[hashed] = asyncio.create_task(self._ask(key_text, hashed))
            asking.add_done_callback(lambda task: self._end_asking(hashed, task))
        try:
            async with asyncio.timeout(_ANSWER_WITHIN_S):
                return await asyncio.shield(asking)
        except TimeoutError:
            raise DependencyAway(
                "The key database does not answer.", code="database_unavailable", retry_after_s=2
            ) from None
        finally:
            del asking  # it keeps the refusal, which names this frame and with it everything of the request

    def _end_asking(self, hashed: bytes, task: asyncio.Task[Caller]) -> None:
        self._asking.pop(hashed, None)
        if not task.cancelled():
            task.exception()  # everybody who waited may have left

    async def _ask(self, key_text: str, hashed: bytes) -> Caller:
        hashes = list(self._ring.hash_under_all(key_text))

        async def select(connection: Connection) -> KeyRow:
            row = await (await connection.execute(SELECT_KEY, {"hashes": hashes})).fetchone()
            assert row is not None, "change_counter has one row"
            return read_key_row(row, hashes, time.time())

        deadline = time.monotonic() + _ANSWER_WITHIN_S
        row = await self._database.run(select)
        while row.n < self._seen_n:  # older than a change that was acted on: what it says may be undone
            if time.monotonic() > deadline:
                raise DependencyAway("The key database lags behind.", retry_after_s=2)
            await asyncio.sleep(0.01)
            row = await self._database.run(select)
        if row.caller is None:
            raise self._refuse(hashed, row.refusal)
        caller = replace(
            row.caller,
            scopes=self._scopes.setdefault(row.caller.scopes, row.caller.scopes),
            own_keys=open_own_keys(self._ring, row.own_keys),
        )
        self._remember(hashed, caller)
        if row.is_current and row.ring_id != self._ring.newest.id:
            await self._rehash(caller.key_id, hashed)
        return caller

    def _refuse(self, hashed: bytes, sentence: str) -> KeyRefused:
        if len(self._refused) >= _MOST_REFUSED:
            self._refused.clear()
        self._refused[hashed] = (time.monotonic() + _REFUSED_FOR_S, sentence)
        return KeyRefused(sentence)

    async def _rehash(self, key_id: str, hashed: bytes) -> None:
        """Store the key under the newest ring entry. Not a change: what others know of it stays true."""

        async def update(connection: Connection) -> None:
            await connection.execute(
                "UPDATE api_keys SET hash = %s, ring_id = %s WHERE id = %s",
                (hashed, self._ring.newest.id, key_id),
            )

        with contextlib.suppress(DependencyAway):
            await self._database.run(update)

    def _remember(self, hashed: bytes, caller: Caller) -> None:
        self._older.pop(hashed[:_PREFIX], None)
        self._newer[hashed[:_PREFIX]] = (hashed, caller)
        self._refused.pop(hashed, None)
        self._learned.add(hashed[:_PREFIX])
        self._turn_over()

    def _promote(self, prefix: bytes) -> _Known | None:
        known = self._older.pop(prefix, None)
        if known is not None:
            self._newer[prefix] = known
            self._turn_over()
        return known

    def _turn_over(self) -> None:
        if len(self._newer) >= self._half:
            self._older, self._newer = self._newer, {}

    async def _watch_changes(self) -> None:
        while True:
            await asyncio.sleep(_POLL_S)
            try:
                await self._read_changes()
            except DependencyAway:
                continue
            except psycopg.Error as error:
                log.error("changes of keys cannot be read: %s", error)

    async def _read_changes(self) -> None:
        async def select(connection: Connection) -> tuple[int, list[tuple[str, bytes]]]:
            found = await (await connection.execute("SELECT n FROM change_counter")).fetchone()
            n = int(found[0]) if found else 0
            if n == self._seen_n or self._seen_n < 0:
                return n, []
            changed = await connection.execute(_SELECT_CHANGED, (*[self._seen_n] * 3, _MOST_DROPPED))
            return n, await changed.fetchall()

        n, rows = await self._database.run(select, probe=True)
        if n < self._seen_n or len(rows) >= _MOST_DROPPED:  # another database, or too much to name
            self._forget_all(n)
        elif rows:
            self._forget(rows, n)
        self._seen_n = n

    def _forget(self, rows: list[tuple[str, bytes]], n: int) -> None:
        ids = {key_id for key_id, _ in rows}
        for half in (self._newer, self._older):
            for prefix in [prefix for prefix, known in half.items() if known[1].key_id in ids]:
                del half[prefix]
        for _, hashed in rows:
            self._refused.pop(hashed, None)
        self._note_dropped(ids, n)

    def _note_dropped(self, ids: Iterable[str], n: int) -> None:
        self._dropped.update(dict.fromkeys(ids, n))
        for oldest in list(self._dropped)[:-_MOST_DROPPED]:  # left the file long ago
            del self._dropped[oldest]
        self._forgot = True

    def _forget_all(self, n: int) -> None:
        known = [*self._older.values(), *self._newer.values()]
        self._note_dropped((caller.key_id for _, caller in known), n)
        for store in (self._newer, self._older, self._refused):
            store.clear()

    async def _save_often(self) -> None:
        saved = used = time.monotonic()
        while True:
            await asyncio.sleep(0.5)
            now = time.monotonic()
            if self._forgot or (self._learned and now - saved >= _SAVE_EACH_S):
                await self._save()
                saved = now
            if now - used >= _USE_EACH_S:
                await self._note_used()
                used = now

    async def _save(self) -> None:
        """Write `keys.cache` when there is something new. A failure is logged: the file is a comfort."""
        if not (self._learned or self._forgot) or self._seen_n < 0:
            return
        prefixes, self._learned, self._forgot = self._learned, set(), False
        known = [self._newer.get(prefix) or self._older.get(prefix) for prefix in prefixes]
        learned = [KnownKey(*key, self._seen_n) for key in known if key is not None]
        try:
            await asyncio.to_thread(self._file.merge, learned, dict(self._dropped))
        except OSError as error:
            log.error("keys.cache is not written: %s", error)

    async def _note_used(self) -> None:
        used, self._used = list(self._used), set()

        async def update(connection: Connection) -> None:
            for begin in range(0, len(used), _USED_AT_ONCE):
                await connection.execute(
                    "UPDATE api_keys SET last_used_at = now() WHERE id = ANY(%s)",
                    (used[begin : begin + _USED_AT_ONCE],),
                )

        if used:
            with contextlib.suppress(DependencyAway):
                await self._database.run(update)
