"""Which addresses a provider's base_url may have: http(s), nothing private unless allowed, never the gateway
itself.
"""

import ipaddress
import re
import socket
from urllib.parse import SplitResult, urlsplit

_LOOSE_IPV4 = re.compile(r"(0[xX][0-9a-fA-F]+|[0-9]+)(\.(0[xX][0-9a-fA-F]+|[0-9]+)){0,3}")
_LOCAL_NAMES = ("localhost", "ip6-localhost", "ip6-loopback")
_DEFAULT_PORTS = {"http": 80, "https": 443}


def judge_base_url(url: str, allow_private: bool, server: tuple[str, int]) -> str | None:
    """What is wrong with `url`, or None. `server` is where the gateway itself listens."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return "is not a URL"
    if parts.scheme not in _DEFAULT_PORTS or not host:
        return "must begin with https:// or http:// and name a host"
    if parts.username is not None or parts.password is not None:
        return "must not carry credentials; `auth` is the place for them"
    if parts.query or parts.fragment:
        return "must not have a query or a fragment"
    if re.search(r"[\s\x00-\x1f]", url):
        return "must not contain spaces"
    return _judge_host(host, port or _DEFAULT_PORTS[parts.scheme], allow_private, server)


def _judge_host(host: str, port: int, allow_private: bool, server: tuple[str, int]) -> str | None:
    if _is_gateway(host, port, server):
        return f"points at this gateway itself (server listens on {server[0]}:{server[1]})"
    if is_private_host(host) and not allow_private:
        return f"{host} is a private address; write `allow_private: true` when it is meant"
    return None


def sends_in_the_clear(url: str) -> bool:
    """Plain http to a host that is not known to be private."""
    parts: SplitResult = urlsplit(url)
    return parts.scheme == "http" and parts.hostname is not None and not is_private_host(parts.hostname)


def is_private_host(host: str) -> bool:
    """A literal address that is not public, in any spelling, or a name for this machine."""
    if _is_local_name(host):
        return True
    address = _read_address(host)
    return address is not None and (not address.is_global or address.is_multicast)


def _is_local_name(host: str) -> bool:
    name = host.lower().rstrip(".")
    return name in _LOCAL_NAMES or name.endswith(".localhost")


def _read_address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return _read_loose_ipv4(host.rstrip("."))
    mapped = getattr(address, "ipv4_mapped", None)
    return mapped or address


def _read_loose_ipv4(host: str) -> ipaddress.IPv4Address | None:
    """`127.1`, `0x7f000001` and `2130706433` are what the resolver takes for addresses too."""
    if not _LOOSE_IPV4.fullmatch(host):
        return None
    try:
        return ipaddress.IPv4Address(socket.inet_aton(host))
    except OSError:
        return None


def _is_gateway(host: str, port: int, server: tuple[str, int]) -> bool:
    own_host, own_port = server
    if port != own_port or own_port == 0:
        return False
    if host == own_host:
        return True
    own = _read_address(own_host)
    everywhere = own is not None and own.is_unspecified
    loopback = _is_loopback(own_host)
    return _is_loopback(host) and (everywhere or loopback)


def _is_loopback(host: str) -> bool:
    address = _read_address(host)
    return _is_local_name(host) or address is not None and (address.is_loopback or address.is_unspecified)
