"""`/admin/budgets`: what users and teams may spend in a day, a week, a month or in all."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from engine.config.schema_base import Strict
from engine.http.endpoints import Answer, Ask, Route
from engine.storage.budgets import read_budgets, set_budgets
from engine.storage.key_rules import Budgets
from engine.storage.postgres import Database
from engine.storage.secrets import KeyRing


class SetBudgets(Strict):
    """PUT /admin/budgets/...: all that are to be in force."""

    budgets: Budgets


class BudgetRoutes:
    def __init__(self, database: Database, ring: KeyRing) -> None:
        self._database, self._ring = database, ring

    def list(self) -> Sequence[Route]:
        user, team = "/admin/budgets/users/{user_id}", "/admin/budgets/teams/{team_id}"
        return (
            Route("GET", user, self.show_of_user, "A user's budgets, and what is spent of them."),
            Route("PUT", user, self.set_of_user, "Set a user's budgets.", body=SetBudgets),
            Route("GET", team, self.show_of_team, "A team's budgets, and what is spent of them."),
            Route("PUT", team, self.set_of_team, "Set a team's budgets.", body=SetBudgets),
        )

    async def show_of_user(self, ask: Ask) -> Answer:
        return await self._show("user", ask.names["user_id"])

    async def show_of_team(self, ask: Ask) -> Answer:
        return await self._show("team", ask.names["team_id"])

    async def set_of_user(self, ask: Ask) -> Answer:
        return await self._set("user", ask.names["user_id"], ask)

    async def set_of_team(self, ask: Ask) -> Answer:
        return await self._set("team", ask.names["team_id"], ask)

    async def _show(self, kind: str, owner: str) -> Answer:
        return _answer(await self._database.run(partial(read_budgets, kind=kind, owner=owner)))

    async def _set(self, kind: str, owner: str, ask: Ask) -> Answer:
        work = partial(
            set_budgets, ring=self._ring, kind=kind, owner=owner, budgets=ask.body.budgets, by=ask.by
        )
        return _answer(await self._database.run(work))


def _answer(facts: dict[str, Any]) -> Answer:
    return Answer({"status": "success", **facts})
