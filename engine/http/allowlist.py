"""`/api/admin/ip-whitelist`: networks from which nobody is counted before they have shown a key."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from engine.config.networks import Networks, read_address
from engine.errors import InvalidRequest, LimitExceeded, NotFound
from engine.http.endpoints import Answer, Ask, Route
from engine.http.limit_bodies import AllowAddress, AllowedQuery, ChangeAllowed, CheckAddress
from engine.policies.access import Need
from engine.storage.limit_settings import (
    MOST_ALLOWED,
    add_allowed,
    change_allowed,
    find_allowed,
    list_allowed,
)
from engine.storage.postgres import Connection, Database
from engine.storage.secrets import KeyRing

LOOK, CHANGE = Need("read", "admin"), Need("admin", "admin")


class AllowlistRoutes:
    def __init__(self, database: Database, ring: KeyRing) -> None:
        self._database, self._ring = database, ring

    def list(self) -> Sequence[Route]:
        path = "/api/admin/ip-whitelist"
        one = f"{path}/{{id}}"
        return (
            Route("POST", path, self.add, "Let a network in uncounted.", body=AllowAddress, need=CHANGE),
            Route("GET", path, self.show_all, "List these networks.", query=AllowedQuery, need=LOOK),
            Route(
                "POST",
                f"{path}/check",
                self.check,
                "Whether an address is in one.",
                body=CheckAddress,
                need=LOOK,
            ),
            Route("GET", one, self.show, "Show one of them.", need=LOOK),
            Route("PATCH", one, self.change, "Change one of them.", body=ChangeAllowed, need=CHANGE),
            Route("DELETE", one, self.delete, "Count a network again.", need=CHANGE),
        )

    async def add(self, ask: Ask) -> Answer:
        facts = ask.body.model_dump()
        facts["network"] = facts.pop("ip_address")

        async def work(connection: Connection) -> dict[str, Any] | None:
            return await add_allowed(connection, self._ring, facts, ask.by)

        made = await self._database.run(work)
        if made is None:
            raise LimitExceeded(f"there may be {MOST_ALLOWED} entries", code="too_many_entries")
        return Answer(show_entry(made))

    async def show_all(self, ask: Ask) -> Answer:
        query = ask.query

        async def work(connection: Connection) -> Sequence[dict[str, Any]]:
            return await list_allowed(connection, query.limit + 1, query.after)

        rows = await self._database.run(work)
        shown = [show_entry(row) for row in rows[: query.limit]]
        return Answer({"entries": shown, "total": len(shown), "has_more": len(rows) > query.limit})

    async def show(self, ask: Ask) -> Answer:
        async def work(connection: Connection) -> dict[str, Any] | None:
            return await find_allowed(connection, ask.names["id"])

        return Answer(show_entry(await self._database.run(work)))

    async def change(self, ask: Ask) -> Answer:
        changes = ask.body.model_dump(exclude_unset=True)
        if "ip_address" in changes:
            changes["network"] = changes.pop("ip_address")
        return await self._write(ask, changes)

    async def delete(self, ask: Ask) -> Answer:
        await self._write(ask, None)
        return Answer({"id": ask.names["id"], "deleted": True})

    async def check(self, ask: Ask) -> Answer:
        address = ask.body.ip_address
        if read_address(address) is None:
            raise InvalidRequest(
                "ip_address: an address is expected", code="invalid_value", param="ip_address"
            )

        async def work(connection: Connection) -> Sequence[dict[str, Any]]:
            return await list_allowed(connection, MOST_ALLOWED, None)

        now_open = [row for row in await self._database.run(work) if is_open(row)]
        found = next((row for row in now_open if Networks((row["network"],)).hold(address)), None)
        owner = found["user_id"] if found is not None else None
        return Answer({"ip_address": address, "is_whitelisted": found is not None, "user_id": owner})

    async def _write(self, ask: Ask, changes: Mapping[str, Any] | None) -> Answer:
        async def work(connection: Connection) -> dict[str, Any] | None:
            return await change_allowed(connection, self._ring, ask.names["id"], changes, ask.by)

        return Answer(show_entry(await self._database.run(work)))


def is_open(row: Mapping[str, Any]) -> bool:
    ends = row["expires_at"]
    return bool(row["enabled"]) and (ends is None or ends.timestamp() > time.time())


def show_entry(row: Mapping[str, Any] | None) -> dict[str, Any]:
    if row is None:
        raise NotFound("there is no such entry")
    moments = {
        name: row[name] and row[name].isoformat() for name in ("expires_at", "created_at", "updated_at")
    }
    rest = {name: row[name] for name in ("id", "reason", "user_id", "metadata", "created_by", "enabled")}
    return {"ip_address": row["network"], **rest, **moments}
