"""What a route asks of a key, in one place: the scope, the role, and where the call comes from.

A route that is not in the table is for administrators: forgetting a row closes a door instead of opening one.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from engine.config.roles import ADMIN as ADMIN_ROLE
from engine.config.roles import EVERYTHING, ONLY_ADMINISTRATORS, Roles
from engine.errors import NotAllowed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.call import Caller, KeyBounds

INFERENCE, CATALOG, READ, ADMIN = "inference", "catalog", "read", "admin"
MARKED = {"bot": "is marked as a bot's", "suspended": "is suspended"}
"""Accounts that may not ask for anything, until an administrator says otherwise; all else of them stays open."""
PUBLIC = frozenset({"/health", "/health/ready", "/metrics", "/openapi.json", "/docs"})


@dataclass(frozen=True, slots=True)
class Need:
    scope: str
    role: str = "user"
    """`admin`: a role that may everything, unless `permission` says what is enough."""
    permission: str = ""
    """`resource:action` that the role of the key and that of its owner must both have."""


FOR_INFERENCE = Need(INFERENCE)
FOR_CATALOG = Need(CATALOG)
_LOOK, _CHANGE = Need(READ, "admin"), Need(ADMIN, "admin")
_LOOK_AT_OWN, _CHANGE_OWN = Need(READ), Need(ADMIN)

BELOW: dict[str, tuple[Need, Need]] = {
    "/v1/models": (FOR_CATALOG, _CHANGE),
    "/models": (FOR_CATALOG, _CHANGE),
    "/user": (_LOOK_AT_OWN, _CHANGE_OWN),
    "/teams": (_LOOK_AT_OWN, _CHANGE_OWN),
    "/admin": (_LOOK, _CHANGE),
}
"""Path, and all below it: what looking (GET) needs, and what changing needs. Inference, kept answers and the lists of
other dialects are not here: their paths are the formats' own, and they name FOR_INFERENCE or FOR_CATALOG."""


def to_look(permission: str) -> Need:
    return Need(READ, permission=permission)


def to_change(permission: str) -> Need:
    return Need(ADMIN, permission=permission)


def find_need(method: str, path: str) -> Need:
    for above, (look, change) in BELOW.items():
        if path == above or path.startswith(f"{above}/"):
            return look if method == "GET" else change
    return _CHANGE


def check_access(
    caller: "Caller",
    need: Need,
    headers: "Sequence[tuple[bytes, bytes]]",
    client_ip: str,
    roles: Roles = ONLY_ADMINISTRATORS,
) -> None:
    """Raises NotAllowed when the key may not do this, or not from there."""
    permission = need.permission or (EVERYTHING if need.role == ADMIN_ROLE else "")
    if permission and not is_permitted(caller, permission, roles):
        if permission == EVERYTHING:
            raise NotAllowed("this route is for administrators", code="insufficient_permissions")
        raise NotAllowed(f"this needs the permission {permission}", code="insufficient_permissions")
    if caller.status in MARKED and need.scope == INFERENCE:
        raise NotAllowed(
            f"the account of this key {MARKED[caller.status]}", code=f"subscription_{caller.status}"
        )
    if need.scope not in caller.scopes:
        raise NotAllowed(f"this key does not have the scope `{need.scope}`", code="scope_missing")
    if caller.bounds is not None:
        check_origin(caller.bounds, headers, client_ip)


def is_permitted(caller: "Caller", permission: str, roles: Roles) -> bool:
    """Whether the roles of the key and of its owner both have it: a key never has more than its owner."""
    if caller.unlimited:
        return True
    owned = not caller.owner_role or roles.allows(caller.owner_role, permission)
    return owned and roles.allows(caller.role, permission)


def find_role(caller: "Caller", roles: Roles) -> str:
    """The role that a caller acts with: the key's, or its owner's if that is less."""
    return caller.role if caller.unlimited else roles.lesser(caller.role, caller.owner_role)


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
