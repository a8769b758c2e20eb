"""How connections are kept, bounded, replaced and given back."""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator

import httpx
import pytest

from engine.errors import UpstreamFailure
from engine.upstream.pools import Upstreams, control_client
from engine.upstream.reply import Origin, Reply

from .peer import CHUNKED, OK, Line, Peer, answer_ok, serve

EMPTY = {"idle": 0, "busy": 0, "connecting": 0}


@pytest.fixture
async def opened() -> AsyncIterator[list[Upstreams]]:
    """What a test puts in here is closed afterwards, and nothing may be left of it."""
    made: list[Upstreams] = []
    yield made
    for upstreams in made:
        await upstreams.close()
        assert upstreams.count() == EMPTY


def start(opened: list[Upstreams], **limits: float) -> Upstreams:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    opened.append(Upstreams(ssl_context=tls, **limits))  # type: ignore[arg-type]
    return opened[-1]


async def ask(upstreams: Upstreams, peer: Peer, connect_s: float = 5) -> Reply:
    return await upstreams.send(peer.origin, peer.head(), b"{}", connect_s=connect_s, headers_s=5)


async def ask_whole(upstreams: Upstreams, peer: Peer, connect_s: float = 5) -> bytes:
    return await (await ask(upstreams, peer, connect_s)).read_all(1000)


async def stream_until_told(line: Line) -> None:
    """Answer the path /wait with a stream that goes on until the client leaves, all else at once."""
    while request := await line.request():
        if b" /wait " not in request:
            await line.send(OK)
            continue
        await line.send(CHUNKED + b"5\r\nhello\r\n")
        await line.see_end()
        return


async def hold(upstreams: Upstreams, peer: Peer) -> Reply:
    reply = await upstreams.send(peer.origin, peer.head("POST", "/wait"), b"{}", connect_s=5, headers_s=5)
    assert await reply.read() == b"hello"
    return reply


async def test_a_connection_is_used_again_the_last_one_first(opened: list[Upstreams]) -> None:
    upstreams = start(opened)
    async with serve(answer_ok) as peer:
        await asyncio.gather(*(ask_whole(upstreams, peer) for _ in range(5)))
        assert upstreams.count() == {"idle": 5, "busy": 0, "connecting": 0}
        for _ in range(10):
            await ask_whole(upstreams, peer)
        assert len(peer.lines) == 5


async def test_a_connection_closed_while_idle_is_replaced_silently(opened: list[Upstreams]) -> None:
    async def script(line: Line) -> None:
        await line.request()
        await line.send(OK)

    upstreams = start(opened)
    async with serve(script) as peer:
        for _ in range(3):
            assert await ask_whole(upstreams, peer) == b"ok"
            await asyncio.sleep(0.02)
            assert upstreams.count() == EMPTY
        for _ in range(30):
            assert await ask_whole(upstreams, peer) == b"ok"  # some see the end only while they write


@pytest.mark.parametrize("reset", [True, False])
async def test_a_used_connection_that_dies_unanswered_is_replaced_once(
    opened: list[Upstreams], reset: bool
) -> None:
    async def script(line: Line) -> None:
        if line.number <= 2:
            await line.request()
            await line.send(OK)
        if line.number != 2:
            await line.request()
            if reset:
                line.reset()
            return
        await line.see_end()

    upstreams = start(opened)
    async with serve(script) as peer:
        assert await ask_whole(upstreams, peer) == b"ok"
        assert await ask_whole(upstreams, peer) == b"ok"  # line 1 dies, line 2 answers
        assert len(peer.lines) == 2
        assert len(peer.requests) == 3


