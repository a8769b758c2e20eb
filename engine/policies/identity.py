"""Who is calling: the key of a request becomes a `Caller`, or the request ends with 401, 403 or 503."""

import contextlib
import hmac
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from engine.call import Caller
from engine.config.roles import ONLY_ADMINISTRATORS, Roles
from engine.config.settings import KEY_FORMAT
from engine.errors import KeyRefused
from engine.policies.access import FOR_INFERENCE, Need, check_access, find_need
from engine.policies.edge import Edge
from engine.secret import Secret

Headers = Sequence[tuple[bytes, bytes]]
SIGNED = "AWS4-HMAC-SHA256"
"""Clients that can only sign have our key as the id of their access key. What they signed with is nobody's secret."""
_KEY_HEADERS = frozenset((b"authorization", b"x-api-key", b"x-goog-api-key"))


class Keys(Protocol):
    """The known keys (storage/keys.py)."""

    def find(self, key_text: str) -> Caller | None: ...

    async def fetch(self, key_text: str) -> Caller: ...


class Sessions(Protocol):
    """People who signed in (policies/session_tokens.py)."""

    async def find_holder(self, text: str) -> Caller: ...


class Identity:
    def __init__(
        self,
        keys: Keys,
        admin_key: Secret | None,
        read_roles: Callable[[], Roles] = lambda: ONLY_ADMINISTRATORS,
        sessions: Sessions | None = None,
        edge: Edge | None = None,
    ) -> None:
        self._keys, self._read_roles, self._sessions = keys, read_roles, sessions
        self.edge = edge
        self._admin_key = admin_key.reveal().encode() if admin_key else b""
        self._admin = Caller(
            "admin-environment",
            "admin",
            role="admin",
            name="GATEWAYZ_ADMIN_KEY",
            scopes=frozenset({"inference", "catalog", "read", "admin"}),
            unlimited=True,
        )

    async def identify(self, headers: Headers, client_ip: str = "", need: Need = FOR_INFERENCE) -> Caller:
        """The caller behind a request's headers, who may do this from there.

        Raises KeyRefused, NotAllowed, or DependencyAway when nobody can tell.
        """
        try:
            text = read_key(headers)
        except KeyRefused:
            await self._count_stranger(headers, client_ip)
            raise
        caller = self._keys.find(text)
        if caller is None:
            caller = await self._fetch(text, headers, client_ip)
        if need.scope not in caller.scopes or caller.bounds is not None or need is not FOR_INFERENCE:
            check_access(caller, need, headers, client_ip, self._read_roles())
        return caller

    async def admit(self, scope: Any, need: Need | None = None) -> Caller:
        """The same for a route that the table of access names."""
        client = scope.get("client")
        need = need or find_need(scope["method"], scope["path"])
        return await self.identify(scope["headers"], client[0] if client else "", need)

    async def find_holder(self, headers: Headers) -> Caller | None:
        """Whose session a request carries; None when it carries something else. Raises KeyRefused."""
        text = read_key(headers)
        if self._sessions is None or not _looks_signed(text):
            return None
        return await self._sessions.find_holder(text)

    def turn_away(self, headers: Headers, client_ip: str) -> None:
        """Raises TooManyStrangers for one of many without a key that is known here: nothing more of it is read."""
        if self.edge is None:
            return
        with contextlib.suppress(KeyRefused):
            text = read_key(headers)
            if self._keys.find(text) is not None or self._is_admin(text) or self._is_session(text):
                return
        self.edge.check(headers, client_ip)

    async def meet(self, scope: Any) -> None:
        """Somebody at a route that needs no key. Raises TooManyStrangers."""
        if self.edge is None:
            return
        headers, client = scope["headers"], scope.get("client")
        with contextlib.suppress(KeyRefused):
            if self._keys.find(read_key(headers)) is not None:
                return
        await self.edge.count(headers, client[0] if client else "", refused=False, path=scope["path"])

    async def _count_stranger(self, headers: Headers, client_ip: str) -> None:
        if self.edge is not None:
            await self.edge.count(headers, client_ip, refused=True)

    def _is_session(self, text: str) -> bool:
        return self._sessions is not None and _looks_signed(text)

    def _is_admin(self, text: str) -> bool:
        return bool(self._admin_key) and hmac.compare_digest(text.encode(), self._admin_key)

    async def _fetch(self, text: str, headers: Headers, client_ip: str) -> Caller:
        if self._is_admin(text):
            return self._admin
        if self._sessions is not None and self._is_session(text):
            try:
                return await self._sessions.find_holder(text)
            except KeyRefused:
                await self._count_stranger(headers, client_ip)
                raise
        await self._count_stranger(headers, client_ip)
        if KEY_FORMAT.fullmatch(text) is None:
            raise KeyRefused(
                "the API key is not valid: a key looks like gw_live_... with 43 characters behind it"
            )
        return await self._keys.fetch(text)


def _looks_signed(text: str) -> bool:
    """Whether it has the three parts of a session token; a key has no dot."""
    return text.count(".") == 2


def read_key(headers: Headers) -> str:
    """The one key of a request; two different ones are refused rather than chosen from."""
    given = [_read_header(name, value) for name, value in headers if name in _KEY_HEADERS]
    if not given:
        raise KeyRefused(
            "no API key was given; send `Authorization: Bearer gw_live_...`", code="api_key_missing"
        )
    if len(given) > 1 and len(set(given)) > 1:
        raise KeyRefused("the request carries two different API keys")
    return given[0]


def _read_header(name: bytes, value: bytes) -> str:
    text = value.decode("latin-1").strip()
    if name != b"authorization":
        return text
    scheme, _, text = text.partition(" ")
    if scheme == SIGNED:
        return text.partition("Credential=")[2].partition("/")[0]
    if scheme.lower() != "bearer":
        raise KeyRefused("the Authorization header must be `Bearer <key>`")
    return text.strip()
