"""Plans that are paid by the year bring their allowance every month; Stripe tells of the year only."""

from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import LiteralString

from engine.config.schema_plan import PlanFile
from engine.payments.allowances import LONGEST_MONTH_S, add_months, find_plan_sold
from engine.payments.offers import Books
from engine.storage.ledger import read_balance, set_allowance
from engine.storage.payment_rows import Row, fetch_rows
from engine.storage.plan_terms import follow_subscription, read_term
from engine.storage.postgres import Connection, Database

_YEARLY: LiteralString = (
    "SELECT s.* FROM stripe_subscriptions s JOIN stripe_standings t ON t.payer = s.payer"
    " AND t.subscription_id = s.subscription_id AND t.period_end = s.period_end"
    " WHERE s.status IN ('active', 'trialing', 'past_due') AND s.period_end > %(now)s"
    " AND s.period_end - s.period_start > %(month)s AND s.period_start + %(shortest)s <= %(now)s"
)


def count_months(begins: int, now: int) -> int:
    """Whole calendar months since then; the 31st is reached on a shorter month's last day's end."""
    began, at = datetime.fromtimestamp(begins, UTC), datetime.fromtimestamp(now, UTC)
    months = (at.year - began.year) * 12 + at.month - began.month
    return months - ((at.day, at.time()) < (began.day, began.time()))


async def renew_yearly(database: Database, read_books: Callable[[], Books], now: int) -> int:
    """Set the allowance of each month that has begun within a paid year; how many were set."""
    plans = read_books().plans

    async def work(connection: Connection) -> int:
        done = 0
        asked = {"now": now, "month": LONGEST_MONTH_S, "shortest": 28 * 86400}
        async with connection.transaction():
            await connection.execute("SELECT n FROM change_counter FOR UPDATE")
            for row in await fetch_rows(connection, _YEARLY, asked):
                month = count_months(row["period_start"], now)
                plan = find_plan_sold(plans, row["product_id"], row["price_id"])
                if month < 1 or plan is None:
                    continue
                done += await _set_month(connection, row, plan, month)
        return done

    return await database.run(work)


async def _set_month(connection: Connection, row: Row, plan: PlanFile, month: int) -> bool:
    """False when the month has its allowance already. Beside an administrator's plan nothing expires for it."""
    payer = row["payer"]
    ref = f"stripe:month:{row['subscription_id']}:{row['period_end']}:{month}"
    term = await read_term(connection, payer)
    is_given = term is not None and term.source == "admin"
    least = (await read_balance(connection, payer)).allowance_usd if is_given else Decimal(0)
    balance = await set_allowance(
        connection, payer, max(plan.allowance_usd, least), ref=ref, kind="subscription_renewal",
        description=f"allowance of {plan.plan}",
    )  # fmt: skip
    if balance is None:
        return False
    until = min(add_months(row["period_start"], month + 1), row["period_end"])
    await connection.execute(
        "UPDATE stripe_standings SET allowance_usd = %s, allowance_until = %s WHERE payer = %s",
        (plan.allowance_usd, until, payer),
    )
    await follow_subscription(connection, payer, ref=ref)
    return True
