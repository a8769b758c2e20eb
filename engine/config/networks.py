"""Addresses and networks: CIDRs as people write them, and who a request really comes from. Pure.

An IPv4 address that is written as IPv6 (`::ffff:10.0.0.1`) is the IPv4 address.
"""

import ipaddress
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import TypeAlias

IPAddress: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

_MOST_HOPS = 50
"""More proxies than this are nobody's network: the rest of the header is a stranger's."""


class Networks:
    """A list of networks that an address may be in."""

    __slots__ = ("_networks",)

    def __init__(self, texts: Iterable[str]) -> None:
        self._networks = tuple(map(read_network, texts))

    def __bool__(self) -> bool:
        return bool(self._networks)

    def hold(self, text: str) -> bool:
        """Whether the address is in one of them; a text that is no address is in none."""
        address = read_address(text)
        return address is not None and any(address in network for network in self._networks)


def read_network(text: str) -> IPNetwork:
    """`10.0.0.0/8`, `2001:db8::/32` or a single address. Raises ValueError with a sentence."""
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        raise ValueError(
            f"{text[:60]!r} is not a network such as 10.0.0.0/8, 2001:db8::/32 or 192.0.2.7"
        ) from None


def read_address(text: str) -> IPAddress | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


@lru_cache(4096)
def group_address(text: str) -> str:
    """Whom limits count an address for: of IPv6 the /64, which is one customer's, and every address without a name."""
    address = read_address(text)
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((int(address) >> 64 << 64, 64)))
    return text or "unknown" if address is None else str(address)


def find_client(peer: str, forwarded: Sequence[str], trusted: Networks) -> str:
    """The first address, seen from here, that is not one of our proxies.

    `forwarded` holds the lines of X-Forwarded-For in order. Each proxy adds whom it saw on the right, so the header is
    believed from the right, as far as trusted proxies wrote it: what a client put there itself is never reached.
    """
    if not trusted.hold(peer):
        return peer
    client = peer
    hops = [hop for line in forwarded for hop in line.split(",")]
    for hop in reversed(hops[-_MOST_HOPS:]):
        address = read_address(_strip_port(hop.strip()))
        if address is None:
            return client
        client = str(address)
        if not trusted.hold(client):
            return client
    return client


def _strip_port(hop: str) -> str:
    """Some proxies write `192.0.2.7:4711` and `[2001:db8::1]:4711`."""
    if hop.startswith("["):
        return hop[1:].partition("]")[0]
    return hop.partition(":")[0] if hop.count(":") == 1 else hop
