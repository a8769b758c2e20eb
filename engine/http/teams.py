"""`/teams`: teams with members and keys that the team pays for; `/admin/teams` for who runs the gateway.

What a member may do is decided in storage/teams.py; a team of somebody else is not there.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, model_validator

from engine.config.schema_base import Name, Strict
from engine.config.schema_plan import PlanFile
from engine.config.snapshot import Snapshot
from engine.errors import InvalidRequest
from engine.http.endpoints import Answer, Ask, Route
from engine.http.keys import find_owner
from engine.policies.access import to_change, to_look
from engine.storage.key_rules import Text
from engine.storage.postgres import Connection, Database
from engine.storage.secrets import KeyRing
from engine.storage.team_members import (
    answer_invitation,
    find_address,
    invite,
    list_invitations,
    list_invited,
    list_members,
    remove_member,
    set_member,
)
from engine.storage.teams import (
    RANKS,
    Change,
    create_team,
    end_team,
    find_member,
    list_all_teams,
    list_teams,
    make_team_id,
    read_team,
    update_team,
)

TeamName = Annotated[Text, StringConstraints(min_length=1, max_length=100, strip_whitespace=True)]
Id = Annotated[Text, StringConstraints(min_length=1, max_length=100)]
Address = Annotated[
    Text, StringConstraints(min_length=3, max_length=254, strip_whitespace=True, pattern=r"^[^@\s]+@[^@\s]+$")
]
MemberRole = Literal["owner", "admin", "member"]


class NameTeam(Strict):
    name: TeamName


class MakeTeam(NameTeam):
    owner: Id


class EndTeam(Strict):
    confirmation: Literal["DELETE_TEAM"]
    keys: Literal["revoke", "keep"] = "revoke"


class AddMember(Strict):
    email: Address | None = None
    user_id: Id | None = None
    role: Literal["admin", "member"] = "member"

    @model_validator(mode="after")
    def _check_one(self) -> "AddMember":
        if (self.email is None) == (self.user_id is None):
            raise ValueError("email or user_id is expected, one of them")
        return self


class ChangeMember(Strict):
    role: MemberRole


class ChangeTeam(Strict):
    name: TeamName | None = None
    plan: Name | Literal[""] | None = None
    prepaid: bool | None = None
    active: bool | None = None


class TeamsQuery(Strict):
    active: bool | None = None
    limit: Annotated[int, Field(ge=1, le=1000)] = 100
    offset: Annotated[int, Field(ge=0, le=10**9)] = 0


class TeamRoutes:
    def __init__(self, database: Database, ring: KeyRing, read_snapshot: Callable[[], Snapshot]) -> None:
        self._database, self._ring, self._read_snapshot = database, ring, read_snapshot

    def list(self) -> Sequence[Route]:
        one, members, asked = "/teams/{team_id}", "/teams/{team_id}/members", "/teams/invitations"
        member, invitation = f"{members}/{{user_id}}", f"{asked}/{{team_id}}"
        look, change = to_look("teams:read"), to_change("teams:update")
        return (
            Route("POST", "/teams", self.create, "Make a team that you own.", body=NameTeam,
                  need=to_change("teams:create")),
            Route("GET", "/teams", self.list_own, "List your teams.", need=to_look("teams:list")),
            Route("GET", asked, self.list_invitations, "Teams that ask you to join.", need=look),
            Route("POST", invitation, self.join, "Join a team that asked you.", need=change),
            Route("DELETE", invitation, self.decline, "Decline.", need=change),
            Route("GET", one, self.show, "Show a team of yours.", need=look),
            Route("PUT", one, self.rename, "Rename it.", body=NameTeam, need=change),
            Route("DELETE", one, self.end, "End it.", body=EndTeam, need=to_change("teams:delete")),
            Route("GET", members, self.list_members, "List its members.", need=look),
            Route("POST", members, self.add_member, "Ask somebody to join.", body=AddMember, need=change),
            Route("PUT", member, self.change_member, "Give a member another role.", body=ChangeMember,
                  need=change),
            Route("DELETE", member, self.remove_member, "Take a member out, or leave.", need=change),
            Route("GET", "/admin/teams", self.list_all, "List all teams.", query=TeamsQuery,
                  need=to_look("any_teams:list")),
            Route("POST", "/admin/teams", self.create_for, "Make a team for a user.", body=MakeTeam,
                  need=to_change("any_teams:create")),
            Route("GET", "/admin/teams/{team_id}", self.show_any, "Show a team with its members.",
                  need=to_look("any_teams:read")),
            Route("PATCH", "/admin/teams/{team_id}", self.change_any,
                  "Change a team's name, plan, whether it pays before, whether it is active.",
                  body=ChangeTeam, need=to_change("any_teams:update")),
        )  # fmt: skip

    async def create(self, ask: Ask) -> Answer:
        return await self._create(ask, find_owner(ask.caller))

    async def create_for(self, ask: Ask) -> Answer:
        return await self._create(ask, ask.body.owner)

    async def _create(self, ask: Ask, owner: str) -> Answer:
        team_id, change = make_team_id(), self._change(ask)

        async def work(connection: Connection) -> dict[str, Any]:
            await create_team(connection, change, team_id, ask.body.name, owner)
            return await read_team(connection, team_id)

        return Answer({"status": "success", "team": await self._database.run(work)})

    async def list_own(self, ask: Ask) -> Answer:
        owner = find_owner(ask.caller)
        teams = await self._database.run(lambda connection: list_teams(connection, owner))
        return Answer({"status": "success", "total_teams": len(teams), "teams": teams})

    async def show(self, ask: Ask) -> Answer:
        async def read(connection: Connection) -> dict[str, Any]:
            return {"team": await read_team(connection, ask.names["team_id"])}

        return await self._within(ask, "member", read)

    async def rename(self, ask: Ask) -> Answer:
        change = self._change(ask)

        async def work(connection: Connection) -> dict[str, Any]:
            await update_team(connection, change, ask.names["team_id"], {"name": ask.body.name})
            return {"team": await read_team(connection, ask.names["team_id"])}

        return await self._within(ask, "admin", work)

    async def end(self, ask: Ask) -> Answer:
        change, revoke = self._change(ask), ask.body.keys == "revoke"

        async def work(connection: Connection) -> dict[str, Any]:
            count = await end_team(connection, change, ask.names["team_id"], revoke_keys=revoke)
            return {"message": "the team is ended", "revoked_keys": count}

        return await self._within(ask, "owner", work)

    async def list_members(self, ask: Ask) -> Answer:
        team_id = ask.names["team_id"]

        async def work(connection: Connection) -> dict[str, Any]:
            role = await find_member(connection, team_id, find_owner(ask.caller))
            shown: dict[str, Any] = {"members": await list_members(connection, team_id)}
            if RANKS[role] >= RANKS["admin"]:
                shown["invited"] = await list_invited(connection, team_id)
            return shown

        return await self._within(ask, "member", work)

    async def add_member(self, ask: Ask) -> Answer:
        change, asked = self._change(ask), ask.body

        async def work(connection: Connection) -> dict[str, Any]:
            email = asked.email or await find_address(connection, asked.user_id or "", change.user_id)
            await invite(connection, change, ask.names["team_id"], email, asked.role)
            return {"message": "whoever has this address is asked to join", "role": asked.role}

        return await self._within(ask, "admin", work)

    async def change_member(self, ask: Ask) -> Answer:
        change, (team_id, user_id) = self._change(ask), (ask.names["team_id"], ask.names["user_id"])

        async def work(connection: Connection) -> dict[str, Any]:
            before = await set_member(connection, change, team_id, user_id, ask.body.role)
            return {"user_id": user_id, "old_role": before, "new_role": ask.body.role}

        return await self._within(ask, "admin", work)

    async def remove_member(self, ask: Ask) -> Answer:
        change, (team_id, user_id) = self._change(ask), (ask.names["team_id"], ask.names["user_id"])

        async def work(connection: Connection) -> dict[str, Any]:
            await remove_member(connection, change, team_id, user_id)
            return {"user_id": user_id, "removed": True}

        return await self._within(ask, "member", work)

    async def list_invitations(self, ask: Ask) -> Answer:
        owner = find_owner(ask.caller)
        found = await self._database.run(lambda connection: list_invitations(connection, owner))
        return Answer({"status": "success", "invitations": found})

    async def join(self, ask: Ask) -> Answer:
        return await self._answer(ask, join=True)

    async def decline(self, ask: Ask) -> Answer:
        return await self._answer(ask, join=False)

    async def _answer(self, ask: Ask, *, join: bool) -> Answer:
        change, team_id = replace(self._change(ask), user_id=find_owner(ask.caller)), ask.names["team_id"]

        async def work(connection: Connection) -> str:
            return await answer_invitation(connection, change, team_id, join=join)

        role = await self._database.run(work)
        return Answer({"status": "success", "team_id": team_id, "joined": join, "role": role})

    # --- who runs the gateway

    async def list_all(self, ask: Ask) -> Answer:
        query = ask.query

        async def work(connection: Connection) -> tuple[int, list[dict[str, Any]]]:
            return await list_all_teams(connection, query.active, query.limit, query.offset)

        total, teams = await self._database.run(work)
        more = query.offset + len(teams) < total
        return Answer({"status": "success", "total_teams": total, "has_more": more, "teams": teams})

    async def show_any(self, ask: Ask) -> Answer:
        return Answer({"status": "success", **await self._database.run(lambda c: self._show_whole(c, ask))})

    async def change_any(self, ask: Ask) -> Answer:
        change = self._change(ask)
        changes = {name: getattr(ask.body, name) for name in ask.body.model_fields_set}
        if not changes or None in changes.values():
            raise InvalidRequest("name at least one of name, plan, prepaid, active, and none as null")
        check_plan(self._read_snapshot(), changes.get("plan"))

        async def work(connection: Connection) -> dict[str, Any]:
            await update_team(connection, change, ask.names["team_id"], changes)
            return await self._show_whole(connection, ask)

        return Answer({"status": "success", **await self._database.run(work)})

    async def _show_whole(self, connection: Connection, ask: Ask) -> dict[str, Any]:
        team_id = ask.names["team_id"]
        team = await read_team(connection, team_id)
        return {"team": team, "members": await list_members(connection, team_id)}

    async def _within(
        self, ask: Ask, at_least: str, work: Callable[[Connection], Awaitable[dict[str, Any]]]
    ) -> Answer:
        """What `work` tells, for a member of the team that the path names with at least this role."""
        owner, team_id = find_owner(ask.caller), ask.names["team_id"]

        async def check_and_work(connection: Connection) -> dict[str, Any]:
            await find_member(connection, team_id, owner, at_least)
            return await work(connection)

        return Answer({"status": "success", **await self._database.run(check_and_work)})

    def _change(self, ask: Ask) -> Change:
        return Change(self._ring, ask.by, ask.caller.user_id)


def check_plan(snapshot: Snapshot, plan: str | None) -> None:
    if plan and plan not in snapshot.declared(PlanFile):
        raise InvalidRequest("no file declares this plan", code="invalid_value", param="plan")