async def test_a_new_connection_that_dies_unanswered_is_a_failure(opened: list[Upstreams]) -> None:
    async def script(line: Line) -> None:
        if line.number == 1:
            await line.request()
            await line.send(OK)
        await line.request()
        line.reset()

    upstreams = start(opened)
    async with serve(script) as peer:
        assert await ask_whole(upstreams, peer) == b"ok"
        with pytest.raises(UpstreamFailure) as raised:
            await ask_whole(upstreams, peer)  # replaced once; the fresh one dies, too
        assert raised.value.kind == "reset"
        assert len(peer.requests) == 3
        with pytest.raises(UpstreamFailure):
            await ask_whole(upstreams, peer)
        assert len(peer.requests) == 4


async def test_a_silent_used_connection_is_not_asked_again(opened: list[Upstreams]) -> None:
    async def script(line: Line) -> None:
        await line.request()
        await line.send(OK)
        await line.request()
        await line.see_end()

    upstreams = start(opened)
    async with serve(script) as peer:
        assert await ask_whole(upstreams, peer) == b"ok"
        with pytest.raises(UpstreamFailure) as raised:
            await upstreams.send(peer.origin, peer.head(), b"{}", connect_s=1, headers_s=0.1)
        assert raised.value.clock == "headers"
        assert len(peer.requests) == 2


async def test_a_connection_is_not_used_beyond_its_life(opened: list[Upstreams]) -> None:
    upstreams = start(opened, life_s=0.1)
    async with serve(answer_ok) as peer:
        for _ in range(3):
            await ask_whole(upstreams, peer)
        assert len(peer.lines) == 1
        await asyncio.sleep(0.12)
        await ask_whole(upstreams, peer)
        assert len(peer.lines) == 2


async def test_a_connection_is_not_used_when_idle_for_too_long(opened: list[Upstreams]) -> None:
    upstreams = start(opened, idle_s=0.05)
    async with serve(answer_ok) as peer:
        await ask_whole(upstreams, peer)
        await asyncio.sleep(0.08)
        await ask_whole(upstreams, peer)
        assert len(peer.lines) == 2
        assert upstreams.count()["idle"] == 1


async def test_who_finds_no_connection_waits_for_one(opened: list[Upstreams]) -> None:
    upstreams = start(opened, max_connections=2)
    async with serve(stream_until_told) as peer:
        held = await hold(upstreams, peer)
        answers = await asyncio.gather(*(ask_whole(upstreams, peer) for _ in range(50)))
        assert answers == [b"ok"] * 50
        assert len(peer.lines) == 2
        held.close()


async def test_waiting_for_a_connection_has_its_own_clock(opened: list[Upstreams]) -> None:
    upstreams = start(opened, max_connections=1)
    async with serve(stream_until_told) as peer:
        held = await hold(upstreams, peer)
        with pytest.raises(UpstreamFailure) as raised:
            await ask(upstreams, peer, connect_s=0.05)
        assert (raised.value.kind, raised.value.clock) == ("timeout", "pool")
        held.close()
        assert await ask_whole(upstreams, peer) == b"ok"


async def test_a_closed_answer_gives_its_place_to_the_next_in_line(opened: list[Upstreams]) -> None:
    upstreams = start(opened, max_connections=1)
    async with serve(stream_until_told) as peer:
        held = await hold(upstreams, peer)
        waiting = [asyncio.ensure_future(ask_whole(upstreams, peer)) for _ in range(3)]
        await asyncio.sleep(0.02)
        waiting[0].cancel()
        held.close()
        assert await asyncio.gather(*waiting[1:]) == [b"ok", b"ok"]
        assert upstreams.count() == {"idle": 1, "busy": 0, "connecting": 0}


async def test_leaving_the_line_while_being_served_loses_nothing(opened: list[Upstreams]) -> None:
    upstreams = start(opened, max_connections=1)
    async with serve(stream_until_told) as peer:
        for _ in range(5):
            held = await hold(upstreams, peer)
            waiting = asyncio.ensure_future(ask_whole(upstreams, peer))
            await asyncio.sleep(0.01)
            held.close()
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert await ask_whole(upstreams, peer, connect_s=1) == b"ok"


