"""All connections of a worker to its upstreams, kept per origin and across reloads of the configuration.

Direct HTTP/1.1 goes over our own sockets; a forward proxy or HTTP/2 goes through an httpx transport. Both
give the same `Reply`.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Coroutine, Mapping
from typing import Any, Protocol

import httpx

from engine.errors import UpstreamFailure
from engine.upstream.addresses import Resolver
from engine.upstream.dial import Dialler
from engine.upstream.origin_pool import OriginPool
from engine.upstream.proxied import HttpxUpstream, choose_proxy, make_http2_upstream, make_proxied_upstream
from engine.upstream.reply import Origin, Reply, StreamedBody, write_head
from engine.upstream.tls import make_tls_context

_SWEEP_S = 5.0


class Upstream(Protocol):
    """What answers for one origin."""

    async def send(
        self, head: bytes, body: bytes, connect_s: float, headers_s: float | None, answer_s: float | None
    ) -> Reply: ...

    async def send_streamed(
        self, head: bytes, body: StreamedBody, connect_s: float, answer_s: float, pause_s: float
    ) -> Reply: ...


class Upstreams:
    """One per worker. `proxies` holds the variables HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY, if set.

    `max_connections` bounds each origin, so that one provider that hangs cannot take the others' connections.
    """

    def __init__(
        self,
        *,
        max_connections: int = 1000,
        life_s: float = 300,
        idle_s: float = 60,
        proxies: Mapping[str, str] | None = None,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._limits = (max_connections, life_s, idle_s)
        self._proxies = proxies or {}
        self._tls = ssl_context or make_tls_context()
        self._resolver = Resolver()
        self._dialler = Dialler(self._resolver, self._tls)
        self._pools: dict[Origin, OriginPool] = {}
        self._others: dict[Origin, HttpxUpstream] = {}
        self._routes: dict[Origin, Upstream] = {}
        self._sweeper: asyncio.TimerHandle | None = None
        self._closed = False

    def send(
        self,
        origin: Origin,
        head: bytes,
        body: bytes,
        *,
        connect_s: float,
        headers_s: float | None = None,
        answer_s: float | None = None,
    ) -> Coroutine[Any, Any, Reply]:
        """Send a request (`head` as `write_head` makes it, without content-length) and return its `Reply`.

        Waiting for a place in the pool and connecting may last `connect_s` each. `headers_s` counts until the
        head is there. With `answer_s` alone the call is a plain one: it returns when the whole answer (or
        256 KiB of it) has arrived, and the clock "answer" goes on in `read_all`. The last
        clock given here goes on until `set_clock` replaces it. Raises UpstreamFailure:
        connect, reset, broken_stream, or timeout with the clock connect, pool, headers or answer.
        """
        route = self._routes.get(origin) or self._find_route(origin)
        return route.send(head, body, connect_s, headers_s, answer_s)

    def send_streamed(
        self,
        origin: Origin,
        head: bytes,
        body: StreamedBody,
        *,
        connect_s: float,
        answer_s: float,
        pause_s: float,
    ) -> Coroutine[Any, Any, Reply]:
        """Send a request whose body comes bit by bit; returns when the answer's head is there.

        The clock "answer" counts from the end of the body on; before that the upstream may take nothing for
        `pause_s`. Raises UpstreamFailure, and whatever `body` raises.
        """
        route = self._routes.get(origin) or self._find_route(origin)
        return route.send_streamed(head, body, connect_s, answer_s, pause_s)

    def mount(self, origin: Origin, transport: httpx.AsyncBaseTransport) -> None:
        """Send what goes to this origin through an httpx transport (a mock, a special network)."""
        self._routes[origin] = self._others[origin] = HttpxUpstream(origin, transport)

    def count(self) -> dict[str, int]:
        """Return the connections by state."""
        counts = {"idle": 0, "busy": 0, "connecting": 0}
        for pool in self._pools.values():
            counts["idle"] += len(pool.idle)
            counts["connecting"] += pool.connecting
            counts["busy"] += pool.size - pool.connecting - len(pool.idle)
        for other in self._others.values():
            counts["busy"] += other.busy
        return counts

    async def close(self) -> None:
        """Close every socket. Calls still open fail."""
        self._closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        for pool in self._pools.values():
            pool.close()
        for other in self._others.values():
            await other.close()
        await self._resolver.close()
        await asyncio.sleep(0.001)  # the loop hands sockets back in its next round

    def _find_route(self, origin: Origin) -> Upstream:
        if self._closed:
            raise UpstreamFailure("connect", "the gateway is closing its upstream connections")
        proxy = choose_proxy(origin, self._proxies)
        route: Upstream
        if origin.http2:
            made = make_http2_upstream(origin, self._resolver, self._limits[0], proxy)
            self._others[origin] = route = made
        elif proxy is not None:
            made = make_proxied_upstream(origin, self._tls, self._limits[0], proxy)
            self._others[origin] = route = made
        else:
            self._pools[origin] = route = OriginPool(origin, self._dialler, *self._limits)
            self._sweep_later()
        self._routes[origin] = route
        return route

    def _sweep_later(self) -> None:
        if self._sweeper is None:
            self._sweeper = asyncio.get_running_loop().call_later(_SWEEP_S, self._sweep)

    def _sweep(self) -> None:
        self._sweeper = None
        for origin, pool in list(self._pools.items()):
            pool.drop_old()
            if pool.is_unused():
                del self._pools[origin], self._routes[origin]
        if self._pools:
            self._sweep_later()


def control_client(
    upstreams: Upstreams, *, allow_private: bool = False, timeout_s: float = 10
) -> httpx.AsyncClient:  # noqa: TID251 - the control plane (model lists) wants convenience, not microseconds
    """Return an httpx client whose requests go through `upstreams`: same guard, proxies, TLS and pools."""
    transport = _UpstreamsTransport(upstreams, allow_private)
    return httpx.AsyncClient(  # noqa: TID251 - as above
        transport=transport, timeout=timeout_s, trust_env=False, follow_redirects=False
    )


class _UpstreamsTransport(httpx.AsyncBaseTransport):
    def __init__(self, upstreams: Upstreams, allow_private: bool) -> None:
        self._upstreams = upstreams
        self._allow_private = allow_private

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        url = request.url
        port = url.port or (443 if url.scheme == "https" else 80)
        origin = Origin(url.scheme, url.host, port, self._allow_private)
        own = {"host", "connection", "accept-encoding", "content-length", "transfer-encoding"}
        headers = [(name, value) for name, value in request.headers.items() if name not in own]
        head = write_head(request.method, origin, url.raw_path.decode("ascii"), headers)
        within_s = request.extensions.get("timeout", {}).get("read") or 10
        body = await request.aread()
        try:
            reply = await self._upstreams.send(
                origin, head, body, connect_s=within_s, headers_s=within_s, answer_s=within_s
            )
        except UpstreamFailure as failure:
            raise _as_httpx(failure, request) from failure
        kept = [(name, value) for name, value in reply.headers if name.lower() not in _DECODED]
        return httpx.Response(
            reply.status, headers=kept, stream=_ReplyStream(reply, request), request=request
        )


_DECODED = (b"content-encoding", b"content-length", b"transfer-encoding")


class _ReplyStream(httpx.AsyncByteStream):
    def __init__(self, reply: Reply, request: httpx.Request) -> None:
        self._reply = reply
        self._request = request

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            while piece := await self._reply.read():
                yield piece
        except UpstreamFailure as failure:
            raise _as_httpx(failure, self._request) from failure

    async def aclose(self) -> None:
        self._reply.close()


def _as_httpx(failure: UpstreamFailure, request: httpx.Request) -> httpx.TransportError:
    if failure.kind == "timeout":
        return httpx.ReadTimeout(failure.message, request=request)
    if failure.kind == "connect":
        return httpx.ConnectError(failure.message, request=request)
    return httpx.ReadError(failure.message, request=request)
