"""Users changed by administrators, each with its event. Every worker acts on it within a second.

Nobody changes whom he does not cover, the last administrator stays active, and the books stay whatever happens.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, LiteralString

from psycopg.rows import dict_row

from engine.config.roles import Roles
from engine.errors import InvalidRequest, NotAllowed, NotFound
from engine.storage.audit import Actor, Event, write_event
from engine.storage.postgres import Connection, count_change
from engine.storage.roles import keep_an_administrator
from engine.storage.secrets import KeyRing
from engine.storage.sessions import Held, end_sessions
from engine.storage.teams import set_plan, touch_teams_of

CHANGEABLE = ("name", "plan", "prepaid", "is_active", "status")
MOST_AT_ONCE = 500
_OF_DOMAIN: LiteralString = (
    "SELECT u.id, u.email, u.role, (SELECT count(*) FROM api_keys k WHERE k.user_id = u.id"
    " AND k.team_id IS NULL AND k.revoked_at IS NULL) AS api_keys"
    " FROM users u WHERE u.active AND lower(right(u.email, length(%(end)s))) = %(end)s ORDER BY u.id LIMIT %(most)s"
)


@dataclass(frozen=True, slots=True)
class Desk:
    """Who changes users, and with which role."""

    ring: KeyRing
    roles: Roles
    by: Actor
    by_role: str

    def check(self, role: str) -> None:
        if not self.roles.covers(self.by_role, role):
            raise NotAllowed("a user with a role above one's own cannot be changed", code="role_too_high")


async def update_user(connection: Connection, desk: Desk, user_id: str, changes: Mapping[str, Any]) -> None:
    """Set some of CHANGEABLE. Who is no longer active is signed out everywhere."""
    async with connection.transaction():
        n = await count_change(connection)
        async with connection.cursor(row_factory=dict_row) as cursor:
            await cursor.execute(
                "SELECT name, plan, prepaid, active AS is_active, status, role, erased_at FROM users WHERE id = %s",
                (user_id,),
            )
            before = await cursor.fetchone()
        if before is None:
            raise NotFound("there is no such user", code="user_not_found")
        desk.check(before["role"])
        after = {**before, **changes}
        if after["is_active"] and before["erased_at"] is not None:
            raise NotAllowed("an account that was deleted stays deleted", code="account_deleted")
        if before["is_active"] and not after["is_active"]:
            await _shut(connection, desk, user_id, before["role"])
        if (after["is_active"], after["status"]) != (before["is_active"], before["status"]):
            await touch_teams_of(connection, user_id, n)
        if after["plan"] != before["plan"]:
            await set_plan(connection, f"user:{user_id}", after["plan"])
        await connection.execute(
            "UPDATE users SET name = coalesce(%(name)s, name), prepaid = coalesce(%(prepaid)s, prepaid),"
            " active = coalesce(%(is_active)s, active), status = coalesce(%(status)s, status),"
            " updated_at = now(), changed_n = %(n)s WHERE id = %(id)s",
            {**dict.fromkeys(CHANGEABLE), **changes, "n": n, "id": user_id},
        )
        names = [name for name in changes if before[name] != after[name]]
        was, now = {name: before[name] for name in names}, {name: after[name] for name in names}
        await write_event(connection, desk.ring, desk.by, Event("user.update", user_id, user_id, was, now))


async def _shut(connection: Connection, desk: Desk, user_id: str, role: str) -> None:
    if role in desk.roles.administrators:
        await keep_an_administrator(connection, desk.roles, user_id)
    await end_sessions(connection, desk.ring, Held(user_id), "deactivated", desk.by)


async def end_users_of(
    connection: Connection, desk: Desk, domain: str, *, dry_run: bool
) -> list[dict[str, Any]]:
    """Deactivate all active users with an address at this domain and revoke their keys; who they are, with their keys.

    All of them or none. Keys of teams are the teams' and go on. With `dry_run` nothing changes, but what would be
    refused is refused.
    """
    async with connection.transaction():
        n = await count_change(connection)
        asked = {"end": f"@{domain.lower()}", "most": MOST_AT_ONCE + 1}
        async with connection.cursor(row_factory=dict_row) as cursor:
            await cursor.execute(_OF_DOMAIN, asked)
            users = list(await cursor.fetchall())
        if len(users) > MOST_AT_ONCE:
            raise InvalidRequest(f"more than {MOST_AT_ONCE} users have an address at this domain")
        for user in users:
            desk.check(user["role"])
        await _keep_another_administrator(connection, desk, users)
        if not dry_run:
            for user in users:
                await _end(connection, desk, user["id"], n)
    return users


async def _keep_another_administrator(
    connection: Connection, desk: Desk, users: list[dict[str, Any]]
) -> None:
    if not any(user["role"] in desk.roles.administrators for user in users):
        return
    row = await (
        await connection.execute(
            "SELECT 1 FROM users WHERE role = ANY(%s) AND active AND NOT id = ANY(%s) LIMIT 1",
            (sorted(desk.roles.administrators), [user["id"] for user in users]),
        )
    ).fetchone()
    if row is None:
        raise NotAllowed("the last administrator cannot be taken away", code="last_administrator")


async def _end(connection: Connection, desk: Desk, user_id: str, n: int) -> None:
    rows = await (
        await connection.execute(
            "UPDATE api_keys SET revoked_at = now(), updated_at = now(), changed_n = %s"
            " WHERE user_id = %s AND team_id IS NULL AND revoked_at IS NULL RETURNING id",
            (n, user_id),
        )
    ).fetchall()
    await end_sessions(connection, desk.ring, Held(user_id), "deactivated", desk.by)
    await touch_teams_of(connection, user_id, n)
    await connection.execute(
        "UPDATE users SET active = false, updated_at = now(), changed_n = %s WHERE id = %s", (n, user_id)
    )
    after = {"is_active": False, "keys_revoked": [key_id for (key_id,) in rows]}
    await write_event(
        connection, desk.ring, desk.by, Event("user.deactivate", user_id, user_id, {"is_active": True}, after)
    )
