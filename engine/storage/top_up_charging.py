"""The seam between automatic top-ups and whoever can charge a payer that is not there."""

from dataclasses import dataclass
from decimal import Decimal
from typing import Literal, Protocol


@dataclass(frozen=True, slots=True)
class Charged:
    """`charged`: the money comes, the ledger gets it under the charge's reference. `failed`: there will be none."""

    state: Literal["charged", "failed"]
    reason: str = ""
    is_final: bool = False
    """No later try can do better: no card, or one that needs its owner."""


class OffSessionCharger(Protocol):
    async def charge_off_session(self, payer: str, amount_usd: Decimal, ref: str) -> Charged:
        """Charge a payer's saved means of payment. Asked twice with one `ref`, it charges once (idempotency key).

        Whoever books the money, at once or when the payment provider tells, calls
        `top_ups.finish_charge(connection, ref)` in the same transaction. Raises DependencyAway when nothing is known:
        the same `ref` is asked for again later.
        """
