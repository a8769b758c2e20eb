"""What an invoice of a subscription brings: a plan's allowance for its period, or the rest of a better plan's. Pure.

Only the invoice itself is asked, so that the order of events does not matter. An upgrade in the middle of a period
brings the difference of the two allowances for the part of the month that is left: whoever upgrades on the last day
pays for a day and gets a day's worth.
"""

from calendar import monthrange
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import ROUND_DOWN, Decimal

from engine.config.schema_plan import PlanFile
from engine.payments.objects import Invoice, Line

CENT = Decimal("0.01")
NOTHING = Decimal(0)
LONGEST_MONTH_S = 32 * 86400
"""A period that is longer is no month."""
_WHOLE = frozenset({"subscription_create", "subscription_cycle", "subscription"})


@dataclass(frozen=True, slots=True)
class Brings:
    """`plan` is "" when the invoice is for nothing that a plan file names."""

    plan: str
    allowance_usd: Decimal
    period_end: int
    period_start: int = 0


def find_plan_sold(plans: Mapping[str, PlanFile], product_id: str, price_id: str) -> PlanFile | None:
    """The plan that Stripe sells under this price, or this product."""
    for plan in plans.values():
        if price_id and price_id in (plan.stripe.month, plan.stripe.year):
            return plan
    return next((plan for plan in plans.values() if product_id and plan.stripe.product == product_id), None)


def read_what_it_brings(invoice: Invoice, plans: Mapping[str, PlanFile]) -> Brings:
    lines = [(line, find_plan_sold(plans, line.product_id, line.price_id)) for line in invoice.lines]
    known = [(line, plan) for line, plan in lines if plan is not None]
    whole = [(line, plan) for line, plan in known if not line.is_proration and line.amount_cents >= 0]
    if invoice.reason in _WHOLE and whole:
        line, plan = max(whole, key=lambda pair: pair[0].ends)
        return Brings(plan.plan, plan.allowance_usd, line.ends, line.begins)
    charged = [(line, plan) for line, plan in known if line.amount_cents >= 0]
    if not charged:
        return Brings("", NOTHING, 0)
    line, plan = max(charged, key=lambda pair: pair[0].ends)
    unused = [
        old.allowance_usd * share_of_month(credit)
        for credit, old in known
        if credit.amount_cents < 0 and credit.ends == line.ends
    ]
    brought = plan.allowance_usd * share_of_month(line) - sum(unused, NOTHING)
    allowance_usd = max(brought, NOTHING).quantize(CENT, ROUND_DOWN)
    return Brings(plan.plan, allowance_usd, line.ends, line.begins)


def share_of_month(line: Line) -> Decimal:
    """How much of the month before its end a line is for; allowances are given by the month."""
    month_s = line.ends - begin_of_month(line.ends)
    return min(Decimal(1), Decimal(max(line.ends - line.begins, 0)) / month_s)


def find_month_end(period_start: int, period_end: int) -> int:
    """When an allowance is given anew: with the period, or with the first month of a longer one."""
    return period_end if period_end - period_start <= LONGEST_MONTH_S else add_months(period_start, 1)


def begin_of_month(ends: int) -> int:
    """The moment a month before, on the same day where that month has it."""
    return add_months(ends, -1)


def add_months(moment: int, months: int) -> int:
    """So many months later, on the same day where that month has it, else on its last."""
    at = datetime.fromtimestamp(moment, UTC)
    year, month = divmod(at.year * 12 + at.month - 1 + months, 12)
    day = min(at.day, monthrange(year, month + 1)[1])
    return int(at.replace(year=year, month=month + 1, day=day).timestamp())
