"""`/teams/{team_id}/api-keys`: keys that a team pays for. They belong to the team, not to who made them.

They infer and nothing else: a key that several people know must not open the account of one.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from engine.config.roles import USER
from engine.config.snapshot import Snapshot
from engine.errors import InvalidRequest, NotAllowed
from engine.http.endpoints import NOT_KEPT, Answer, Ask, Route
from engine.http.key_bodies import TAGS, ChangeKey, CreateKey, DeleteKey
from engine.http.keys import (
    find_owner,
    refuse_beside_rotation,
    show_key,
    show_made,
    write_changes,
    write_request,
)
from engine.policies.access import to_change, to_look
from engine.storage.key_changes import Which
from engine.storage.key_desk import MOST_MADE_PER_HOUR, KeyDesk, Reach
from engine.storage.postgres import Connection, Database
from engine.storage.teams import RANKS, find_member


class TeamKeyRoutes:
    def __init__(self, desk: KeyDesk, database: Database, read_snapshot: Callable[[], Snapshot]) -> None:
        self._desk, self._database, self._read_snapshot = desk, database, read_snapshot

    def list(self) -> Sequence[Route]:
        all_, one = "/teams/{team_id}/api-keys", "/teams/{team_id}/api-keys/{key_id}"
        change = to_change("teams:update")
        return (
            Route("GET", all_, self.list_keys, "List a team's keys.", need=to_look("teams:read")),
            Route("POST", all_, self.create, "Make a key for a team.", body=CreateKey, need=change),
            Route("GET", one, self.show, "Show a key of a team.", need=to_look("teams:read")),
            Route("PUT", one, self.change, "Change or rotate a key of a team.", body=ChangeKey, need=change),
            Route("DELETE", one, self.revoke, "Revoke a key of a team.", body=DeleteKey, need=change),
        )

    async def list_keys(self, ask: Ask) -> Answer:
        await self._find_role(ask)
        shown = [show_key(key) for key in await self._desk.list_keys(self._reach(ask))]
        return Answer({"status": "success", "total_keys": len(shown), "keys": shown})

    async def create(self, ask: Ask) -> Answer:
        await self._find_role(ask)
        check_for_team(ask.body.scope_permissions, ask.body.role)
        request = write_request(ask.body, find_owner(ask.caller), USER)
        scopes = request.scopes if ask.body.scope_permissions is not None else ("inference",)
        request = replace(request, team_id=ask.names["team_id"], scopes=scopes)
        issued = await self._desk.make(
            request, ask.by, roles=self._read_snapshot().roles, most_per_hour=MOST_MADE_PER_HOUR
        )
        made = show_made(ask.body, issued) | {"team_id": ask.names["team_id"]}
        return Answer(made, headers=NOT_KEPT)

    async def show(self, ask: Ask) -> Answer:
        await self._find_role(ask)
        found = await self._desk.find(self._reach(ask), ask.names["key_id"])
        return Answer({"status": "success", "key": show_key(found)})

    async def change(self, ask: Ask) -> Answer:
        await self._check_hold(ask)
        asked, reach, key_id = ask.body, self._reach(ask), ask.names["key_id"]
        if asked.action == "update":
            check_for_team(asked.scope_permissions, asked.role)
            await self._desk.change(reach, key_id, write_changes(asked), ask.by)
            return await self.show(ask)
        refuse_beside_rotation(asked)
        bulk = None
        if asked.action == "bulk_rotate":
            await self._find_role(ask, "admin")
            bulk = Which(environment=TAGS[asked.environment_tag] if asked.environment_tag else None)
        issued = await self._desk.rotate(reach, key_id, asked.grace_period_hours * 3600, ask.by, bulk)
        keys = [{"id": key.id, "key_name": key.name, "api_key": key.key.reveal()} for key in issued]
        body = {"status": "success", "message": "shown once", "rotated": len(keys), "keys": keys}
        return Answer(body | (keys[0] if bulk is None else {}), headers=NOT_KEPT)

    async def revoke(self, ask: Ask) -> Answer:
        await self._check_hold(ask)
        await self._desk.revoke(self._reach(ask), ask.names["key_id"], ask.by)
        return Answer({"status": "success", "message": "the key is revoked", "id": ask.names["key_id"]})

    async def _find_role(self, ask: Ask, at_least: str = "member") -> str:
        team_id, user_id = ask.names["team_id"], find_owner(ask.caller)

        async def work(connection: Connection) -> str:
            return await find_member(connection, team_id, user_id, at_least)

        return await self._database.run(work)

    async def _check_hold(self, ask: Ask) -> None:
        """Members look after the keys that they made, admins and owners after all."""
        role = await self._find_role(ask)
        found = await self._desk.find(self._reach(ask), ask.names["key_id"])
        if RANKS[role] < RANKS["admin"] and found["user_id"] != find_owner(ask.caller):
            raise NotAllowed("another member made this key", code="team_role_too_low")

    def _reach(self, ask: Ask) -> Reach:
        return Reach(self._read_snapshot().roles, USER, team_id=ask.names["team_id"])


def check_for_team(scopes: Sequence[str] | None, role: str | None) -> None:
    if role not in (None, USER):
        raise InvalidRequest("a team's key has the role user", code="invalid_value", param="role")
    if {"read", "admin"} & set(scopes or ()):
        raise InvalidRequest(
            "a team's key may have the scopes inference and models:<glob>",
            code="invalid_value",
            param="scope_permissions",
        )
