"""Connecting: TLS, names and addresses, clocks and cancellation before anything is asked."""

import asyncio
import socket
import ssl
import time
from collections.abc import AsyncIterator, Iterator

import pytest
import trustme

from engine.errors import UpstreamFailure
from engine.upstream.addresses import Address, Resolver
from engine.upstream.dial import Dialler
from engine.upstream.http1 import Connection
from engine.upstream.pools import Upstreams
from engine.upstream.reply import Origin, Reply

from .peer import CHUNKED, Line, Peer, answer_ok, serve

AUTHORITY = trustme.CA()


def server_tls(*names: str, authority: trustme.CA = AUTHORITY) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names).configure_cert(context)
    return context


@pytest.fixture
async def upstreams() -> AsyncIterator[Upstreams]:
    context = ssl.create_default_context()
    AUTHORITY.configure_trust(context)
    made = Upstreams(ssl_context=context)
    yield made
    await made.close()
    assert made.count() == {"idle": 0, "busy": 0, "connecting": 0}


@pytest.fixture
def black_hole() -> Iterator[tuple[str, int]]:
    """An address where connecting neither succeeds nor fails: its queue of connections is full."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.3", 0))
        listener.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield listener.getsockname()
        for filler in fillers:
            filler.close()


async def ask(upstreams: Upstreams, peer: Peer, connect_s: float = 5) -> Reply:
    return await upstreams.send(peer.origin, peer.head(), b"{}", connect_s=connect_s, headers_s=5)


async def expect_failure(kind: str, match: str, upstreams: Upstreams, peer: Peer) -> None:
    with pytest.raises(UpstreamFailure, match=match) as raised:
        await ask(upstreams, peer)
    assert raised.value.kind == kind


async def test_tls_is_verified_and_names_the_host(upstreams: Upstreams) -> None:
    asked: list[str | None] = []
    tls = server_tls("localhost")
    tls.sni_callback = lambda _sock, name, _context: asked.append(name)
    async with serve(answer_ok, tls, host="localhost") as peer:
        for _ in range(3):
            assert await (await ask(upstreams, peer)).read_all(10) == b"ok"
        assert asked == ["localhost"]
        assert len(peer.requests) == 3


async def test_tls_to_an_address_is_verified_against_the_address(upstreams: Upstreams) -> None:
    async with serve(answer_ok, server_tls("127.0.0.1")) as peer:
        assert await (await ask(upstreams, peer)).read_all(10) == b"ok"


@pytest.mark.parametrize("fault", ["another name", "another authority"])
async def test_a_bad_certificate_is_refused_before_anything_is_sent(upstreams: Upstreams, fault: str) -> None:
    authority = trustme.CA() if fault == "another authority" else AUTHORITY
    name = "elsewhere.example" if fault == "another name" else "localhost"
    async with serve(answer_ok, server_tls(name, authority=authority), host="localhost") as peer:
        await expect_failure("connect", "certificate of https://localhost", upstreams, peer)
        assert not peer.requests


async def test_what_does_not_speak_tls_is_a_failed_connection(upstreams: Upstreams) -> None:
    async def script(line: Line) -> None:
        await line.send(b"HTTP/1.1 400 Bad Request\r\n\r\n", 0.05)

    async with serve(script, host="localhost") as peer:
        peer.origin = peer.origin._replace(scheme="https")
        await expect_failure("connect", "no connection", upstreams, peer)


@pytest.mark.asyncio(loop_factories=["uvloop"])  # the plain loop does not tell the two ends apart
@pytest.mark.parametrize("farewell", [True, False])
async def test_a_tls_body_without_length_ends_only_with_the_farewell(
    upstreams: Upstreams, farewell: bool
) -> None:
    async def script(line: Line) -> None:
        await line.request()
        await line.send(b"HTTP/1.1 200 OK\r\n\r\nhello", 0.02)
        if not farewell:
            line.reset()

    async with serve(script, server_tls("localhost"), host="localhost") as peer:
        reply = await ask(upstreams, peer)
        if farewell:
            assert await reply.read_all(10) == b"hello"
        else:
            with pytest.raises(UpstreamFailure) as raised:
                await reply.read_all(10)
            assert raised.value.kind == "broken_stream"


async def test_big_bodies_and_answers_pass_through_tls(upstreams: Upstreams) -> None:
    body = bytes(range(256)) * 12_000

    async def script(line: Line) -> None:
        while request := await line.request():
            echo = request.partition(b"\r\n\r\n")[2]
            await line.send(CHUNKED + b"%x\r\n%b\r\n0\r\n\r\n" % (len(echo), echo))

    async with serve(script, server_tls("localhost"), host="localhost") as peer:
        for _ in range(2):
            reply = await upstreams.send(peer.origin, peer.head(), body, connect_s=5, answer_s=10)
            assert await reply.read_all(len(body)) == body
        assert len(peer.lines) == 1


async def test_cancelling_a_tls_answer_closes_the_socket_at_once(upstreams: Upstreams) -> None:
    async def script(line: Line) -> None:
        await line.request()
        await line.send(CHUNKED + b"5\r\nhello\r\n")
        await line.see_end()

    async with serve(script, server_tls("localhost"), host="localhost") as peer:
        reply = await ask(upstreams, peer)
        assert await reply.read() == b"hello"
        task = asyncio.ensure_future(reply.read())
        await asyncio.sleep(0.02)
        task.cancel()
        await asyncio.wait_for(peer.seen_end.wait(), 0.2)


async def test_a_refused_connection_says_where(upstreams: Upstreams) -> None:
    async with serve(answer_ok) as peer:
        pass
    await expect_failure("connect", r"http://127\.0\.0\.1:\d+ at 127\.0\.0\.1", upstreams, peer)


async def test_a_name_that_does_not_exist_says_so(upstreams: Upstreams) -> None:
    peer = Peer()
    peer.origin = Origin("https", "nowhere.invalid", 443)
    await expect_failure("connect", "nowhere.invalid cannot be resolved", upstreams, peer)


async def test_connecting_has_its_clock(upstreams: Upstreams, black_hole: tuple[str, int]) -> None:
    peer = Peer()
    peer.origin = Origin("http", *black_hole, allow_private=True)
    began = time.monotonic()
    with pytest.raises(UpstreamFailure) as raised:
        await ask(upstreams, peer, connect_s=0.1)
    assert (raised.value.kind, raised.value.clock) == ("timeout", "connect")
    assert time.monotonic() - began < 0.4


async def test_a_connecting_call_can_be_cancelled(upstreams: Upstreams, black_hole: tuple[str, int]) -> None:
    peer = Peer()
    peer.origin = Origin("http", *black_hole, allow_private=True)
    task = asyncio.ensure_future(ask(upstreams, peer))
    await asyncio.sleep(0.05)
    assert upstreams.count() == {"idle": 0, "busy": 0, "connecting": 1}
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert upstreams.count() == {"idle": 0, "busy": 0, "connecting": 0}


@pytest.mark.parametrize("by", ["cancellation", "clock"])
async def test_a_silent_tls_handshake_ends_with_its_socket(upstreams: Upstreams, by: str) -> None:
    async def script(line: Line) -> None:
        await line.see_end()

    async with serve(script, host="localhost") as peer:
        peer.origin = peer.origin._replace(scheme="https")
        task = asyncio.ensure_future(ask(upstreams, peer, connect_s=0.2 if by == "clock" else 5))
        await asyncio.sleep(0.1)
        if by == "cancellation":
            task.cancel()
        await asyncio.wait_for(peer.seen_end.wait(), 0.4)
        with pytest.raises(asyncio.CancelledError if by == "cancellation" else UpstreamFailure):
            await task


class Listed(Resolver):
    """Names of a test's own."""

    def __init__(self, *addresses: tuple[str, int]) -> None:
        super().__init__()
        self.addresses: list[Address] = [(socket.AF_INET, address) for address in addresses]

    async def find_addresses(self, origin: Origin) -> list[Address]:
        return self.addresses


class Nobody:
    def take_back(self, connection: Connection) -> None: ...

    def forget(self, connection: Connection) -> None: ...


async def test_the_next_address_is_tried_when_one_refuses_or_is_silent(black_hole: tuple[str, int]) -> None:
    async with serve(answer_ok) as peer:
        port = peer.origin.port
        resolver = Listed(("127.0.0.2", port), black_hole, ("127.0.0.1", port))
        dialler = Dialler(resolver, ssl.create_default_context(), patience_s=0.1)
        loop = asyncio.get_running_loop()
        connection = await dialler.connect(peer.origin, lambda: Connection(loop, Nobody(), False), 5)
        assert connection.transport.get_extra_info("peername") == ("127.0.0.1", port)
        connection.drop()
        await asyncio.sleep(0.01)
