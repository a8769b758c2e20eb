"""What HTTP may do with keys: each is one piece of work on a connection, for one owner or (None) for all.

A key of somebody else is not there: the answer does not tell whether it exists.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from engine.errors import LimitExceeded, NotAllowed, NotFound
from engine.storage.audit import Actor, Event, list_events, write_event
from engine.storage.issuing import IssuedKey, KeyRequest, issue_key
from engine.storage.key_changes import Which, revoke_key, rotate_keys, update_key
from engine.storage.key_listing import Page, count_made, list_keys
from engine.storage.postgres import Connection, Database
from engine.storage.secrets import KeyRing

MOST_MADE_PER_HOUR = 10
_HOUR_S = 3600.0


class KeyDesk:
    def __init__(self, database: Database, ring: KeyRing) -> None:
        self._database, self._ring = database, ring

    async def make(self, asked: KeyRequest, by: Actor, *, most_per_hour: int | None) -> IssuedKey:
        """A new key of an existing user; `most_per_hour` bounds what users make for themselves."""
        user_id = asked.user_id or ""

        async def work(connection: Connection) -> IssuedKey:
            row = await (
                await connection.execute("SELECT active FROM users WHERE id = %s", (user_id,))
            ).fetchone()
            if row is None or not row[0]:
                raise NotFound("there is no such active user")
            if most_per_hour is not None and await count_made(connection, user_id, _HOUR_S) >= most_per_hour:
                raise LimitExceeded(
                    f"a user may make {most_per_hour} keys in an hour",
                    code="key_creation_limit",
                    retry_after_s=_HOUR_S,
                )
            return await issue_key(connection, self._ring, asked, by)

        return await self._database.run(work)

    async def list_keys(self, owner: str | None, page: Page | None = None) -> list[dict[str, Any]]:
        async def work(connection: Connection) -> list[dict[str, Any]]:
            return await list_keys(connection, owner, used=True, page=page)

        return await self._database.run(work)

    async def find(self, owner: str | None, key_id: str) -> dict[str, Any]:
        async def work(connection: Connection) -> dict[str, Any]:
            return await _find(connection, owner, key_id)

        return await self._database.run(work)

    async def change(self, owner: str | None, key_id: str, changes: Mapping[str, Any], by: Actor) -> None:
        async def work(connection: Connection) -> None:
            await _find(connection, owner, key_id)
            if not await update_key(connection, self._ring, key_id, changes, by):
                raise NotAllowed("this key is revoked: it cannot be changed any more", code="key_revoked")

        await self._database.run(work)

    async def rotate(
        self, owner: str | None, key_id: str, grace_s: float, by: Actor, bulk: Which | None = None
    ) -> list[IssuedKey]:
        """One key, or with `bulk` those that it names of the owner of that key."""

        async def work(connection: Connection) -> list[IssuedKey]:
            found = await _find(connection, owner, key_id)
            which = Which(key_id)
            if bulk is not None:
                which = Which(user_id=found["user_id"], environment=bulk.environment)
            issued = await rotate_keys(connection, self._ring, which, grace_s, by)
            if not issued:
                raise NotAllowed("this key is revoked or expired: it cannot be rotated", code="key_revoked")
            return issued

        return await self._database.run(work)

    async def revoke(self, owner: str | None, key_id: str, by: Actor) -> None:
        async def work(connection: Connection) -> None:
            await _find(connection, owner, key_id)
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


async def _find(connection: Connection, owner: str | None, key_id: str) -> dict[str, Any]:
    found = await list_keys(connection, owner, key_id=key_id, used=True) if "\0" not in key_id else []
    if not found:
        raise NotFound("there is no such key", code="key_not_found")
    return found[0]


def count_days(until: str | None, now: datetime) -> int | None:
    """Whole days that are left until a moment as text."""
    if until is None:
        return None
    return max(0, (datetime.fromisoformat(until) - now).days)
