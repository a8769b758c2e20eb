"""The mail that tells of credit which nobody paid for: a coupon's, a trial's. Works inside the caller's transaction."""

from decimal import Decimal

from engine.storage.ledger import Balance
from engine.storage.outbox import queue_mail
from engine.storage.postgres import Connection


async def tell_credit_added(
    connection: Connection, user_id: str, amount_usd: Decimal, balance: Balance, *, ref: str, reason: str
) -> bool:
    """Queue `credits_added`, once for each `ref` of the ledger; False when there is nobody to write to."""
    row = await (
        await connection.execute("SELECT email FROM users WHERE id = %s AND active", (user_id,))
    ).fetchone()
    if row is None:
        return False
    told = {
        "amount_usd": f"{amount_usd:f}",
        "balance_usd": f"{balance.total_usd:f}",
        "reason": reason,
    }
    return await queue_mail(
        connection, "credits_added", row[0], told, ref=f"credits_added:{ref}", user_id=user_id
    )
