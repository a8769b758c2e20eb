"""HTTP/1.1 to one upstream over one socket: an asyncio Protocol around llhttp, the parser that uvicorn uses.

One `Connection` carries one request at a time; its `SocketReply` outlives it. Nothing here allocates a timer
or a future unless a read has to wait, and one write carries a whole request: that is what makes a call cost
microseconds.
"""

import asyncio
from collections.abc import Callable
from math import inf
from typing import Protocol, cast

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from engine.errors import UpstreamFailure
from engine.upstream.inflate import choose_inflater
from engine.upstream.pumping import pump_body
from engine.upstream.reply import MAX_HEAD, MAX_UNREAD, StreamedBody
from engine.upstream.reply import Origin as Origin
from engine.upstream.reply import Reply as Reply

_BIG_BODY = 64 * 1024
"""A body from here on is handed over as it is instead of being copied behind its head."""
_CLOCK_GRAIN_S = 0.001
"""libuv counts in milliseconds: a timer may fire this much early."""


class Owner(Protocol):
    """Who is told what becomes of a connection: the pool."""

    def take_back(self, connection: "Connection") -> None: ...

    def forget(self, connection: "Connection") -> None: ...


class SocketReply(Reply):
    """An answer read from a `Connection`. Once complete or failed it holds its last bytes itself."""

    __slots__ = ("clock", "connection", "failure", "idle_s", "left_s", "since", "stale", "tail")

    def __init__(self, connection: "Connection", clock: str, left_s: float) -> None:
        self.status = 0
        self.headers = []
        self.complete = False
        self.connection: Connection | None = connection
        self.failure: UpstreamFailure | None = None
        self.inflater = None
        self.tail = b""
        self.stale = False
        self.clock = clock
        self.left_s = left_s
        self.idle_s = inf
        self.since = 0.0

    def set_clock(self, name: str, within_s: float | None, idle_s: float | None = None) -> None:
        self.clock = name
        self.left_s = inf if within_s is None else within_s
        self.idle_s = inf if idle_s is None else idle_s

    async def wait(self, enough: int) -> None:
        """Wait until `enough` bytes of body are unread (0: until the head is there), or the end."""
        connection = self.connection
        if connection is None or (connection.parts and connection.unread >= enough):
            return
        waiter = connection.expect(enough)
        try:
            await waiter
        except asyncio.CancelledError:
            self.close()
            raise
        if self.left_s < inf:
            self.left_s -= connection.loop.time() - self.since

    async def read(self) -> bytes:
        connection = self.connection
        if connection is not None and not connection.parts:
            await self.wait(1)
        if self.inflater is not None:
            return await self._read_inflated(self.inflater)
        return self._take()

    async def read_all(self, limit: int) -> bytes:
        if self.inflater is None:
            await self.wait(limit + 1)
            if self.complete and len(self.tail) <= limit:
                return self._take()
        return await super().read_all(limit)

    def close(self) -> None:
        connection = self.connection
        if connection is not None:
            connection.fail(UpstreamFailure("reset", "the answer was closed before its end"))

    def _take(self) -> bytes:
        """What has arrived; a failure is told only after the last bytes before it."""
        connection = self.connection
        if connection is not None:
            return connection.take_parts()
        tail = self.tail
        if tail:
            self.tail = b""
        elif self.failure is not None:
            raise self.failure
        return tail

    async def _read_raw(self) -> bytes:
        connection = self.connection
        if connection is not None and not connection.parts:
            await self.wait(1)
        return self._take()


