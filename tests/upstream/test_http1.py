"""What one exchange over one socket does, against an upstream whose every byte is decided here."""

import asyncio
import gzip
import ssl
import time
import zlib
from collections.abc import AsyncIterator

import pytest

from engine.errors import UpstreamFailure
from engine.upstream.pools import Upstreams
from engine.upstream.reply import MAX_HEAD, Reply, write_head

from .peer import CHUNKED, OK, Line, Peer, answer_ok, serve


@pytest.fixture
async def upstreams() -> AsyncIterator[Upstreams]:
    made = Upstreams(ssl_context=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    yield made
    await made.close()
    assert made.count() == {"idle": 0, "busy": 0, "connecting": 0}


async def ask(upstreams: Upstreams, peer: Peer, body: bytes = b"{}", headers_s: float | None = 5) -> Reply:
    return await upstreams.send(peer.origin, peer.head(), body, connect_s=5, headers_s=headers_s)


async def ask_whole(upstreams: Upstreams, peer: Peer, body: bytes = b"{}", answer_s: float = 5) -> bytes:
    reply = await upstreams.send(peer.origin, peer.head(), body, connect_s=5, answer_s=answer_s)
    return await reply.read_all(1 << 20)


def answer_with(*pieces: bytes, close: bool = False, pause_s: float = 0.01):  # type: ignore[no-untyped-def]
    """A script that answers each request with these writes."""

    async def script(line: Line) -> None:
        while await line.request():
            for piece in pieces:
                await line.send(piece, pause_s)
            if close:
                return

    return script


async def test_the_request_arrives_as_given_and_the_answer_comes_back(upstreams: Upstreams) -> None:
    async with serve(
        answer_with(b"HTTP/1.1 201 Made\r\nX-One: A\r\nx-two: b\r\nContent-Length: 3\r\n\r\nabc")
    ) as peer:
        reply = await ask(upstreams, peer, b'{"a":1}')
        assert (reply.status, reply.header(b"x-one"), reply.header(b"x-none")) == (201, b"A", None)
        assert reply.headers == [(b"X-One", b"A"), (b"x-two", b"b"), (b"Content-Length", b"3")]
        assert await reply.read_all(100) == b"abc"
        assert await reply.read() == b""
        assert reply.complete
    head, _, body = peer.requests[0].partition(b"\r\n\r\n")
    assert body == b'{"a":1}'
    lines = head.split(b"\r\n")
    assert lines[0] == b"POST /v1/chat HTTP/1.1"
    assert b"host: 127.0.0.1:%d" % peer.origin.port in lines
    assert b"accept-encoding: identity" in lines
    assert b"content-length: 7" in lines


async def test_a_get_without_body_has_no_content_length(upstreams: Upstreams) -> None:
    async with serve(answer_ok) as peer:
        reply = await upstreams.send(peer.origin, peer.head("GET", "/models"), b"", connect_s=5, headers_s=5)
        assert await reply.read_all(10) == b"ok"
    assert b"content-length" not in peer.requests[0]


@pytest.mark.parametrize("size", [1, 7, 1 << 16, 3 << 20])
async def test_bodies_of_any_size_go_out_whole(upstreams: Upstreams, size: int) -> None:
    body = bytes(range(256)) * (size // 256 + 1)
    async with serve(answer_ok) as peer:
        assert await ask_whole(upstreams, peer, body) == b"ok"
        assert await ask_whole(upstreams, peer, body) == b"ok"
    assert [request.partition(b"\r\n\r\n")[2] == body for request in peer.requests] == [True, True]
    assert len(peer.lines) == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 11\r\n\r\nhello world",
        CHUNKED + b"5\r\nhello\r\n6;ext=1\r\n world\r\n0\r\nx-trailer: 1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nupgrade: h2c\r\nconnection: Upgrade\r\ncontent-length: 11\r\n\r\nhello world",
        b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nhello world",
        b"HTTP/1.0 200 OK\r\n\r\nhello world",
    ],
    ids=["length", "chunked", "upgrade offered", "until close", "http 1.0"],
)
async def test_a_body_is_whole_when_it_comes_byte_by_byte(upstreams: Upstreams, answer: bytes) -> None:
    async def script(line: Line) -> None:
        while await line.request():
            for at in range(len(answer)):
                await line.send(answer[at : at + 1])
                await asyncio.sleep(0)
            if b"length" not in answer and b"chunked" not in answer:
                return

    async with serve(script) as peer:
        for _ in range(2):
            reply = await ask(upstreams, peer)
            assert await reply.read_all(100) == b"hello world"
            assert reply.complete
            assert await ask_whole(upstreams, peer) == b"hello world"


