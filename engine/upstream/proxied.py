"""The other road to an upstream: any httpx transport (forward proxy, HTTP/2, a mock) behind the same `Reply`.

It costs several times what our own sockets cost and is taken only where they cannot go.
"""

import asyncio
import ipaddress
import ssl
from collections.abc import AsyncIterator, Mapping
from importlib import import_module
from importlib.util import find_spec
from math import inf

import httpx

from engine.errors import UpstreamFailure
from engine.upstream.addresses import Resolver, is_literal, is_loopback, is_public, refuse_private
from engine.upstream.inflate import choose_inflater
from engine.upstream.reply import Origin, Reply, StreamedBody
from engine.upstream.tls import make_tls_context


class HttpxUpstream:
    """One origin over one httpx transport. With a resolver, the address is checked and pinned first."""

    def __init__(
        self, origin: Origin, transport: httpx.AsyncBaseTransport, resolver: Resolver | None = None
    ) -> None:
        self._origin = origin
        self._transport = transport
        self._resolver = resolver
        self._closing: set[asyncio.Task[None]] = set()
        self.busy = 0

    async def send(
        self, head: bytes, body: bytes, connect_s: float, headers_s: float | None, answer_s: float | None
    ) -> Reply:
        return await self._send(head, body, connect_s, headers_s, answer_s)

    async def _send(
        self,
        head: bytes,
        body: bytes | AsyncIterator[bytes],
        connect_s: float,
        headers_s: float | None,
        answer_s: float | None,
    ) -> Reply:
        request = await self._build_request(head, body, connect_s)
        clock, within_s = ("answer", answer_s) if headers_s is None else ("headers", headers_s)
        began = asyncio.get_running_loop().time()
        self.busy += 1
        try:
            async with asyncio.timeout(None if within_s is None else connect_s + within_s):
                response = await self._transport.handle_async_request(request)
        except BaseException as error:
            self.busy -= 1
            if isinstance(error, TimeoutError):
                raise _ran_out(clock) from error
            if isinstance(error, httpx.TransportError):
                raise _as_failure(error, before_head=True) from error
            raise
        reply = HttpxReply(self, response)
        spent_s = asyncio.get_running_loop().time() - began
        if answer_s is not None:
            reply.set_clock("answer", answer_s - spent_s)
        elif headers_s is not None:
            reply.set_clock("headers", headers_s - spent_s)
        return reply

    async def send_streamed(
        self, head: bytes, body: StreamedBody, connect_s: float, answer_s: float, pause_s: float
    ) -> Reply:
        """The transport sends the body before it looks at the answer: one clock is for both."""
        if body.length is not None:
            head += b"content-length: %d\r\n" % body.length
        return await self._send(head, body.pieces(), connect_s, None, answer_s)

    def close_later(self, response: httpx.Response) -> None:
        """Close an answer from code that cannot wait."""
        task = asyncio.get_running_loop().create_task(self._close_quietly(response))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        await self._transport.aclose()

    async def _close_quietly(self, response: httpx.Response) -> None:
        try:
            await response.aclose()
        except (httpx.TransportError, OSError):
            return  # it was to be closed, and it is

    async def _build_request(
        self, head: bytes, body: bytes | AsyncIterator[bytes], connect_s: float
    ) -> httpx.Request:
        first, *lines = head.decode("latin-1").split("\r\n")
        method, target, _ = first.split(" ")
        headers = [(name, value) for name, _, value in (line.partition(": ") for line in lines if line)]
        extensions: dict[str, object] = {"timeout": {"connect": connect_s, "pool": connect_s}}
        url = httpx.URL(f"{self._origin}{target}")
        if self._resolver is not None:
            address = (await self._resolver.find_addresses(self._origin))[0][1][0]
            url = url.copy_with(host=address)
            extensions["sni_hostname"] = self._origin.host
        return httpx.Request(method, url, headers=headers, content=body, extensions=extensions)


class HttpxReply(Reply):
    """An answer read from an httpx stream."""

    __slots__ = ("_clock", "_failure", "_idle_s", "_left_s", "_owner", "_response", "_stream")

    def __init__(self, owner: HttpxUpstream, response: httpx.Response) -> None:
        self.status = response.status_code
        self.headers = [(name.lower(), value) for name, value in response.headers.raw]
        self.complete = False
        self._failure: UpstreamFailure | None = None
        self._owner: HttpxUpstream | None = owner
        self._response = response
        self._stream: AsyncIterator[bytes] = aiter(_as_stream(response))
        self.set_clock("answer", None)
        try:
            self.inflater = choose_inflater(self.header(b"content-encoding"))
        except UpstreamFailure:
            self.close()
            raise

    def set_clock(self, name: str, within_s: float | None, idle_s: float | None = None) -> None:
        self._clock = name
        self._left_s = inf if within_s is None else within_s
        self._idle_s = inf if idle_s is None else idle_s

    def close(self) -> None:
        owner, self._owner = self._owner, None
        if owner is not None:
            if not self.complete:
                self._failure = UpstreamFailure("reset", "the answer was closed before its end")
            owner.busy -= 1
            owner.close_later(self._response)

    async def _read_raw(self) -> bytes:
        if self._failure is not None:
            raise self._failure
        if self._owner is None:
            return b""
        within_s = min(self._left_s, self._idle_s)
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            async with asyncio.timeout(None if within_s == inf else within_s):
                piece = await self._next_piece()
        except BaseException as error:
            self.close()
            if isinstance(error, TimeoutError):
                self._failure = _ran_out(self._clock if self._left_s <= self._idle_s else "idle")
            elif isinstance(error, httpx.TransportError):
                self._failure = _as_failure(error, before_head=False)
            else:
                raise
            raise self._failure from error
        self._left_s -= loop.time() - began
        if not piece:
            self.complete = True
            self.close()
        return piece

    async def _next_piece(self) -> bytes:
        async for piece in self._stream:
            if piece:
                return piece
        return b""


