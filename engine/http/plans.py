"""`/plans`, `/user/plan*` and `/admin/assign-plan`: what is offered, what somebody has, and giving a plan."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import Field, StringConstraints

from engine.config.schema_base import Strict
from engine.config.schema_plan import PlanFile
from engine.errors import NotFound
from engine.http.endpoints import KEPT_A_WHILE, Answer, Ask, Route
from engine.http.keys import find_owner
from engine.http.till import Till, UserId, show_usd
from engine.policies.access import to_change
from engine.storage.audit import Event, write_event
from engine.storage.key_rules import Text
from engine.storage.plan_terms import PlanTerm, find_plan, put_on_plan, read_term, read_user_plan
from engine.storage.postgres import Connection
from engine.storage.trials import Used, sum_usage

_EVERYTHING = "*"
PlanId = Annotated[Text, StringConstraints(min_length=1, max_length=100)]


class FeatureQuery(Strict):
    feature: Annotated[Text, StringConstraints(max_length=100)] = ""


class AssignPlan(Strict):
    user_id: UserId
    plan_id: PlanId
    duration_months: Annotated[int, Field(ge=1, le=120)] | None = None
    """Nothing: until another is given."""


class PlanRoutes:
    def __init__(self, till: Till) -> None:
        self._till = till

    def list(self) -> Sequence[Route]:
        return (
            Route("GET", "/plans", self.list_plans, "List the plans.", public=True),
            Route("GET", "/plans/{plan_id}", self.show_plan, "Show a plan.", public=True),
            Route("GET", "/subscription/plans", self.list_tiers, "The plans that are sold, and the trial.",
                  public=True),
            Route("GET", "/user/plan", self.show_own, "Your plan."),
            Route("GET", "/user/plan/usage", self.show_usage, "What you used of your plan's quotas."),
            Route("GET", "/user/plan/entitlements", self.show_entitlements, "What your plan allows.",
                  query=FeatureQuery),
            Route("POST", "/admin/assign-plan", self.assign, "Give a user a plan.", body=AssignPlan,
                  need=to_change("plans:assign")),
        )  # fmt: skip

    async def list_plans(self, ask: Ask) -> Answer:
        plans = [show_plan(plan) for plan in self._offered()]
        return Answer(plans, headers=KEPT_A_WHILE)

    async def show_plan(self, ask: Ask) -> Answer:
        plan = self._till.plans.get(ask.names["plan_id"])
        if plan is None or not plan.active:
            raise NotFound("there is no such plan", code="plan_not_found")
        return Answer(show_plan(plan), headers=KEPT_A_WHILE)

    async def list_tiers(self, ask: Ask) -> Answer:
        sold = [plan for plan in self._offered() if plan.price.month or plan.plan in ("default", "free")]
        tiers = [
            show_plan(plan) | {"tier": plan.plan, "monthly_allowance_usd": show_usd(plan.allowance_usd)}
            for plan in sold
        ]
        trial = self._till.trials["default"]
        trial_info = {
            "trial_days": trial.days,
            "trial_credits": show_usd(trial.credit_usd),
            "trial_tokens": trial.tokens,
            "trial_requests": trial.requests,
            "active": trial.active,
        }
        return Answer({"success": True, "plans": tiers, "trial_info": trial_info}, headers=KEPT_A_WHILE)

    async def show_own(self, ask: Ask) -> Answer:
        plan, term = await self._find(find_owner(ask.caller))
        return Answer(
            {
                "has_plan": plan.plan != "default",
                "plan_id": plan.plan,
                "plan_name": plan.name_for_people,
                **show_plan(plan),
                "allowance_usd": show_usd(plan.allowance_usd),
                "started_at": term.started_at.isoformat() if term else None,
                "plan_expires": _show_end(term),
                "allowance_until": _show_time(term.allowance_until) if term else None,
                "source": term.source if term else None,
            }
        )

    async def show_usage(self, ask: Ask) -> Answer:
        owner, now = find_owner(ask.caller), datetime.now(UTC)
        plan, _ = await self._find(owner)
        today = now.replace(hour=0, minute=0, second=0, microsecond=0)

        async def work(connection: Connection) -> tuple[Used, Used]:
            month = await sum_usage(connection, owner, today.replace(day=1))
            return await sum_usage(connection, owner, today), month

        day, month = await self._till.run(work)
        used = {
            "daily_requests": day.requests,
            "monthly_requests": month.requests,
            "daily_tokens": day.tokens,
            "monthly_tokens": month.tokens,
        }
        limits = {name.removesuffix("_limit") + "s": most for name, most in show_quotas(plan).items()}
        remaining = {
            name: None if most is None else max(0, most - used[name]) for name, most in limits.items()
        }
        return Answer(
            {
                "plan_name": plan.name_for_people,
                "usage": used,
                "limits": limits,
                "remaining": remaining,
                "at_limit": {name: left == 0 for name, left in remaining.items()},
            }
        )

    async def show_entitlements(self, ask: Ask) -> Answer:
        plan, term = await self._find(find_owner(ask.caller))
        feature = ask.query.feature
        return Answer(
            {
                "has_plan": plan.plan != "default",
                "plan_name": plan.name_for_people,
                **show_quotas(plan),
                "features": plan.features,
                "can_access_feature": not feature or bool({feature, _EVERYTHING} & set(plan.features)),
                "plan_expires": _show_end(term),
                "plan_expired": False,
            }
        )

    async def assign(self, ask: Ask) -> Answer:
        asked: AssignPlan = ask.body
        plan = self._till.plans.get(asked.plan_id)
        if plan is None:
            raise NotFound("there is no such plan", code="plan_not_found")

        async def work(connection: Connection) -> datetime | None:
            return await assign_plan(connection, self._till, ask, plan)

        ends_at = await self._till.run(work)
        return Answer(
            {
                "status": "success",
                "message": f"{asked.user_id} has the plan {plan.plan}",
                "user_id": asked.user_id,
                "plan_id": plan.plan,
                "plan_name": plan.name_for_people,
                "duration_months": asked.duration_months,
                "expires_at": _show_time(ends_at),
                "timestamp": datetime.now(UTC).isoformat(),
            }
        )

    def _offered(self) -> Sequence[PlanFile]:
        found = [plan for plan in self._till.plans.values() if plan.active]
        return sorted(found, key=lambda plan: (plan.price.month, plan.plan))

    async def _find(self, user_id: str) -> tuple[PlanFile, PlanTerm | None]:
        async def work(connection: Connection) -> tuple[str, PlanTerm | None]:
            name = await read_user_plan(connection, user_id)
            return name, await read_term(connection, f"user:{user_id}")

        name, term = await self._till.run(work)
        return find_plan(self._till.plans, name), term


async def assign_plan(connection: Connection, till: Till, ask: Ask, plan: PlanFile) -> datetime | None:
    """Until when; the first month's allowance is given by the chore that gives the others."""
    asked: AssignPlan = ask.body
    before = await read_user_plan(connection, asked.user_id)
    row = await (
        await connection.execute(
            "SELECT (now() AT TIME ZONE 'UTC' + %s * interval '1 month') AT TIME ZONE 'UTC'",
            (asked.duration_months,),
        )
    ).fetchone()
    ends_at: datetime | None = row[0] if row is not None else None
    payer = f"user:{asked.user_id}"
    follows = await find_what_follows(connection, payer)
    await put_on_plan(
        connection,
        payer,
        plan.plan,
        source="admin",
        ends_at=ends_at,
        falls_back_to=follows if ends_at else "",
    )
    after = {"plan": plan.plan, "ends_at": _show_time(ends_at)}
    event = Event("plan.assign", asked.user_id, asked.user_id, {"plan": before}, after)
    await write_event(connection, till.ring, ask.by, event)
    return ends_at


