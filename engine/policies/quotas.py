"""What the plan of a payer allows, compiled once for each snapshot: the same objects for everybody who has it."""

from dataclasses import dataclass, field, replace

from engine.call import Call
from engine.config.build import build_limit
from engine.config.schema_plan import PlanFile
from engine.config.snapshot import Limit, Snapshot

LIVE, DEFAULT = "live", "default"


@dataclass(frozen=True, slots=True)
class Quota:
    whole: Limit | None = None
    """All keys of a payer together."""
    part: Limit | None = None
    """What keys of one environment that is not live may have of that."""
    priority: str = ""
    counts_tokens: bool = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "counts_tokens", self.whole is not None and bool(self.whole.tokens))


NO_QUOTA = Quota()


def find_quota(call: Call) -> Quota:
    """The quota of whoever pays for the call."""
    caller = call.caller
    return NO_QUOTA if caller is None else read_quota(call.snapshot, caller.plan, caller.environment)


def read_quota(snapshot: Snapshot, plan: str, environment: str) -> Quota:
    found: Quota | None = snapshot.quotas.get((plan, environment))
    if found is None:
        found = snapshot.quotas[plan, environment] = _build_quota(snapshot, plan, environment)
    return found


def _build_quota(snapshot: Snapshot, plan: str, environment: str) -> Quota:
    plans = snapshot.declared(PlanFile)
    file = plans.get(plan) or plans.get(DEFAULT)
    if file is None:
        return NO_QUOTA
    whole = build_limit(file.limits)
    if whole == Limit():
        return Quota(priority=file.priority)
    live = snapshot.quotas.get((plan, LIVE))
    if live is not None:
        whole = live.whole  # one object, whichever environment came first
    elif environment != LIVE:
        whole = snapshot.quotas.setdefault((plan, LIVE), Quota(whole, None, file.priority)).whole
    part = None if environment == LIVE or whole is None else share_limit(whole, file.environments)
    return Quota(whole, part, file.priority)


def share_limit(limit: Limit, share: float) -> Limit:
    """A part of every number, but never nothing."""

    def take(number: int) -> int:
        return max(1, int(number * share))

    return replace(
        limit,
        requests={size_s: take(number) for size_s, number in limit.requests.items()},
        tokens={size_s: take(number) for size_s, number in limit.tokens.items()},
        burst=None if limit.burst is None else take(limit.burst),
        concurrency=None if limit.concurrency is None else take(limit.concurrency),
    )
