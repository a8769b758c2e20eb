"""Session tokens: short-lived signed statements that a session is somebody's, and who the session's holder is now.

A token is signed with a key that only this purpose has, derived from the ring entry that it names. What it says is
never enough: the session is looked up with each use, so that its end, a role that changed and a user who was shut out
hold at once.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jwt

from engine.call import Caller
from engine.errors import KeyRefused
from engine.secret import Secret
from engine.storage.postgres import Connection, Database
from engine.storage.secrets import KeyRing
from engine.storage.sessions import find_caller

ALGORITHM, TYPE = "HS256", "session+jwt"
ISSUER = AUDIENCE = "gatewayz"
MOST_CHARACTERS = 2048


@dataclass(frozen=True, slots=True)
class Claims:
    session_id: str
    user_id: str


class SessionTokens:
    def __init__(self, ring: KeyRing, clock: Callable[[], float] = time.time) -> None:
        self._ring, self._clock = ring, clock

    def sign(self, session_id: str, user_id: str, lasts_s: float) -> Secret:
        now = int(self._clock())
        claims = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": user_id,
            "sid": session_id,
            "iat": now,
            "exp": now + int(lasts_s),
        }
        newest = self._ring.newest
        head = {"kid": newest.id, "typ": TYPE}
        return Secret(jwt.encode(claims, newest.sessions, algorithm=ALGORITHM, headers=head))

    def read(self, text: str) -> Claims:
        """Raises KeyRefused for whatever is not a token of ours that is still good."""
        if len(text) > MOST_CHARACTERS:
            raise KeyRefused("the session token is not valid", code="session_invalid")
        try:
            head: dict[str, Any] = jwt.get_unverified_header(text)
            entry = next((one for one in self._ring.entries if one.id == head.get("kid")), None)
            if entry is None or head.get("typ") != TYPE or "crit" in head:
                raise jwt.InvalidTokenError
            claims = jwt.decode(
                text,
                entry.sessions,
                algorithms=[ALGORITHM],
                audience=AUDIENCE,
                issuer=ISSUER,
                options={"require": ["exp", "iat", "iss", "aud", "sub", "sid"]},
            )
        except jwt.ExpiredSignatureError:
            raise KeyRefused(
                "the session token has expired; renew it with POST /auth/refresh", code="session_expired"
            ) from None
        except (jwt.PyJWTError, ValueError, RecursionError):
            raise KeyRefused("the session token is not valid", code="session_invalid") from None
        return Claims(str(claims["sid"]), claims["sub"])


class Sessions:
    """Who holds a session (implements policies/identity.Sessions)."""

    def __init__(self, tokens: SessionTokens, database: Database) -> None:
        self._tokens, self._database = tokens, database

    async def find_holder(self, text: str) -> Caller:
        claims = self._tokens.read(text)

        async def work(connection: Connection) -> Caller | None:
            return await find_caller(connection, claims.session_id, claims.user_id)

        caller = await self._database.run(work)
        if caller is None:
            raise KeyRefused("this session has ended; sign in again", code="session_ended")
        return caller
