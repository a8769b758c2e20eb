"""What a route asks of a key, in one place: the scope, the role, and where the call comes from.

A route that is not in the table is for administrators: forgetting a row closes a door instead of opening one.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from engine.errors import NotAllowed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.call import Caller, KeyBounds

INFERENCE, CATALOG, READ, ADMIN = "inference", "catalog", "read", "admin"
PUBLIC = frozenset({"/health", "/health/ready", "/metrics", "/openapi.json", "/docs"})


@dataclass(frozen=True, slots=True)
class Need:
    scope: str
    role: str = "user"


FOR_INFERENCE = Need(INFERENCE)
FOR_CATALOG = Need(CATALOG)
_LOOK, _CHANGE = Need(READ, "admin"), Need(ADMIN, "admin")
_LOOK_AT_OWN, _CHANGE_OWN = Need(READ), Need(ADMIN)

BELOW: dict[str, tuple[Need, Need]] = {
    "/v1/models": (FOR_CATALOG, _CHANGE),
    "/models": (FOR_CATALOG, _CHANGE),
    "/user": (_LOOK_AT_OWN, _CHANGE_OWN),
    "/admin": (_LOOK, _CHANGE),
}
"""Path, and all below it: what looking (GET) needs, and what changing needs. Inference, kept answers and the lists of
other dialects are not here: their paths are the formats' own, and they name FOR_INFERENCE or FOR_CATALOG."""


def find_need(method: str, path: str) -> Need:
    for above, (look, change) in BELOW.items():
        if path == above or path.startswith(f"{above}/"):
            return look if method == "GET" else change
    return _CHANGE


def check_access(
    caller: "Caller", need: Need, headers: "Sequence[tuple[bytes, bytes]]", client_ip: str
) -> None:
    """Raises NotAllowed when the key may not do this, or not from there."""
    if need.role == "admin" and caller.role != "admin":
        raise NotAllowed("this route is for administrators", code="insufficient_permissions")
    if need.scope not in caller.scopes:
        raise NotAllowed(f"this key does not have the scope `{need.scope}`", code="scope_missing")
    if caller.bounds is not None:
        check_origin(caller.bounds, headers, client_ip)


def check_origin(bounds: "KeyBounds", headers: "Sequence[tuple[bytes, bytes]]", client_ip: str) -> None:
    if bounds.addresses and not bounds.addresses.hold(client_ip):
        raise NotAllowed("this key may not be used from this address", code="address_not_allowed")
    if bounds.referrers and not is_from(bounds.referrers, headers):
        raise NotAllowed("this key may not be used from this site", code="referrer_not_allowed")


def is_from(hosts: "Sequence[str]", headers: "Sequence[tuple[bytes, bytes]]") -> bool:
    """Whether Referer and Origin, as far as they are there, are one of the hosts or below it."""
    given = [value for name, value in headers if name in (b"referer", b"origin")]
    return bool(given) and all(_is_below(read_host(value), hosts) for value in given)


def read_host(value: bytes) -> str:
    try:
        return urlsplit(value.decode("latin-1").strip()).hostname or ""
    except ValueError:
        return ""


def _is_below(host: str, hosts: "Sequence[str]") -> bool:
    return any(host == allowed or host.endswith(f".{allowed}") for allowed in hosts)
