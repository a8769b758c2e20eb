"""Limits over HTTP: what a user may ask for and has used, and what administrators give keys, users and everybody.

What administrators set for a key is its ceiling: its owner may ask for less, never for more.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from psycopg.types.json import Jsonb

from engine.config.snapshot import Snapshot
from engine.errors import NotAllowed, NotFound
from engine.http.endpoints import Answer, Ask, Route
from engine.http.keys import find_owner
from engine.http.limit_bodies import (
    FLAT,
    AlertsQuery,
    KeyLimits,
    LimitByText,
    ManyLimits,
    OwnerLimits,
    OwnerQuery,
    RateLimits,
    UsersQuery,
    show_limits,
    write_limits,
)
from engine.policies.access import Need, find_role, to_change, to_look
from engine.storage.audit import Actor
from engine.storage.key_desk import KeyDesk, Reach
from engine.storage.key_usage import read_span_usage
from engine.storage.limit_alerts import list_alerts
from engine.storage.limit_settings import (
    list_limited_users,
    read_each_key,
    set_each_key,
    set_owner_limits,
)
from engine.storage.postgres import Connection, Database
from engine.storage.secrets import KeyRing
from engine.storage.user_listing import find_by_key


class LimitRoutes:
    def __init__(
        self,
        database: Database,
        ring: KeyRing,
        desk: KeyDesk,
        read_snapshot: Callable[[], Snapshot],
        describe: Callable[[], Mapping[str, Any]],
    ) -> None:
        """`describe` tells what this worker knows of limits now."""
        self._database, self._ring, self._desk = database, ring, desk
        self._read_snapshot, self._describe = read_snapshot, describe

    def list(self) -> Sequence[Route]:
        own, any_ = "/user/rate-limits", "/admin/rate-limits"
        return (
            Route("GET", own, self.show_own, "Show the limits of your keys.", need=to_look("api_keys:read")),
            Route("PUT", f"{own}/{{key_id}}", self.change_own, "Tighten the limits of a key.", body=RateLimits,
                  need=to_change("api_keys:update")),
            Route("POST", f"{own}/bulk-update", self.change_many, "Tighten several keys.", body=ManyLimits,
                  need=to_change("api_keys:update")),
            Route("GET", f"{own}/usage/{{key_id}}", self.show_usage, "What a key used of its limits.",
                  need=to_look("usage:read")),
            Route("GET", f"{any_}/system", self.show_system, "How this gateway shares out what it has."),
            Route("GET", f"{any_}/alerts", self.show_alerts, "Whom limits refused lately.", query=AlertsQuery),
            Route("GET", f"{any_}/config", self.show_config, "Show what every key may ask for."),
            Route("GET", f"{any_}/users", self.show_users, "Who has limits of its own.", query=UsersQuery),
            Route("POST", f"{any_}/config", self.set_config, "Limit every key.", body=RateLimits),
            Route("POST", f"{any_}/config/reset", self.reset_config, "Leave every key to its policy."),
            Route("PUT", f"{any_}/update", self.set_owner, "Limit one key or user.", body=OwnerLimits),
            Route("POST", "/admin/limit", self.set_key_by_text, "Limit the key that has this text.",
                  body=LimitByText),
            Route("DELETE", f"{any_}/delete", self.free_owner, "Take these limits away.", query=OwnerQuery),
            Route(
                "GET", "/velocity-mode-status", self.show_velocity, "Whether strangers get less now.",
                need=Need("read", "admin"),
            ),
        )  # fmt: skip

    # --- a user's own

    async def show_own(self, ask: Ask) -> Answer:
        keys = await self._desk.list_keys(self._reach_own(ask))
        return Answer({"status": "success", "rate_limits": [show_key_limits(key) for key in keys]})

    async def change_own(self, ask: Ask) -> Answer:
        owner, key_id = self._reach_own(ask), ask.names["key_id"]
        await self._tighten(owner, key_id, ask.body, ask.by)
        return Answer({"status": "success", **show_key_limits(await self._desk.find(owner, key_id))})

    async def change_many(self, ask: Ask) -> Answer:
        owner = self._reach_own(ask)
        updates: tuple[KeyLimits, ...] = ask.body.updates
        for each in updates:  # all that can be refused is, before anything is changed
            check_ceiling(each, await self._desk.find(owner, each.key_id))
        for each in updates:
            await self._tighten(owner, each.key_id, each, ask.by)
        keys = [show_key_limits(await self._desk.find(owner, each.key_id)) for each in updates]
        return Answer({"status": "success", "updated": len(keys), "rate_limits": keys})

    async def show_usage(self, ask: Ask) -> Answer:
        found = await self._desk.find(self._reach_own(ask), ask.names["key_id"])

        async def work(connection: Connection) -> dict[str, int]:
            return await read_span_usage(connection, found["id"])

        used, limits = await self._database.run(work), show_key_limits(found)["effective"]
        spans = {
            name: {
                "used": used[name],
                "limit": limits[name],
                "remaining": None if limits[name] is None else max(0, limits[name] - used[name]),
            }
            for name in used
        }
        return Answer({"status": "success", "key_id": found["id"], "usage": spans})

    def _reach_own(self, ask: Ask) -> Reach:
        roles = self._read_snapshot().roles
        return Reach(roles, find_role(ask.caller, roles), find_owner(ask.caller))

    # --- everybody's, for administrators

    async def show_system(self, ask: Ask) -> Answer:
        return Answer({"status": "success", **self._describe()})

    async def show_velocity(self, ask: Ask) -> Answer:
        return Answer(self._describe()["edge"])

    async def show_alerts(self, ask: Ask) -> Answer:
        query = ask.query

        async def work(connection: Connection) -> Sequence[dict[str, Any]]:
            return await list_alerts(connection, query.limit + 1, query.before, query.key_id)

        rows = await self._database.run(work)
        shown = [show_alert(row) for row in rows[: query.limit]]
        return Answer({"status": "success", "alerts": shown, "has_more": len(rows) > query.limit})

    async def show_config(self, ask: Ask) -> Answer:
        return show_config(await self._database.run(read_each_key))

    async def set_config(self, ask: Ask) -> Answer:
        async def work(connection: Connection) -> dict[str, Any]:
            stored = (await read_each_key(connection))["limits"]
            return await set_each_key(connection, self._ring, write_limits(ask.body, stored), ask.by)

        return show_config(await self._database.run(work))

    async def reset_config(self, ask: Ask) -> Answer:
        async def work(connection: Connection) -> dict[str, Any]:
            return await set_each_key(connection, self._ring, {}, ask.by)

        return show_config(await self._database.run(work))

    async def show_users(self, ask: Ask) -> Answer:
        async def work(connection: Connection) -> Sequence[dict[str, Any]]:
            return await list_limited_users(connection, ask.query.limit)

        users = [
            {
                **user,
                "limits": show_limits(user["limits"]),
                "keys": {key: show_limits(stored) for key, stored in user["keys"].items()},
            }
            for user in await self._database.run(work)
        ]
        return Answer({"status": "success", "users": users})

    async def set_owner(self, ask: Ask) -> Answer:
        limits = write_limits(ask.body, {})
        await self._set_owner(ask.body, limits, ask.by)
        return Answer({"status": "success", **name_owner(ask.body), "rate_limits": show_limits(limits)})

    async def set_key_by_text(self, ask: Ask) -> Answer:
        async def find(connection: Connection) -> dict[str, Any]:
            return await find_by_key(connection, self._ring, ask.body.api_key)

        key = (await self._database.run(find))["key"]
        asked = OwnerLimits(key_id=key["id"], **ask.body.rate_limits.model_dump(exclude_unset=True))
        limits = write_limits(asked, {})
        await self._set_owner(asked, limits, ask.by)
        return Answer(
            {
                "status": "success",
                "message": "the key has these limits",
                "key_id": key["id"],
                "user_id": key["user_id"],
                "rate_limits": show_limits(limits),
            }
        )

    async def free_owner(self, ask: Ask) -> Answer:
        await self._set_owner(ask.query, {}, ask.by)
        return Answer({"status": "success", **name_owner(ask.query), "deleted": True})

    async def _set_owner(self, asked: OwnerLimits | OwnerQuery, limits: Mapping[str, Any], by: Actor) -> None:
        which = ("key", asked.key_id) if asked.key_id is not None else ("user", asked.user_id or "")

        async def work(connection: Connection) -> bool:
            return await set_owner_limits(connection, self._ring, which, limits, by)

        if not await self._database.run(work):
            raise NotFound(
                f"there is no such {which[0]}", code="key_not_found" if which[0] == "key" else None
            )

    async def _tighten(self, owner: Reach, key_id: str, asked: RateLimits, by: Actor) -> None:
        found = await self._desk.find(owner, key_id)
        check_ceiling(asked, found)
        await self._desk.change(owner, key_id, {"limits": Jsonb(write_limits(asked, found["limits"]))}, by)


def check_ceiling(asked: RateLimits, key: Mapping[str, Any]) -> None:
    """Raises NotAllowed for a number over that of the administrators."""
    ceiling = show_limits(key["ceiling"])
    for name in sorted(asked.model_fields_set & set(FLAT)):
        number, most = getattr(asked, name), ceiling[name]
        if number is not None and most is not None and number > most:
            raise NotAllowed(
                f"{name}: administrators allow this key {most}", code="limit_not_allowed", param=name
            )


def show_key_limits(key: Mapping[str, Any]) -> dict[str, Any]:
    own, ceiling = show_limits(key["limits"]), show_limits(key["ceiling"])
    given = {name: [n for n in (own[name], ceiling[name]) if n is not None] for name in FLAT}
    effective = {name: min(numbers, default=None) for name, numbers in given.items()}
    return {
        "key_id": key["id"],
        "key_name": key["name"],
        "rate_limits": own,
        "allowed": ceiling,
        "effective": effective,
    }


def show_alert(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "id": row["seq"],
        "at": row["at"].isoformat(),
        "key_id": row["key_id"],
        "user_id": row["user_id"],
        "alert_type": row["code"],
        "details": {
            "scope": row["scope"],
            "kind": row["kind"],
            "window_s": row["window_s"] or None,
            "threshold": row["number"],
            "refused": row["refused"],
        },
    }


def show_config(found: Mapping[str, Any]) -> Answer:
    return Answer(
        {
            "status": "success",
            "rate_limits": show_limits(found["limits"]),
            "updated_at": found["updated_at"],
            "updated_by": found["updated_by"],
        }
    )


def name_owner(asked: OwnerLimits | OwnerQuery) -> dict[str, Any]:
    return {"key_id": asked.key_id} if asked.key_id is not None else {"user_id": asked.user_id}
