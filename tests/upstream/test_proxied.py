"""The road over httpx transports: forward proxies, mocks, HTTP/2."""

import asyncio
import gzip
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import httpx
import pytest
import trustme

from engine.errors import UpstreamFailure
from engine.upstream.pools import Upstreams
from engine.upstream.proxied import HttpxUpstream, choose_proxy
from engine.upstream.reply import Origin, Reply

from .peer import CHUNKED, OK, Line, Peer, Script, serve

PUBLIC = Origin("http", "api.example.com", 80)
EMPTY = {"idle": 0, "busy": 0, "connecting": 0}


@pytest.mark.parametrize(
    ("url", "proxies", "chosen"),
    [
        ("https://api.example.com:443", {}, None),
        ("https://api.example.com:443", {"HTTPS_PROXY": "http://p:1"}, "http://p:1"),
        ("https://api.example.com:443", {"https_proxy": "p:1"}, "http://p:1"),
        ("https://api.example.com:443", {"HTTP_PROXY": "http://p:1"}, None),
        ("http://api.example.com:80", {"HTTP_PROXY": "http://p:1"}, "http://p:1"),
        ("http://api.example.com:80", {"ALL_PROXY": "http://p:1"}, "http://p:1"),
        ("http://api.example.com:80", {"HTTP_PROXY": "http://p:1", "NO_PROXY": "*"}, None),
        ("http://api.example.com:80", {"HTTP_PROXY": "http://p:1", "NO_PROXY": "x, example.com"}, None),
        ("http://api.example.com:80", {"HTTP_PROXY": "http://p:1", "NO_PROXY": ".Example.com"}, None),
        ("http://api.example.com:80", {"HTTP_PROXY": "http://p:1", "NO_PROXY": "*.example.com"}, None),
        ("http://api.example.com:80", {"HTTP_PROXY": "http://p:1", "NO_PROXY": "ample.com"}, "http://p:1"),
        ("http://api.example.com:80", {"HTTP_PROXY": "http://p:1", "NO_PROXY": "api.example.com:80"}, None),
        (
            "http://api.example.com:80",
            {"HTTP_PROXY": "http://p:1", "NO_PROXY": "api.example.com:81"},
            "http://p:1",
        ),
        ("http://10.1.2.3:80", {"HTTP_PROXY": "http://p:1", "NO_PROXY": "10.0.0.0/8"}, None),
        ("http://10.1.2.3:80", {"HTTP_PROXY": "http://p:1", "NO_PROXY": "192.168.0.0/16"}, "http://p:1"),
        ("http://127.0.0.1:80", {"HTTP_PROXY": "http://p:1"}, None),
        ("http://localhost:80", {"HTTP_PROXY": "http://p:1"}, None),
    ],
)
def test_the_usual_variables_choose_the_proxy(
    url: str, proxies: Mapping[str, str], chosen: str | None
) -> None:
    scheme, _, rest = url.partition("://")
    host, _, port = rest.rpartition(":")
    assert choose_proxy(Origin(scheme, host, int(port)), proxies) == chosen


@asynccontextmanager
async def connect(**options: object) -> AsyncIterator[Upstreams]:
    upstreams = Upstreams(**options)  # type: ignore[arg-type]
    try:
        yield upstreams
    finally:
        await upstreams.close()
    assert upstreams.count() == EMPTY


async def ask(
    upstreams: Upstreams, origin: Origin, headers_s: float | None = 5, answer_s: float | None = None
) -> Reply:
    peer = Peer()
    peer.origin = origin
    return await upstreams.send(
        origin, peer.head(), b'{"a":1}', connect_s=2, headers_s=headers_s, answer_s=answer_s
    )


async def through_proxy(script: Script) -> tuple[list[bytes], bytes]:
    async with serve(script) as proxy, connect(proxies={"HTTP_PROXY": str(proxy.origin)}) as upstreams:
        body = await (await ask(upstreams, PUBLIC)).read_all(1000)
        await asyncio.sleep(0)
        return proxy.requests, body


async def test_plain_http_goes_to_the_proxy_with_the_whole_url() -> None:
    async def script(line: Line) -> None:
        while await line.request():
            await line.send(OK)

    requests, body = await through_proxy(script)
    assert body == b"ok"
    assert requests[0].startswith(b"POST http://api.example.com/v1/chat HTTP/1.1\r\n")
    assert requests[0].endswith(b'\r\n\r\n{"a":1}')
    assert requests[0].lower().count(b"\r\nhost: api.example.com\r\n") == 1


async def test_a_stream_through_the_proxy_arrives_as_it_comes() -> None:
    go_on = asyncio.Event()

    async def script(line: Line) -> None:
        await line.request()
        await line.send(CHUNKED + b"3\r\none\r\n")
        await go_on.wait()
        await line.send(b"3\r\ntwo\r\n0\r\n\r\n", 0.05)

    async with serve(script) as proxy, connect(proxies={"HTTP_PROXY": str(proxy.origin)}) as upstreams:
        reply = await ask(upstreams, PUBLIC)
        assert await reply.read() == b"one"
        go_on.set()
        assert await reply.read() == b"two"
        assert await reply.read() == b""
        assert reply.complete


