"""Opens a socket to an origin: resolve, check, connect to the checked address, TLS for the name."""

import asyncio
import socket
import ssl
from collections.abc import Callable

from engine.errors import UpstreamFailure
from engine.upstream.addresses import Address, Resolver
from engine.upstream.http1 import Connection
from engine.upstream.reply import Origin


class Dialler:
    """Shared by a worker's pools. An address may take `patience_s` when there is a next one."""

    def __init__(self, resolver: Resolver, tls: ssl.SSLContext, patience_s: float = 2) -> None:
        self._resolver = resolver
        self._tls = tls
        self._patience_s = patience_s

    async def connect(self, origin: Origin, build: Callable[[], Connection], within_s: float) -> Connection:
        """Return a connection; raises UpstreamFailure: "connect", or "timeout" with the clock "connect"."""
        try:
            async with asyncio.timeout(within_s):
                addresses = await self._resolver.find_addresses(origin)
                return await self._try_addresses(origin, addresses, build)
        except TimeoutError:
            told = f"no connection to {origin} within {within_s:g} s"
            raise UpstreamFailure("timeout", told, clock="connect") from None

    async def _try_addresses(
        self, origin: Origin, addresses: list[Address], build: Callable[[], Connection]
    ) -> Connection:
        for address in addresses[:-1]:
            try:
                async with asyncio.timeout(self._patience_s) as patience:
                    return await self._open(origin, address, build)
            except UpstreamFailure:
                continue
            except TimeoutError:
                if not patience.expired():
                    raise
        return await self._open(origin, addresses[-1], build)

    async def _open(self, origin: Origin, address: Address, build: Callable[[], Connection]) -> Connection:
        loop = asyncio.get_running_loop()
        family, where = address
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            await loop.sock_connect(sock, where)
            if origin.scheme == "https":
                _, connection = await loop.create_connection(
                    build, sock=sock, ssl=self._tls, server_hostname=origin.host
                )
            else:
                _, connection = await loop.create_connection(build, sock=sock)
        except ssl.SSLCertVerificationError as error:
            sock.close()
            told = f"the certificate of {origin} is refused: {error.verify_message}"
            raise UpstreamFailure("connect", told) from error
        except OSError as error:
            sock.close()
            raise UpstreamFailure("connect", f"no connection to {origin} at {where[0]}: {error}") from error
        except asyncio.CancelledError:
            _hang_up(sock)
            raise
        return connection


def _hang_up(sock: socket.socket) -> None:
    """Let the peer see the end now, also when a half-made transport still holds the socket."""
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
    sock.close()
