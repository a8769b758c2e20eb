"""Plans that are paid by the year bring their allowance every month; Stripe tells of the year only."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import LiteralString

from engine.payments.allowances import find_plan_sold
from engine.payments.offers import Books
from engine.storage.ledger import set_allowance
from engine.storage.payment_rows import fetch_rows
from engine.storage.postgres import Connection, Database

_LONGEST_MONTH_S = 32 * 86400
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
        asked = {"now": now, "month": _LONGEST_MONTH_S, "shortest": 28 * 86400}
        async with connection.transaction():
            await connection.execute("SELECT n FROM change_counter FOR UPDATE")
            for row in await fetch_rows(connection, _YEARLY, asked):
                month = count_months(row["period_start"], now)
                plan = find_plan_sold(plans, row["product_id"], row["price_id"])
                if month < 1 or plan is None:
                    continue
                ref = f"stripe:month:{row['subscription_id']}:{row['period_end']}:{month}"
                done += (
                    await set_allowance(
                        connection, row["payer"], plan.allowance_usd, ref=ref, kind="subscription_renewal",
                        description=f"allowance of {plan.plan}",
                    )
                    is not None
                )  # fmt: skip
        return done

    return await database.run(work)
