"""One connection to Redis or Valkey for a whole process: what is sent in one turn of the event loop travels together.

`send` never waits. An answer that takes longer than `answer_within_s` closes the connection and fails everything
that is outstanding; from then on nobody waits, and a background task tries to come back. It counts as back when
`greet` has returned and the server answers in time again.
"""

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from hashlib import sha1
from typing import Any, Final, Protocol, TypeAlias

from hiredis import HiredisError, Reader, ReplyError, pack_command

log = logging.getLogger(__name__)

ANSWER_WITHIN_S = 0.05
GREET_WITHIN_S = 2.0
CONNECT_WITHIN_S = 1.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 2.0
SECOND_LOOK_S = 0.002
"""After a pause of this process answers may be there already, unread: they get another turn of the loop."""
Word: TypeAlias = str | bytes | int | float
Late: TypeAlias = Callable[[Any], None]


class RedisAway(Exception):
    """Redis does not answer now. Whoever asked decides what that means."""


class Sent:
    """A command on its way. `late` takes the answer when nobody waits for it any more."""

    __slots__ = ("at", "body", "future", "late", "of_script", "size")

    def __init__(
        self,
        size: int,
        body: bytes,
        at: float,
        future: asyncio.Future[Any] | None,
        late: Late | None,
        *,
        of_script: bool = True,
    ) -> None:
        self.size, self.body, self.of_script = size, body, of_script
        """How many words, and the words as they travel; those of a script call without its name."""
        self.at, self.future, self.late = at, future, late

    def answer(self, value: Any) -> None:
        if self.future is None:
            return
        if not self.future.done():
            self.future.set_result(value)
        elif self.late is not None:
            self.late(value)

    def fail(self, error: Exception) -> None:
        if self.future is not None and not self.future.done():
            self.future.set_exception(RedisAway(str(error) or repr(error)))


class Answers(asyncio.Protocol):
    """Takes the connection over once it is made: no task and no stream stands between the socket and a future."""

    def __init__(self, take: Callable[[Any], None], end: Callable[[Exception], None]) -> None:
        self._take, self._end = take, end
        self._reader = Reader(notEnoughData=self)

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        try:
            while (value := self._reader.gets()) is not self:
                self._take(value)
        except HiredisError as error:
            self._end(error)

    def connection_lost(self, error: Exception | None) -> None:
        self._end(error or ConnectionError("the server closed the connection"))


def pack_words(*words: Word) -> bytes:
    """Words as they travel, without how many they are."""
    packed: bytes = pack_command(words)  # type: ignore[arg-type]
    return packed[packed.index(b"\n") + 1 :]


@dataclass(frozen=True, slots=True)
class Connected:
    """A connection that is ready for commands."""

    transport: asyncio.WriteTransport
    close: Callable[[], Awaitable[None]]


class Door(Protocol):
    """Opens connections (storage/redis_door.py). Raises RedisAway, OSError or TimeoutError."""

    async def open(self, elsewhere: dict[str, Any]) -> Connected:
        """`elsewhere` has the host and port that a cluster named instead."""


class Script:
    """A Lua script by its hash; a server that does not know it is sent the text."""

    def __init__(self, text: str) -> None:
        self.text: Final = text
        self.hash: Final = sha1(text.encode(), usedforsecurity=False).hexdigest()