async def test_read_gives_what_has_arrived_without_waiting_for_more(upstreams: Upstreams) -> None:
    go_on = asyncio.Event()

    async def script(line: Line) -> None:
        await line.request()
        await line.send(CHUNKED + b"3\r\none\r\n3\r\ntwo\r\n")
        await go_on.wait()
        await line.send(b"5\r\nthree\r\n0\r\n\r\n")
        await line.see_end()

    async with serve(script) as peer:
        reply = await ask(upstreams, peer)
        assert await reply.read() == b"onetwo"
        assert not reply.complete
        go_on.set()
        assert await reply.read() == b"three"
        assert await reply.read() == b""


async def test_the_head_is_given_before_the_body(upstreams: Upstreams) -> None:
    async def script(line: Line) -> None:
        await line.request()
        await line.send(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n")
        await line.see_end()

    async with serve(script) as peer:
        reply = await ask(upstreams, peer)
        assert reply.status == 200
        reply.close()


async def test_interim_answers_are_skipped(upstreams: Upstreams) -> None:
    interim = b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n"
    async with serve(answer_with(b"HTTP/1.1 100 Continue\r\n\r\n", interim + interim, OK)) as peer:
        for _ in range(2):
            reply = await ask(upstreams, peer)
            assert (reply.status, reply.headers) == (200, [(b"content-length", b"2")])
            assert await reply.read_all(10) == b"ok"
        assert len(peer.lines) == 1


async def test_trailers_do_not_turn_up_among_the_next_headers(upstreams: Upstreams) -> None:
    async with serve(answer_with(CHUNKED + b"2\r\nok\r\n0\r\nx-one: 1\r\nx-two: 2\r\n\r\n")) as peer:
        for _ in range(2):
            reply = await ask(upstreams, peer)
            assert await reply.read_all(10) == b"ok"
            assert reply.headers == [(b"transfer-encoding", b"chunked")]
        assert len(peer.lines) == 1


async def test_a_redirect_is_an_answer_like_any_other(upstreams: Upstreams) -> None:
    away = b"HTTP/1.1 307 Away\r\nlocation: http://169.254.169.254/\r\ncontent-length: 0\r\n\r\n"
    async with serve(answer_with(away)) as peer:
        assert (await ask(upstreams, peer)).status == 307
        assert len(peer.requests) == 1


async def test_an_answer_before_the_request_was_read_is_delivered(upstreams: Upstreams) -> None:
    async def script(line: Line) -> None:
        await line.reader.readuntil(b"\r\n\r\n")
        await line.send(b"HTTP/1.1 413 Too Large\r\ncontent-length: 3\r\n\r\nbig")
        await line.see_end()

    async with serve(script) as peer:
        reply = await upstreams.send(
            peer.origin, peer.head(), b"x" * (32 << 20), connect_s=5, headers_s=5, answer_s=5
        )
        assert (reply.status, await reply.read_all(10)) == (413, b"big")
        assert upstreams.count()["idle"] == 0


async def test_an_early_answer_survives_the_reset_that_follows_it(upstreams: Upstreams) -> None:
    async def script(line: Line) -> None:
        await line.reader.readuntil(b"\r\n\r\n")
        await line.send(b"HTTP/1.1 413 Too Large\r\ncontent-length: 3\r\n\r\nbig")
        line.reset()

    async with serve(script) as peer:
        for _ in range(20):
            reply = await ask(upstreams, peer, b"x" * (16 << 20))
            assert (reply.status, await reply.read_all(10)) == (413, b"big")


@pytest.mark.parametrize(
    ("encoding", "packed"),
    [
        ("gzip", gzip.compress(b"hello " * 1000)),
        ("x-gzip", gzip.compress(b"hello " * 500) + gzip.compress(b"hello " * 500)),
        ("deflate", zlib.compress(b"hello " * 1000)),
        ("deflate", zlib.compress(b"hello " * 1000)[2:-4]),
        ("identity", b"hello " * 1000),
    ],
    ids=["gzip", "two gzip members", "deflate", "bare deflate", "identity"],
)
async def test_a_compressed_answer_is_decoded(upstreams: Upstreams, encoding: str, packed: bytes) -> None:
    head = (
        f"HTTP/1.1 200 OK\r\ncontent-encoding: {encoding}\r\ncontent-length: {len(packed)}\r\n\r\n".encode()
    )
    async with serve(answer_with(head + packed[:5], packed[5:9], packed[9:])) as peer:
        assert await (await ask(upstreams, peer)).read_all(100_000) == b"hello " * 1000
        assert await ask_whole(upstreams, peer) == b"hello " * 1000


async def test_a_decompression_bomb_stops_at_the_limit(upstreams: Upstreams) -> None:
    bomb = gzip.compress(bytes(64 << 20))
    head = b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % len(bomb)
    async with serve(answer_with(head + bomb)) as peer:
        reply = await ask(upstreams, peer)
        assert 0 < len(await reply.read()) <= 256 * 1024
        with pytest.raises(UpstreamFailure, match="larger than 1000000") as raised:
            await reply.read_all(1_000_000)
        assert raised.value.kind == "broken_stream"


@pytest.mark.parametrize("encoding", [b"gzip", b"deflate", b"br"])
async def test_a_damaged_or_unknown_encoding_is_a_broken_stream(
    upstreams: Upstreams, encoding: bytes
) -> None:
    packed = gzip.compress(b"hello " * 1000)[:-12]
    head = b"HTTP/1.1 200 OK\r\ncontent-encoding: %b\r\ncontent-length: %d\r\n\r\n" % (encoding, len(packed))
    async with serve(answer_with(head + packed)) as peer:
        with pytest.raises(UpstreamFailure) as raised:
            await ask_whole(upstreams, peer)
        assert raised.value.kind == "broken_stream"


@pytest.mark.parametrize(
    "cut",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\nhello",
        CHUNKED + b"5\r\nhello\r\n",
        CHUNKED + b"ff\r\nhello",
    ],
    ids=["length", "chunked", "inside a chunk"],
)
async def test_a_cut_body_gives_its_bytes_and_then_a_broken_stream(upstreams: Upstreams, cut: bytes) -> None:
    async with serve(answer_with(cut, close=True)) as peer:
        reply = await ask(upstreams, peer)
        assert await reply.read() == b"hello"
        for _ in range(2):
            with pytest.raises(UpstreamFailure) as raised:
                await reply.read()
            assert raised.value.kind == "broken_stream"
        assert not reply.complete
        with pytest.raises(UpstreamFailure, match="in its answer"):
            await ask_whole(upstreams, peer)