async def test_tls_goes_through_the_proxy_as_a_tunnel_and_is_verified() -> None:
    authority = trustme.CA()
    context = ssl.create_default_context()
    authority.configure_trust(context)
    for name in ("api.example.com", "elsewhere.example"):
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(name).configure_cert(tls)

        async def script(line: Line, tls: ssl.SSLContext = tls) -> None:
            assert (await line.request()).startswith(b"CONNECT api.example.com:443 ")
            await line.send(b"HTTP/1.1 200 Connected\r\n\r\n")
            await line.writer.start_tls(tls)
            await line.request()
            await line.send(OK, 0.05)

        async with (
            serve(script) as proxy,
            connect(proxies={"HTTPS_PROXY": str(proxy.origin)}, ssl_context=context) as upstreams,
        ):
            origin = Origin("https", "api.example.com", 443)
            if name == origin.host:
                assert await (await ask(upstreams, origin)).read_all(10) == b"ok"
            else:
                with pytest.raises(UpstreamFailure) as raised:
                    await ask(upstreams, origin)
                assert raised.value.kind == "connect"


@pytest.mark.parametrize(
    ("sent", "kind"),
    [
        (b"", "reset"),
        (CHUNKED + b"5\r\nhello\r\n", "broken_stream"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nx", "broken_stream"),
    ],
    ids=["before the head", "in a chunked body", "in a body with length"],
)
async def test_a_cut_behind_the_proxy_has_its_kind(sent: bytes, kind: str) -> None:
    async def script(line: Line) -> None:
        await line.request()
        if sent:
            await line.send(sent, 0.02)

    async with serve(script) as proxy, connect(proxies={"HTTP_PROXY": str(proxy.origin)}) as upstreams:
        with pytest.raises(UpstreamFailure) as raised:
            await (await ask(upstreams, PUBLIC)).read_all(1000)
        assert raised.value.kind == kind


async def test_a_proxy_that_is_away_is_a_failed_connection() -> None:
    async with serve(stay_silent) as proxy:
        pass
    async with connect(proxies={"HTTP_PROXY": str(proxy.origin)}) as upstreams:
        with pytest.raises(UpstreamFailure) as raised:
            await ask(upstreams, PUBLIC)
        assert raised.value.kind == "connect"


async def stay_silent(line: Line) -> None:
    await line.request()
    await line.see_end()


async def test_cancelling_or_closing_behind_the_proxy_closes_the_socket() -> None:
    async def script(line: Line) -> None:
        await line.request()
        if line.number > 1:
            await line.send(CHUNKED + b"5\r\nhello\r\n")
        await line.see_end()

    async def read_on(upstreams: Upstreams) -> None:
        reply = await ask(upstreams, PUBLIC)
        while await reply.read():
            pass

    async with serve(script) as proxy, connect(proxies={"HTTP_PROXY": str(proxy.origin)}) as upstreams:
        for _ in ("before the head", "in the body"):
            task = asyncio.ensure_future(read_on(upstreams))
            await asyncio.sleep(0.1)
            task.cancel()
            await asyncio.wait_for(proxy.seen_end.wait(), 0.3)
            proxy.seen_end.clear()
        reply = await ask(upstreams, PUBLIC)
        reply.close()
        await asyncio.wait_for(proxy.seen_end.wait(), 0.3)
        assert upstreams.count() == EMPTY


async def test_the_proxy_is_not_a_way_to_private_addresses() -> None:
    async with connect(proxies={"HTTP_PROXY": "http://127.0.0.1:9"}) as upstreams:
        with pytest.raises(UpstreamFailure, match="allow_private: true"):
            await ask(upstreams, Origin("http", "169.254.169.254", 80))


async def test_http2_without_its_package_says_what_is_missing() -> None:
    async with connect() as upstreams:
        with pytest.raises(UpstreamFailure, match="needs the package h2"):
            await ask(upstreams, PUBLIC._replace(http2=True))


class Slow(httpx.AsyncByteStream):
    """A body whose second piece never comes."""

    def __init__(self) -> None:
        self.closed = asyncio.Event()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield b"hello"
        await asyncio.sleep(30)

    async def aclose(self) -> None:
        self.closed.set()


@pytest.mark.parametrize(("within_s", "idle_s", "clock"), [(0.05, None, "first_token"), (None, 0.05, "idle")])
async def test_the_clocks_run_for_any_transport(
    within_s: float | None, idle_s: float | None, clock: str
) -> None:
    body = Slow()
    upstream = HttpxUpstream(PUBLIC, httpx.MockTransport(lambda _: httpx.Response(200, stream=body)))
    reply = await upstream.send(b"POST / HTTP/1.1\r\nhost: x\r\n", b"{}", 1, 1, None)
    reply.set_clock("first_token", within_s, idle_s)
    assert await reply.read() == b"hello"
    for _ in range(2):
        with pytest.raises(UpstreamFailure) as raised:
            await reply.read()
        assert (raised.value.kind, raised.value.clock) == ("timeout", clock)
    await asyncio.wait_for(body.closed.wait(), 0.2)
    assert upstream.busy == 0


async def test_a_silent_transport_runs_into_the_headers_clock() -> None:
    async def never(_: httpx.Request) -> httpx.Response:
        await asyncio.sleep(30)
        raise AssertionError

    upstream = HttpxUpstream(PUBLIC, httpx.MockTransport(never))
    with pytest.raises(UpstreamFailure) as raised:
        await upstream.send(b"POST / HTTP/1.1\r\nhost: x\r\n", b"{}", 0.02, 0.05, None)
    assert raised.value.clock == "headers"
    assert upstream.busy == 0


async def test_a_compressed_answer_of_any_transport_is_decoded() -> None:
    class Packed(httpx.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            packed = gzip.compress(b"hello " * 1000)
            yield packed[:7]
            yield packed[7:]

    def answer(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, headers={"Content-Encoding": "gzip"}, stream=Packed())

    upstream = HttpxUpstream(PUBLIC, httpx.MockTransport(answer))
    reply = await upstream.send(b"POST / HTTP/1.1\r\nhost: x\r\n", b"{}", 1, 1, None)
    assert await reply.read_all(10_000) == b"hello " * 1000
