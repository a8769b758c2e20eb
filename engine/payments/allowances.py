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
_WHOLE = frozenset({"subscription_create", "subscription_cycle", "subscription"})


@dataclass(frozen=True, slots=True)
class Brings:
    """`plan` is "" when the invoice is for nothing that a plan file names."""

    plan: str
    allowance_usd: Decimal
    period_end: int


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
        return Brings(plan.plan, plan.allowance_usd, line.ends)
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
    return Brings(plan.plan, max(brought, NOTHING).quantize(CENT, ROUND_DOWN), line.ends)


def share_of_month(line: Line) -> Decimal:
    """How much of the month before its end a line is for; allowances are given by the month."""
    month_s = line.ends - begin_of_month(line.ends)
    return min(Decimal(1), Decimal(max(line.ends - line.begins, 0)) / month_s)


def begin_of_month(ends: int) -> int:
    """The moment a month before, on the same day where that month has it."""
    end = datetime.fromtimestamp(ends, UTC)
    year, month = (end.year, end.month - 1) if end.month > 1 else (end.year - 1, 12)
    day = min(end.day, monthrange(year, month)[1])
    return int(end.replace(year=year, month=month, day=day).timestamp())
