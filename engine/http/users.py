"""`/admin/users`: who has an account, found, counted and changed. Keys are named by id and last letters only."""

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from engine.config.schema_base import Name, Strict
from engine.config.snapshot import Snapshot
from engine.errors import InvalidRequest
from engine.http.endpoints import Answer, Ask, Route
from engine.http.teams import check_plan
from engine.policies.access import find_role, to_change, to_look
from engine.storage.key_rules import Text
from engine.storage.postgres import Connection, Database
from engine.storage.secrets import KeyRing
from engine.storage.user_changes import CHANGEABLE, Desk, end_users_of, update_user
from engine.storage.user_listing import (
    count_users,
    find_by_key,
    list_growth,
    list_users,
    read_user,
    sum_up_users,
)

_DOMAIN = re.compile(r"(?=.{1,253}\Z)([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z0-9-]{2,63}", re.IGNORECASE)
Status = Literal["active", "bot", "suspended"]
"""bot and suspended: no inference with the keys of this account."""
Short = Annotated[Text, StringConstraints(min_length=1, max_length=320)]


class UsersQuery(Strict):
    email: Short | None = None
    is_active: bool | None = None
    status: Status | None = None
    role: Name | None = None
    plan: Name | Literal[""] | None = None
    key_id: Short | None = None
    limit: Annotated[int, Field(ge=1, le=1000)] = 100
    offset: Annotated[int, Field(ge=0, le=10**9)] = 0


class GrowthQuery(Strict):
    days: Annotated[int, Field(ge=1, le=365)] = 30


class ChangeUser(Strict):
    name: Annotated[Text, StringConstraints(max_length=200)] | None = None
    plan: Name | Literal[""] | None = None
    prepaid: bool | None = None
    is_active: bool | None = None
    status: Status | None = None


class FindByKey(Strict):
    """In the body: what stands in an address stands in logs."""

    api_key: Annotated[Text, StringConstraints(min_length=1, max_length=300)]


class EndUsers(Strict):
    confirmation: Literal["DELETE_USERS"]
    dry_run: bool = True


class UserRoutes:
    def __init__(self, database: Database, ring: KeyRing, read_snapshot: Callable[[], Snapshot]) -> None:
        self._database, self._ring, self._read_snapshot = database, ring, read_snapshot

    def list(self) -> Sequence[Route]:
        path = "/admin/users"
        numbers = to_look("analytics:read")
        return (
            Route("GET", path, self.list_users, "List users.", query=UsersQuery, need=to_look("users:list")),
            Route("GET", f"{path}/growth", self.show_growth, "How many users came on each day.",
                  query=GrowthQuery, need=numbers),
            Route("GET", f"{path}/count", self.count, "How many users there are.", need=numbers),
            Route("GET", f"{path}/stats", self.show_stats, "Users by role and plan, and what they have.",
                  need=to_look("users:list")),
            Route("POST", f"{path}/by-api-key", self.find_by_key, "Whose key this is.", body=FindByKey,
                  need=to_look("users:read")),
            Route("DELETE", f"{path}/by-domain/{{domain}}", self.end_domain,
                  "Deactivate all users with an address at a domain, and revoke their keys.", body=EndUsers,
                  need=to_change("users:delete")),
            Route("GET", f"{path}/{{user_id}}", self.show, "Show a user.", need=to_look("users:read")),
            Route("PATCH", f"{path}/{{user_id}}", self.change,
                  "Change a user's name, plan, mark, whether calls are paid before, whether the account is active.",
                  body=ChangeUser, need=to_change("users:update")),
        )  # fmt: skip

    # --- looking

    async def list_users(self, ask: Ask) -> Answer:
        query: UsersQuery = ask.query
        limit, offset = query.limit, query.offset
        filters = query.model_dump(exclude_none=True, exclude={"limit", "offset"})

        async def work(connection: Connection) -> tuple[int, list[dict[str, Any]]]:
            return await list_users(connection, filters, limit, offset)

        total, users = await self._database.run(work)
        return _succeed({
            "total_users": total,
            "has_more": offset + len(users) < total,
            "pagination": {
                "limit": limit,
                "offset": offset,
                "current_page": offset // limit + 1,
                "total_pages": -(-total // limit),
            },
            "filters_applied": filters,
            "users": users,
        })  # fmt: skip

    async def show(self, ask: Ask) -> Answer:
        return _succeed({"user": await self._read(ask.names["user_id"])})

    async def find_by_key(self, ask: Ask) -> Answer:
        async def work(connection: Connection) -> dict[str, Any]:
            return await find_by_key(connection, self._ring, ask.body.api_key)

        return _succeed(await self._database.run(work))

    async def show_growth(self, ask: Ask) -> Answer:
        async def work(connection: Connection) -> list[dict[str, Any]]:
            return await list_growth(connection, ask.query.days)

        days = await self._database.run(work)
        came = sum(day["new_users"] for day in days)
        return _succeed({"days": len(days), "new_users": came, "data": days})

    async def count(self, ask: Ask) -> Answer:
        return _succeed(await self._database.run(count_users))

    async def show_stats(self, ask: Ask) -> Answer:
        return _succeed(await self._database.run(sum_up_users))

    # --- changing

    async def change(self, ask: Ask) -> Answer:
        user_id, named = ask.names["user_id"], ask.body.model_fields_set
        changes = {name: getattr(ask.body, name) for name in CHANGEABLE if name in named}
        if not changes or None in changes.values():
            raise InvalidRequest(
                "name at least one of name, plan, prepaid, is_active, status, and none as null"
            )
        check_plan(self._read_snapshot(), changes.get("plan"))
        desk = self._open_desk(ask)

        async def work(connection: Connection) -> None:
            await update_user(connection, desk, user_id, changes)

        await self._database.run(work)
        return _succeed({"user": await self._read(user_id)})

    async def end_domain(self, ask: Ask) -> Answer:
        domain, dry_run, desk = ask.names["domain"], ask.body.dry_run, self._open_desk(ask)
        if not _DOMAIN.fullmatch(domain):
            raise InvalidRequest("this is not the name of a domain", code="invalid_value", param="domain")

        async def work(connection: Connection) -> list[dict[str, Any]]:
            return await end_users_of(connection, desk, domain, dry_run=dry_run)

        users = await self._database.run(work)
        return _succeed({
            "domain": domain.lower(),
            "dry_run": dry_run,
            "total_users": len(users),
            "total_api_keys": sum(user["api_keys"] for user in users),
            "users": users,
        })  # fmt: skip

    def _open_desk(self, ask: Ask) -> Desk:
        roles = self._read_snapshot().roles
        return Desk(self._ring, roles, ask.by, find_role(ask.caller, roles))

    async def _read(self, user_id: str) -> dict[str, Any]:
        async def work(connection: Connection) -> dict[str, Any]:
            return await read_user(connection, user_id)

        return await self._database.run(work)


def _succeed(shown: Mapping[str, Any]) -> Answer:
    return Answer({"status": "success", **shown, "timestamp": datetime.now(UTC).isoformat()})
