"""The client's connection, with what ASGI cannot see: sizes and deadlines of header and body, disconnects.

Every request is bounded before an application sees it: 64 KiB of header within `header_s`, a body that is
whole within `body_s` and never pauses for longer than BODY_PAUSE_S. One timer per connection watches all of
it and is moved only when it fires, so that an ordinary request costs nothing.
"""

import asyncio
import itertools
import math
import secrets
import urllib.parse
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import httptools
import orjson
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from engine.serve.cycle import DISCONNECT, READY_HEAD, Cycle

if TYPE_CHECKING:
    from collections import deque

    from uvicorn._types import ASGI3Application, HTTPScope
    from uvicorn.config import Config
    from uvicorn.server import ServerState

HEADER_BYTES = 65_536
URL_BYTES = 16_384
HEADER_LINES = 256
BODY_PAUSE_S = 15.0
"""A body that stands still for so long is given up, however much time is left in all."""
LINGER_S = 30.0
LINGER_PAUSE_S = 3.0
"""How long what still arrives is read and dropped after an answer that came before its request: closing at
once would reset the connection and take the answer with it."""
STALL_S = 120.0
"""A client that takes not one byte of its answer for so long is gone."""
FIRST_REQUEST_S = 0.2
"""A connection accepted just before the worker leaves has this long for its first request, which is on its way."""
QUEUED_REQUESTS = 16
"""Pipelined requests read ahead. Reading stops there; below it a disconnect is noticed at once."""

BETWEEN, HEADER, BODY = 0, 1, 2
LOOKED_AT = 100
"""So many connections are compared when one has to make room."""
SAFE_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"content-security-policy", b"frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
)
"""What every answer tells browsers."""


def write_safe_head(hsts_s: int = 0) -> bytes:
    """The lines that every answer begins with, behind its status."""
    hsts = ((b"strict-transport-security", b"max-age=%d" % hsts_s),) if hsts_s else ()
    return b"".join(b"%b: %b\r\n" % pair for pair in (*SAFE_HEADERS, *hsts))


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """The part of the server's settings that a connection needs, in seconds."""

    header_s: float = 10
    body_s: float = 60
    keep_alive_s: float = 75
    max_connections: int = 10_000
    safe_head: bytes = write_safe_head()


