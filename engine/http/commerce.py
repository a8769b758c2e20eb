"""The rooms of commerce together: their routes, and the chores that keep what they promise."""

from collections.abc import Sequence
from datetime import UTC, datetime

from engine.config.schema_commerce import NoticesFile, TopUpsFile
from engine.http.coupons import CouponRoutes
from engine.http.credits import CreditRoutes
from engine.http.endpoints import Route
from engine.http.notices import NoticeRoutes, tell_all
from engine.http.plans import PlanRoutes
from engine.http.referrals import ReferralRoutes
from engine.http.till import Till
from engine.http.top_ups import TopUpRoutes
from engine.http.trials import TrialRoutes
from engine.storage.chores import Chore, Chores
from engine.storage.postgres import Connection
from engine.storage.renewals import end_expired_plans, renew_due_allowances
from engine.storage.top_up_charging import OffSessionCharger
from engine.storage.top_ups import top_up_all
from engine.storage.trials import close_ended_trials

_EACH_S = 30.0


class Commerce:
    def __init__(self, till: Till, chores: Chores) -> None:
        self._till = till
        chores.add(*self.list_chores())

    def list_routes(self) -> Sequence[Route]:
        rooms = (
            PlanRoutes(self._till),
            TrialRoutes(self._till),
            CouponRoutes(self._till),
            ReferralRoutes(self._till),
            CreditRoutes(self._till),
            NoticeRoutes(self._till),
            TopUpRoutes(self._till),
        )
        return [route for room in rooms for route in room.list()]

    def list_chores(self) -> Sequence[Chore]:
        return (
            Chore("trials.close", _EACH_S, self._close_trials),
            Chore("plans.renew", _EACH_S, self._renew_plans),
            Chore("notices.tell", self._till.find_rules(NoticesFile).each_s, self._tell),
        )

    def charge_with(self, charger: OffSessionCharger) -> Chore:
        """The chore that tops up balances, for a gateway that can charge people who are not there."""
        rules = self._till.find_rules(TopUpsFile)

        async def top_up() -> None:
            await top_up_all(self._till.database, charger, self._till.find_rules(TopUpsFile))

        return Chore("top_ups.charge", rules.each_s, top_up)

    async def _close_trials(self) -> None:
        await self._till.database.run(close_ended_trials)

    async def _tell(self) -> None:
        await tell_all(self._till)

    async def _renew_plans(self) -> None:
        plans, now = self._till.plans, datetime.now(UTC)

        async def work(connection: Connection) -> None:
            await end_expired_plans(connection, now)
            await renew_due_allowances(connection, plans, now)

        await self._till.database.run(work)
