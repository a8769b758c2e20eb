"""One request on a connection and its response, as ASGI sees them.

A leaner `RequestResponseCycle`: no event per request, one check over a whole header block, and a way to learn
that the client has gone without a task that waits in `receive()`.
"""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

if TYPE_CHECKING:
    from uvicorn._types import ASGI3Application, ASGIReceiveEvent, ASGISendEvent

    from engine.serve.protocol import GatewayProtocol

DISCONNECT = "gatewayz.disconnect"
"""The ASGI extension whose value is the cycle: `subscribe(callback)`, `unsubscribe()`, the fact `gone` and the `task`
that answers."""
READY_HEAD = "gatewayz.ready_head"
"""The ASGI extension that takes `http.response.start` with a ready `head` (lines that end in CRLF, without those of
`FRAMING_HEADERS` and of other servers' concern) and a `length` (None: not known) in place of `headers`, and with a
`body` when that is all of it."""


FRAMING_HEADERS = frozenset((b"content-length", b"transfer-encoding", b"connection"))


class Cycle(RequestResponseCycle):
    """Created when a request's header is complete; ends with the response or with the connection."""

    def __init__(self, protocol: "GatewayProtocol", *, expect_100_continue: bool, keep_alive: bool) -> None:
        self.protocol = protocol
        self.scope = protocol.scope
        self.transport = protocol.transport
        self.flow = protocol.flow
        self.logger = protocol.logger
        self.keep_alive = keep_alive
        self.waiting_for_100_continue = expect_100_continue
        self.body = bytearray()
        self.more_body = True
        self.disconnected = False
        self.response_started = False
        self.response_complete = False
        self._head = b""
        self.chunked_encoding: bool | None = None
        self.expected_content_length = 0
        self.task: asyncio.Task[None] | None = None
        self._on_gone: Callable[[], object] | None = None
        self._news = False
        self._reader: asyncio.Event | None = None

    @property
    def gone(self) -> bool:
        """Whether the client left before it had the whole response."""
        return self.disconnected

    def subscribe(self, callback: Callable[[], object]) -> None:
        """Call `callback` (at once, synchronously) when the client goes away; at most one per request."""
        if self.disconnected:
            callback()
        else:
            self._on_gone = callback

    def unsubscribe(self) -> None:
        self._on_gone = None

    def announce_disconnect(self) -> None:
        """The connection is lost or given up: nothing more can reach the client."""
        if self.response_complete or self.disconnected:
            return
        self.disconnected = True
        self.wake_reader()
        callback, self._on_gone = self._on_gone, None
        if callback is not None:
            callback()

    def wake_reader(self) -> None:
        self._news = True
        if self._reader is not None:
            self._reader.set()

    async def run_asgi(self, app: "ASGI3Application") -> None:
        try:
            await app(self.scope, self.receive, self.send)
        except asyncio.CancelledError:
            await self._end_unfinished("The request was cancelled.", None)
        except Exception as exc:  # noqa: BLE001 the last border: whatever an application raises ends here, logged
            await self._end_unfinished("Exception in the application", exc)
        else:
            await self._end_unfinished("The application returned before its response was complete.", None)
        finally:
            self._on_gone = None
            # The scope names this cycle: apart, both are freed now and not by the collector.
            self.scope.pop("extensions", None)
            if self.task is not None:
                self.protocol.tasks.discard(self.task)
                self.task = None

    async def _end_unfinished(self, reason: str, exc: BaseException | None) -> None:
        if exc is not None:
            self.logger.error(reason, exc_info=exc)
        if self.response_complete or self.disconnected:
            return
        if exc is None:
            self.logger.error(reason)
        if self.response_started:
            # The body is cut, not ended: closing is the only way to tell the client.
            self.transport.abort()
        else:
            await self.send_500_response()

    async def send(self, message: "ASGISendEvent") -> None:
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        if not self.response_started:
            self._write_start(cast("dict[str, Any]", message))
        elif not self.response_complete:
            if message["type"] != "http.response.body":
                raise RuntimeError(f"{message['type']} was sent after http.response.start")
            self._write_body(cast("dict[str, Any]", message))
        else:
            raise RuntimeError(f"{message['type']} was sent after the response had been completed")

    def _write_start(self, message: dict[str, Any]) -> None:
        if message["type"] != "http.response.start":
            raise RuntimeError(f"{message['type']} was sent before http.response.start")
        status: int = message["status"]
        if self.more_body:
            # An answer before the whole request: what is still on its way is discarded, not parsed.
            self.keep_alive = False
        head = message.get("head")
        if head is not None:
            self._begin_with(status, head, message["length"])
            if "body" in message:
                self._write_body(message)
            return
        lines: list[bytes] = [STATUS_LINE[status], self.protocol.limits.safe_head]
        closes = False
        headers = message.get("headers", ())
        for name, value in headers:
            if name in FRAMING_HEADERS or not name.islower():
                closes = self._note_framing(name.lower(), value) or closes
            lines.append(b"%b: %b\r\n" % (name, value))
        count = 1 + self.protocol.limits.safe_head.count(b"\n") + len(headers)
        if not self.keep_alive and not closes:
            lines.append(b"connection: close\r\n")
            count += 1
        if self.chunked_encoding is None and self._may_chunk(status):
            self.chunked_encoding = True
            lines.append(b"transfer-encoding: chunked\r\n")
            count += 1
        block = b"".join(lines)
        refuse_split_lines(block, count)
        self.response_started = True
        self.waiting_for_100_continue = False
        # Written together with the first of the body: one system call instead of two.
        self._head = block + b"\r\n"

    def _begin_with(self, status: int, head: bytes, length: int | None) -> None:
        """Status and a ready head; how the body is framed is said here."""
        self.response_started = True
        self.waiting_for_100_continue = False
        closing = b"" if self.keep_alive else b"connection: close\r\n"
        if length is not None:
            self.chunked_encoding, self.expected_content_length = False, length
            framing = b"content-length: %d\r\n" % length
        elif self._may_chunk(status):
            self.chunked_encoding = True
            framing = b"transfer-encoding: chunked\r\n"
        else:
            framing = b""
        safe = self.protocol.limits.safe_head
        self._head = b"%b%b%b%b%b\r\n" % (STATUS_LINE[status], safe, head, framing, closing)

    def _note_framing(self, name: bytes, value: bytes) -> bool:
        """A header that says how the body is framed or whether the connection goes on; True when it closes it."""
        if name == b"content-length":
            if self.chunked_encoding is None:
                self.chunked_encoding = False
                self.expected_content_length = int(value)
        elif name == b"transfer-encoding":
            self.chunked_encoding = value.lower() == b"chunked"
            self.expected_content_length = 0
        elif name == b"connection" and b"close" in value.lower():
            self.keep_alive = False
            return True
        return False

    def _may_chunk(self, status: int) -> bool:
        # HTTP/1.0 has no chunks: there the end of the connection is the end of the body.
        return (
            self.scope["method"] != "HEAD"
            and status not in (204, 304)
            and self.scope["http_version"] != "1.0"
        )

    def _write_body(self, message: dict[str, Any]) -> None:
        body: bytes = message.get("body", b"")
        more_body: bool = message.get("more_body", False)
        if self.scope["method"] == "HEAD":
            self.expected_content_length, body = 0, b""
        elif self.chunked_encoding:
            body = frame_chunk(body, last=not more_body)
        elif self.chunked_encoding is False:
            self.expected_content_length -= len(body)
            if self.expected_content_length < 0:
                raise RuntimeError("the response is longer than its content-length")
        if self._head:
            body, self._head = self._head + body, b""
        if body:
            self.transport.write(body)
        if not more_body:
            self._complete()

    def _complete(self) -> None:
        if self.expected_content_length != 0:
            raise RuntimeError("the response is shorter than its content-length")
        self.response_complete = True
        self.wake_reader()
        self.protocol.end_response(self)

    async def receive(self) -> "ASGIReceiveEvent":
        if self.waiting_for_100_continue and not self.transport.is_closing():
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.waiting_for_100_continue = False
        if not self._news and not self.disconnected and not self.response_complete:
            self.flow.resume_reading()
            if self._reader is None:
                self._reader = asyncio.Event()
            await self._reader.wait()
            self._reader.clear()
        self._news = False
        if self.disconnected or self.response_complete:
            return {"type": "http.disconnect"}
        body, self.body = bytes(self.body), bytearray()
        return {"type": "http.request", "body": body, "more_body": self.more_body}


def refuse_split_lines(block: bytes, lines: int) -> None:
    """A header value with a line break would let its author write headers of their own."""
    if block.count(b"\n") != lines or block.count(b"\r") != lines or b"\0" in block:
        raise RuntimeError("a response header contains a control character")


def frame_chunk(body: bytes, *, last: bool) -> bytes:
    """A piece of a body in chunked coding; an empty piece is nothing, for an empty chunk would end the body."""
    framed = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
    return framed + b"0\r\n\r\n" if last else framed
