"""Limits and addresses that administrators set while the gateway runs, as every worker knows them a second later.

A change raises `n` of the one row of `limit_settings` in its own transaction; each worker reads that number and, when
it is another, the rest.
"""

import asyncio
import logging
import secrets
from collections.abc import Callable, Mapping
from typing import Any, LiteralString

import psycopg
from psycopg import sql
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from engine.config.networks import Networks
from engine.config.snapshot import Limit
from engine.errors import DependencyAway
from engine.storage.audit import Actor, Event, write_event
from engine.storage.key_rules import read_limit
from engine.storage.limit_alerts import LimitAlerts
from engine.storage.postgres import Connection, Database, cancel_tasks, count_change
from engine.storage.secrets import KeyRing

log = logging.getLogger(__name__)

READ_EACH_S = 1.0
READ_ANYWAY_EACH = 30
"""Turns after which all is read again: entries end by themselves, too."""
MOST_ALLOWED = 10_000
_RAISE: LiteralString = (
    "INSERT INTO limit_settings (n) VALUES (1) ON CONFLICT (only_row) DO UPDATE SET n = limit_settings.n + 1"
)
_ALLOWED: LiteralString = (
    "SELECT network FROM ip_allowlist WHERE enabled AND (expires_at IS NULL OR expires_at > now()) LIMIT %s"
)
_COLUMNS = (
    "id", "network", "reason", "user_id", "enabled", "expires_at", "metadata", "created_by", "created_at", "updated_at"
)  # fmt: skip
_SELECT = sql.SQL("SELECT {} FROM ip_allowlist").format(sql.SQL(", ").join(map(sql.Identifier, _COLUMNS)))

Apply = Callable[[Limit | None, Networks], None]


class LimitSettings:
    """Reads what was set, hands it to `apply`, and writes down whom limits refused."""

    def __init__(self, database: Database, apply: Apply, alerts: LimitAlerts) -> None:
        self._database, self._apply, self._alerts = database, apply, alerts
        self._seen: int | None = None
        self._turns = 0
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._keep_reading())

    async def stop(self) -> None:
        if self._task is not None:
            await cancel_tasks(self._task)

    async def refresh(self) -> None:
        """Raises DependencyAway, and psycopg's errors."""
        self._turns += 1
        anyway = self._turns % READ_ANYWAY_EACH == 0

        async def select(connection: Connection) -> tuple[int, Any, list[str]] | None:
            row = await (await connection.execute("SELECT n, each_key FROM limit_settings")).fetchone()
            n, each_key = row if row is not None else (0, {})
            if n == self._seen and not anyway:
                return None
            rows = await (await connection.execute(_ALLOWED, (MOST_ALLOWED,))).fetchall()
            return n, each_key, [network for (network,) in rows]

        found = await self._database.run(select)
        if found is not None:
            self._seen, each_key, networks = found
            self._apply(read_limit(each_key), Networks(networks))
        await self._alerts.flush(self._database)

    async def _keep_reading(self) -> None:
        while True:
            try:
                await self.refresh()
            except DependencyAway:
                pass
            except psycopg.Error as error:
                log.error("the settings of limits cannot be read: %s", error)
            await asyncio.sleep(READ_EACH_S)


async def set_each_key(
    connection: Connection, ring: KeyRing, limits: Mapping[str, Any], by: Actor
) -> dict[str, Any]:
    """What every key may ask for, beside its policy; {} takes it away."""
    async with connection.transaction():
        await count_change(connection)
        await connection.execute(_RAISE)
        before = await read_each_key(connection)
        await connection.execute(
            "UPDATE limit_settings SET each_key = %s, updated_at = now(), updated_by = %s",
            (Jsonb(limits), by.user_id),
        )
        event = Event("limits.config", "limits", "", before["limits"], limits)
        await write_event(connection, ring, by, event)
        return await read_each_key(connection)


async def read_each_key(connection: Connection) -> dict[str, Any]:
    row = await (
        await connection.execute("SELECT each_key, updated_at, updated_by FROM limit_settings")
    ).fetchone()
    if row is None:
        return {"limits": {}, "updated_at": None, "updated_by": ""}
    return {"limits": row[0], "updated_at": row[1].isoformat(), "updated_by": row[2]}


async def read_user_limits(connection: Connection, user_id: str) -> dict[str, Any]:
    """What administrators gave a user, all keys together."""
    row = await (await connection.execute("SELECT limits FROM users WHERE id = %s", (user_id,))).fetchone()
    return dict(row[0]) if row is not None else {}


