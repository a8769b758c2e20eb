"""The rim towards the client: `Reply` pushes bytes, commits the headers at the first of them, and speaks errors.

Nothing is sent before content is there, except that a streamed call which stays silent for `keepalive_s` is told
200 and then gets a sign of life. Every error is written in the dialect of the surface.
"""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from functools import lru_cache
from typing import Any
from urllib.parse import quote

import orjson

from engine.call import Call
from engine.errors import GatewayError
from engine.http.dialects import describe_error, write_error, write_error_headers, write_stream_error
from engine.wire.formats import Format
from engine.wire.json_text import write_json
from engine.wire.reframing import make_reframing

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]
Endpoint = Callable[[Any, Any, Send], Awaitable[None]]

_JSON = (b"content-type", b"application/json")
NO_STORE = (b"cache-control", b"no-store")
"""On every answer outside of the corridor: they are about accounts, keys and the moment."""
_LOSS_BYTES = 1024


class Reply:
    """What the corridor may do to the client: send, finish, fail. One for each call."""

    __slots__ = (
        "_call",
        "_extra",
        "_framing",
        "_keepalive",
        "_keepalive_s",
        "_last_sent",
        "_loop",
        "_ready_head",
        "_send",
        "_sign",
        "ended",
        "muted",
        "started",
    )

    def __init__(
        self, send: Send, call: Call, loop: asyncio.AbstractEventLoop, *, ready_head: bool = False
    ) -> None:
        """`ready_head`: the server takes a head in one piece (serve/cycle.py)."""
        self._send = send
        self._call = call
        self._ready_head = ready_head
        self._framing = make_reframing(call.door)
        self._loop = loop
        self._keepalive: asyncio.TimerHandle | None = None
        self._keepalive_s = 0.0
        self._last_sent = 0.0
        self._sign: asyncio.Task[None] | None = None
        self._extra: Headers = []
        self.muted = False
        """The client is gone and the answer is read on without it."""
        self.started = False
        self.ended = False

    def add_headers(self, headers: Headers) -> None:
        """Headers of this answer beyond those every answer has (limits)."""
        self._extra += headers

    def promise_life(self, keepalive_s: float) -> None:
        """From now on no streamed call stays silent for longer than this many seconds."""
        if keepalive_s > 0 and self._call.stream and self._sign_of_life():
            self._keepalive_s, self._last_sent = keepalive_s, self._loop.time()
            self._keepalive = self._loop.call_later(keepalive_s, self._check_silence)

    async def send(self, data: bytes) -> None:
        """Send bytes of a stream; the first ones commit status and headers."""
        if self.muted:
            return
        if self._sign is not None:
            await self._sign
        if not self.started:
            await self._begin(_stream_headers(self._call), None)
        self._last_sent = self._loop.time()
        if self._framing is not None:
            data = self._framing.feed(data)
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def finish(self, tail: bytes, cost_usd: str) -> None:
        """Send the end of a settled answer: for a plain call all of it."""
        self._stop_signs()
        self.ended = True
        if self.muted:
            return
        if self._sign is not None:
            await self._sign
        if not self.started:
            if self._call.stream:
                await self._begin(_stream_headers(self._call), None)
            else:
                headers = [_JSON, (b"x-cost-usd", cost_usd.encode())]
                if self._ready_head:
                    await self._send_whole(headers, tail)
                    return
                await self._begin(headers, len(tail))
        if self._framing is not None and self._call.stream:
            tail = self._framing.close(tail)
        await self._send({"type": "http.response.body", "body": tail, "more_body": False})

    async def fail(self, error: GatewayError) -> None:
        """Tell the client: with a true status while nothing was sent, else in-band."""
        self._stop_signs()
        if self.ended or self.muted:
            return
        self.ended = True
        if self._sign is not None:
            await self._sign
        call = self._call
        format = call.door.format
        if self.started and call.answer_type and not call.answer_type.startswith(b"text/event-stream"):
            return  # it cannot tell an error: it is cut, and the server ends the connection
        if self.started:
            body = write_stream_error(format, error, call.request_id, call.writer)
            body = body if self._framing is None else self._framing.close(body)
        else:
            body = write_error(format, error, call.request_id)
            head = [_JSON, (b"content-length", b"%d" % len(body)), *error_headers(error)]
            await self._start(error.status, head + write_error_headers(format, error, call.request_id))
        await self._send({"type": "http.response.body", "body": body, "more_body": False})

    async def _begin(self, headers: Headers, length: int | None) -> None:
        """The head of a good answer."""
        if not self._ready_head:
            sized = headers if length is None else [*headers, (b"content-length", b"%d" % length)]
            await self._start(200, sized)
            return
        head = self._write_head(headers)
        await self._send({"type": "http.response.start", "status": 200, "head": head, "length": length})

    def _send_whole(self, headers: Headers, body: bytes) -> Awaitable[None]:
        """A good answer in one piece."""
        head, length = self._write_head(headers), len(body)
        return self._send(
            {"type": "http.response.start", "status": 200, "head": head, "length": length, "body": body}
        )

    def _write_head(self, headers: Headers) -> bytes:
        """Most of a good answer's head is the same for every call of a model: kept as bytes."""
        call = self._call
        self.started, call.http_status = True, 200
        if call.loss or not call.attempts or call.door.format.client.request_id_header:
            told = b"".join([b"%b: %b\r\n" % pair for pair in self._call_headers()])
        else:
            last = call.attempts[-1]
            facts = (
                call.requested_model,
                last.provider,
                last.model,
                len(call.attempts),
                call.snapshot.version,
            )
            told = b"x-request-id: %b\r\n%b" % (call.request_id.encode(), _write_facts(*facts))
        return b"".join([b"%b: %b\r\n" % pair for pair in headers + self._extra]) + told

    async def _start(self, status: int, headers: Headers) -> None:
        self.started = True
        self._call.http_status = status
        all_headers = headers + self._call_headers() + self._extra
        await self._send({"type": "http.response.start", "status": status, "headers": all_headers})

    def _call_headers(self) -> Headers:
        call = self._call
        headers = [(b"x-request-id", call.request_id.encode())]
        if name := call.door.format.client.request_id_header:
            headers.append((name, call.request_id.encode()))
        if call.requested_model:
            headers.append((b"x-requested-model", _header_text(call.requested_model)))
        if call.attempts:
            last = call.attempts[-1]
            headers += (
                (b"x-provider", _header_text(last.provider)),
                (b"x-model", _header_text(last.model)),
                (b"x-attempts", b"%d" % len(call.attempts)),
            )
        if call.loss:
            headers.append((b"x-loss", write_loss(call.loss)))
        headers.append((b"x-config-revision", _header_text(call.snapshot.version[:12])))
        return headers

    def _check_silence(self) -> None:
        silent_s = self._loop.time() - self._last_sent
        if silent_s < self._keepalive_s:
            wait_s = self._keepalive_s - silent_s
        else:
            wait_s = self._keepalive_s
            if self._sign is None or self._sign.done():
                self._sign = self._loop.create_task(self._show_life())
        self._keepalive = self._loop.call_later(wait_s, self._check_silence)

    async def _show_life(self) -> None:
        self._last_sent = self._loop.time()
        if not self.started:
            await self._start(200, self._call.door.stream_head)
        body = self._sign_of_life()
        await self._send({"type": "http.response.body", "body": body, "more_body": True})

    def _sign_of_life(self) -> bytes:
        return b"" if self._framing is not None else self._call.door.format.keepalive

    def _stop_signs(self) -> None:
        if self._keepalive is not None:
            self._keepalive.cancel()
            self._keepalive = None

    def drop(self) -> None:
        """The call is over without another word (the client went away)."""
        self._stop_signs()
        self.ended = True


