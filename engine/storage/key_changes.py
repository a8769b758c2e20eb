"""Changing API keys that exist: rotating, updating and revoking them, each with its event in the audit log.

Each change is seen by every worker within a second.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, LiteralString

from psycopg import sql

from engine.secret import Secret
from engine.storage.audit import COMMAND, Actor, Event, write_event
from engine.storage.issuing import IssuedKey
from engine.storage.key_listing import describe_key
from engine.storage.postgres import Connection, count_change
from engine.storage.secrets import KeyRing, generate_key

MOST_AT_ONCE = 500
CHANGEABLE = frozenset(
    {
        "name",
        "models",
        "scopes",
        "expires_at",
        "providers",
        "ip_allowlist",
        "referrers",
        "max_requests",
        "max_spend_usd",
        "limits",
        "role",
        "budgets",
    }
)
_ACTIVE: LiteralString = (
    "SELECT id, name, role, environment, user_id, last4 FROM api_keys"
    " WHERE revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())"
    " AND (%(id)s::text IS NULL OR id = %(id)s)"
    " AND (%(user_id)s::text IS NULL OR (user_id = %(user_id)s AND team_id IS NULL))"
    " AND (%(team_id)s::text IS NULL OR team_id = %(team_id)s) AND role <> ALL(%(not_roles)s::text[])"
    " AND (%(environment)s::text IS NULL OR environment = %(environment)s)"
    " AND (%(email)s::text IS NULL OR user_id = (SELECT id FROM users WHERE lower(email) = lower(%(email)s)))"
    " ORDER BY created_at, id LIMIT %(most)s"
)
_REPLACE: LiteralString = (
    "UPDATE api_keys SET hash = %(hash)s, ring_id = %(ring_id)s, last4 = %(last4)s, changed_n = %(n)s,"
    " updated_at = now(), replaced_hash = CASE WHEN %(grace_s)s > 0 THEN hash END,"
    " replaced_until = CASE WHEN %(grace_s)s > 0 THEN now() + make_interval(secs => %(grace_s)s) END"
    " WHERE id = %(id)s"
)


@dataclass(frozen=True, slots=True)
class Which:
    """Which keys are meant: those to which all that is named applies."""

    id: str | None = None
    user_id: str | None = None
    environment: str | None = None
    email: str | None = None
    """The owner's address."""
    team_id: str | None = None
    not_roles: tuple[str, ...] = ()
    """Keys with these roles are left alone."""


async def rotate_keys(
    connection: Connection, ring: KeyRing, which: Which, grace_s: float = 0.0, by: Actor = COMMAND
) -> list[IssuedKey]:
    """Give keys new texts; the old ones stay valid for `grace_s`. A text that was older than that ends now.

    Id, rules, limits and what was used stay. Revoked and expired keys are left alone.
    """
    async with connection.transaction():
        n = await count_change(connection)
        asked: dict[str, Any] = {
            "id": which.id,
            "user_id": which.user_id,
            "environment": which.environment,
            "email": which.email,
            "team_id": which.team_id,
            "not_roles": list(which.not_roles),
            "most": MOST_AT_ONCE,
        }
        rows = await (await connection.execute(_ACTIVE, asked)).fetchall()
        issued = [await _replace_text(connection, ring, row, grace_s, n) for row in rows]
        for row, each in zip(rows, issued, strict=True):
            after = {"last4": each.last4, "grace_s": grace_s}
            event = Event("key.rotate", each.id, row[4], {"last4": row[5]}, after)
            await write_event(connection, ring, by, event)
        return issued


async def _replace_text(
    connection: Connection, ring: KeyRing, row: tuple[Any, ...], grace_s: float, n: int
) -> IssuedKey:
    key_id, name, role, environment, *_ = row
    text = generate_key(environment)
    values = {"id": key_id, "hash": ring.hash_key(text), "ring_id": ring.newest.id, "last4": text[-4:]}
    await connection.execute(_REPLACE, values | {"grace_s": float(grace_s), "n": n})
    return IssuedKey(key_id, Secret(text), name, role, text[-4:])


async def update_key(
    connection: Connection, ring: KeyRing, key_id: str, changes: Mapping[str, Any], by: Actor = COMMAND
) -> bool:
    """Set columns of a key that is not revoked; False when there is none. `changes` names some of CHANGEABLE."""
    assert changes and set(changes) <= CHANGEABLE
    async with connection.transaction():
        n = await count_change(connection)
        before = await describe_key(connection, key_id)
        if before is None or before["revoked_at"] is not None:
            return False
        pairs = [sql.SQL("{} = {}").format(sql.Identifier(name), sql.Placeholder(name)) for name in changes]
        await connection.execute(
            sql.SQL("UPDATE api_keys SET updated_at = now(), changed_n = {}, {} WHERE id = {}").format(
                sql.Placeholder("_n"), sql.SQL(", ").join(pairs), sql.Placeholder("_id")
            ),
            {**changes, "_n": n, "_id": key_id},
        )
        after = await describe_key(connection, key_id)
        assert after is not None
        event = Event("key.update", key_id, before["user_id"], *_show_difference(before, after))
        await write_event(connection, ring, by, event)
    return True


def _show_difference(
    before: Mapping[str, Any], after: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    names = [name for name in before if name != "updated_at" and before[name] != after[name]]
    return {name: before[name] for name in names}, {name: after[name] for name in names}


async def revoke_key(connection: Connection, ring: KeyRing, key_id: str, by: Actor = COMMAND) -> bool:
    """Revoke a key for good; False when there is none of that id. Doing it twice keeps the first moment."""
    async with connection.transaction():
        n = await count_change(connection)
        row = await (
            await connection.execute(
                "UPDATE api_keys k SET revoked_at = coalesce(k.revoked_at, now()), updated_at = now(),"
                " changed_n = %s FROM api_keys was WHERE was.id = k.id AND k.id = %s"
                " RETURNING k.user_id, was.revoked_at, k.last4",
                (n, key_id),
            )
        ).fetchone()
        if row is not None and row[1] is None:
            event = Event("key.revoke", key_id, row[0], {"last4": row[2]}, {"revoked": True})
            await write_event(connection, ring, by, event)
    return row is not None
