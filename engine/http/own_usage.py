"""`/user/monitor`, `/user/limit`, `/user/activity`, `/user/environment-usage`: what somebody used and may still use.

All of it is read from the call records, so that it is the same whichever gateway is asked.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from pydantic import Field

from engine.call import Caller
from engine.config.schema_base import Strict
from engine.config.snapshot import Limit, Snapshot
from engine.errors import InvalidRequest
from engine.http.csv_answers import write_exact, write_row
from engine.http.endpoints import Answer, Ask, Route
from engine.http.key_bodies import TAGS
from engine.http.keys import find_owner
from engine.http.limit_views import Counted, show_counted, show_limit, show_tightest
from engine.http.reading import Reader
from engine.http.statement_queries import LONGEST_SPAN, Moment, Text
from engine.policies.access import to_look
from engine.policies.quotas import LIVE, read_quota
from engine.storage.key_rules import read_limit
from engine.storage.ledger import read_balance
from engine.storage.limit_settings import read_each_key, read_user_limits
from engine.storage.own_usage import list_activity, read_totals, read_windows, sum_environments
from engine.storage.postgres import Connection
from engine.storage.usage_sums import Span, sum_usage

MOST_GROUPS = 1000
_DAYS = 30
_DAY = timedelta(days=1)


class StatsQuery(Strict):
    """The last thirty days unless told."""

    days: Annotated[int, Field(ge=1, le=365)] | None = None
    from_: Moment | None = Field(None, alias="from", description="first moment or day (UTC)")
    to: Moment | None = Field(None, description="the last day, or the moment before which it ends")

    def find_span(self) -> tuple[datetime, datetime]:
        """Raises InvalidRequest."""
        if self.days is not None and (self.from_ is not None or self.to is not None):
            raise InvalidRequest("either days, or from and to", param="days")
        until = find_end(self.to) or datetime.now(UTC)
        since = self.from_ or until - timedelta(days=self.days or _DAYS)
        if since >= until:
            raise InvalidRequest("from is not before to", param="from")
        if until - since > LONGEST_SPAN:
            raise InvalidRequest("activity is shown of 400 days at most", param="from")
        return since, until


class LogQuery(Strict):
    limit: Annotated[int, Field(ge=1, le=1000)] = 10
    offset: Annotated[int, Field(ge=0, le=10**6)] = 0
    page: Annotated[int, Field(ge=1, le=10**5)] | None = None
    from_: Moment | None = Field(None, alias="from", description="first moment or day (UTC)")
    to: Moment | None = Field(None, description="the last day, or the moment before which it ends")
    model: Text | None = None
    provider: Text | None = None

    def find_offset(self) -> int:
        """Raises InvalidRequest."""
        if self.page is not None and self.offset:
            raise InvalidRequest("either offset or page", param="page")
        return self.offset if self.page is None else (self.page - 1) * self.limit

    def find_filters(self) -> dict[str, Any]:
        named = {
            "since": self.from_,
            "until": find_end(self.to),
            "model": self.model,
            "provider": self.provider,
        }
        return {name: value for name, value in named.items() if value is not None}


def find_end(to: datetime | None) -> datetime | None:
    """A day is meant with all of it."""
    if to is None or to.time() != datetime.min.time():
        return to
    return to + _DAY


class OwnUsageRoutes:
    def __init__(self, reader: Reader, read_snapshot: Callable[[], Snapshot]) -> None:
        self._reader, self._read_snapshot = reader, read_snapshot

    def list(self) -> Sequence[Route]:
        own = to_look("usage:read")
        return (
            Route("GET", "/user/monitor", self.monitor, "What you used, have and may use.", need=own),
            Route("GET", "/user/limit", self.show_limit, "What is left of your limits.", need=own),
            Route("GET", "/user/activity/stats", self.show_stats, "What you used, by day, model and provider.",
                  query=StatsQuery, need=own),
            Route("GET", "/user/activity/log", self.show_log, "Your calls, newest first.", query=LogQuery,
                  need=own),
            Route("GET", "/user/environment-usage", self.show_environments,
                  "What your keys of each environment used.", need=own),
        )  # fmt: skip

    async def monitor(self, ask: Ask) -> Answer:
        owner, (today, month) = find_owner(ask.caller), find_days()
        totals, balance, counted = await self._reader.read(
            lambda connection: read_totals(connection, owner, today, month),
            lambda connection: read_balance(connection, f"user:{owner}"),
            lambda connection: self._count(connection, ask.caller),
        )
        return Answer(
            {
                "user_id": owner,
                "api_key": mask_key(ask.caller),
                "current_credits": write_exact(balance.total_usd),
                "usage_metrics": show_totals(totals),
                "rate_limits": show_tightest(*counted)["current_limits"],
            }
        )

    async def show_limit(self, ask: Ask) -> Answer:
        ((counted, own),) = await self._reader.read(lambda connection: self._count(connection, ask.caller))
        return Answer(
            {
                "user_id": ask.caller.user_id,
                "api_key": mask_key(ask.caller),
                **show_tightest(counted, own),
                "scopes": [show_counted(each) for each in counted],
            }
        )

    async def _count(
        self, connection: Connection, caller: Caller
    ) -> tuple[Sequence[Counted], Mapping[str, Any]]:
        """Every limit that counts for the caller, whatever model is asked for; and what the caller used."""
        owner = find_owner(caller)
        used = await read_windows(connection, owner, caller.environment, caller.key_id)
        each_key = read_limit((await read_each_key(connection))["limits"])
        of_user = read_limit(await read_user_limits(connection, owner))
        snapshot, is_key = self._read_snapshot(), bool(caller.last4)
        policy = snapshot.default_policy.limits
        quota = read_quota(snapshot, caller.plan, caller.environment)
        of_key = [policy.get("key"), each_key, caller.bounds.limit if caller.bounds else None]
        found: list[tuple[str, str, Limit | None]] = [
            *(("key", "key", limit) for limit in of_key if is_key),
            ("user", "user", policy.get("user")),
            ("user", "user", of_user),
            ("plan", "user", quota.whole),
            ("plan_environment", "environment", quota.part if is_key else None),
        ]
        counted = [Counted(scope, limit, used[who]) for scope, who, limit in found if limit is not None]
        return counted, used["key" if is_key else "user"]

    async def show_stats(self, ask: Ask) -> Answer:
        since, until = ask.query.find_span()
        span = Span(since, until, {"user_id": find_owner(ask.caller)})
        total, days, models, providers = await self._reader.read(
            lambda connection: sum_usage(connection, span, ()),
            lambda connection: sum_usage(connection, span, ("day",), limit=MOST_GROUPS),
            lambda connection: sum_usage(connection, span, ("model",), limit=MOST_GROUPS),
            lambda connection: sum_usage(connection, span, ("provider",), limit=MOST_GROUPS),
        )
        whole = show_sum(total[0])
        return Answer(
            {
                "from": since.isoformat(),
                "to": until.isoformat(),
                **{f"total_{name}": value for name, value in whole.items()},
                "daily_stats": [{"date": row["day"], **show_sum(row)} for row in days],
                "by_model": {row["model"]: show_sum(row) for row in models},
                "by_provider": {row["provider"]: show_sum(row) for row in providers if row["provider"]},
            }
        )

    async def show_log(self, ask: Ask) -> Answer:
        query: LogQuery = ask.query
        owner, offset, filters = find_owner(ask.caller), query.find_offset(), query.find_filters()
        ((total, rows),) = await self._reader.read(
            lambda connection: list_activity(connection, owner, filters, query.limit, offset)
        )
        return Answer(
            {
                "logs": [show_call(row) for row in rows],
                "total": total,
                "page": offset // query.limit + 1,
                "limit": query.limit,
                "offset": offset,
                "has_more": offset + len(rows) < total,
            }
        )

    async def show_environments(self, ask: Ask) -> Answer:
        owner, (today, month) = find_owner(ask.caller), find_days()
        (found,) = await self._reader.read(
            lambda connection: sum_environments(connection, owner, today, month)
        )
        return Answer(
            {
                "status": "success",
                "user_id": owner,
                "environment_usage": {
                    tag: self._show_environment(ask.caller.plan, name, found.get(name))
                    for tag, name in TAGS.items()
                },
                "timestamp": datetime.now(UTC).isoformat(),
            }
        )

    def _show_environment(self, plan: str, name: str, row: Mapping[str, Any] | None) -> dict[str, Any]:
        quota = read_quota(self._read_snapshot(), plan, name)
        limit = quota.whole if name == LIVE else quota.part
        return {
            **write_row(row or NOTHING_USED),
            "limits": None if limit is None else show_limit(limit),
        }


NOTHING_USED: Mapping[str, Any] = {
    "api_keys": 0, "active_api_keys": 0, "requests_today": 0, "tokens_today": 0, "cost_today": "0",
    "requests_this_month": 0, "tokens_this_month": 0, "cost_this_month": "0",
}  # fmt: skip


def find_days() -> tuple[datetime, datetime]:
    """When today and this month began (UTC)."""
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return today, today.replace(day=1)


def mask_key(caller: Caller) -> str | None:
    """The key that asks; None for somebody who is signed in."""
    return f"gw_{caller.environment}_...{caller.last4}" if caller.last4 else None


def show_totals(totals: Mapping[str, Any]) -> dict[str, Any]:
    requests, last = totals["requests_total"], totals["last_request_time"]
    return {
        "total_requests": requests,
        "total_tokens": totals["tokens_total"],
        "total_cost": write_exact(totals["cost_total"]),
        **{
            f"{name}_{span}": write_exact(totals[f"cost_{span}"])
            if name == "cost"
            else totals[f"{name}_{span}"]
            for span in ("today", "this_month")
            for name in ("requests", "tokens", "cost")
        },
        "average_tokens_per_request": round(totals["tokens_total"] / requests, 1) if requests else 0.0,
        "most_used_model": totals["most_used_model"],
        "last_request_time": last.isoformat() if last is not None else None,
    }


def show_sum(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "requests": row["calls"],
        "tokens": row["input_tokens"] + row["output_tokens"],
        "spend": write_exact(row["cost_usd"]),
    }


def show_call(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "id": row["id"],
        "user_id": row["user_id"],
        "key_id": row["key_id"],
        "timestamp": row["started_at"].isoformat(),
        "model": row["model"] or None,
        "provider": row["provider"],
        "endpoint": row["surface"],
        "stream": row["stream"],
        "status": row["status"],
        "http_status": row["http_status"],
        "tokens": row["tokens"],
        "cost": write_exact(row["cost_usd"]),
        "speed": find_speed(row),
        "total_ms": row["total_ms"],
        "tags": row["tags"],
    }


def find_speed(row: Mapping[str, Any]) -> float | None:
    """Tokens a second, while they were written."""
    if row["total_ms"] is None:
        return None
    writing_ms = row["total_ms"] - (row["first_token_ms"] or 0.0 if row["stream"] else 0.0)
    return round(row["written"] / writing_ms * 1000, 2) if row["written"] and writing_ms > 0 else None