async def test_a_reset_in_a_body_without_length_is_not_its_end(upstreams: Upstreams) -> None:
    async def script(line: Line) -> None:
        await line.request()
        await line.send(b"HTTP/1.1 200 OK\r\n\r\nhello", 0.02)
        sock = line.writer.get_extra_info("socket")
        sock.setsockopt(1, 13, b"\1\0\0\0\0\0\0\0")  # SO_LINGER 0: close with a reset
        line.reset()

    async with serve(script) as peer:
        reply = await ask(upstreams, peer)
        assert await reply.read() == b"hello"
        with pytest.raises(UpstreamFailure) as raised:
            await reply.read()
        assert raised.value.kind == "broken_stream"


async def test_a_connection_closed_before_the_head_is_a_reset(upstreams: Upstreams) -> None:
    async with serve(answer_with(b"HTTP/1.1 200 O", close=True)) as peer:
        with pytest.raises(UpstreamFailure) as raised:
            await ask(upstreams, peer)
        assert raised.value.kind == "reset"
        assert len(peer.requests) == 1


@pytest.mark.parametrize(
    "garbage",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"\x15\x03\x01\x00\x02\x02\x46",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        b"HTTP/1.1 101 Switching\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n",
    ],
    ids=["ssh", "tls alert", "status", "two lengths", "length and chunked", "upgrade"],
)
async def test_what_is_not_http_is_a_broken_stream(upstreams: Upstreams, garbage: bytes) -> None:
    async with serve(answer_with(garbage)) as peer:
        with pytest.raises(UpstreamFailure) as raised:
            await ask_whole(upstreams, peer)
        assert raised.value.kind == "broken_stream"
        assert upstreams.count() == {"idle": 0, "busy": 0, "connecting": 0}


async def test_a_broken_chunk_comes_after_the_good_ones(upstreams: Upstreams) -> None:
    async with serve(answer_with(CHUNKED + b"5\r\nhello\r\n" + b"zz\r\n")) as peer:
        reply = await ask(upstreams, peer)
        assert await reply.read() == b"hello"
        with pytest.raises(UpstreamFailure, match="does not speak"):
            await reply.read()