class RequestRefused(Exception):
    """These bytes are not served: a status, a code and a sentence go out, then the connection ends."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message


MALFORMED = (400, "invalid_http", "The bytes received are not a valid HTTP request.")
HEADER_TOO_LARGE = (
    431,
    "header_too_large",
    f"The request header is over {HEADER_BYTES} bytes or {HEADER_LINES} lines.",
)
URL_TOO_LONG = (414, "url_too_long", f"The request's URL is over {URL_BYTES} bytes.")
CROWDED = (503, "too_many_connections", "The gateway has as many open connections as it may have.")
UPGRADE_REFUSED = (400, "upgrade_refused", "A request with a body cannot ask for an upgrade.")


class GatewayProtocol(HttpToolsProtocol):
    """`limits` is a class attribute: `bind_limits` makes the class that a server is given."""

    limits = ConnectionLimits()
    pipeline: "deque[tuple[Any, ASGI3Application]]"

    def __init__(
        self,
        config: "Config",
        server_state: "ServerState",
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.newest: Cycle | None = None
        """The request that the parser is at."""
        self.active: Cycle | None = None
        """The request that is being answered; older than `newest` when requests are pipelined."""
        self.phase = BETWEEN
        self.header_bytes = 0
        self.read_bytes = 0
        self.read_is_fresh = False
        self.parting = False
        """Answer what has come, then close."""
        self.deaf = False
        """Nothing that arrives is parsed any more; reading on only shows whether the client is there."""
        self.lingers = False
        self.began_at = 0.0
        self.progress_at = 0.0
        self.stalled_at = 0.0
        self.stalled_bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0

    # The transport's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(cast("asyncio.Transport", transport))
        self.began_at = self.loop.time()
        if len(self.connections) > self.limits.max_connections and not self._make_room():
            self.deaf = True
            self._answer_refusal(RequestRefused(*CROWDED))
            return
        self._watch_until(self.began_at + self.limits.header_s)

    def _make_room(self) -> bool:
        """Close the connection that has been idle for longest of some; False when none of them is."""
        others = cast("set[GatewayProtocol]", self.connections)
        some = [each for each in itertools.islice(others, LOOKED_AT) if each is not self and each.is_idle]
        if not some:
            return False
        min(some, key=lambda each: each.began_at).transport.close()
        return True

    @property
    def is_idle(self) -> bool:
        """Nothing is asked and nothing is answered: the client only keeps the connection."""
        return self.active is None and self.phase == BETWEEN

    def data_received(self, data: bytes) -> None:
        if self.deaf:
            self.progress_at = self.loop.time()
            return
        self.read_bytes = len(data)
        self.read_is_fresh = self.phase == BETWEEN
        if self.phase == HEADER:
            self.header_bytes += self.read_bytes
        elif self.phase == BODY:
            self.progress_at = self.loop.time()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._decline_upgrade()
        except httptools.HttpParserError as error:
            cause = error.__context__
            self._refuse(cause if isinstance(cause, RequestRefused) else RequestRefused(*MALFORMED))
        else:
            if self.phase != BETWEEN:
                self._watch_partial_request()

    def connection_lost(self, exc: Exception | None) -> None:
        self.connections.discard(self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        active, queued = self.active, [cycle for cycle, _ in self.pipeline]
        self.pipeline.clear()
        self.parser = None  # type: ignore[assignment]
        self.deaf = True
        if self.flow is not None:
            self.flow.resume_writing()
        if exc is None:
            self.transport.close()
        for cycle in (active, *queued):
            if cycle is not None:
                cycle.announce_disconnect()
        # They name this connection: apart, all of them are freed now and not by the collector.
        self.newest = self.active = None
        self.cycle = None  # type: ignore[assignment]

    def pause_writing(self) -> None:
        self.flow.pause_writing()
        self.stalled_at = self.loop.time()
        self.stalled_bytes = self.transport.get_write_buffer_size()
        self._watch_until(self.stalled_at + STALL_S)

    def resume_writing(self) -> None:
        self.stalled_at = 0.0
        self.flow.resume_writing()

    # The parser's side

    def on_message_begin(self) -> None:
        self.phase = HEADER
        # A header that began in the middle of a read is counted from the next read on.
        self.header_bytes = self.read_bytes if self.read_is_fresh else 0
        self.read_is_fresh = False
        self.began_at = self.loop.time()
        self.url = b""
        self.expect_100_continue = False
        self.headers = []

    def on_url(self, url: bytes) -> None:
        self.url += url
        if len(self.url) > URL_BYTES:
            raise RequestRefused(*URL_TOO_LONG)

    def on_headers_complete(self) -> None:
        if self.header_bytes + self.read_bytes > HEADER_BYTES or len(self.headers) > HEADER_LINES:
            self._measure_header()
        parser = self.parser
        version = parser.get_http_version()
        upgrades = parser.should_upgrade()
        raw_path, query = split_url(self.url)
        path = raw_path.decode("ascii")
        scope: dict[str, Any] = {
            "type": "http",
            "asgi": {"version": self.asgi_version, "spec_version": "2.3"},
            "http_version": version,
            "server": self.server,
            "client": self.client,
            "scheme": self.scheme or "http",
            "method": parser.get_method().decode("ascii"),
            "root_path": self.root_path,
            "path": urllib.parse.unquote(path) if "%" in path else path,
            "raw_path": raw_path,
            "query_string": query,
            "headers": self.headers,
            "state": self.app_state.copy(),
        }
        self.scope = cast("HTTPScope", scope)
        if upgrades and has_body(self.headers):
            raise RequestRefused(*UPGRADE_REFUSED)
        # Trailers would be appended to the header that the application already reads.
        self.headers = []
        cycle = Cycle(
            self,
            expect_100_continue=self.expect_100_continue,
            keep_alive=version == "1.1" and parser.should_keep_alive() and not self.parting and not upgrades,
        )
        scope["extensions"] = {DISCONNECT: cycle, READY_HEAD: True}
        self.newest = self.cycle = cycle
        self.phase = BODY
        self.progress_at = self.began_at
        self._start_or_queue(cycle)

    def on_body(self, body: bytes) -> None:
        cycle = self.newest
        if cycle is None or cycle.response_complete or cycle.disconnected:
            return
        cycle.body += body
        if len(cycle.body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
        cycle.wake_reader()

    def on_message_complete(self) -> None:
        self.phase = BETWEEN
        cycle = self.newest
        if cycle is not None and not cycle.response_complete:
            cycle.more_body = False
            cycle.wake_reader()

    # Requests and responses

    def _start_or_queue(self, cycle: Cycle) -> None:
        if self.active is None:
            self._start(cycle, self.app)
            return
        self.pipeline.appendleft((cycle, self.app))
        if len(self.pipeline) >= QUEUED_REQUESTS:
            self.flow.pause_reading()

    def _start(self, cycle: Cycle, app: "ASGI3Application") -> None:
        self.active = cycle
        cycle.task = self.loop.create_task(cycle.run_asgi(app))
        self.tasks.add(cycle.task)

    def end_response(self, cycle: Cycle) -> None:
        """The response is written as a whole: go on to the next request, or wait for it, or part."""
        self.server_state.total_requests += 1
        self.active = None
        if self.transport.is_closing():
            return
        if not cycle.keep_alive:
            self._part_from_client(cycle)
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start(*self.pipeline.pop())
        else:
            self._wait_for_next_request()

    def _wait_for_next_request(self) -> None:
        if self.phase == BETWEEN:
            self.began_at = self.loop.time()
            if self._timer is not None:
                return
        self._watch_until(self._find_deadline())

    def _part_from_client(self, cycle: Cycle) -> None:
        if cycle is self.newest and not cycle.more_body and not self.deaf:
            self.transport.close()
        else:
            self._linger()

    def _linger(self) -> None:
        self.deaf = self.lingers = True
        self.began_at = self.progress_at = self.loop.time()
        self.flow.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._watch_until(self._find_deadline())

    def shutdown(self) -> None:
        """Serve what has begun to arrive, nothing after it."""
        self.parting = True
        if self.active is None and self.phase == BETWEEN:
            if self.newest is None and not self.deaf:
                self._watch_until(self._find_deadline())
            elif not self.lingers:
                self.transport.close()
            return
        if self.newest is not None:
            self.newest.keep_alive = False

    # Refusals

    def _measure_header(self) -> None:
        if len(self.headers) > HEADER_LINES:
            raise RequestRefused(*HEADER_TOO_LARGE)
        if sum(len(name) + len(value) + 4 for name, value in self.headers) + len(self.url) > HEADER_BYTES:
            raise RequestRefused(*HEADER_TOO_LARGE)

    def _refuse(self, refusal: RequestRefused) -> None:
        """Answer with an error and part; what was asked before the broken bytes is still answered."""
        self.deaf = True
        broken = self.newest if self.phase == BODY else None
        if broken is not None and broken is not self.active and not broken.response_complete:
            self.pipeline.popleft()
            broken.announce_disconnect()
            broken = None
        last = self.pipeline[0][0] if self.pipeline else self.active
        if broken is None and last is not None:
            last.keep_alive = False
        elif broken is not None and broken.response_started:
            # Its answer is under way; cutting it is all that can be said.
            self.transport.abort()
        else:
            self._answer_refusal(refusal)
            if broken is not None:
                broken.announce_disconnect()

    def _answer_refusal(self, refusal: RequestRefused) -> None:
        error = {
            "message": refusal.message,
            "type": "invalid_request_error",
            "param": None,
            "code": refusal.code,
        }
        body = orjson.dumps({"error": error})
        self.transport.write(
            b"%b%bcontent-type: application/json\r\ncontent-length: %d\r\nx-request-id: req_%b\r\n"
            b"connection: close\r\n\r\n%b"
            % (
                STATUS_LINE[refusal.status],
                self.limits.safe_head,
                len(body),
                secrets.token_hex(12).encode(),
                body,
            )
        )
        self.active = None
        self._linger()

    def _decline_upgrade(self) -> None:
        # The request is answered as if it had not asked; the parser will not go on, so nothing follows it.
        self.deaf = True
        self.phase = BETWEEN

    # Deadlines

    def _watch_partial_request(self) -> None:
        if self.phase == HEADER and self.header_bytes > HEADER_BYTES:
            self._refuse(RequestRefused(*HEADER_TOO_LARGE))
        else:
            self._watch_until(self._find_deadline())

    def _watch_until(self, deadline: float) -> None:
        if deadline == math.inf:
            return
        if self._timer is not None:
            if self._timer_at <= deadline:
                return
            self._timer.cancel()
        self._timer_at = deadline
        self._timer = self.loop.call_at(deadline, self._check_deadline)

    def _find_deadline(self) -> float:
        if self.lingers:
            return min(self.began_at + LINGER_S, self.progress_at + LINGER_PAUSE_S)
        if self.stalled_at:
            return self.stalled_at + STALL_S
        if self.phase == BODY and not self.deaf:
            return min(self.began_at + self.limits.body_s, self.progress_at + BODY_PAUSE_S)
        if self.active is not None:
            return math.inf
        if self.parting and self.phase == BETWEEN:
            return self.began_at + FIRST_REQUEST_S
        if self.phase == HEADER or self.newest is None:
            return self.began_at + self.limits.header_s
        return self.began_at + self.limits.keep_alive_s

    def _check_deadline(self) -> None:
        self._timer = None
        if self.transport.is_closing():
            return
        if self.loop.time() >= self._find_deadline():
            self._give_up()
        else:
            self._watch_until(self._find_deadline())

    def _give_up(self) -> None:
        if self.lingers:
            self.transport.abort()
        elif self.stalled_at:
            self._give_up_stalled_client()
        elif self.phase == BODY:
            self._give_up_body()
        elif self.phase == HEADER:
            self._refuse(self._say_timeout("header", self.limits.header_s))
        else:
            self.transport.close()

    def _give_up_stalled_client(self) -> None:
        waiting = self.transport.get_write_buffer_size()
        if waiting >= self.stalled_bytes:
            self.transport.abort()
            return
        self.stalled_bytes = waiting
        self.stalled_at = self.loop.time()
        self._watch_until(self.stalled_at + STALL_S)

    def _give_up_body(self) -> None:
        if self.flow.read_paused:
            # It is the application that does not read, not the client that does not send.
            self.began_at = self.progress_at = self.loop.time()
            self._watch_until(self._find_deadline())
        else:
            self._refuse(self._say_timeout("body", self.limits.body_s))

    def _say_timeout(self, part: str, seconds: float) -> RequestRefused:
        return RequestRefused(
            408, "request_timeout", f"The request's {part} did not arrive within {seconds:g} s."
        )


def bind_limits(limits: ConnectionLimits) -> type[GatewayProtocol]:
    """The protocol class of a server with these limits."""
    return type("BoundGatewayProtocol", (GatewayProtocol,), {"limits": limits})


def split_url(url: bytes) -> tuple[bytes, bytes]:
    """Path and query of a request target; only absolute forms need the full parser."""
    if url.startswith(b"/"):
        path, _, query = url.partition(b"?")
        return path, query
    parsed = httptools.parse_url(url)
    if parsed.path is None:
        raise RequestRefused(*MALFORMED)
    return parsed.path, parsed.query or b""


def has_body(headers: list[tuple[bytes, bytes]]) -> bool:
    for name, value in headers:
        if name == b"transfer-encoding" or (name == b"content-length" and value != b"0"):
            return True
    return False
