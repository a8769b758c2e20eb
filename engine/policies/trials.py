"""Holds calls of people on trial to the trial's numbers. Everybody else passes with one look at an attribute.

What was used is that of the call records, read once a second for who is calling, and what this process has seen beyond
them. So the numbers are exact in one process, and with several ones passed by at most what runs within a second.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Protocol

from engine.call import Call, TrialTerms
from engine.config.snapshot import Limit, Policy
from engine.errors import DependencyAway, LimitExceeded, NotAllowed
from engine.policies.guests import is_free
from engine.policies.limits import Grant, Limiter
from engine.policies.refusals import HeaderPairs
from engine.policies.shared_grant import SharedGrant
from engine.policies.shared_limits import SharedLimiter
from engine.storage.trial_usage import TrialUsage

_READ_EACH_S = 1.0
_MOST_KNOWN = 10_000


class Records(Protocol):
    """The call records (storage/trial_usage.py)."""

    async def read_usage(
        self, user_id: str, since: float, today: float, ids: Collection[str]
    ) -> TrialUsage: ...


class TrialExpired(NotAllowed):
    code = "trial_expired"

    def __init__(self, ends_at: float) -> None:
        end = datetime.fromtimestamp(ends_at, UTC).isoformat(timespec="seconds")
        super().__init__(f"the trial ended on {end}: a purchase or a plan opens the account again")
        self.headers = {"x-trial-expired": "true", "x-trial-end-date": end}


class TrialUsedUp(LimitExceeded):
    code = "trial_limit_reached"

    def __init__(self, what: str, left: "Left", retry_after_s: float | None) -> None:
        super().__init__(f"the {what} of the trial are used up", retry_after_s=retry_after_s)
        self.headers = {
            "x-trial-remaining-requests": str(max(0, left.requests)),
            "x-trial-remaining-tokens": str(max(0, left.tokens)),
            "x-trial-remaining-credits": f"{max(Decimal(0), left.credit_usd):f}",
        }


@dataclass(frozen=True, slots=True)
class Left:
    requests: int
    tokens: int
    credit_usd: Decimal
    day_usd: Decimal | None


@dataclass(slots=True)
class _Meter:
    usage: TrialUsage
    read_at: float
    open: dict[str, tuple[int, Decimal]] = field(default_factory=dict)
    """Calls that were let in here and are not among the records yet: their tokens and cost, once known."""

    def find_left(self, terms: TrialTerms) -> Left:
        tokens = sum(each[0] for each in self.open.values())
        cost = sum((each[1] for each in self.open.values()), Decimal(0))
        used = self.usage
        return Left(
            terms.requests - used.requests - len(self.open),
            terms.tokens - used.tokens - tokens,
            terms.credit_usd - used.cost_usd - cost,
            None if terms.day_usd is None else terms.day_usd - used.today_usd - cost,
        )


class TrialPlace:
    __slots__ = ("_clock", "_grant", "_meter")

    def __init__(self, meter: _Meter, grant: Grant | SharedGrant | None, clock: Callable[[], float]) -> None:
        self._meter, self._grant, self._clock = meter, grant, clock

    def leave(self, call: Call) -> None:
        """The call is over: one that asked nobody does not count."""
        if call.attempts:
            usage = call.usage
            tokens = usage.prompt + usage.completion if usage else 0
            self._meter.open[call.id] = (tokens, call.cost)
        else:
            self._meter.open.pop(call.id, None)
        if self._grant is not None:
            self._grant.release(self._clock())


class TrialStage:
    """The stage of admission for people on trial. `wall` tells seconds since the epoch."""

    def __init__(
        self,
        records: Records,
        limiter: Limiter | SharedLimiter,
        clock: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        self._records, self._limiter, self._clock, self._wall = records, limiter, clock, wall
        self._meters: dict[str, _Meter] = {}
        self._limits: dict[int, Limit] = {}

    async def enter(self, call: Call, policy: Policy, headers: HeaderPairs) -> TrialPlace | None:
        caller = call.caller
        if caller is None or caller.trial is None or costs_nothing(call):
            return None
        terms, now = caller.trial, self._wall()
        if now >= terms.ends_at:
            raise TrialExpired(terms.ends_at)
        meter = await self._find_meter(caller.user_id, terms, now)
        check(meter.find_left(terms), now)
        meter.open[call.id] = (0, Decimal(0))
        try:
            grant = await self._take_place(caller.user_id, terms)
        except BaseException:
            meter.open.pop(call.id, None)
            raise
        return TrialPlace(meter, grant, self._clock)

    async def _take_place(self, user_id: str, terms: TrialTerms) -> Grant | SharedGrant | None:
        if terms.concurrency is None:
            return None
        limit = self._limits.setdefault(terms.concurrency, Limit(concurrency=terms.concurrency))
        scopes, now, limiter = [("trial", user_id, limit)], self._clock(), self._limiter
        if isinstance(limiter, SharedLimiter):
            return await limiter.take(scopes, 0, now, "divide")
        return limiter.take(scopes, 0, now)

    async def _find_meter(self, user_id: str, terms: TrialTerms, now: float) -> _Meter:
        """With the database away, what was known last; who is not known is told to come back."""
        meter = self._meters.get(user_id)
        if meter is not None and now - meter.read_at < _READ_EACH_S:
            return meter
        ids = tuple(meter.open) if meter is not None else ()
        try:
            usage = await self._records.read_usage(user_id, terms.started_at, now - now % 86_400, ids)
        except DependencyAway:
            if meter is None:
                raise
            return meter
        meter = self._meters.get(user_id)
        if meter is None:
            if len(self._meters) >= _MOST_KNOWN:
                self._forget()
            meter = self._meters[user_id] = _Meter(usage, now)
        meter.usage, meter.read_at = usage, now
        for call_id in usage.recorded:
            meter.open.pop(call_id, None)
        return meter

    def _forget(self) -> None:
        for user_id in [name for name, meter in self._meters.items() if not meter.open]:
            del self._meters[user_id]


def check(left: Left, now: float) -> None:
    """Raises TrialUsedUp for the first thing of which nothing is left."""
    until_midnight = 86_400 - now % 86_400
    if left.requests <= 0:
        raise TrialUsedUp("calls", left, None)
    if left.tokens <= 0:
        raise TrialUsedUp("tokens", left, None)
    if left.credit_usd <= 0:
        raise TrialUsedUp("dollars", left, None)
    if left.day_usd is not None and left.day_usd <= 0:
        raise TrialUsedUp("dollars of this day", left, float(int(until_midnight) + 1))


def costs_nothing(call: Call) -> bool:
    """Whether every target of the model has the price zero."""
    model = call.model
    if model is None:
        return False
    prices = [target.price or model.price for target in model.targets]
    return bool(prices) and all(price is not None and is_free(price) for price in prices)