@pytest.mark.parametrize("pieces", [1, 40])
async def test_response_headers_are_bounded(upstreams: Upstreams, pieces: int) -> None:
    line = b"x-filler: " + b"f" * (MAX_HEAD // pieces) + b"\r\n"
    answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n" + line * pieces + b"\r\nok"
    parts = [answer[at : at + 9000] for at in range(0, len(answer), 9000)] if pieces > 1 else [answer]
    async with serve(answer_with(*parts, pause_s=0)) as peer:
        with pytest.raises(UpstreamFailure, match="headers"):
            await ask(upstreams, peer)


async def test_endless_interim_answers_and_trailers_are_bounded(upstreams: Upstreams) -> None:
    async def script(line: Line) -> None:
        await line.request()
        if line.number == 2:
            await line.send(CHUNKED + b"2\r\nok\r\n0\r\n", 0.02)
        filler = b"HTTP/1.1 102 Wait\r\n\r\n" if line.number == 1 else b"x-t: " + b"y" * 1000 + b"\r\n"
        while True:
            await line.send(filler * 50)
            await asyncio.sleep(0)

    async with serve(script) as peer:
        for _ in range(2):
            with pytest.raises(UpstreamFailure) as raised:
                await (await ask(upstreams, peer)).read_all(100)
            assert raised.value.kind == "broken_stream"


async def test_bytes_after_the_end_drop_the_connection_and_keep_the_answer(upstreams: Upstreams) -> None:
    for extra in (b"junk", OK, b"HTTP/1.1 2"):
        async with serve(answer_with(OK + extra)) as peer:
            for _ in range(2):
                assert await ask_whole(upstreams, peer) == b"ok"
            assert len(peer.lines) == 2


async def test_bytes_while_idle_drop_the_connection(upstreams: Upstreams) -> None:
    async def script(line: Line) -> None:
        await line.request()
        await line.send(OK, 0.02)
        await line.send(b"HTTP/1.1 408 Timeout\r\nconnection: close\r\n\r\n")
        await line.see_end()

    async with serve(script) as peer:
        assert await ask_whole(upstreams, peer) == b"ok"
        await asyncio.wait_for(peer.seen_end.wait(), 1)
        assert await ask_whole(upstreams, peer) == b"ok"
        assert len(peer.lines) == 2


async def test_connection_close_is_honoured(upstreams: Upstreams) -> None:
    async with serve(
        answer_with(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok")
    ) as peer:
        for _ in range(2):
            assert await ask_whole(upstreams, peer) == b"ok"
        assert len(peer.lines) == 2


async def test_a_slow_reader_makes_the_upstream_wait(upstreams: Upstreams) -> None:
    sent = 0

    async def script(line: Line) -> None:
        nonlocal sent
        await line.request()
        line.writer.transport.set_write_buffer_limits(65536)
        await line.send(CHUNKED)
        for _ in range(1000):
            await line.send(b"10000\r\n" + bytes(65536) + b"\r\n")
            sent += 65536
        await line.send(b"0\r\n\r\n")

    async with serve(script) as peer:
        reply = await ask(upstreams, peer)
        await asyncio.sleep(0.3)
        assert sent < 30 << 20  # our bound and the kernel's buffers, not the whole
        got = 0
        while piece := await reply.read():
            assert len(piece) < 1 << 20
            got += len(piece)
        assert got == 1000 * 65536


async def test_read_all_takes_more_than_the_bound_of_unread_bytes(upstreams: Upstreams) -> None:
    body = bytes(5 << 20)
    async with serve(answer_with(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body), body)) as peer:
        reply = await upstreams.send(peer.origin, peer.head(), b"{}", connect_s=5, answer_s=5)
        assert len(await reply.read_all(6 << 20)) == 5 << 20
        reply = await upstreams.send(peer.origin, peer.head(), b"{}", connect_s=5, answer_s=5)
        with pytest.raises(UpstreamFailure, match="larger than"):
            await reply.read_all(4 << 20)
        assert upstreams.count() == {"idle": 0, "busy": 0, "connecting": 0}


async def stay_silent(line: Line) -> None:
    await line.request()
    await line.see_end()


async def expect_timeout(clock: str, within_s: float, waiting: asyncio.Future[object] | object) -> None:
    began = time.monotonic()
    with pytest.raises(UpstreamFailure) as raised:
        await waiting  # type: ignore[misc]
    assert (raised.value.kind, raised.value.clock) == ("timeout", clock)
    assert within_s - 0.02 <= time.monotonic() - began < within_s + 0.3


async def test_the_headers_clock_ends_a_silent_upstream(upstreams: Upstreams) -> None:
    async with serve(stay_silent) as peer:
        await expect_timeout("headers", 0.1, ask(upstreams, peer, headers_s=0.1))
        await asyncio.wait_for(peer.seen_end.wait(), 0.2)


async def test_the_answer_clock_runs_to_the_end_of_a_plain_answer(upstreams: Upstreams) -> None:
    async def script(line: Line) -> None:
        await line.request()
        await line.send(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n")
        for _ in range(20):
            await line.send(b"x" if _ < 5 else b"", 0.03)
        await line.see_end()

    async with serve(script) as peer:
        await expect_timeout("answer", 0.2, ask_whole(upstreams, peer, answer_s=0.2))
        await asyncio.wait_for(peer.seen_end.wait(), 1)


async def test_a_clock_set_later_replaces_the_one_before(upstreams: Upstreams) -> None:
    async def script(line: Line) -> None:
        await line.request()
        await line.send(CHUNKED, 0.1)
        await line.send(b"5\r\nhello\r\n")
        await line.see_end()

    async with serve(script) as peer:
        reply = await ask(upstreams, peer, headers_s=0.05)
        reply.set_clock("first_token", 1)
        assert await reply.read() == b"hello"
        reply.set_clock("rest", 0.1)
        await expect_timeout("rest", 0.1, reply.read())


async def test_any_byte_rearms_the_idle_clock(upstreams: Upstreams) -> None:
    async def script(line: Line) -> None:
        await line.request()
        await line.send(CHUNKED)
        for byte in b"0000000005\r\nhello\r\n":
            await line.send(bytes([byte]), 0.03)
        await line.see_end()

    async with serve(script) as peer:
        reply = await ask(upstreams, peer)
        reply.set_clock("stream", None, 0.12)
        assert await reply.read() == b"h"
        while await reply.read() != b"o":
            pass
        await expect_timeout("idle", 0.12, reply.read())


async def test_clocks_stand_still_while_nobody_reads(upstreams: Upstreams) -> None:
    async with serve(answer_with(CHUNKED, b"5\r\nhello\r\n", pause_s=0.05)) as peer:
        reply = await ask(upstreams, peer)
        reply.set_clock("first_token", 0.2, 0.2)
        assert await reply.read() == b"hello"
        await asyncio.sleep(0.3)
        assert not reply.complete
        began = time.monotonic()
        with pytest.raises(UpstreamFailure) as raised:
            await reply.read()
        assert raised.value.clock == "first_token"
        assert 0.1 <= time.monotonic() - began < 0.25


async def test_a_cancelled_call_closes_the_socket_at_once(upstreams: Upstreams) -> None:
    async def script(line: Line) -> None:
        await line.request()
        if line.number == 2:
            await line.send(CHUNKED + b"5\r\nhello\r\n")
        await line.see_end()

    async def read_on(peer: Peer) -> None:
        reply = await ask(upstreams, peer)
        while await reply.read():
            pass

    async with serve(script) as peer:
        for _ in ("before the head", "in the body"):
            task = asyncio.ensure_future(read_on(peer))
            await asyncio.sleep(0.05)
            assert upstreams.count()["busy"] == 1
            task.cancel()
            began = time.monotonic()
            await asyncio.wait_for(peer.seen_end.wait(), 1)
            assert time.monotonic() - began < 0.1
            assert task.cancelled()
            assert upstreams.count() == {"idle": 0, "busy": 0, "connecting": 0}
            peer.seen_end.clear()


async def test_closing_an_incomplete_answer_closes_the_socket_and_a_complete_one_keeps_it(
    upstreams: Upstreams,
) -> None:
    async def script(line: Line) -> None:
        await line.request()
        await line.send(OK)
        await line.request()
        await line.send(CHUNKED + b"5\r\nhello\r\n")
        await line.see_end()

    async with serve(script) as peer:
        reply = await ask(upstreams, peer)
        await reply.read_all(10)
        reply.close()
        assert upstreams.count()["idle"] == 1
        reply = await ask(upstreams, peer)
        reply.close()
        reply.close()
        await asyncio.wait_for(peer.seen_end.wait(), 0.5)
        assert len(peer.lines) == 1


async def test_a_request_head_cannot_be_broken_out_of() -> None:
    peer = Peer()
    for target, value in (("/a b", "x"), ("/a", "x\r\ny: z"), ("/a\n", "x")):
        with pytest.raises(ValueError, match="line break"):
            write_head("POST", peer.origin, target, [("x-a", value)])
    head = write_head("POST", peer.origin, "/a", [("Accept-Encoding", "gzip"), ("Host", "other")])
    assert head.lower().count(b"host:") == head.lower().count(b"accept-encoding:") == 1
    assert b"Host: other\r\n" in head
