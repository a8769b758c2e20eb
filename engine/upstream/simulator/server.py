"""The connections: bytes in, requests out; steps in, bytes out. It never stops reading, so that it notices at
once when a client goes away, also while it stalls or is silent.

A protocol of its own on the HTTP parser, because the faults need what no server framework gives: a reset, a
cut in the middle of a chunk, silence.
"""

import asyncio
import re
import socket
import struct
import time
from collections import deque
from typing import cast
from urllib.parse import unquote

import httptools

from engine.upstream.simulator.book import Seen
from engine.upstream.simulator.dialog import Refused
from engine.upstream.simulator.errors import write_error
from engine.upstream.simulator.house import House, Request
from engine.upstream.simulator.staging import Ending, Reply, Step

LONGEST_BODY_BYTES = 256 * 1024 * 1024
MOST_WAITING = 64
HOLD_S = 3600.0
STEPS_A_TURN = 512
LATEST_S = 1.0
"""How far a paced stream may fall behind and still catch up."""

EARLY_LOOK_BYTES = 64 * 1024
EARLY_LINGER_S = 0.5
_EARLY_NAME = re.compile(rb'"model"\s*:\s*"(sim/[^"]*early-answer[^"]*)"')
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Connection(asyncio.Protocol):
    """One client. Requests that come while one is answered wait their turn."""

    def __init__(self, house: House, open_connections: "set[Connection]") -> None:
        self._house = house
        self._open = open_connections
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._parser = httptools.HttpRequestParser(self)
        self._waiting: deque[Request] = deque()
        self._reply: Reply | None = None
        self._seen: Seen | None = None
        self._timer: asyncio.Handle | None = None
        self._held: Step | None = None
        self._due = 0.0
        self._full = False
        self._number = 0
        self._reset_message()

    # what the loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        book = self._house.book
        book.connections += 1
        book.accepted += 1
        self._number = book.accepted
        self._open.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._house.book.connections -= 1
        self._open.discard(self)
        self._leave()

    def eof_received(self) -> bool:
        self._leave()
        return False

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        if self._reply is not None and self._timer is None:
            self._play()

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._refuse_bytes(error)

    # what the parser calls

    def on_message_begin(self) -> None:
        self._reset_message()

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        for name, value in self._headers:
            if name == b"expect" and value.lower() == b"100-continue" and self._reply is None:
                self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            elif name == b"x-sim" and b"early-answer" in value:
                self._answer_early("sim/" + value.decode("latin-1"))

    def on_body(self, body: bytes) -> None:
        self._size += len(body)
        if self._answered_early or self._size > LONGEST_BODY_BYTES:
            return
        self._body.append(body)
        if self._size <= EARLY_LOOK_BYTES and b"early-answer" in body:
            found = _EARLY_NAME.search(b"".join(self._body))
            if found:
                self._answer_early(found[1].decode("utf-8", "replace"))

    def on_message_complete(self) -> None:
        if self._answered_early:
            return
        if len(self._waiting) >= MOST_WAITING:
            self._transport.abort()
            return
        request = self._make_request()
        request.body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        if self._reply is not None:
            self._waiting.append(request)
        else:
            self._start(request)

    # requests

    def _reset_message(self) -> None:
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._body: list[bytes] = []
        self._size = 0
        self._answered_early = False

    def _make_request(self) -> Request:
        path, _, query = self._url.decode("latin-1").partition("?")
        old = self._parser.get_http_version() == "1.0"
        return Request(
            method=self._parser.get_method().decode("latin-1"),
            path=unquote(path) if "%" in path and not path.startswith("/v1/models/") else path,
            query=query,
            headers=self._headers,
            keep_alive=self._parser.should_keep_alive() and not old,
            http_1_0=old,
            connection=self._number,
        )

    def _answer_early(self, name: str) -> None:
        """Answer now and stop reading for a while: a client that only writes would never see the answer."""
        if self._answered_early or self._reply is not None:
            return
        self._answered_early = True
        request = self._make_request()
        request.early = name
        self._transport.pause_reading()
        self._loop.call_later(EARLY_LINGER_S, self._read_again)
        self._start(request)

    def _read_again(self) -> None:
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def _refuse_bytes(self, error: Exception) -> None:
        body = write_error(Refused(400, f"The request is not HTTP: {error}"))
        head = b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-type: application/json\r\n"
        self._transport.write(head + b"content-length: %d\r\n\r\n%b" % (len(body), body))
        self._transport.close()

    # replies

    def _start(self, request: Request) -> None:
        now = self._loop.time()
        self._reply, self._seen = self._house.answer(request, now, time.time())
        self._due = now
        self._play()

    def _play(self) -> None:
        """Send every step that is due; come back when the next one's time has come or the client has read."""
        reply, transport = self._reply, self._transport
        if reply is None:
            return
        for _ in range(STEPS_A_TURN):
            if self._full or transport.is_closing():
                return
            step = self._held or next(reply.steps, None)
            self._held = None
            if step is None:
                self._finish(reply)
                return
            if step[0] > 0:
                self._due = max(self._due + step[0], self._loop.time() - LATEST_S)
                self._held = (0.0, step[1], step[2])
                self._timer = self._loop.call_at(self._due, self._play_on)
                return
            if step[1]:
                transport.write(step[1])
            self._note_sent(step[2])
        self._timer = self._loop.call_soon(self._play_on)

    def _play_on(self) -> None:
        self._timer = None
        self._play()

    def _note_sent(self, tokens: int) -> None:
        seen = self._seen
        if seen is not None:
            seen.tokens_sent += tokens
            if seen.first_byte_s is None:
                seen.first_byte_s = self._loop.time() - seen.began

    def _finish(self, reply: Reply) -> None:
        if reply.ending is Ending.HOLD:
            self._timer = self._loop.call_later(HOLD_S, self._transport.abort)
            return
        self._end("finished")
        self._reply = None
        if reply.ending is Ending.KEEP:
            if self._waiting:
                self._start(self._waiting.popleft())
        elif reply.ending is Ending.RESET:
            sock: socket.socket = self._transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            self._transport.abort()
        elif self._answered_early:
            self._loop.call_later(EARLY_LINGER_S * 2, self._transport.close)
        else:
            self._transport.close()

    def _leave(self) -> None:
        """The client has gone: nothing more is sent, and the record says when."""
        self._end("client_closed")
        self._reply = None
        self._waiting.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _end(self, outcome: str) -> None:
        if self._seen is not None:
            self._house.book.end(self._seen, outcome, self._loop.time())
            self._seen = None

    def abort(self) -> None:
        self._transport.abort()


class Server:
    """One listening socket and the connections that came of it."""

    def __init__(self, house: House | None = None) -> None:
        self.house = house or House()
        self._open: set[Connection] = set()
        self._listening: asyncio.Server | None = None

    async def listen(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        self._listening = await loop.create_server(self._connect, sock=listener, backlog=4096)

    def _connect(self) -> Connection:
        return Connection(self.house, self._open)

    async def stop(self) -> None:
        """Close the port and every connection, whatever it was doing."""
        if self._listening is not None:
            self._listening.close()
        for connection in list(self._open):
            connection.abort()
        if self._listening is not None:
            await self._listening.wait_closed()
