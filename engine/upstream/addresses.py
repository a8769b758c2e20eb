"""Resolves an origin to the addresses that may be connected to.

A name is resolved here, checked here, and the checked address is the one connected to, so that a name
cannot point elsewhere between the check and the connection.
"""

import asyncio
import ipaddress
import socket

from engine.errors import UpstreamFailure
from engine.upstream.reply import Origin

Address = tuple[int, tuple[str, int]]
"""Address family and what `connect` takes."""

_CARRIERS = tuple(map(ipaddress.IPv6Network, ("64:ff9b::/96", "64:ff9b:1::/48", "::ffff:0:0:0/96", "::/96")))
"""Networks whose addresses lead to the IPv4 address at their end: NAT64, one's own too, and the old compatible form."""
_SERVICES = tuple(map(ipaddress.IPv4Network, ("168.63.129.16/32", "192.0.0.0/24")))
"""What clouds keep for services of the machine itself and some versions of Python call public."""


def is_public(text: str) -> bool:
    """Whether an address is out on the internet, looked at through mapped, 6to4, Teredo and NAT64 forms."""
    address = ipaddress.ip_address(text)
    inner: list[ipaddress.IPv4Address] = []
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return is_public(str(address.ipv4_mapped))
        if address.sixtofour is not None:
            inner.append(address.sixtofour)
        if address.teredo is not None:
            inner.extend(address.teredo)
        if any(address in network for network in _CARRIERS):
            inner.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    if (
        any(address in network for network in _SERVICES)
        or not address.is_global
        or address.is_multicast
        or address.is_unspecified
    ):
        return False
    return all(is_public(str(one)) for one in inner)


def is_literal(host: str) -> bool:
    """Whether the host is an address and no name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Whether the host says by itself that it is this machine."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    return is_literal(host) and ipaddress.ip_address(host).is_loopback


def refuse_private(origin: Origin, address: str) -> UpstreamFailure:
    return UpstreamFailure(
        "connect",
        f"{origin.host} is at {address}, which is not a public address; a provider that may live there says "
        "`allow_private: true` in its file",
    )


class Resolver:
    """Looks names up, once for all who wait, and remembers the answer for `keep_s`."""

    def __init__(self, keep_s: float = 10) -> None:
        self._keep_s = keep_s
        self._known: dict[tuple[str, int], tuple[float, list[Address]]] = {}
        self._asking: dict[tuple[str, int], asyncio.Task[list[Address]]] = {}

    async def find_addresses(self, origin: Origin) -> list[Address]:
        """Return where to connect, in the resolver's order; raises UpstreamFailure("connect")."""
        found = await self._resolve(origin.host, origin.port)
        allowed = [one for one in found if origin.allow_private or is_public(one[1][0])]
        if not allowed:
            raise refuse_private(origin, found[0][1][0])
        return allowed

    async def _resolve(self, host: str, port: int) -> list[Address]:
        key = (host, port)
        loop = asyncio.get_running_loop()
        until, addresses = self._known.get(key, (0.0, []))
        if loop.time() < until:
            return addresses
        task = self._asking.get(key)
        if task is None:
            task = self._asking[key] = loop.create_task(self._look_up(host, port))
            task.add_done_callback(lambda done: self._answered(key, done))
        return await asyncio.shield(task)

    def _answered(self, key: tuple[str, int], task: asyncio.Task[list[Address]]) -> None:
        self._asking.pop(key, None)
        if not task.cancelled() and task.exception() is None:
            if len(self._known) > 1000:
                self._known.clear()
            self._known[key] = (task.get_loop().time() + self._keep_s, task.result())

    async def _look_up(self, host: str, port: int) -> list[Address]:
        loop = asyncio.get_running_loop()
        try:
            rows = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
        except (OSError, UnicodeError) as error:
            raise UpstreamFailure("connect", f"{host} cannot be resolved: {error}") from error
        found = [(row[0], row[4]) for row in rows if row[0] in (socket.AF_INET, socket.AF_INET6)]
        if not found:
            raise UpstreamFailure("connect", f"{host} has no address")
        return list(dict.fromkeys(found))  # type: ignore[arg-type]  # the stub cannot tell sockaddr forms apart

    async def close(self) -> None:
        """End look-ups that nobody waits for any more."""
        for task in self._asking.values():
            task.cancel()