def _as_stream(response: httpx.Response) -> httpx.AsyncByteStream:
    if not isinstance(response.stream, httpx.AsyncByteStream):
        raise UpstreamFailure(
            "broken_stream", "the transport gave an answer that cannot be read asynchronously"
        )
    return response.stream


def choose_proxy(origin: Origin, proxies: Mapping[str, str]) -> str | None:
    """Return the forward proxy for an origin by the usual variables; this machine itself is never proxied."""
    found = {name.lower(): value for name, value in proxies.items() if value}
    proxy = found.get(f"{origin.scheme}_proxy") or found.get("all_proxy")
    if not proxy or is_loopback(origin.host) or _is_exempt(origin, found.get("no_proxy", "")):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def _is_exempt(origin: Origin, no_proxy: str) -> bool:
    return any(_matches(origin, entry.strip().lower()) for entry in no_proxy.split(",") if entry.strip())


def _matches(origin: Origin, entry: str) -> bool:
    host = origin.host.lower()
    if entry in ("*", host, f"{host}:{origin.port}"):
        return True
    if is_literal(host):
        try:
            return ipaddress.ip_address(host) in ipaddress.ip_network(entry, strict=False)
        except ValueError:
            return False
    name, _, port = entry.partition(":")
    return (not port or port == str(origin.port)) and host.endswith("." + name.lstrip("*").lstrip("."))


def make_proxied_upstream(
    origin: Origin, tls: ssl.SSLContext, max_connections: int, proxy: str
) -> HttpxUpstream:
    """Return the way through a forward proxy. The proxy resolves names; addresses are checked here."""
    if is_literal(origin.host) and not origin.allow_private and not is_public(origin.host):
        raise refuse_private(origin, origin.host)
    # Loaded on demand: aiohttp takes a tenth of a second and megabytes that few installations need.
    module = import_module("httpx_aiohttp")
    transport: httpx.AsyncBaseTransport = module.AiohttpTransport(
        verify=tls,
        trust_env=False,
        limits=httpx.Limits(max_connections=max_connections, keepalive_expiry=60),
        proxy=httpx.Proxy(proxy),
    )
    return HttpxUpstream(origin, transport)


def make_http2_upstream(
    origin: Origin, resolver: Resolver, max_connections: int, proxy: str | None
) -> HttpxUpstream:
    """Return the way to an origin that speaks HTTP/2 only."""
    if find_spec("h2") is None:
        raise UpstreamFailure("connect", f"{origin} is marked http2, which needs the package h2")
    transport = httpx.AsyncHTTPTransport(
        verify=make_tls_context(),  # its own: httpcore writes its protocols into the context
        http2=True,
        trust_env=False,
        limits=httpx.Limits(max_connections=max_connections, keepalive_expiry=60),
        proxy=proxy,
    )
    return HttpxUpstream(origin, transport, None if proxy else resolver)


def _ran_out(clock: str) -> UpstreamFailure:
    return UpstreamFailure("timeout", f"the upstream was silent until the {clock} clock ran out", clock=clock)


def _as_failure(error: httpx.TransportError, *, before_head: bool) -> UpstreamFailure:
    told = str(error) or type(error).__name__
    if isinstance(error, httpx.PoolTimeout):
        return UpstreamFailure("timeout", told, clock="pool")
    if isinstance(error, httpx.TimeoutException):
        kind = _name_disconnection(error.__cause__)
        return UpstreamFailure(kind or "timeout", told, clock=None if kind else "connect")
    if isinstance(error, (httpx.ConnectError, httpx.ProxyError, httpx.UnsupportedProtocol)):
        return UpstreamFailure("connect", told)
    garbled = isinstance(error, httpx.ProtocolError) or not before_head
    return UpstreamFailure("broken_stream" if garbled else "reset", told)


def _name_disconnection(cause: BaseException | None) -> str | None:
    """The aiohttp transport calls every lost or failed connection a timeout; its cause tells what it was."""
    names = {kind.__name__ for kind in type(cause).__mro__}
    if isinstance(cause, TimeoutError) or "ClientConnectionError" not in names:
        return None
    return "connect" if "ClientConnectorError" in names else "reset"
