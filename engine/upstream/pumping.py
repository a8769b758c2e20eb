"""Sends a body that comes bit by bit over one connection, no faster than the upstream takes it."""

import asyncio
from typing import Protocol

from engine.errors import UpstreamFailure
from engine.upstream.reply import Reply, StreamedBody


class Way(Protocol):
    """What is asked of the connection (http1.Connection)."""

    transport: asyncio.Transport

    @property
    def reply(self) -> Reply | None: ...
    @property
    def stalled(self) -> "asyncio.Future[None] | None":
        """Ends when the upstream takes more."""


async def pump_body(way: Way, reply: Reply, body: StreamedBody, pause_s: float) -> None:
    """Send all of `body` unless the connection has done with `reply` before. Raises what `body` raises."""
    chunked = body.length is None
    async for piece in body.pieces():
        if way.reply is not reply:
            return
        if piece:
            way.transport.write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
        if way.stalled is not None:
            await _wait_until_taken(way.stalled, pause_s)
    if chunked and way.reply is reply:
        way.transport.write(b"0\r\n\r\n")


async def _wait_until_taken(stalled: "asyncio.Future[None]", pause_s: float) -> None:
    try:
        async with asyncio.timeout(pause_s):
            await stalled
    except TimeoutError:
        told = f"the upstream took nothing of the request for {pause_s:g} s"
        raise UpstreamFailure("timeout", told, clock="idle") from None