async def test_calls_cancelled_at_random_moments_leave_no_connection_behind(opened: list[Upstreams]) -> None:
    upstreams = start(opened, max_connections=8)

    async def call(path: str) -> None:
        reply = await upstreams.send(peer.origin, peer.head("POST", path), b"{}", connect_s=5, headers_s=5)
        try:
            while await reply.read():
                pass
        finally:
            reply.close()

    async with serve(stream_until_told) as peer:
        for turn in range(300):
            task = asyncio.ensure_future(call("/wait" if turn % 2 else "/now"))
            for _ in range(turn % 12):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        counts = upstreams.count()
        assert counts["busy"] == counts["connecting"] == 0
        assert await asyncio.gather(*(ask_whole(upstreams, peer) for _ in range(20))) == [b"ok"] * 20


async def test_origins_do_not_share_connections_or_bounds(opened: list[Upstreams]) -> None:
    upstreams = start(opened, max_connections=1)
    async with serve(stream_until_told) as peer, serve(answer_ok) as other:
        held = await hold(upstreams, peer)
        assert await ask_whole(upstreams, other) == b"ok"
        assert upstreams.count() == {"idle": 1, "busy": 1, "connecting": 0}
        held.close()


async def test_closing_ends_open_calls_and_those_in_line() -> None:
    upstreams = Upstreams(max_connections=1)
    async with serve(stream_until_told) as peer:
        held = await hold(upstreams, peer)
        reading = asyncio.ensure_future(held.read())
        waiting = asyncio.ensure_future(ask(upstreams, peer))
        await asyncio.sleep(0.02)
        await upstreams.close()
        for task in (reading, waiting):
            with pytest.raises(UpstreamFailure, match="closed its upstream connections"):
                await task
        await asyncio.wait_for(peer.seen_end.wait(), 0.5)
        assert upstreams.count() == EMPTY


async def test_a_thousand_answers_share_sixty_four_connections(opened: list[Upstreams]) -> None:
    upstreams = start(opened, max_connections=64)
    async with serve(answer_ok) as peer:
        began = time.monotonic()
        answers = await asyncio.gather(*(ask_whole(upstreams, peer) for _ in range(1000)))
        assert answers == [b"ok"] * 1000
        assert len(peer.lines) == 64
        assert time.monotonic() - began < 10


async def test_the_control_client_goes_through_the_same_pools(opened: list[Upstreams]) -> None:
    async def script(line: Line) -> None:
        while await line.request():
            await line.send(
                b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 7\r\n\r\n{"a":1}'
            )

    upstreams = start(opened)
    async with serve(script) as peer, control_client(upstreams, allow_private=True) as client:
        for _ in range(2):
            answer = await client.get(
                f"{peer.origin}/v1/models?limit=2", headers={"authorization": "Bearer x"}
            )
            assert answer.json() == {"a": 1}
        assert len(peer.lines) == 1
        assert peer.requests[0].startswith(b"GET /v1/models?limit=2 HTTP/1.1\r\n")
        assert b"authorization: Bearer x\r\n" in peer.requests[0]


async def test_the_control_client_guards_addresses_and_speaks_httpx_errors(opened: list[Upstreams]) -> None:
    upstreams = start(opened)
    async with serve(answer_ok) as peer, control_client(upstreams) as client:
        with pytest.raises(httpx.ConnectError, match="allow_private: true"):
            await client.get(f"{peer.origin}/v1/models")
        assert not peer.lines


async def test_an_httpx_transport_can_be_mounted_for_an_origin(opened: list[Upstreams]) -> None:
    upstreams = start(opened)
    origin = Origin("https", "api.example.com", 443)
    upstreams.mount(
        origin, httpx.MockTransport(lambda request: httpx.Response(200, content=request.url.path))
    )
    peer = Peer()
    peer.origin = origin
    assert await ask_whole(upstreams, peer) == b"/v1/chat"
