"""Which purses a call is paid from: the payer's credit, and a budget for everybody whom one counts it for.

A budget's purse is named by whom it is for and when its span began, in UTC, so that a new span is a new purse and
nothing has to be set back at midnight.
"""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

from engine.call import Call
from engine.config.snapshot import Budget, Policy
from engine.policies.refusals import WHOM
from engine.policies.scopes import IDENTIFY
from engine.storage.leases import PurseTerms

_SPANS = {"day": "a day", "week": "a week", "month": "a month", "total": "in all"}


class BudgetBook:
    """The terms of budgets, made once for each span."""

    def __init__(self) -> None:
        self._terms: dict[tuple[str, str, Budget], tuple[float, PurseTerms]] = {}

    def list_terms(self, call: Call, policy: Policy) -> list[PurseTerms]:
        """All budgets that count a call."""
        caller = call.caller
        found = [self._find(call, budget, policy.name) for budget in policy.budgets]
        if caller is not None and caller.budgets:
            found += [self._find(call, budget, "own") for budget in caller.budgets]
        return [terms for terms in found if terms is not None]

    def _find(self, call: Call, budget: Budget, origin: str) -> PurseTerms | None:
        whom = IDENTIFY[budget.per](call)
        if not whom:
            return None
        key = (origin, whom, budget)
        known = self._terms.get(key)
        if known is not None and call.started_at < known[0]:
            return known[1]
        if len(self._terms) > 20_000:
            self._terms.clear()
        payer = call.caller.payer if call.caller is not None else ""
        terms = make_terms(budget, origin, whom, payer, call.started_at)
        until = terms.ends_at.timestamp() if terms.ends_at is not None else float("inf")
        self._terms[key] = (until, terms)
        return terms


def make_terms(budget: Budget, origin: str, whom: str, payer: str, now: float) -> PurseTerms:
    """The purse of one budget at one moment (seconds since the epoch)."""
    began, ends = find_span(budget.every, datetime.fromtimestamp(now, UTC))
    since = f":{began:%Y-%m-%d}" if began is not None else ""
    counts_before = budget.per == "key" and budget.every == "total" and origin == "own"
    owner = f"{budget.per}:{whom}" if budget.per in ("user", "team") else payer if budget.per == "key" else ""
    # Two budgets of one span for the same (a soft one below a hard one) count each for itself.
    manner = "hard" if budget.hard else "soft"
    return PurseTerms(
        id=f"budget:{origin}:{budget.per}:{whom}:{budget.every}:{manner}{since}",
        limit_usd=budget.usd,
        hard=budget.hard,
        alert_at=budget.alert_at,
        owner=owner,
        ends_at=ends,
        key_id=whom if counts_before else "",
        label=f"the budget of {_show(budget.usd)} USD {_SPANS[budget.every]} of {WHOM[budget.per]}",
    )


def find_span(every: str, now: datetime) -> tuple[datetime | None, datetime | None]:
    """When the span that `now` lies in began, and when the next one begins; None, None for all time."""
    today = now.replace(hour=0, minute=0, second=0, microsecond=0)
    if every == "day":
        return today, today + timedelta(days=1)
    if every == "week":
        monday = today - timedelta(days=today.weekday())
        return monday, monday + timedelta(days=7)
    if every == "month":
        first = today.replace(day=1)
        return first, (first + timedelta(days=32)).replace(day=1)
    return None, None


def _show(amount: Decimal) -> str:
    return f"{amount.normalize():f}"
