"""`/trial/status`, `/partner-trials` and `/admin/trial/analytics`."""

from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from psycopg.rows import dict_row

from engine.config.schema_base import Strict
from engine.config.schema_trial import TrialFile
from engine.errors import NotFound
from engine.http.endpoints import Answer, Ask, Route
from engine.http.keys import find_owner
from engine.http.till import Code, Till, show_usd
from engine.policies.access import Need, to_change, to_look
from engine.storage.audit import Event, write_event
from engine.storage.postgres import Connection
from engine.storage.trials import Trial, Used, end_trial_now, read_trial, start_trial, sum_usage

_LOOK, _CHANGE = Need("read"), Need("admin")
_NOTHING = Used(0, 0, Decimal(0))


class StartTrial(Strict):
    partner_code: Code | None = None
    """Nothing: the trial that needs no code."""


class TrialRoutes:
    def __init__(self, till: Till) -> None:
        self._till = till

    def list(self) -> Sequence[Route]:
        partner = "/partner-trials"
        return (
            Route("GET", "/trial/status", self.show_status, "Your trial, and what is left of it.", need=_LOOK),
            Route("POST", f"{partner}/start", self.start, "Begin a trial.", body=StartTrial, need=_CHANGE),
            Route("GET", f"{partner}/status", self.show_status, "Your trial, and what is left of it.",
                  need=_LOOK),
            Route("GET", f"{partner}/daily-limit", self.show_day, "What you may use today.", need=_LOOK),
            Route("GET", f"{partner}/check/{{code}}", self.check, "Whether there is a trial for a code.",
                  public=True),
            Route("GET", f"{partner}/config/{{code}}", self.show_config, "The trial of a code.",
                  need=to_look("trials:read")),
            Route("GET", f"{partner}/analytics/{{code}}", self.analyse_code, "What came of a code.",
                  need=to_look("trials:read")),
            Route("POST", f"{partner}/expire/{{user_id}}", self.expire, "End a user's trial now.",
                  need=to_change("trials:expire")),
            Route("GET", "/admin/trial/analytics", self.analyse, "What came of trials.",
                  need=to_look("trials:read")),
        )  # fmt: skip

    async def show_status(self, ask: Ask) -> Answer:
        trial, used = await self._read(find_owner(ask.caller))
        message = "you have had no trial" if trial is None else word_state(trial)
        return Answer({"success": True, "trial_status": show_trial(trial, used), "message": message})

    async def show_day(self, ask: Ask) -> Answer:
        owner, now = find_owner(ask.caller), datetime.now(UTC)
        today = now.replace(hour=0, minute=0, second=0, microsecond=0)

        async def work(connection: Connection) -> tuple[Trial | None, Used]:
            return await read_trial(connection, owner), await sum_usage(connection, owner, today)

        trial, used = await self._till.run(work)
        most = trial.day_usd if trial is not None else None
        left = None if most is None else max(Decimal(0), most - used.cost_usd)
        return Answer(
            {
                "daily_limit_usd": None if most is None else show_usd(most),
                "used_today_usd": show_usd(used.cost_usd),
                "remaining_today_usd": None if left is None else show_usd(left),
                "limit_reached": left == 0,
            }
        )

    async def start(self, ask: Ask) -> Answer:
        owner, code = find_owner(ask.caller), ask.body.partner_code
        await self._till.count("trial", owner, 10, 3600)
        file = self._till.trials["default"] if code is None else self._find(code)

        async def work(connection: Connection) -> Trial:
            begun = await start_trial(connection, self._till.ring, owner, file)
            event = Event("trial.start", owner, owner, after={"trial": file.trial})
            await write_event(connection, self._till.ring, ask.by, event)
            return begun

        begun = await self._till.run(work)
        return Answer(
            {"success": True, "trial_status": show_trial(begun, _NOTHING), "message": "it has begun"}
        )

    async def check(self, ask: Ask) -> Answer:
        found = self._look_up(ask.names["code"])
        return Answer(
            {"valid": found is not None and found.active, "partner_code": ask.names["code"].upper()}
        )

    async def show_config(self, ask: Ask) -> Answer:
        found = self._find(ask.names["code"])
        return Answer(
            {
                "partner_code": found.code,
                "trial": found.trial,
                "title": found.title,
                "trial_duration_days": found.days,
                "trial_tier": found.on_plan,
                "trial_credits_usd": show_usd(found.credit_usd),
                "daily_usage_limit_usd": None if found.day_usd is None else show_usd(found.day_usd),
                "trial_max_tokens": found.tokens,
                "trial_max_requests": found.requests,
                "is_active": found.active,
            }
        )

    async def expire(self, ask: Ask) -> Answer:
        user_id = ask.names["user_id"]

        async def work(connection: Connection) -> bool:
            ended = await end_trial_now(connection, user_id)
            if ended:
                await write_event(
                    connection, self._till.ring, ask.by, Event("trial.expire", user_id, user_id)
                )
            return ended

        if not await self._till.run(work):
            raise NotFound("this user has no trial that runs", code="trial_not_found")
        return Answer({"success": True, "user_id": user_id, "message": "the trial has ended"})

    async def analyse(self, ask: Ask) -> Answer:
        return Answer({"success": True, "analytics": await self._analyse(None)})

    async def analyse_code(self, ask: Ask) -> Answer:
        found = self._find(ask.names["code"])
        return Answer(
            {"success": True, "partner_code": found.code, "analytics": await self._analyse(found.code)}
        )

    async def _analyse(self, code: str | None) -> dict[str, Any]:
        async def work(connection: Connection) -> dict[str, Any]:
            async with connection.cursor(row_factory=dict_row) as cursor:
                await cursor.execute(_ANALYSE, {"code": code})
                row = await cursor.fetchone()
            assert row is not None, "counts have one row"
            total = row["total_trials"]
            rate = round(row["converted_trials"] / total, 4) if total else 0.0
            return {**row, "credit_given_usd": show_usd(row["credit_given_usd"]), "conversion_rate": rate}

        return await self._till.run(work)

    async def _read(self, owner: str) -> tuple[Trial | None, Used]:
        async def work(connection: Connection) -> tuple[Trial | None, Used]:
            trial = await read_trial(connection, owner)
            if trial is None:
                return None, _NOTHING
            return trial, await sum_usage(connection, owner, trial.started_at, trial.ends_at)

        return await self._till.run(work)

    def _look_up(self, code: str) -> TrialFile | None:
        wanted = code.strip().upper()
        found = (trial for trial in self._till.trials.values() if trial.code == wanted)
        return next(found, None)

    def _find(self, code: str) -> TrialFile:
        found = self._look_up(code)
        if found is None:
            raise NotFound("there is no trial for this code", code="trial_not_found")
        return found


