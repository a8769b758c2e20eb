"""`/admin/monitor`, `/admin/balance`, `/admin/cache-status`, `/admin/refresh-providers`: the gateway at a glance."""

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import Field

from engine.config.schema_base import Strict
from engine.config.snapshot import Snapshot
from engine.http.admin import Administration, Control
from engine.http.csv_answers import write_exact
from engine.http.endpoints import Answer, Ask, Route
from engine.http.own_usage import find_days, show_sum
from engine.http.reading import Reader
from engine.policies.access import to_look
from engine.storage.house_usage import list_balances, sum_up_house
from engine.storage.usage_sums import Span, sum_usage
from engine.storage.user_listing import count_users


class TopQuery(Strict):
    top: Annotated[int, Field(ge=1, le=100, description="how many of the users who used most")] = 10


class BalanceQuery(Strict):
    limit: Annotated[int, Field(ge=1, le=1000)] = 100
    offset: Annotated[int, Field(ge=0, le=10**9)] = 0


class HouseRoutes:
    """`count_kept` tells how much this worker keeps in memory, by what it is."""

    def __init__(
        self,
        reader: Reader,
        read_snapshot: Callable[[], Snapshot],
        administration: Administration,
        control: Control,
        count_kept: Callable[[], Mapping[str, Any]],
    ) -> None:
        self._reader, self._read_snapshot, self._count_kept = reader, read_snapshot, count_kept
        self._administration, self._control = administration, control

    def list(self) -> Sequence[Route]:
        return (
            Route("GET", "/admin/monitor", self.monitor, "What everybody did today and this month.",
                  query=TopQuery, need=to_look("any_usage:read")),
            Route("GET", "/admin/balance", self.show_balances, "What users have, those with most first.",
                  query=BalanceQuery, need=to_look("credits:read")),
            Route("GET", "/admin/cache-status", self.show_caches,
                  "How fresh the configuration is, and what the worker that answers keeps in memory."),
            Route("POST", "/admin/refresh-providers", self.refresh_providers,
                  "Read the files of providers, and all others, again."),
        )  # fmt: skip

    async def monitor(self, ask: Ask) -> Answer:
        today, month = find_days()
        span = Span(month, datetime.now(UTC))
        users, sums, top = await self._reader.read(
            count_users,
            lambda connection: sum_up_house(connection, today, month),
            lambda connection: sum_usage(connection, span, ("user",), limit=ask.query.top + 1),
        )
        known = [row for row in top if row["user_id"]][: ask.query.top]  # others are guests
        return _succeed(
            {
                "total_users": users["total_users"],
                "active_users_today": sums["active_users_today"],
                "total_requests_today": sums["requests_today"],
                "total_tokens_today": sums["tokens_today"],
                "total_cost_today": write_exact(sums["cost_today"]),
                "system_usage_metrics": show_metrics(sums),
                "top_users_by_usage": [{"user_id": row["user_id"], **show_sum(row)} for row in known],
            }
        )

    async def show_balances(self, ask: Ask) -> Answer:
        limit, offset = ask.query.limit, ask.query.offset
        ((sums, rows),) = await self._reader.read(lambda connection: list_balances(connection, limit, offset))
        return _succeed(
            {
                "total_users": sums["users"],
                **show_pots(sums, "total_"),
                "users": [{**show_who(row), **show_pots(row)} for row in rows],
                "limit": limit,
                "offset": offset,
                "has_more": offset + len(rows) < sums["users"],
            }
        )

    async def show_caches(self, ask: Ask) -> Answer:
        snapshot, state = self._read_snapshot(), await self._control.config_state()
        return _succeed(
            {
                "cache_info": {
                    "has_data": bool(snapshot.providers),
                    "cache_age_seconds": round(max(0.0, time.time() - snapshot.loaded_at), 1),
                    "ttl_seconds": None,
                    "is_valid": state["last_refusal"] is None and state["revision"] == snapshot.version,
                    "total_cached_providers": len(snapshot.providers),
                    "total_cached_models": len(snapshot.models),
                    "revision": snapshot.version,
                },
                "in_memory": self._count_kept(),
            }
        )

    async def refresh_providers(self, ask: Ask) -> Answer:
        """The same as `POST /admin/config/reload`, in the predecessor's shape; refused, it is the same document."""
        done = await self._administration.reload_config(ask)
        if done.status != 200:
            return done
        snapshot = self._read_snapshot()
        return _succeed(
            {
                "message": "every worker has the providers as the files say",
                "total_providers": len(snapshot.providers),
                "revision": done.document["revision"],
            }
        )


def show_metrics(sums: Mapping[str, Any]) -> dict[str, Any]:
    requests = sums["requests_today"]
    return {
        "requests_this_month": sums["requests_this_month"],
        "tokens_this_month": sums["tokens_this_month"],
        "cost_this_month": write_exact(sums["cost_this_month"]),
        "requests_last_hour": sums["requests_last_hour"],
        "errors_today": sums["errors_today"],
        "error_rate_today": round(sums["errors_today"] / requests, 4) if requests else 0.0,
        "average_ms_today": sums["average_ms_today"],
        "active_users_this_month": sums["active_users_this_month"],
        "active_keys_today": sums["active_keys_today"],
    }


def show_who(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in ("user_id", "plan", "prepaid", "is_active", "created_at")}


def show_pots(row: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Both together, and each, as exact text."""
    credit, allowance = row["credit_usd"], row["allowance_usd"]
    return {
        f"{prefix}credits": write_exact(credit + allowance),
        f"{prefix}purchased_credits": write_exact(credit),
        f"{prefix}subscription_allowance": write_exact(allowance),
    }


def _succeed(shown: Mapping[str, Any]) -> Answer:
    return Answer({"status": "success", **shown, "timestamp": datetime.now(UTC).isoformat()})
