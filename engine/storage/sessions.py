"""Sessions of people: each lives as long as its refresh tokens follow one another, until it ends or expires.

A refresh token works once and is followed by the next. One that comes again was copied: the session ends with all
its tokens. Whoever has ended it is told in the audit log.
"""

import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, LiteralString

from psycopg.rows import dict_row

from engine.call import Caller
from engine.secret import Secret
from engine.storage.audit import Actor, Event, write_event
from engine.storage.one_time_tokens import hash_token
from engine.storage.postgres import Connection, count_change
from engine.storage.secrets import KeyRing

REFRESH_PREFIX = "gwr"
SCOPES = frozenset({"read", "admin", "catalog"})
"""What a session opens: one's own account, and what one's role may look at and change. Never inference."""
PURGE: LiteralString = (
    "DELETE FROM sessions WHERE id IN (SELECT id FROM sessions WHERE expires_at < now() - interval '30 days'"
    " LIMIT %s)"
)
_MOST_AGENT = 200
_MOST_SHOWN = 200


@dataclass(frozen=True, slots=True)
class Session:
    """A session as its holder gets it; `refresh_token` is told once."""

    id: str
    user_id: str
    refresh_token: Secret
    expires_at: datetime
    reused: bool = False
    """The token had been used before: there is no session any more."""


@dataclass(frozen=True, slots=True)
class Held:
    """Sessions of a user: all, `only` one, or all `but` one."""

    user_id: str
    only: str | None = None
    but: str = ""


async def start_session(
    connection: Connection, session_id: str, method: str, lasts_s: float, token: Secret, by: Actor
) -> Session:
    """A new session of `by.user_id`. Doing it twice with one id makes one."""
    row = await (
        await connection.execute(
            "INSERT INTO sessions (id, user_id, method, address, agent, expires_at)"
            " VALUES (%s, %s, %s, %s, %s, now() + make_interval(secs => %s))"
            " ON CONFLICT (id) DO UPDATE SET used_at = now() RETURNING expires_at",
            (session_id, by.user_id, method, by.address, _clean(by.agent), lasts_s),
        )
    ).fetchone()
    assert row is not None, "RETURNING gives the row in either case"
    await _keep(connection, session_id, token)
    return Session(session_id, by.user_id, token, row[0])


async def renew_session(connection: Connection, token: Secret, successor: Secret) -> Session | None:
    """Use a refresh token up and make `successor` the next; None when it opens nothing.

    Doing it twice with one successor is doing it once.
    """
    async with connection.transaction():
        row = await (
            await connection.execute(
                "SELECT r.session_id, r.used_at IS NOT NULL, r.successor, s.user_id, s.expires_at"
                " FROM refresh_tokens r JOIN sessions s ON s.id = r.session_id JOIN users u ON u.id = s.user_id"
                " WHERE r.hash = %s AND s.ended_at IS NULL AND s.expires_at > now() AND u.active"
                " FOR UPDATE OF r",
                (hash_token(token),),
            )
        ).fetchone()
        if row is None:
            return None
        session_id, used, followed_by, user_id, expires_at = row
        session = Session(session_id, user_id, successor, expires_at)
        next_hash = hash_token(successor)
        if used:
            is_again = hmac.compare_digest(followed_by or b"", next_hash)
            return session if is_again else Session(session_id, user_id, successor, expires_at, reused=True)
        await connection.execute(
            "UPDATE refresh_tokens SET used_at = now(), successor = %s WHERE hash = %s",
            (next_hash, hash_token(token)),
        )
        await connection.execute("UPDATE sessions SET used_at = now() WHERE id = %s", (session_id,))
        await _keep(connection, session_id, successor)
        return session


async def _keep(connection: Connection, session_id: str, token: Secret) -> None:
    await connection.execute(
        "INSERT INTO refresh_tokens (hash, session_id) VALUES (%s, %s) ON CONFLICT (hash) DO NOTHING",
        (hash_token(token), session_id),
    )


async def find_session_of(connection: Connection, token: Secret) -> tuple[str, str] | None:
    """Session and user of a refresh token that has not been used."""
    row = await (
        await connection.execute(
            "SELECT s.id, s.user_id FROM refresh_tokens r JOIN sessions s ON s.id = r.session_id"
            " WHERE r.hash = %s AND r.used_at IS NULL AND s.ended_at IS NULL",
            (hash_token(token),),
        )
    ).fetchone()
    return None if row is None else (row[0], row[1])


async def end_sessions(
    connection: Connection, ring: KeyRing, held: Held, reason: str, by: Actor
) -> Sequence[str]:
    """End them; the ids of those that ended now."""
    async with connection.transaction():
        await count_change(connection)
        rows = await (
            await connection.execute(
                "UPDATE sessions SET ended_at = now(), end_reason = %s WHERE user_id = %s AND ended_at IS NULL"
                " AND (%s::text IS NULL OR id = %s) AND id <> %s RETURNING id",
                (reason, held.user_id, held.only, held.only, held.but),
            )
        ).fetchall()
        for (session_id,) in rows:
            event = Event("session.revoke", session_id, held.user_id, after={"reason": reason})
            await write_event(connection, ring, by, event)
    return [session_id for (session_id,) in rows]


async def find_caller(connection: Connection, session_id: str, user_id: str) -> Caller | None:
    """Who holds a session that has not ended, with the role that the user has now."""
    row = await (
        await connection.execute(
            "SELECT u.role, u.name, u.plan, u.prepaid, extract(epoch FROM s.expires_at)::float8"
            " FROM sessions s JOIN users u ON u.id = s.user_id"
            " WHERE s.id = %s AND s.user_id = %s AND s.ended_at IS NULL AND s.expires_at > now() AND u.active",
            (session_id, user_id),
        )
    ).fetchone()
    if row is None:
        return None
    role, name, plan, prepaid, expires_at = row
    return Caller(
        session_id,
        user_id,
        role=role,
        name=name,
        scopes=SCOPES,
        expires_at=expires_at,
        plan=plan,
        prepaid=prepaid,
    )


async def list_sessions(connection: Connection, user_id: str) -> list[dict[str, Any]]:
    """Those that have not ended, newest first."""
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(
            "SELECT id, method, address, agent, created_at, used_at, expires_at FROM sessions"
            " WHERE user_id = %s AND ended_at IS NULL AND expires_at > now() ORDER BY created_at DESC LIMIT %s",
            (user_id, _MOST_SHOWN),
        )
        return await cursor.fetchall()


def _clean(agent: str) -> str:
    return "".join(letter for letter in agent[:_MOST_AGENT] if letter.isprintable())