def _stream_headers(call: Call) -> Headers:
    return [(b"content-type", call.answer_type)] if call.answer_type else call.door.stream_head


def error_headers(error: GatewayError) -> Headers:
    """What an error adds to its headers: when to come back, and the limits that were reached."""
    headers = [(name.encode(), value.encode()) for name, value in getattr(error, "headers", {}).items()]
    if error.retry_after_s is not None:
        headers.append((b"retry-after", b"%d" % max(-(-error.retry_after_s // 1), 1)))
    return headers


@lru_cache(4096)
def _write_facts(requested: str, provider: str, model: str, attempts: int, revision: str) -> bytes:
    """The lines that tell what answered. Every value is header-safe."""
    return (
        b"x-requested-model: %b\r\nx-provider: %b\r\nx-model: %b\r\nx-attempts: %d\r\nx-config-revision: %b\r\n"
        % (
            _header_text(requested),
            _header_text(provider),
            _header_text(model),
            attempts,
            _header_text(revision[:12]),
        )
    )


@lru_cache(4096)
def _header_text(text: str) -> bytes:
    """Header-safe: anything but visible ASCII is percent-written, so that no name can add a header."""
    if text.isascii() and text.isprintable():
        return text.encode()
    return b"".join(b"%c" % byte if 0x20 < byte < 0x7F else b"%%%02X" % byte for byte in text.encode())


def write_loss(pointers: Sequence[str]) -> bytes:
    """What of a request could not be carried over to the provider's wire: as many pointers as fit, then `+N`."""
    shown, room = [], _LOSS_BYTES
    for pointer in pointers:
        text = quote(pointer, safe="/*_.-~")
        room -= len(text) + 1
        if room < 0:
            break
        shown.append(text)
    more = len(pointers) - len(shown)
    return ",".join([*shown, f"+{more}"] if more else shown).encode()


async def respond_json(send: Send, status: int, doc: Any, headers: Headers | None = None) -> None:
    """One whole JSON answer, for routes that are not inference."""
    body = doc if isinstance(doc, bytes) else orjson.dumps(doc)
    head: Headers = [_JSON, (b"content-length", b"%d" % len(body)), NO_STORE, *(headers or ())]
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": body, "more_body": False})


async def respond_error(send: Send, format: Format | None, error: GatewayError, request_id: str) -> None:
    """One error answer outside of the corridor, in a dialect where one is known."""
    if format is None:
        body = write_json(describe_error(error, request_id))
    else:
        body = write_error(format, error, request_id)
    headers = [(b"x-request-id", request_id.encode()), *error_headers(error)]
    await respond_json(send, error.status, body, headers)
