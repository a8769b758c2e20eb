"""Tokens that a person is sent and uses once: to prove an address, for a new password, as an invitation.

Their text is in the mail alone; the database has a hash, until they expire.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from secrets import token_urlsafe
from typing import Any, LiteralString

from psycopg.types.json import Jsonb

from engine.secret import Secret
from engine.storage.postgres import Connection

PURGE: LiteralString = (
    "DELETE FROM one_time_tokens WHERE hash IN"
    " (SELECT hash FROM one_time_tokens WHERE expires_at < now() LIMIT %s)"
)
_OPEN: LiteralString = "hash = %s AND purpose = ANY(%s) AND used_at IS NULL AND expires_at > now()"


@dataclass(frozen=True, slots=True)
class OneTimeToken:
    """What a token is good for; `facts` is what was asked for when it was made."""

    purpose: str
    email: str
    user_id: str | None = None
    facts: Mapping[str, Any] | None = None


def make_token(prefix: str) -> Secret:
    """A new token: the prefix and 43 url-safe characters (256 random bits)."""
    return Secret(f"{prefix}_{token_urlsafe(32)}")


def hash_token(token: Secret) -> bytes:
    """What is stored of a token. It is random enough that nobody can guess what was hashed."""
    return hashlib.sha256(token.reveal().encode()).digest()


async def keep_token(connection: Connection, token: Secret, what: OneTimeToken, lasts_s: float) -> None:
    await connection.execute(
        "INSERT INTO one_time_tokens (hash, purpose, user_id, email, facts, expires_at)"
        " VALUES (%s, %s, %s, %s, %s, now() + make_interval(secs => %s)) ON CONFLICT (hash) DO NOTHING",
        (hash_token(token), what.purpose, what.user_id, what.email, Jsonb(dict(what.facts or {})), lasts_s),
    )


async def look_at_token(connection: Connection, token: Secret, *purposes: str) -> OneTimeToken | None:
    """What an open token is good for, without using it."""
    row = await (
        await connection.execute(
            f"SELECT purpose, email, user_id, facts FROM one_time_tokens WHERE {_OPEN}",
            (hash_token(token), list(purposes)),
        )
    ).fetchone()
    return None if row is None else OneTimeToken(*row)


async def use_token(connection: Connection, token: Secret, *purposes: str) -> OneTimeToken | None:
    """Use a token up; None when it is not open. Of two at once one gets it."""
    row = await (
        await connection.execute(
            f"UPDATE one_time_tokens SET used_at = now() WHERE {_OPEN}"
            " RETURNING purpose, email, user_id, facts",
            (hash_token(token), list(purposes)),
        )
    ).fetchone()
    return None if row is None else OneTimeToken(*row)


async def close_tokens(connection: Connection, user_id: str, *purposes: str) -> None:
    """What was sent to this user before opens nothing any more."""
    await connection.execute(
        "UPDATE one_time_tokens SET used_at = now() WHERE user_id = %s AND purpose = ANY(%s) AND used_at IS NULL",
        (user_id, list(purposes)),
    )
