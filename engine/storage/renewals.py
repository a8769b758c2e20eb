"""Plans that nobody pays by the month elsewhere: their end, and the allowance of each of their months."""

from collections.abc import Mapping
from datetime import datetime
from typing import LiteralString

from engine.config.schema_plan import PlanFile
from engine.storage.outbox import queue_mail
from engine.storage.plan_terms import end_plan, read_term, renew_allowance
from engine.storage.postgres import Connection, count_change

_AT_ONCE = 200
_DUE: LiteralString = (
    "SELECT payer, plan FROM plan_terms WHERE source = 'admin' AND (ends_at IS NULL OR ends_at > %(now)s)"
    " AND plan = ANY(%(plans)s) AND (allowance_until IS NULL OR allowance_until <= %(now)s)"
    " ORDER BY payer LIMIT %(most)s"
)
_MONTH_END: LiteralString = (
    "SELECT min(month_end) FROM (SELECT (begun + (months + further) * interval '1 month') AT TIME ZONE 'UTC'"
    " AS month_end FROM (SELECT begun, (extract(year FROM spent) * 12 + extract(month FROM spent))::int AS months"
    " FROM (SELECT begun, age(%(now)s AT TIME ZONE 'UTC', begun) AS spent FROM (SELECT started_at"
    " AT TIME ZONE 'UTC' AS begun FROM plan_terms WHERE payer = %(payer)s) AS a) AS b) AS c,"
    " generate_series(0, 2) AS further) AS d WHERE month_end > %(now)s"
)
"""After the 31st comes the last of a shorter month, then the 31st again: months are counted from the beginning."""


async def end_expired_plans(connection: Connection, now: datetime) -> list[str]:
    """Whose plans have ended; each in a transaction of its own."""
    rows = await (
        await connection.execute(
            "SELECT payer, plan, ends_at FROM plan_terms WHERE ends_at <= %s AND source NOT IN ('trial', 'stripe')"
            " ORDER BY ends_at LIMIT %s",
            (now, _AT_ONCE),
        )
    ).fetchall()
    ended = []
    for payer, plan, ends_at in rows:
        async with connection.transaction():
            await count_change(connection)
            term = await read_term(connection, payer, lock=True)
            if term is None or term.ends_at != ends_at:
                continue  # another worker was quicker, or it was prolonged
            ref = f"plan_end:{payer}:{ends_at.isoformat()}"
            await end_plan(connection, payer, ref=ref, kind="subscription_cancellation")
            await _tell(connection, payer, plan, ref)
            ended.append(payer)
    return ended


async def renew_due_allowances(
    connection: Connection, plans: Mapping[str, PlanFile], now: datetime
) -> list[str]:
    """Who got the allowance of a new month, counted from the day the plan was given."""
    with_allowance = [name for name, plan in plans.items() if plan.allowance_usd]
    asked = {"now": now, "plans": with_allowance, "most": _AT_ONCE}
    rows = await (await connection.execute(_DUE, asked)).fetchall()
    renewed = []
    for payer, name in rows:
        async with connection.transaction():
            await count_change(connection)
            row = await (await connection.execute(_MONTH_END, {"now": now, "payer": payer})).fetchone()
            if row is None or row[0] is None:
                continue  # its plan was taken away in the meantime
            ref = f"plan_month:{payer}:{name}:{row[0].isoformat()}"
            if await renew_allowance(connection, payer, plans[name], ref, row[0]) is not None:
                renewed.append(payer)
    return renewed


async def _tell(connection: Connection, payer: str, plan: str, ref: str) -> None:
    kind, _, user_id = payer.partition(":")
    row = await (
        await connection.execute("SELECT email FROM users WHERE id = %s AND active", (user_id,))
    ).fetchone()
    if kind == "user" and row is not None:
        await queue_mail(connection, "subscription_expired", row[0], {"plan": plan}, ref=ref, user_id=user_id)
