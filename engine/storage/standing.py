"""How an account stands: what is on it, and what its plan and its trial say of it."""

from dataclasses import dataclass
from datetime import datetime

from engine.storage.ledger import Balance, read_balance
from engine.storage.postgres import Connection


@dataclass(frozen=True, slots=True)
class Standing:
    balance: Balance
    subscription_status: str = "inactive"
    """trial, active (there is a plan), inactive; bot or suspended for an account that is marked."""
    trial_expires_at: datetime | None = None
    subscription_end_date: datetime | None = None
    allowance_reset_date: datetime | None = None


async def read_standing(connection: Connection, user_id: str, plan: str) -> Standing:
    payer = f"user:{user_id}"
    row = await (
        await connection.execute(
            "SELECT (SELECT ends_at FROM trials WHERE user_id = %s AND closed_at IS NULL AND ends_at > now()),"
            " p.ends_at, p.allowance_until, (SELECT nullif(status, 'active') FROM users WHERE id = %s)"
            " FROM (SELECT 1) one LEFT JOIN plan_terms p ON p.payer = %s",
            (user_id, user_id, payer),
        )
    ).fetchone()
    trial, ends_at, until, marked = row or (None, None, None, None)
    status = "active" if plan else "trial" if trial is not None else "inactive"
    return Standing(await read_balance(connection, payer), marked or status, trial, ends_at, until)
