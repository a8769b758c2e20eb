"""A request whose body comes bit by bit: framed, throttled, and given up when the upstream has answered."""

import asyncio
import ssl
from collections.abc import AsyncIterator

import pytest

from engine.errors import ClientGone, UpstreamFailure
from engine.upstream.pools import Upstreams
from engine.upstream.reply import Reply

from .peer import OK, Line, Peer, serve


@pytest.fixture
async def upstreams() -> AsyncIterator[Upstreams]:
    made = Upstreams(ssl_context=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    yield made
    await made.close()
    assert made.count() == {"idle": 0, "busy": 0, "connecting": 0}


class Source:
    def __init__(self, *bits: bytes, length: int | None = None, error: Exception | None = None) -> None:
        self.bits, self.length, self.error = bits, length, error
        self.taken = 0

    async def pieces(self) -> AsyncIterator[bytes]:
        for bit in self.bits:
            self.taken += 1
            yield bit
            await asyncio.sleep(0)
        if self.error is not None:
            raise self.error


async def ask(upstreams: Upstreams, peer: Peer, source: Source, pause_s: float = 5) -> Reply:
    return await upstreams.send_streamed(
        peer.origin, peer.head(), source, connect_s=5, answer_s=5, pause_s=pause_s
    )


async def read_until(line: Line, end: bytes) -> bytes:
    whole = await line.reader.readuntil(end)
    await line.send(OK)
    return whole


@pytest.mark.parametrize(("length", "framed"), [(None, b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"), (5, b"abcde")])
async def test_a_body_is_sent_with_its_length_or_in_chunks(
    upstreams: Upstreams, length: int | None, framed: bytes
) -> None:
    seen: list[bytes] = []

    async def script(line: Line) -> None:
        seen.append(await read_until(line, framed))
        await line.see_end()

    async with serve(script) as peer:
        reply = await ask(upstreams, peer, Source(b"abc", b"", b"de", length=length))
        assert (reply.status, await reply.read_all(10)) == (200, b"ok")
        assert upstreams.count()["idle"] == 1
    assert framed in seen[0]
    assert (b"transfer-encoding: chunked" in seen[0]) == (length is None)


async def test_an_upstream_that_takes_nothing_stops_the_source_and_is_left(upstreams: Upstreams) -> None:
    source = Source(*[bytes(64 * 1024)] * 1000)

    async def script(line: Line) -> None:
        await line.reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(1)

    async with serve(script) as peer:
        with pytest.raises(UpstreamFailure) as caught:
            await ask(upstreams, peer, source, pause_s=0.3)
    assert (caught.value.kind, caught.value.clock) == ("timeout", "idle")
    assert source.taken < 500


async def test_an_answer_before_the_whole_body_ends_the_sending(upstreams: Upstreams) -> None:
    source = Source(*[bytes(64 * 1024)] * 1000)

    async def script(line: Line) -> None:
        await line.reader.readuntil(b"\r\n\r\n")
        await line.send(b"HTTP/1.1 401 No\r\ncontent-length: 2\r\n\r\nno", 0.5)

    async with serve(script) as peer:
        reply = await ask(upstreams, peer, source)
        assert (reply.status, await reply.read_all(10)) == (401, b"no")
        reply.close()
    assert source.taken < 1000


async def test_what_the_source_raises_ends_the_request(upstreams: Upstreams) -> None:
    async with serve(Line.see_end) as peer:
        with pytest.raises(ClientGone):
            await ask(upstreams, peer, Source(b"abc", error=ClientGone("left")))
        await asyncio.wait_for(peer.seen_end.wait(), 5)


async def test_a_cut_while_sending_is_a_failure_of_the_upstream(upstreams: Upstreams) -> None:
    async def script(line: Line) -> None:
        await line.reader.readuntil(b"\r\n\r\n")
        line.reset()

    async with serve(script) as peer:
        with pytest.raises(UpstreamFailure) as caught:
            await ask(upstreams, peer, Source(*[bytes(64 * 1024)] * 1000))
    assert caught.value.kind == "reset"


async def test_who_leaves_while_sending_takes_the_connection_along(upstreams: Upstreams) -> None:
    async with serve(Line.see_end) as peer:
        asking = asyncio.create_task(ask(upstreams, peer, Source(*[bytes(1024)] * 100_000)))
        await asyncio.sleep(0.1)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await asyncio.wait_for(peer.seen_end.wait(), 5)