async def set_owner_limits(
    connection: Connection, ring: KeyRing, which: tuple[str, str], limits: Mapping[str, Any], by: Actor
) -> bool:
    """What administrators give a key or user (`which`: ("key", id) or ("user", id)); False when there is none."""
    kind, name = which
    statements: dict[str, tuple[LiteralString, LiteralString]] = {
        "key": (
            "SELECT ceiling, user_id FROM api_keys WHERE id = %s",
            "UPDATE api_keys SET ceiling = %s, changed_n = %s, updated_at = now() WHERE id = %s",
        ),
        "user": (
            "SELECT limits, id FROM users WHERE id = %s",
            "UPDATE users SET limits = %s, changed_n = %s, updated_at = now() WHERE id = %s",
        ),
    }
    looked: LiteralString
    changed: LiteralString
    looked, changed = statements[kind]
    async with connection.transaction():
        n = await count_change(connection)
        row = await (await connection.execute(looked, (name,))).fetchone()
        if row is None:
            return False
        await connection.execute(changed, (Jsonb(limits), n, name))
        await write_event(connection, ring, by, Event(f"limits.{kind}", name, row[1], row[0], limits))
        return True


async def list_limited_users(connection: Connection, limit: int) -> list[dict[str, Any]]:
    """Users who have limits of their own, or keys that have."""
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(
            "SELECT u.id AS user_id, u.email, u.plan, u.limits, coalesce(jsonb_object_agg(k.id, k.ceiling)"
            " FILTER (WHERE k.ceiling <> '{}'), '{}') AS keys FROM users u"
            " LEFT JOIN api_keys k ON k.user_id = u.id AND k.revoked_at IS NULL"
            " GROUP BY u.id HAVING u.limits <> '{}' OR bool_or(k.ceiling <> '{}') ORDER BY u.id LIMIT %s",
            (limit,),
        )
        return [dict(row) for row in await cursor.fetchall()]


# --- addresses


async def list_allowed(connection: Connection, limit: int, after: str | None) -> list[dict[str, Any]]:
    async with connection.cursor(row_factory=dict_row) as cursor:
        query = sql.SQL("{} WHERE %s::text IS NULL OR id > %s ORDER BY id LIMIT %s").format(_SELECT)
        await cursor.execute(query, (after, after, limit))
        return [dict(row) for row in await cursor.fetchall()]


async def find_allowed(connection: Connection, entry_id: str) -> dict[str, Any] | None:
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(sql.SQL("{} WHERE id = %s").format(_SELECT), (entry_id,))
        return await cursor.fetchone()


async def add_allowed(
    connection: Connection, ring: KeyRing, facts: Mapping[str, Any], by: Actor
) -> dict[str, Any] | None:
    """The new entry; None when there are as many as may be."""
    entry_id = f"ipa_{secrets.token_hex(8)}"
    async with connection.transaction():
        await count_change(connection)
        await connection.execute(_RAISE)
        row = await (await connection.execute("SELECT count(*) FROM ip_allowlist")).fetchone()
        if row is None or row[0] >= MOST_ALLOWED:
            return None
        values = {**facts, "id": entry_id, "created_by": by.user_id, "metadata": Jsonb(facts["metadata"])}
        await connection.execute(
            sql.SQL("INSERT INTO ip_allowlist ({}) VALUES ({})").format(
                sql.SQL(", ").join(map(sql.Identifier, values)),
                sql.SQL(", ").join(map(sql.Placeholder, values)),
            ),
            values,
        )
        event = Event("allowlist.add", entry_id, facts["user_id"] or "", None, {"network": facts["network"]})
        await write_event(connection, ring, by, event)
        return await find_allowed(connection, entry_id)


async def change_allowed(
    connection: Connection, ring: KeyRing, entry_id: str, changes: Mapping[str, Any] | None, by: Actor
) -> dict[str, Any] | None:
    """The entry as it is now (None as `changes`: as it was, for it is gone); None when there is none."""
    async with connection.transaction():
        await count_change(connection)
        await connection.execute(_RAISE)
        before = await find_allowed(connection, entry_id)
        if before is None:
            return None
        if changes is None:
            await connection.execute("DELETE FROM ip_allowlist WHERE id = %s", (entry_id,))
            event = Event("allowlist.delete", entry_id, "", {"network": before["network"]})
        else:
            values = {name: Jsonb(value) if name == "metadata" else value for name, value in changes.items()}
            pairs = [
                sql.SQL("{} = {}").format(sql.Identifier(name), sql.Placeholder(name)) for name in values
            ]
            query = sql.SQL("UPDATE ip_allowlist SET updated_at = now(), {} WHERE id = {}").format(
                sql.SQL(", ").join(pairs), sql.Placeholder("_id")
            )
            await connection.execute(query, {**values, "_id": entry_id})
            event = Event("allowlist.change", entry_id, "", {"network": before["network"]}, dict(changes))
        await write_event(connection, ring, by, event)
        return before if changes is None else await find_allowed(connection, entry_id)