async def find_what_follows(connection: Connection, payer: str) -> str:
    """The plan that an administrator gave without an end: it is there again when one with an end is over."""
    term = await read_term(connection, payer)
    if term is None or term.source != "admin":
        return ""
    return term.plan if term.ends_at is None else term.falls_back_to


def show_plan(plan: PlanFile) -> dict[str, Any]:
    return {
        "id": plan.plan,
        "name": plan.name_for_people,
        "description": plan.description,
        "plan_type": plan.plan_type,
        **show_quotas(plan),
        "price_per_month": show_usd(plan.price.month),
        "yearly_price": None if plan.price.year is None else show_usd(plan.price.year),
        "price_per_token": None,  # nosec B105 # no password
        "is_pay_as_you_go": plan.pay_as_you_go,
        "max_concurrent_requests": plan.limits.concurrency,
        "features": plan.features,
        "is_active": plan.active,
    }


def show_quotas(plan: PlanFile) -> dict[str, int | None]:
    requests, tokens = plan.limits.requests, plan.limits.tokens
    return {
        "daily_request_limit": requests.day,
        "monthly_request_limit": requests.month,
        "daily_token_limit": tokens.day,
        "monthly_token_limit": tokens.month,
    }


def _show_end(term: PlanTerm | None) -> str | None:
    return _show_time(term.ends_at) if term is not None else None


def _show_time(moment: datetime | None) -> str | None:
    return moment.isoformat() if moment is not None else None
