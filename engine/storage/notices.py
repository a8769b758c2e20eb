"""Who is to be told what: balances that fell, trials and plans that end, what a month came to.

A level is told when it was reached and not again within the hours of the rules; everything else once, by its reference.
The mail is queued in the transaction that notes that it was.
"""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, LiteralString

from psycopg.rows import dict_row

from engine.config.schema_commerce import NoticesFile
from engine.storage.ledger import read_balance
from engine.storage.outbox import queue_mail
from engine.storage.postgres import Connection

_AT_ONCE = 200
_WORSE: LiteralString = """
WITH looked AS (
    SELECT 'user:' || u.id AS payer, u.id AS user_id, u.email, coalesce(b.balance, 0) AS balance,
        coalesce(p.low_balance_usd, %(low)s) AS threshold,
        CASE WHEN coalesce(b.balance, 0) <= 0 THEN 'depleted'
             WHEN coalesce(b.balance, 0) < coalesce(p.low_balance_usd, %(low)s) THEN 'low' ELSE 'ok' END AS level
    FROM users u LEFT JOIN notice_preferences p ON p.user_id = u.id
    CROSS JOIN LATERAL (SELECT sum(a.balance_usd) AS balance FROM ledger_accounts a
        WHERE a.id IN ('credit:user:' || u.id, 'allowance:user:' || u.id)) AS b
    WHERE u.prepaid AND u.active AND coalesce(p.email_notifications, true))
SELECT l.* FROM looked l LEFT JOIN balance_notices n ON n.payer = l.payer
WHERE l.level IS DISTINCT FROM n.level ORDER BY l.payer LIMIT %(most)s
"""
_NOTE: LiteralString = """
INSERT INTO balance_notices AS n (payer, level) VALUES (%(payer)s, %(level)s)
ON CONFLICT (payer) DO UPDATE SET level = excluded.level WHERE n.level <> excluded.level
"""
_MAY_TELL: dict[str, LiteralString] = {
    level: f"UPDATE balance_notices SET {level}_told_at = now() WHERE payer = %s"
    f" AND {level}_told_at <= now() - %s * interval '1 hour'"
    for level in ("low", "depleted")
}
_TRIALS: LiteralString = """
SELECT t.user_id, u.email, t.ends_at, t.ends_at <= now() AS over FROM trials t JOIN users u ON u.id = t.user_id
LEFT JOIN notice_preferences p ON p.user_id = u.id
WHERE t.lifted_at IS NULL AND u.active AND coalesce(p.email_notifications, true)
AND t.ends_at <= now() + coalesce(p.trial_days, %(days)s) * interval '1 day'
AND t.ends_at > now() - interval '3 days' AND NOT EXISTS (SELECT 1 FROM mail_outbox m WHERE m.ref =
    CASE WHEN t.ends_at <= now() THEN 'trial_expired:' ELSE 'trial_expiring:' END || t.user_id) LIMIT %(most)s
"""
_PLANS: LiteralString = """
SELECT u.id AS user_id, u.email, t.plan, t.ends_at FROM plan_terms t JOIN users u ON t.payer = 'user:' || u.id
LEFT JOIN notice_preferences p ON p.user_id = u.id
WHERE t.source <> 'trial' AND t.ends_at > now() AND u.active AND coalesce(p.email_notifications, true)
AND t.ends_at <= now() + coalesce(p.plan_days, %(days)s) * interval '1 day'
AND NOT EXISTS (SELECT 1 FROM mail_outbox m WHERE m.ref =
    'plan_expiring:' || u.id || ':' || extract(epoch FROM t.ends_at)::bigint) LIMIT %(most)s
"""
_REPORTS: LiteralString = """
SELECT u.id AS user_id, u.email FROM users u LEFT JOIN notice_preferences p ON p.user_id = u.id
WHERE u.active AND coalesce(p.email_notifications, true) AND coalesce(p.usage_alerts, %(wanted)s)
AND EXISTS (SELECT 1 FROM call_records c WHERE c.user_id = u.id AND c.started_at >= %(since)s
    AND c.started_at < %(until)s)
AND NOT EXISTS (SELECT 1 FROM mail_outbox m WHERE m.ref = 'monthly_report:' || u.id || ':' || %(month)s)
LIMIT %(most)s
"""
_USAGE: LiteralString = """
SELECT coalesce(model, requested_model, '') AS model, count(*) AS requests, coalesce(sum(cost_usd), 0) AS cost_usd,
    sum((SELECT coalesce(sum(v::numeric), 0) FROM jsonb_each_text(tokens) AS t (k, v) WHERE k IN ('input', 'output',
    'cached_input', 'cache_write', 'cache_write_1h', 'reasoning', 'audio_input', 'audio_output')))::bigint AS tokens
FROM call_records WHERE user_id = %(user)s AND started_at >= %(since)s AND started_at < %(until)s
AND attempts <> '[]' GROUP BY 1 ORDER BY cost_usd DESC, requests DESC
"""


@dataclass(frozen=True, slots=True)
class Month:
    since: datetime
    until: datetime

    @property
    def name(self) -> str:
        return f"{self.since:%Y-%m}"


async def tell_balances(connection: Connection, rules: NoticesFile) -> int:
    """How many were told that their balance is low or used up."""
    rows = await _list(connection, _WORSE, {"low": rules.low_balance_usd, "most": _AT_ONCE})
    told = 0
    for row in rows:
        async with connection.transaction():
            noted = await connection.execute(_NOTE, row)
            if noted.rowcount and row["level"] != "ok":
                told += await _tell_balance(connection, row, rules)
    return told


