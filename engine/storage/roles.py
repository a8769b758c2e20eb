"""Users' roles: read, listed and changed, each change with its event. Every worker acts on it within a second.

Nobody is given a role by somebody who does not have it, nobody changes whom he does not cover, and the last
administrator stays.
"""

from dataclasses import dataclass
from typing import Any

from engine.config.roles import Roles
from engine.errors import NotAllowed, NotFound
from engine.storage.audit import COMMAND, Actor, Event, write_event
from engine.storage.postgres import Connection, count_change
from engine.storage.secrets import KeyRing

ROLE_EVENT = "role.update"


@dataclass(frozen=True, slots=True)
class RoleChange:
    user_id: str
    role: str
    reason: str
    by_role: str
    """The role of who asks for it."""


async def read_role(connection: Connection, user_id: str) -> dict[str, Any]:
    row = await (
        await connection.execute("SELECT id, email, role, active FROM users WHERE id = %s", (user_id,))
    ).fetchone()
    if row is None:
        raise NotFound("there is no such user", code="user_not_found")
    return dict(zip(("user_id", "email", "role", "is_active"), row, strict=True))


async def list_holders(
    connection: Connection, role: str, limit: int, offset: int
) -> tuple[int, list[dict[str, Any]]]:
    """How many users have a role, and some of them, oldest first."""
    found = await (await connection.execute("SELECT count(*) FROM users WHERE role = %s", (role,))).fetchone()
    rows = await (
        await connection.execute(
            "SELECT id, email, active, created_at FROM users WHERE role = %s"
            " ORDER BY created_at, id LIMIT %s OFFSET %s",
            (role, limit, offset),
        )
    ).fetchall()
    names = ("user_id", "email", "is_active", "created_at")
    return (int(found[0]) if found else 0), [dict(zip(names, row, strict=True)) for row in rows]


async def change_role(
    connection: Connection, ring: KeyRing, roles: Roles, change: RoleChange, by: Actor
) -> str:
    """Give a user another role; the one before. Raises NotFound or NotAllowed."""
    async with connection.transaction():
        await count_change(connection)  # its row lock: two changes at once see each other
        before: str = (await read_role(connection, change.user_id))["role"]
        _check(roles, change, before, by)
        if before in roles.administrators and change.role not in roles.administrators:
            await keep_an_administrator(connection, roles, change.user_id)
        await _write(connection, ring, change.user_id, (before, change.role), change.reason, by)
    return before


def _check(roles: Roles, change: RoleChange, before: str, by: Actor) -> None:
    if change.user_id == by.user_id and not roles.covers(before, change.role):
        raise NotAllowed("nobody can raise the own role", code="role_too_high")
    if not (roles.covers(change.by_role, change.role) and roles.covers(change.by_role, before)):
        raise NotAllowed("a role above one's own can neither be given nor taken", code="role_too_high")


async def keep_an_administrator(connection: Connection, roles: Roles, but: str) -> None:
    """Raises NotAllowed when nobody but this user is an active administrator. In a transaction after `count_change`."""
    row = await (
        await connection.execute(
            "SELECT 1 FROM users WHERE role = ANY(%s) AND active AND id <> %s LIMIT 1",
            (sorted(roles.administrators), but),
        )
    ).fetchone()
    if row is None:
        raise NotAllowed("the last administrator cannot be taken away", code="last_administrator")


async def raise_role(
    connection: Connection, ring: KeyRing, roles: Roles, user_id: str, role: str, by: Actor = COMMAND
) -> None:
    """See that a user has at least this role: of a key that is made at the command line."""
    async with connection.transaction():
        await count_change(connection)
        before: str = (await read_role(connection, user_id))["role"]
        if not roles.covers(before, role):
            await _write(connection, ring, user_id, (before, role), "a key with this role was made", by)


async def _write(
    connection: Connection, ring: KeyRing, user_id: str, roles: tuple[str, str], reason: str, by: Actor
) -> None:
    before, after = roles
    n = await count_change(connection)
    await connection.execute(
        "UPDATE users SET role = %s, updated_at = now(), changed_n = %s WHERE id = %s", (after, n, user_id)
    )
    event = Event(ROLE_EVENT, user_id, user_id, {"role": before}, {"role": after, "reason": reason})
    await write_event(connection, ring, by, event)
