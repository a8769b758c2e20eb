"""The connections to one origin: bounded, the last used first, with a line for those who find none free."""

import asyncio
from collections import deque
from functools import partial

from engine.errors import UpstreamFailure
from engine.upstream.dial import Dialler
from engine.upstream.http1 import Connection, SocketReply
from engine.upstream.reply import MAX_UNREAD, Origin, Reply, StreamedBody


class OriginPool:
    """The connections to one origin. The one used last is used next; who finds none waits in line."""

    def __init__(
        self, origin: Origin, dialler: Dialler, max_connections: int, life_s: float, idle_s: float
    ) -> None:
        self._origin = origin
        self._dialler = dialler
        self._max = max_connections
        self._life_s = life_s
        self._idle_s = idle_s
        self._loop = asyncio.get_running_loop()
        self._build = partial(Connection, self._loop, self, origin.scheme == "https")
        self.idle: dict[Connection, None] = {}
        """In the order of their last use."""
        self._open: set[Connection] = set()
        self._line: deque[asyncio.Future[Connection | None]] = deque()
        self.connecting = 0
        self.size = 0
        """Places taken: open connections and those being opened."""
        self._used_at = self._loop.time()
        self._closed = False

    async def send(
        self, head: bytes, body: bytes, connect_s: float, headers_s: float | None, answer_s: float | None
    ) -> Reply:
        clock, within_s = ("answer", answer_s) if headers_s is None else ("headers", headers_s)
        enough = MAX_UNREAD if headers_s is None and answer_s is not None else 0
        connection = self._take_idle()
        if connection is None:
            connection = await self._obtain(connect_s)
        reply = connection.ask(head, body, clock, within_s)
        await reply.wait(enough)
        if reply.stale:  # the upstream had closed it while it was idle: no fault, and nothing was asked yet
            connection = await self._obtain(connect_s)
            reply = connection.ask(head, body, clock, within_s)
            await reply.wait(enough)
        if reply.failure is not None and not reply.status:
            raise reply.failure
        if headers_s is not None and answer_s is not None:
            reply.set_clock("answer", answer_s - headers_s + reply.left_s)
        return reply

    async def send_streamed(
        self, head: bytes, body: StreamedBody, connect_s: float, answer_s: float, pause_s: float
    ) -> Reply:
        """Over a connection of its own, for what was taken from `body` might not come a second time."""
        connection = await self._obtain(connect_s)
        reply = connection.ask_streamed(head, body, pause_s)
        try:
            await send_whole(connection, reply)
        except BaseException:
            reply.close()
            raise
        reply.set_clock("answer", answer_s)
        await reply.wait(0)
        if reply.failure is not None and not reply.status:
            raise reply.failure
        return reply

    def take_back(self, connection: Connection) -> None:
        """A connection has done its answer: give it to the next in line, or keep it."""
        connection.idle_since = now = self._loop.time()
        if now - connection.born > self._life_s:
            connection.drop()
            return
        while self._line:
            waiter = self._line.popleft()
            if not waiter.done():
                waiter.set_result(connection)
                return
        self.idle[connection] = None

    def forget(self, connection: Connection) -> None:
        """A connection is gone: its place is free."""
        if connection in self._open:
            self._open.remove(connection)
            self.idle.pop(connection, None)
            self._free_place()

    def drop_old(self) -> None:
        """Close what has been idle for too long."""
        now = self._loop.time()
        for connection in list(self.idle):
            if now - connection.idle_since < self._idle_s:
                break
            connection.drop()

    def is_unused(self) -> bool:
        """Whether nobody has been here for a while and nothing is open."""
        return not self.size and not self._line and self._loop.time() - self._used_at > self._idle_s

    def close(self) -> None:
        self._closed = True
        while self._line:
            waiter = self._line.popleft()
            if not waiter.done():
                waiter.set_exception(_closed())
        for connection in list(self._open):
            connection.fail(_closed())

    def _take_idle(self) -> Connection | None:
        idle = self.idle
        while idle:
            connection, _ = idle.popitem()
            now = self._loop.time()
            if now - connection.born < self._life_s and now - connection.idle_since < self._idle_s:
                return connection
            connection.drop()
        return None

    async def _obtain(self, connect_s: float) -> Connection:
        """Return a connection that is new, or that was in use a moment ago."""
        self._used_at = self._loop.time()
        if self._closed:
            raise _closed()
        if self.size >= self._max and self.idle:
            next(iter(self.idle)).drop()
        while self.size >= self._max:
            connection = await self._wait_in_line(connect_s)
            if connection is None:
                break  # a place, already counted as taken
            if connection in self._open:
                return connection
        else:
            self.size += 1
        self.connecting += 1
        try:
            connection = await self._dialler.connect(self._origin, self._build, connect_s)
        except BaseException:
            self._free_place()
            raise
        finally:
            self.connecting -= 1
        self._open.add(connection)
        if self._closed:
            connection.drop()
            raise _closed()
        return connection

    async def _wait_in_line(self, within_s: float) -> Connection | None:
        waiter: asyncio.Future[Connection | None] = self._loop.create_future()
        self._line.append(waiter)
        try:
            async with asyncio.timeout(within_s):
                return await waiter
        except (TimeoutError, asyncio.CancelledError) as error:
            self._give_on(waiter)
            if isinstance(error, TimeoutError):
                told = f"no free connection to {self._origin} within {within_s:g} s ({self._max} in use)"
                raise UpstreamFailure("timeout", told, clock="pool") from None
            raise

    def _give_on(self, waiter: "asyncio.Future[Connection | None]") -> None:
        """Who left the line in the moment of being served passes on what it was given."""
        if waiter.cancelled() or not waiter.done():
            if waiter in self._line:
                self._line.remove(waiter)
        elif waiter.exception() is None:
            connection = waiter.result()
            if connection is None:
                self._free_place()
            elif connection in self._open:
                self.take_back(connection)

    def _free_place(self) -> None:
        while self._line:
            waiter = self._line.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
        self.size -= 1


async def send_whole(connection: Connection, reply: SocketReply) -> None:
    """Wait until the whole body is sent, or the upstream has answered before; raises what the body's source raised."""
    pump = connection.pump
    assert pump is not None
    answered = connection.expect(0)
    await asyncio.wait((pump, answered), return_when=asyncio.FIRST_COMPLETED)
    if not pump.done():
        pump.add_done_callback(lambda done: end_at_failed_body(reply, done))
    elif not pump.cancelled() and (error := pump.exception()) is not None:
        raise error


def end_at_failed_body(reply: SocketReply, pump: "asyncio.Task[None]") -> None:
    """The upstream had begun to answer, and waits for a rest that will not come."""
    if not pump.cancelled() and pump.exception() is not None:
        reply.close()


def _closed() -> UpstreamFailure:
    return UpstreamFailure("reset", "the gateway closed its upstream connections")
