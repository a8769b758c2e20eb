"""Automatic top-ups: a balance that fell below its threshold is charged for once, and again only after the money came.

A charge is a row before anybody is asked for money; that a payer has one open charge at most is a constraint. A charge
that nobody answered for is asked for again under its own reference, so it is never made twice.
"""

from dataclasses import dataclass
from decimal import Decimal
from typing import Any, LiteralString
from uuid import uuid4

from psycopg.rows import class_row

from engine.config.schema_commerce import TopUpsFile
from engine.errors import DependencyAway
from engine.storage.postgres import Connection, Database
from engine.storage.top_up_charging import Charged, OffSessionCharger

_AT_ONCE = 100
_CLAIM: LiteralString = """
INSERT INTO top_up_charges (ref, payer, amount_usd)
SELECT 'topup_' || %(salt)s || '_' || row_number() OVER (), t.payer, t.amount_usd FROM top_ups t
CROSS JOIN LATERAL (SELECT coalesce(sum(a.balance_usd), 0) AS usd FROM ledger_accounts a
    WHERE a.id IN ('credit:' || t.payer, 'allowance:' || t.payer)) AS b
CROSS JOIN LATERAL (SELECT coalesce(sum(c.amount_usd), 0) AS usd FROM top_up_charges c WHERE c.payer = t.payer
    AND c.state <> 'failed' AND c.created_at >= date_trunc('month', now(), 'UTC')) AS m
WHERE t.enabled AND t.next_try_at <= now() AND b.usd < t.threshold_usd AND m.usd + t.amount_usd <= t.month_usd
LIMIT %(most)s ON CONFLICT DO NOTHING
"""
_SETTLE: LiteralString = """
UPDATE top_up_charges c SET state = 'done', finished_at = now() FROM payments p
WHERE c.state IN ('claimed', 'charged') AND p.ref = c.ref AND p.granted_usd IS NOT NULL RETURNING c.payer
"""
_TAKE: LiteralString = """
UPDATE top_up_charges SET tried_at = now() WHERE ref = (SELECT ref FROM top_up_charges WHERE state = 'claimed'
    AND (tried_at = created_at OR tried_at <= now() - %(lost)s * interval '1 second')
    ORDER BY tried_at LIMIT 1 FOR UPDATE SKIP LOCKED) RETURNING ref, payer, amount_usd
"""
_FAIL: LiteralString = """
UPDATE top_ups SET failures = failures + 1, enabled = failures + 1 < %(most)s,
    switched_off_because = CASE WHEN failures + 1 < %(most)s THEN '' ELSE %(reason)s END,
    next_try_at = now() + %(pause)s * power(2, failures) * interval '1 second' WHERE payer = %(payer)s
"""


@dataclass(frozen=True, slots=True)
class TopUp:
    enabled: bool
    threshold_usd: Decimal
    amount_usd: Decimal
    month_usd: Decimal
    failures: int = 0
    switched_off_because: str = ""


async def read_top_up(connection: Connection, payer: str) -> TopUp | None:
    async with connection.cursor(row_factory=class_row(TopUp)) as cursor:
        await cursor.execute(
            "SELECT enabled, threshold_usd, amount_usd, month_usd, failures, switched_off_because FROM top_ups"
            " WHERE payer = %s",
            (payer,),
        )
        return await cursor.fetchone()


async def set_top_up(connection: Connection, payer: str, asked: TopUp) -> None:
    """Failures are forgotten: whoever says it anew has seen to the reason."""
    await connection.execute(
        "INSERT INTO top_ups AS t (payer, enabled, threshold_usd, amount_usd, month_usd)"
        " VALUES (%s, %s, %s, %s, %s) ON CONFLICT (payer) DO UPDATE SET enabled = excluded.enabled,"
        " threshold_usd = excluded.threshold_usd, amount_usd = excluded.amount_usd, month_usd = excluded.month_usd,"
        " failures = 0, switched_off_because = '', next_try_at = now(), updated_at = now()",
        (payer, asked.enabled, asked.threshold_usd, asked.amount_usd, asked.month_usd),
    )


async def finish_charge(connection: Connection, ref: str) -> bool:
    """The money is in the ledger; to be called in the transaction that books it. False: it was finished before."""
    done = await connection.execute(
        "UPDATE top_up_charges SET state = 'done', finished_at = now()"
        " WHERE ref = %s AND state IN ('claimed', 'charged')",
        (ref,),
    )
    await connection.execute(
        "UPDATE top_ups SET failures = 0 WHERE payer = (SELECT payer FROM top_up_charges WHERE ref = %s)",
        (ref,),
    )
    return bool(done.rowcount)


async def top_up_all(database: Database, charger: OffSessionCharger, rules: TopUpsFile) -> int:
    """Claim what is due and have it charged; how many were asked for."""

    async def claim(connection: Connection) -> None:
        await connection.execute(_SETTLE)
        await connection.execute(_CLAIM, {"salt": uuid4().hex, "most": _AT_ONCE})

    await database.run(claim)
    asked = 0
    while asked < _AT_ONCE and await _charge_next(database, charger, rules):
        asked += 1
    return asked


async def _charge_next(database: Database, charger: OffSessionCharger, rules: TopUpsFile) -> bool:
    async def take(connection: Connection) -> Any:
        return await (await connection.execute(_TAKE, {"lost": rules.lost_after_s})).fetchone()

    row = await database.run(take)
    if row is None:
        return False
    ref, payer, amount_usd = row
    try:
        charged = await charger.charge_off_session(payer, amount_usd, ref)
    except DependencyAway:
        return True  # it stays claimed and is asked for again under the same reference

    async def note(connection: Connection) -> None:
        async with connection.transaction():
            if charged.state == "charged":
                await connection.execute(
                    "UPDATE top_up_charges SET state = 'charged' WHERE ref = %s AND state = 'claimed'", (ref,)
                )
            else:
                await _note_failure(connection, ref, payer, charged, rules)

    await database.run(note)
    return True


async def _note_failure(
    connection: Connection, ref: str, payer: str, charged: Charged, rules: TopUpsFile
) -> None:
    """The payer is told by whoever tried to charge."""
    reason = charged.reason[:300] or "the charge failed"
    failed = await connection.execute(
        "UPDATE top_up_charges SET state = 'failed', reason = %s, finished_at = now()"
        " WHERE ref = %s AND state = 'claimed'",
        (reason, ref),
    )
    if failed.rowcount:
        most = 1 if charged.is_final else rules.max_failures
        asked = {"most": most, "reason": reason, "payer": payer, "pause": rules.retry_after_s}
        await connection.execute(_FAIL, asked)