_ANALYSE = (
    "SELECT count(*) AS total_trials,"
    " count(*) FILTER (WHERE ends_at > now() AND lifted_at IS NULL) AS active_trials,"
    " count(*) FILTER (WHERE ends_at <= now() AND lifted_at IS NULL) AS expired_trials,"
    " count(*) FILTER (WHERE lifted_at IS NOT NULL) AS converted_trials,"
    " coalesce(sum(credit_usd), 0) AS credit_given_usd,"
    " count(*) FILTER (WHERE started_at > now() - interval '7 days') AS started_last_7_days"
    " FROM trials WHERE %(code)s::text IS NULL OR code = %(code)s"
)


def word_state(trial: Trial) -> str:
    if trial.lifted_at is not None:
        return "your account is paid: the trial restricts nothing"
    return "your trial is over" if trial.is_over(datetime.now(UTC)) else "your trial runs"


TRIAL_WORDS = ("is_trial", "trial_active", "trial_expired", "trial_converted")
TRIAL_FACTS = (
    "trial", "trial_start_date", "trial_end_date", "trial_used_tokens", "trial_used_requests", "trial_max_tokens",
    "trial_max_requests", "trial_credits", "trial_used_credits", "subscription_status", "subscription_plan",
    "trial_remaining_tokens", "trial_remaining_requests", "trial_remaining_credits",
)  # fmt: skip


def show_trial(trial: Trial | None, used: Used) -> dict[str, Any]:
    """All keys are there for everybody; who never had a trial has empty ones."""
    if trial is None:
        return dict.fromkeys(TRIAL_FACTS) | dict.fromkeys(TRIAL_WORDS, False)
    now = datetime.now(UTC)
    restricted, over = trial.lifted_at is None, trial.is_over(now)
    left_usd = Decimal(0) if over else max(Decimal(0), trial.credit_usd - used.cost_usd)
    return {
        "is_trial": restricted,
        "trial": trial.trial,
        "trial_start_date": trial.started_at.isoformat(),
        "trial_end_date": trial.ends_at.isoformat(),
        "trial_used_tokens": used.tokens,
        "trial_used_requests": used.requests,
        "trial_max_tokens": trial.tokens,
        "trial_max_requests": trial.requests,
        "trial_credits": show_usd(trial.credit_usd),
        "trial_used_credits": show_usd(used.cost_usd),
        "trial_converted": not restricted,
        "subscription_status": "active" if not restricted else "expired" if over else "trial",
        "subscription_plan": trial.trial,
        "trial_active": restricted and not over,
        "trial_expired": restricted and over,
        "trial_remaining_tokens": max(0, trial.tokens - used.tokens),
        "trial_remaining_requests": max(0, trial.requests - used.requests),
        "trial_remaining_credits": show_usd(left_usd),
    }