class Connection(asyncio.Protocol):
    """One socket. The parser calls the `on_` methods; `on_body` is the list's own `append`."""

    __slots__ = (
        "bare",
        "born",
        "enough",
        "eof",
        "headers",
        "heard",
        "idle_since",
        "keep",
        "loop",
        "on_body",
        "owner",
        "parser",
        "parts",
        "paused",
        "pump",
        "reply",
        "sending",
        "served",
        "stalled",
        "timer",
        "timer_at",
        "tls",
        "transport",
        "unread",
        "waiter",
    )

    transport: asyncio.Transport

    def __init__(self, loop: asyncio.AbstractEventLoop, owner: Owner, tls: bool) -> None:
        self.loop = loop
        self.owner = owner
        self.tls = tls
        self.parts: list[bytes] = []
        self.on_body: Callable[[bytes], None] = self.parts.append
        self.headers: list[tuple[bytes, bytes]] = []
        self.parser = HttpResponseParser(self)
        self.reply: SocketReply | None = None
        self.waiter: asyncio.Future[None] | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.pump: asyncio.Task[None] | None = None
        """What sends a body that is not there as a whole."""
        self.stalled: asyncio.Future[None] | None = None
        """The upstream takes no more for now."""
        self.timer_at = inf
        self.born = self.idle_since = self.heard = loop.time()
        self.unread = self.bare = self.enough = self.served = 0
        self.keep = self.paused = self.sending = self.eof = False

    # -- what the pool and the reply ask of it

    def ask(self, head: bytes, body: bytes, clock: str, within_s: float | None) -> SocketReply:
        """Send a request. `head` is what `write_head` returns."""
        reply = self.reply = SocketReply(self, clock, inf if within_s is None else within_s)
        self.served += 1
        self.unread = self.bare = 0
        self.heard = 0.0
        self.keep = False
        length = len(body)
        if length < _BIG_BODY:
            if length or not head.startswith(b"GET "):
                head = b"%bcontent-length: %d\r\n" % (head, length)
            self.transport.write(b"%b\r\n%b" % (head, body))
        else:
            self.sending = True
            self.transport.writelines((b"%bcontent-length: %d\r\n\r\n" % (head, length), body))
        return reply

    def ask_streamed(self, head: bytes, body: StreamedBody, pause_s: float) -> SocketReply:
        """Begin to send a request whose body comes bit by bit; no wait for the upstream lasts beyond `pause_s`."""
        reply = self.reply = SocketReply(self, "answer", inf)
        self.served += 1
        self.unread = self.bare = 0
        self.heard = 0.0
        self.keep = False
        self.sending = True
        length = body.length
        framing = b"transfer-encoding: chunked" if length is None else b"content-length: %d" % length
        self.transport.write(b"%b%b\r\n\r\n" % (head, framing))
        self.pump = self.loop.create_task(pump_body(self, reply, body, pause_s))
        return reply

    def expect(self, enough: int) -> "asyncio.Future[None]":
        """Return the future that ends when `enough` has arrived; the reply's clock begins to count."""
        reply = cast(SocketReply, self.reply)
        reply.since = now = self.loop.time()
        at = now + (reply.left_s if reply.left_s < reply.idle_s else reply.idle_s)
        if at < self.timer_at:
            self._arm(at)
        self.enough = enough
        if self.paused:
            self._resume()
        self.waiter = waiter = self.loop.create_future()
        return waiter

    def take_parts(self) -> bytes:
        """Return the body bytes that have arrived and let the upstream go on."""
        parts = self.parts
        taken = parts[0] if len(parts) == 1 else b"".join(parts)
        parts.clear()
        self.unread = 0
        if self.paused:
            self._resume()
        return taken

    def fail(self, failure: UpstreamFailure) -> None:
        """End the answer with a failure (after what has arrived of it) and the connection at once."""
        reply = self.reply
        if reply is not None:
            reply.failure = failure
            self._detach(reply)
        self.drop()

    def drop(self) -> None:
        """Close the socket now."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        if self.pump is not None:
            self.pump.cancel()
        self.transport.abort()
        self.owner.forget(self)

    # -- what the loop calls

    def pause_writing(self) -> None:
        self.stalled = self.loop.create_future()

    def resume_writing(self) -> None:
        stalled, self.stalled = self.stalled, None
        if stalled is not None and not stalled.done():
            stalled.set_result(None)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        reply = self.reply
        if reply is None:  # nobody asked: a farewell such as 408, or more than one answer
            self.drop()
            return
        self.unread += len(data)
        try:
            self.parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            self._end_at_bad_bytes(reply, error)
            return
        if reply.complete:
            self._finish(reply)
        elif self.parts:
            self.bare = 0
            if self.waiter is None:
                if self.unread > MAX_UNREAD and not self.paused:
                    self.paused = True
                    self.transport.pause_reading()
            elif self.unread >= self.enough:
                self._wake()
            else:
                self.heard = self.loop.time()
        else:
            self._count_bare(reply, len(data))

    def eof_received(self) -> bool:
        self.eof = True
        self.connection_lost(None)
        self.transport.abort()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        reply = self.reply
        if reply is not None:
            self._end_at_cut(reply, exc)
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        if self.pump is not None:
            self.pump.cancel()
        self.owner.forget(self)

    # -- what the parser calls

    def on_message_begin(self) -> None:
        reply = self.reply
        if reply is None or reply.complete:
            raise HttpParserError("bytes after the answer's end")

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        parser = self.parser
        headers, self.headers = self.headers, []
        status = parser.get_status_code()
        if status < 200:
            return
        if self.unread > MAX_HEAD and sum(len(name) + len(value) for name, value in headers) > MAX_HEAD:
            raise HttpParserError(f"response headers larger than {MAX_HEAD} bytes")
        reply = cast(SocketReply, self.reply)
        reply.headers = headers
        encoding = reply.header(b"content-encoding")
        if encoding is not None:
            reply.inflater = choose_inflater(encoding)
        self.keep = parser.should_keep_alive()
        reply.status = status

    def on_message_complete(self) -> None:
        reply = cast(SocketReply, self.reply)
        reply.complete = reply.status != 0  # an interim (1xx) answer ends here, too
        if self.headers:
            self.headers.clear()  # trailers: they belong to nothing that is read here

    # -- inside

    def _finish(self, reply: SocketReply) -> None:
        self._detach(reply)
        if self.sending:
            self.sending = False
            if self.transport.get_write_buffer_size():
                self.keep = False  # answered before it had read the request: the rest has nowhere to go
            if self.pump is not None and not self.pump.done():
                self.keep = False
        if self.keep:
            self.owner.take_back(self)
        else:
            self.drop()

    def _detach(self, reply: SocketReply) -> None:
        """The reply keeps what has arrived; the connection is free of it."""
        self.reply = None
        reply.connection = None
        parts = self.parts
        if parts:
            reply.tail = parts[0] if len(parts) == 1 else b"".join(parts)
            parts.clear()
        if self.waiter is not None:
            self._wake()

    def _wake(self) -> None:
        waiter = cast("asyncio.Future[None]", self.waiter)
        self.waiter = None
        if not waiter.done():  # a cancelled reader has not run yet
            waiter.set_result(None)

    def _resume(self) -> None:
        self.paused = False
        self.transport.resume_reading()

    def _count_bare(self, reply: SocketReply, size: int) -> None:
        """Bytes came and no body: a piece of the head, of a chunk's frame, of trailers."""
        self.bare += size
        if self.bare > MAX_HEAD:
            self.fail(UpstreamFailure("broken_stream", f"more than {MAX_HEAD} bytes of headers"))
        elif self.waiter is not None:
            if reply.status and not self.enough:
                self._wake()
            else:
                self.heard = self.loop.time()

    def _end_at_bad_bytes(self, reply: SocketReply, error: Exception) -> None:
        if reply.complete:
            self.keep = False
            self._finish(reply)
            return
        cause = error.__context__
        if isinstance(cause, UpstreamFailure):
            self.fail(cause)
            return
        told = cause or error
        self.fail(UpstreamFailure("broken_stream", f"the upstream does not speak HTTP/1.1: {told}"))

    def _end_at_cut(self, reply: SocketReply, exc: Exception | None) -> None:
        if not reply.status:
            reply.stale = self.served > 1 and not self.unread
            reply.failure = UpstreamFailure(
                "reset", f"the upstream closed the connection before it answered{_why(exc)}"
            )
        elif exc is None and _ends_with_connection(reply) and (self.eof or not self.tls):
            reply.complete = True
        else:
            reply.failure = UpstreamFailure(
                "broken_stream", f"the upstream closed the connection in its answer{_why(exc)}"
            )
        self._detach(reply)

    def _arm(self, at: float) -> None:
        if self.timer is not None:
            self.timer.cancel()
        self.timer_at = at
        self.timer = self.loop.call_at(at, self._look_at_clock)

    def _look_at_clock(self) -> None:
        """The one timer of this connection: armed early or for nobody it is armed again or forgotten."""
        self.timer = None
        self.timer_at = inf
        reply = self.reply
        if reply is None or self.waiter is None:
            return
        by_clock = reply.since + reply.left_s
        by_idle = max(reply.since, self.heard) + reply.idle_s
        at = min(by_clock, by_idle)
        if at > self.loop.time() + _CLOCK_GRAIN_S:
            self._arm(at)
            return
        clock = reply.clock if by_clock <= by_idle else "idle"
        self.fail(
            UpstreamFailure(
                "timeout", f"the upstream was silent until the {clock} clock ran out", clock=clock
            )
        )


def _ends_with_connection(reply: SocketReply) -> bool:
    """Whether the body has no length of its own."""
    if reply.header(b"content-length") is not None:
        return False
    coding = reply.header(b"transfer-encoding")
    return coding is None or not coding.lower().rstrip().endswith(b"chunked")


def _why(exc: Exception | None) -> str:
    return f" ({exc})" if exc is not None else ""