async def _tell_balance(connection: Connection, row: dict[str, Any], rules: NoticesFile) -> bool:
    may = await connection.execute(_MAY_TELL[row["level"]], (row["payer"], rules.again_after_h))
    if not may.rowcount:
        return False
    moment = await (
        await connection.execute("SELECT (extract(epoch FROM now()) * 1000000)::bigint")
    ).fetchone()
    assert moment is not None, "there is always a now"
    ref = f"balance_{row['level']}:{row['payer']}:{moment[0]}"
    data = {"balance_usd": f"{row['balance']:f}", "threshold_usd": f"{row['threshold']:f}"}
    return await queue_mail(connection, "low_balance", row["email"], data, ref=ref, user_id=row["user_id"])


async def tell_ends(connection: Connection, rules: NoticesFile) -> int:
    """How many were told of a trial or a plan that ends, or has."""
    told = 0
    for row in await _list(connection, _TRIALS, {"days": rules.trial_days, "most": _AT_ONCE}):
        template, key = ("trial_expired", "ended_at") if row["over"] else ("trial_expiring", "ends_at")
        data, user_id = {key: f"{row['ends_at']:%Y-%m-%d}"}, row["user_id"]
        ref = f"{template}:{user_id}"
        told += await queue_mail(connection, template, row["email"], data, ref=ref, user_id=user_id)
    for row in await _list(connection, _PLANS, {"days": rules.plan_days, "most": _AT_ONCE}):
        data = {"plan": row["plan"], "ends_at": f"{row['ends_at']:%Y-%m-%d}"}
        ref, user_id = f"plan_expiring:{row['user_id']}:{int(row['ends_at'].timestamp())}", row["user_id"]
        told += await queue_mail(
            connection, "subscription_expiring", row["email"], data, ref=ref, user_id=user_id
        )
    return told


async def send_reports(connection: Connection, rules: NoticesFile, month: Month) -> int:
    """How many got a report of a month that is over."""
    asked = {"since": month.since, "until": month.until, "month": month.name, "most": _AT_ONCE}
    rows = await _list(connection, _REPORTS, {**asked, "wanted": rules.usage_alerts})
    sent = 0
    for row in rows:
        ref = f"monthly_report:{row['user_id']}:{month.name}"
        sent += await send_report(connection, row["user_id"], row["email"], month, ref)
    return sent


async def send_report(connection: Connection, user_id: str, email: str, month: Month, ref: str) -> bool:
    rows = await _list(connection, _USAGE, {"user": user_id, "since": month.since, "until": month.until})
    balance = await read_balance(connection, f"user:{user_id}")
    data = {
        "month": f"{month.since:%B %Y}",
        "requests": sum(row["requests"] for row in rows),
        "tokens": sum(row["tokens"] for row in rows),
        "cost_usd": f"{sum((row['cost_usd'] for row in rows), Decimal(0)):f}",
        "balance_usd": f"{balance.total_usd:f}",
        "models": [
            {"model": row["model"], "requests": row["requests"], "cost_usd": f"{row['cost_usd']:f}"}
            for row in rows[:20]
        ],
    }
    return await queue_mail(connection, "monthly_report", email, data, ref=ref, user_id=user_id)


async def read_preferences(connection: Connection, user_id: str, rules: NoticesFile) -> dict[str, Any]:
    rows = await _list(
        connection,
        "SELECT email_notifications, low_balance_usd, trial_days, plan_days, usage_alerts"
        " FROM notice_preferences WHERE user_id = %(user)s",
        {"user": user_id},
    )
    said = {name: value for name, value in (rows[0] if rows else {}).items() if value is not None}
    default = {
        "email_notifications": True,
        "low_balance_usd": rules.low_balance_usd,
        "trial_days": rules.trial_days,
        "plan_days": rules.plan_days,
        "usage_alerts": rules.usage_alerts,
    }
    return default | said


async def write_preferences(connection: Connection, user_id: str, said: dict[str, Any]) -> None:
    """What is not said stays as it was said before."""
    asked = dict.fromkeys(
        ("email_notifications", "low_balance_usd", "trial_days", "plan_days", "usage_alerts")
    )
    await connection.execute(
        "INSERT INTO notice_preferences AS p (user_id, email_notifications, low_balance_usd, trial_days, plan_days,"
        " usage_alerts) VALUES (%(user)s, %(email_notifications)s, %(low_balance_usd)s, %(trial_days)s,"
        " %(plan_days)s, %(usage_alerts)s) ON CONFLICT (user_id) DO UPDATE SET"
        " email_notifications = coalesce(excluded.email_notifications, p.email_notifications),"
        " low_balance_usd = coalesce(excluded.low_balance_usd, p.low_balance_usd),"
        " trial_days = coalesce(excluded.trial_days, p.trial_days),"
        " plan_days = coalesce(excluded.plan_days, p.plan_days),"
        " usage_alerts = coalesce(excluded.usage_alerts, p.usage_alerts), updated_at = now()",
        {"user": user_id, **asked, **said},
    )


async def count_notices(connection: Connection) -> dict[str, int]:
    rows = await _list(
        connection,
        "SELECT count(*) AS total, count(*) FILTER (WHERE status = 'sent') AS sent,"
        " count(*) FILTER (WHERE status = 'given_up') AS failed,"
        " count(*) FILTER (WHERE status IN ('pending', 'failed')) AS pending,"
        " count(*) FILTER (WHERE created_at > now() - interval '24 hours') AS last_24h FROM mail_outbox",
        {},
    )
    return rows[0]


async def _list(
    connection: Connection, statement: LiteralString, asked: dict[str, Any]
) -> list[dict[str, Any]]:
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(statement, asked)
        return await cursor.fetchall()
