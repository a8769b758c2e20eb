"""What HTTP may do with keys: each is one piece of work on a connection, for those within reach.

A key of somebody else is not there: the answer does not tell whether it exists.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from engine.config.roles import Roles
from engine.errors import InvalidRequest, LimitExceeded, NotAllowed, NotFound
from engine.storage.audit import Actor, Event, list_events, write_event
from engine.storage.issuing import IssuedKey, KeyRequest, issue_key
from engine.storage.key_changes import Which, revoke_key, rotate_keys, update_key
from engine.storage.key_listing import Page, count_made, list_keys
from engine.storage.postgres import Connection, Database
from engine.storage.secrets import KeyRing

MOST_MADE_PER_HOUR = 10
_HOUR_S = 3600.0


@dataclass(frozen=True, slots=True)
class Reach:
    """Whose keys somebody may touch: one user's, one team's, or (neither) everybody's, and none above `role`."""

    roles: Roles
    role: str
    user_id: str | None = None
    team_id: str | None = None


class KeyDesk:
    def __init__(self, database: Database, ring: KeyRing) -> None:
        self._database, self._ring = database, ring

    async def make(
        self, asked: KeyRequest, by: Actor, *, roles: Roles, most_per_hour: int | None
    ) -> IssuedKey:
        """A new key of an existing user, with no more than its owner's role.

        `most_per_hour` bounds what users make for themselves.
        """
        user_id = asked.user_id or ""

        async def work(connection: Connection) -> IssuedKey:
            row = await (
                await connection.execute("SELECT active, role FROM users WHERE id = %s", (user_id,))
            ).fetchone()
            if row is None or not row[0]:
                raise NotFound("there is no such active user")
            if not roles.covers(row[1], asked.role):
                raise InvalidRequest(
                    f"a key has no more than its owner's role, which is {row[1]}",
                    code="invalid_value",
                    param="role",
                )
            if most_per_hour is not None and await count_made(connection, user_id, _HOUR_S) >= most_per_hour:
                raise LimitExceeded(
                    f"a user may make {most_per_hour} keys in an hour",
                    code="key_creation_limit",
                    retry_after_s=_HOUR_S,
                )
            return await issue_key(connection, self._ring, asked, by)

        return await self._database.run(work)

    async def list_keys(self, reach: Reach, page: Page | None = None) -> list[dict[str, Any]]:
        async def work(connection: Connection) -> list[dict[str, Any]]:
            return await list_keys(connection, reach.user_id, team_id=reach.team_id, used=True, page=page)

        return await self._database.run(work)

    async def find(self, reach: Reach, key_id: str) -> dict[str, Any]:
        async def work(connection: Connection) -> dict[str, Any]:
            return await _find(connection, reach, key_id)

        return await self._database.run(work)

    async def change(self, reach: Reach, key_id: str, changes: Mapping[str, Any], by: Actor) -> None:
        async def work(connection: Connection) -> None:
            found = await _find_below(connection, reach, key_id)
            if "role" in changes and not reach.roles.covers(found["owner_role"], changes["role"]):
                raise InvalidRequest(
                    "a key has no more than its owner's role", code="invalid_value", param="role"
                )
            if not await update_key(connection, self._ring, key_id, changes, by):
                raise NotAllowed("this key is revoked: it cannot be changed any more", code="key_revoked")

        await self._database.run(work)

    async def rotate(
        self, reach: Reach, key_id: str, grace_s: float, by: Actor, bulk: Which | None = None
    ) -> list[IssuedKey]:
        """One key, or with `bulk` those that it names of the owner of that key, as far as the role reaches."""

        async def work(connection: Connection) -> list[IssuedKey]:
            found = await _find_below(connection, reach, key_id)
            which = Which(key_id)
            if bulk is not None:
                team = found["team_id"]
                which = Which(
                    user_id=None if team else found["user_id"],
                    team_id=team,
                    environment=bulk.environment,
                    not_roles=tuple(reach.roles.list_above(reach.role)),
                )
            issued = await rotate_keys(connection, self._ring, which, grace_s, by)
            if not issued:
                raise NotAllowed("this key is revoked or expired: it cannot be rotated", code="key_revoked")
            return issued

        return await self._database.run(work)

    async def revoke(self, reach: Reach, key_id: str, by: Actor) -> None:
        async def work(connection: Connection) -> None:
            await _find_below(connection, reach, key_id)
            await revoke_key(connection, self._ring, key_id, by)

        await self._database.run(work)

    async def list_events(
        self, filters: Mapping[str, Any], limit: int, before: int | None
    ) -> tuple[list[dict[str, Any]], bool]:
        given = {name: value for name, value in filters.items() if value is not None}

        async def work(connection: Connection) -> tuple[list[dict[str, Any]], bool]:
            return await list_events(connection, given, limit, before)

        return await self._database.run(work)

    async def note(self, by: Actor, event: Event) -> None:
        """An event that changes nothing in the database."""

        async def work(connection: Connection) -> None:
            async with connection.transaction():
                await write_event(connection, self._ring, by, event)

        await self._database.run(work)


async def _find(connection: Connection, reach: Reach, key_id: str) -> dict[str, Any]:
    found = []
    if "\0" not in key_id:
        found = await list_keys(connection, reach.user_id, team_id=reach.team_id, key_id=key_id, used=True)
    if not found:
        raise NotFound("there is no such key", code="key_not_found")
    return found[0]


async def _find_below(connection: Connection, reach: Reach, key_id: str) -> dict[str, Any]:
    """The same for who wants to change it. What a key can do is bounded by its owner's role of today."""
    found = await _find(connection, reach, key_id)
    role = found["role"] if found["team_id"] else reach.roles.lesser(found["role"], found["owner_role"])
    if not reach.roles.covers(reach.role, role):
        raise NotAllowed("this key has a role above yours", code="role_too_high")
    return found


def count_days(until: str | None, now: datetime) -> int | None:
    """Whole days that are left until a moment as text."""
    if until is None:
        return None
    return max(0, (datetime.fromisoformat(until) - now).days)
