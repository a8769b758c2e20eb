"""A raw-socket upstream whose every byte a test decides."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from engine.upstream.reply import Origin, write_head

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


class Line:
    """One connection, seen from the upstream."""

    def __init__(self, peer: "Peer", reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.peer = peer
        self.reader = reader
        self.writer = writer
        self.number = len(peer.lines) + 1

    async def request(self) -> bytes:
        """Read one whole request; b"" when the client has gone."""
        try:
            head = await self.reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            return b""
        length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
        body = await self.reader.readexactly(int(length or 0))
        self.peer.requests.append(head + body)
        return head + body

    async def send(self, data: bytes, pause_s: float = 0) -> None:
        self.writer.write(data)
        await self.writer.drain()
        if pause_s:
            await asyncio.sleep(pause_s)

    async def see_end(self) -> None:
        """Wait until the client closes, and say so."""
        try:
            while await self.reader.read(65536):
                pass
        except ConnectionError:
            pass
        self.peer.seen_end.set()

    def reset(self) -> None:
        self.writer.transport.abort()


class Peer:
    def __init__(self) -> None:
        self.lines: list[Line] = []
        self.requests: list[bytes] = []
        self.seen_end = asyncio.Event()
        self.errors: list[BaseException] = []
        self.origin = Origin("http", "127.0.0.1", 0, allow_private=True)

    def head(self, method: str = "POST", target: str = "/v1/chat") -> bytes:
        return write_head(method, self.origin, target, [("content-type", "application/json")])


Script = Callable[[Line], Awaitable[None]]


@asynccontextmanager
async def serve(
    script: Script, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1"
) -> AsyncIterator[Peer]:
    peer = Peer()
    tasks: set[asyncio.Task[None]] = set()

    async def run(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.current_task())  # type: ignore[arg-type]
        line = Line(peer, reader, writer)
        peer.lines.append(line)
        try:
            await script(line)
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(run, "127.0.0.1", 0, ssl=tls)
    port = server.sockets[0].getsockname()[1]
    peer.origin = Origin("https" if tls else "http", host, port, allow_private=True)
    try:
        yield peer
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for line in peer.lines:
            if not line.writer.transport.is_closing():
                line.writer.transport.abort()


async def answer_ok(line: Line) -> None:
    """Answer everything, on a connection that stays."""
    while await line.request():
        await line.send(OK)
