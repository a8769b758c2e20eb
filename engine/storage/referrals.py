"""Purchases and the referrals that wait for them. What was promised stands in the referral's own row, so that a change
of the rules changes no promise. Works inside the caller's transaction.
"""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, LiteralString

from engine.storage.ledger import grant
from engine.storage.outbox import queue_mail
from engine.storage.postgres import Connection, count_change
from engine.storage.trial_terms import lift_trial

_COMPLETE: LiteralString = (
    "UPDATE referrals SET status = 'completed', completed_at = now(), purchase_ref = %(ref)s"
    " WHERE referee_id = %(user)s AND status = 'pending' AND min_purchase_usd <= %(amount)s"
    " RETURNING referrer_id, referrer_bonus_usd, referee_bonus_usd, code"
)


async def purchase_made(connection: Connection, payer: str, amount_usd: Decimal, ref: str) -> None:
    """A payer has bought something: a trial's restrictions end, and a referral that waits for it is completed.

    To be called inside the transaction that books the purchase; `ref` is that of the purchase. A repeat does nothing.
    """
    await count_change(connection)
    await lift_trial(connection, payer, f"purchase:{ref}")
    kind, _, user_id = payer.partition(":")
    if kind != "user":
        return
    row = await (
        await connection.execute(_COMPLETE, {"ref": ref, "user": user_id, "amount": amount_usd})
    ).fetchone()
    if row is None:
        return
    referrer_id, for_referrer, for_referee, code = row
    bonuses = sorted(((referrer_id, for_referrer, "referrer"), (user_id, for_referee, "referee")))
    for whose, bonus_usd, role in bonuses:  # in one order of accounts by everybody
        await _give_bonus(connection, whose, bonus_usd, {"referee": user_id, "role": role, "code": code})


async def _give_bonus(
    connection: Connection, user_id: str, bonus_usd: Decimal, facts: Mapping[str, Any]
) -> None:
    row = await (
        await connection.execute("SELECT email FROM users WHERE id = %s AND active", (user_id,))
    ).fetchone()
    if row is None or not bonus_usd:
        return  # an account that is closed gets nothing
    ref = f"referral:{facts['referee']}:{facts['role']}"
    balance = await grant(
        connection,
        f"user:{user_id}",
        bonus_usd,
        ref=ref,
        kind="bonus",
        source="house:bonuses",
        description="referral bonus",
        metadata=facts,
    )
    await lift_trial(connection, f"user:{user_id}", ref)
    if balance is None:
        return  # given before
    told = {
        "code": facts["code"],
        "bonus_usd": f"{bonus_usd.normalize():f}",
        "balance_usd": f"{balance.total_usd.normalize():f}",
    }
    await queue_mail(connection, "referral_bonus", row[0], told, ref=ref, user_id=user_id)
