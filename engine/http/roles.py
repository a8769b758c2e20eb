"""`/admin/roles`: which roles there are, what they may, who has them, and giving a user another one."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import Field, StringConstraints

from engine.config.roles import Roles
from engine.config.schema_base import Name, Strict
from engine.config.snapshot import Snapshot
from engine.errors import InvalidRequest, NotFound
from engine.http.endpoints import Answer, Ask, Route
from engine.policies.access import find_role, to_change, to_look
from engine.storage.audit import list_events
from engine.storage.key_rules import Text
from engine.storage.postgres import Connection, Database
from engine.storage.roles import ROLE_EVENT, RoleChange, change_role, list_holders, read_role
from engine.storage.secrets import KeyRing


class UpdateRole(Strict):
    """POST /admin/roles/update"""

    user_id: Annotated[Text, StringConstraints(min_length=1, max_length=100)]
    new_role: Name
    reason: Annotated[Text, StringConstraints(max_length=500)] = ""


class HoldersQuery(Strict):
    limit: Annotated[int, Field(ge=1, le=1000)] = 100
    offset: Annotated[int, Field(ge=0, le=10**9)] = 0


class ChangesQuery(Strict):
    user_id: Annotated[Text, StringConstraints(max_length=100)] | None = None
    limit: Annotated[int, Field(ge=1, le=1000)] = 100
    before: Annotated[int, Field(ge=1, le=2**62)] | None = None


class RoleRoutes:
    def __init__(self, database: Database, ring: KeyRing, read_snapshot: Callable[[], Snapshot]) -> None:
        self._database, self._ring, self._read_snapshot = database, ring, read_snapshot

    def list(self) -> Sequence[Route]:
        path = "/admin/roles"
        return (
            Route("GET", path, self.list_roles, "List the roles.", need=to_look("roles:read")),
            Route("POST", f"{path}/update", self.update, "Give a user another role.", body=UpdateRole,
                  need=to_change("roles:update")),
            Route("GET", f"{path}/audit/log", self.list_changes, "Who gave which role to whom.",
                  query=ChangesQuery, need=to_look("audit_logs:read")),
            Route("GET", f"{path}/list/{{role}}", self.list_holders, "List the users who have a role.",
                  query=HoldersQuery, need=to_look("users:list")),
            Route("GET", f"{path}/permissions/{{role}}", self.show_role, "What a role may.",
                  need=to_look("roles:read")),
            Route("GET", f"{path}/{{user_id}}", self.show_user, "Which role a user has, and what it may.",
                  need=to_look("users:read")),
        )  # fmt: skip

    @property
    def _roles(self) -> Roles:
        return self._read_snapshot().roles

    async def list_roles(self, ask: Ask) -> Answer:
        roles = self._roles
        shown = [
            show_role(roles, name) for name in sorted(roles.files, key=lambda name: roles.find(name).level)
        ]
        return Answer({"status": "success", "total_roles": len(shown), "roles": shown})

    async def show_role(self, ask: Ask) -> Answer:
        name, roles = ask.names["role"], self._roles
        if name not in roles:
            raise NotFound("no file declares this role", code="role_not_found")
        return Answer({"status": "success", **show_role(roles, name)})

    async def show_user(self, ask: Ask) -> Answer:
        user_id = ask.names["user_id"]

        async def work(connection: Connection) -> dict[str, Any]:
            return await read_role(connection, user_id)

        found = await self._database.run(work)
        return Answer({"status": "success", **found, **show_role(self._roles, found["role"])})

    async def update(self, ask: Ask) -> Answer:
        asked, roles = ask.body, self._roles
        if asked.new_role not in roles:
            raise InvalidRequest("no file declares this role", code="invalid_value", param="new_role")
        change = RoleChange(asked.user_id, asked.new_role, asked.reason, find_role(ask.caller, roles))

        async def work(connection: Connection) -> str:
            return await change_role(connection, self._ring, roles, change, ask.by)

        before = await self._database.run(work)
        return Answer({
            "status": "success",
            "message": "the user has the role now",
            "user_id": asked.user_id,
            "old_role": before,
            "new_role": asked.new_role,
            "reason": asked.reason,
            "changed_by": ask.caller.user_id,
            "timestamp": datetime.now(UTC).isoformat(),
        })  # fmt: skip

    async def list_holders(self, ask: Ask) -> Answer:
        role, query = ask.names["role"], ask.query

        async def work(connection: Connection) -> tuple[int, list[dict[str, Any]]]:
            return await list_holders(connection, role, query.limit, query.offset)

        total, users = await self._database.run(work)
        more = query.offset + len(users) < total
        return Answer({
            "status": "success", "role": role, "total_users": total, "has_more": more, "users": users,
        })  # fmt: skip

    async def list_changes(self, ask: Ask) -> Answer:
        query = ask.query
        filters = {"action": ROLE_EVENT}
        if query.user_id is not None:
            filters["owner"] = query.user_id

        async def work(connection: Connection) -> tuple[list[dict[str, Any]], bool]:
            return await list_events(connection, filters, query.limit, query.before)

        events, more = await self._database.run(work)
        logs = [show_change(event) for event in events]
        return Answer({"status": "success", "total_logs": len(logs), "has_more": more, "logs": logs})


def show_role(roles: Roles, name: str) -> dict[str, Any]:
    role, file = roles.find(name), roles.files.get(name)
    return {
        "role": name,
        "level": role.level,
        "description": file.description if file is not None else "",
        "is_declared": file is not None,
        "permissions": sorted(role.permissions),
    }


def show_change(event: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "seq": event["seq"],
        "user_id": event["subject"],
        "old_role": event["before"]["role"],
        "new_role": event["after"]["role"],
        "reason": event["after"]["reason"],
        "changed_by": event["by"]["user_id"],
        "by": event["by"],
        "created_at": event["at"],
    }