class Redis:
    """The connection, kept up in the background."""

    def __init__(self, door: Door, script: Script, *, answer_within_s: float = ANSWER_WITHIN_S) -> None:
        self.available = False
        self.away_since: float | None = time.time()
        """Wall clock, seconds since the epoch; None while Redis is there."""
        self.greet: Callable[[], Awaitable[None]] = _greet_nobody
        """Awaited on every new connection, before anybody else may use it."""
        self.on_back: Callable[[], None] = _do_nothing
        """May send what goes ahead of everybody else's."""
        self.on_lost: Callable[[], None] = _do_nothing
        self._door, self._script, self._answer_within_s = door, script, answer_within_s
        self._told_away = False
        self._elsewhere: dict[str, Any] = {}
        self._head = pack_words("EVALSHA", script.hash)
        self._waiting: list[Sent] = []
        self._sent: deque[Sent] = deque()
        self._now = 0.0
        """When the first of those that wait came."""
        self._loading: Sent | None = None
        self._transport: asyncio.WriteTransport | None = None
        self._broken: asyncio.Future[Exception] | None = None
        self._watch: asyncio.TimerHandle | None = None
        self._suspicious = False
        self._keeper: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._keeper = asyncio.get_running_loop().create_task(self._keep())

    async def stop(self) -> None:
        """Send what waits, then close."""
        if self._keeper is not None:
            for _ in range(10):
                if not self._waiting and not self._sent:
                    break
                await asyncio.sleep(0.005)
            self._keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._keeper

    def run_script(self, keys: list[str], words: list[Word], late: Late | None = None) -> asyncio.Future[Any]:
        """The script's answer; the future fails with RedisAway within `answer_within_s`."""
        return self.run_packed(1 + len(keys) + len(words), pack_words(len(keys), *keys, *words), late)

    def run_packed(self, size: int, body: bytes, late: Late | None = None) -> asyncio.Future[Any]:
        """The same for whoever has the words packed: how many keys there are, the keys, what else there is."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._send(size, body, future, late)
        return future

    def tell_script(self, keys: list[str], words: list[Word]) -> None:
        """Like run_script, for whoever does not want the answer. Nothing happens while Redis is away."""
        if self.available:
            self._send(1 + len(keys) + len(words), pack_words(len(keys), *keys, *words), None, None)

    def tell_packed(self, size: int, body: bytes) -> None:
        if self.available:
            self._send(size, body, None, None)

    def tell(self, *words: Word) -> None:
        if self.available:
            self._send(len(words), pack_words(*words), None, None, of_script=False)

    def drop(self, reason: str) -> None:
        """Begin anew, with a connection that is greeted."""
        self._break(RedisAway(reason))

    def _send(
        self,
        size: int,
        body: bytes,
        future: asyncio.Future[Any] | None,
        late: Late | None,
        *,
        of_script: bool = True,
    ) -> Sent:
        waiting = self._waiting
        if not waiting:
            self._now = asyncio.get_running_loop().time()
        sent = Sent(size, body, self._now, future, late, of_script=of_script)
        if self._broken is None or self._broken.done():
            sent.fail(RedisAway("Redis is away"))
            return sent
        if not waiting:
            asyncio.get_running_loop().call_soon(self._write)
            if self._watch is None:
                self._look_again(self._now + self._patience_s)
        waiting.append(sent)
        return sent

    # The life of a connection

    async def _keep(self) -> None:
        pause_s = FIRST_PAUSE_S
        while True:
            began = time.monotonic()
            try:
                await self._live()
            except (RedisAway, OSError, TimeoutError) as error:
                self._note_away(error)
            except Exception as error:  # noqa: BLE001 - whatever a library raises: limits must not end with this task
                self._note_away(error)
            if time.monotonic() - began > 2 * LONGEST_PAUSE_S:
                pause_s = FIRST_PAUSE_S
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    async def _live(self) -> None:
        """Connect, greet, be available until something breaks; ends with what broke."""
        async with asyncio.timeout(CONNECT_WITHIN_S):
            elsewhere, self._elsewhere = self._elsewhere, {}
            connection = await self._door.open(elsewhere)
        try:
            self._broken = asyncio.get_running_loop().create_future()
            self._transport = connection.transport
            self._transport.set_protocol(Answers(self._take_answer, self._break))
            await self._say_hello()
            self._note_available()
            self.on_back()
            raise await self._broken
        finally:
            self._break(RedisAway("the connection was closed"))
            self._transport = None
            await connection.close()

    async def _say_hello(self) -> None:
        """Each answer may take its time but the last one: who is slow would be away again at once.

        How much there is to tell decides how long all of it takes: with an end to that, who knows much never came back.
        """
        await self._load_script()
        await self.greet()
        async with asyncio.timeout(self._answer_within_s):
            asked: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            self._send(1, pack_words("PING"), asked, None, of_script=False)
            await asked

    async def _load_script(self) -> None:
        """A proxy that knows no SCRIPT gets the text with every call."""
        loaded: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._head = pack_words("EVALSHA", self._script.hash)
        body = pack_words("SCRIPT", "LOAD", self._script.text)
        self._loading = self._send(3, body, loaded, None, of_script=False)
        await loaded

    # On the wire

    def _write(self) -> None:
        """Everything that was sent in this turn of the loop."""
        batch, self._waiting = self._waiting, []
        if self._transport is None or not batch:
            return
        self._sent.extend(batch)
        pieces: list[bytes] = []
        for sent in batch:
            if sent.of_script:
                pieces += (b"*%d\r\n" % (sent.size + 2), self._head, sent.body)
            else:
                pieces += (b"*%d\r\n" % sent.size, sent.body)
        self._transport.write(b"".join(pieces))

    def _take_answer(self, value: Any) -> None:
        if not self._sent:
            self._break(ConnectionError("the server says more than it was asked"))
            return
        sent = self._sent.popleft()
        if not isinstance(value, ReplyError):
            sent.answer(value)
        elif sent.of_script and str(value).startswith("NOSCRIPT"):
            self._resend(sent)
        else:
            self._refuse(sent, value)

    def _resend(self, sent: Sent) -> None:
        """The server forgot the script (SCRIPT FLUSH, another server behind the same address)."""
        body = pack_words("EVAL", self._script.text) + sent.body
        self._send(sent.size + 2, body, sent.future, sent.late, of_script=False)

    def _refuse(self, sent: Sent, error: ReplyError) -> None:
        """A server that answers with an error is of no use: it loads, is read-only, is full, or has moved the keys."""
        if sent is self._loading:
            self._head = pack_words("EVAL", self._script.text)
            sent.answer(None)
            return
        kind, *facts = str(error).split()
        if kind == "MOVED" and len(facts) > 1:
            host, _, port = facts[1].rpartition(":")
            self._elsewhere = {"port": int(port), **({"host": host} if host else {})}
        sent.fail(error)
        self._break(error)

    def _break(self, error: Exception) -> None:
        """From now on nobody waits."""
        if self._broken is None or self._broken.done():
            return
        self._broken.set_result(error)
        outstanding = [*self._sent, *self._waiting]
        self._sent.clear()
        self._waiting = []
        self._suspicious = False
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        if self.available:
            self._note_away(error)
            self.on_lost()
        for sent in outstanding:
            sent.fail(error)

    # The clock

    @property
    def _patience_s(self) -> float:
        return self._answer_within_s if self.available else GREET_WITHIN_S

    def _look_again(self, at: float) -> None:
        self._watch = asyncio.get_running_loop().call_at(at, self._check_oldest)

    def _check_oldest(self) -> None:
        self._watch = None
        oldest = self._sent[0] if self._sent else self._waiting[0] if self._waiting else None
        if oldest is None:
            self._suspicious = False
            return
        now = asyncio.get_running_loop().time()
        due = oldest.at + self._patience_s
        if now < due:
            self._suspicious = False
            self._look_again(due)
        elif self._suspicious:  # maybe of another one: answers that trickle in late are of no use either
            self._break(TimeoutError(f"no answer within {self._patience_s * 1000:.0f} ms"))
        else:
            self._suspicious = True
            self._look_again(now + SECOND_LOOK_S)

    # What others see

    def _note_away(self, error: Exception) -> None:
        if self.available or not self._told_away:
            self._told_away = True
            self.away_since = time.time()
            log.error("redis is away: %s", _describe(error))
        self.available = False

    def _note_available(self) -> None:
        log.info("redis is there")
        self.available = True
        self.away_since = None
        if self._watch is not None:  # it was set for somebody more patient
            self._watch.cancel()
            self._suspicious = False
            self._check_oldest()


def _describe(error: Exception) -> str:
    """Without the address: it may carry a password."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _do_nothing() -> None:
    return


async def _greet_nobody() -> None:
    return
