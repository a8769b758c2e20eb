"""What a key may ask for and spend in all its life, for the few keys that have such a cap.

The count is that of the call records, to which comes what this process let in and has not seen recorded yet: exact in
one process, and true to what other workers wrote until `REFRESH_EACH_S` ago. A call under way has no cost yet, so a
cap on spending is passed by at most the calls that run when it is reached.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Protocol

from engine.call import Call, Caller, KeyBounds
from engine.errors import CreditMissing, LimitExceeded
from engine.storage.key_usage import KeyUsage

REFRESH_EACH_S = 1.0
_FORGET_AFTER_S = 600.0


class Records(Protocol):
    """The call records (storage/key_usage.py)."""

    async def read_usage(self, key_id: str, after: int, ids: Collection[str]) -> KeyUsage: ...


@dataclass(slots=True)
class _Meter:
    requests: int = 0
    spent_usd: Decimal = Decimal(0)
    until: int = 0
    open: dict[str, Decimal] = field(default_factory=dict)
    """Calls that this process let in and has not seen recorded, with what they cost once that is known."""
    used_at: float = 0.0

    def add(self, usage: KeyUsage) -> None:
        self.requests += usage.requests
        self.spent_usd += usage.spent_usd
        self.until = max(self.until, usage.until)
        for call_id in usage.recorded:
            self.open.pop(call_id, None)

    def check(self, bounds: KeyBounds) -> None:
        most, most_usd = bounds.max_requests, bounds.max_spend_usd
        if most is not None and self.requests + len(self.open) >= most:
            raise LimitExceeded(f"this key's {most} requests are used up", code="key_requests_used_up")
        if most_usd is not None and self.spent_usd + sum(self.open.values()) >= most_usd:
            raise CreditMissing(
                f"this key's {most_usd.normalize():f} USD are spent", code="key_budget_used_up"
            )


class Caps:
    def __init__(self, records: Records) -> None:
        self._records = records
        self._meters: dict[str, _Meter] = {}

    async def enter(self, call: Call, caller: Caller, bounds: KeyBounds, now: float) -> None:
        """Let a call in, or refuse it. Raises DependencyAway for a key whose count nobody here knows yet."""
        meter = self._meters.get(caller.key_id)
        if meter is None:
            usage = await self._records.read_usage(caller.key_id, 0, ())
            meter = self._meters.get(caller.key_id)
            if meter is None:
                meter = self._meters[caller.key_id] = _Meter()
                meter.add(usage)
        meter.used_at = now
        meter.check(bounds)
        meter.open[call.id] = Decimal(0)

    def leave(self, call: Call, caller: Caller) -> None:
        """The call is over: one that asked nobody does not count."""
        meter = self._meters.get(caller.key_id)
        if meter is None:
            return
        if call.attempts:
            meter.open[call.id] = call.cost
        else:
            meter.open.pop(call.id, None)

    async def refresh(self, now: float) -> None:
        """Read what was recorded since, of the keys that are in use. Raises DependencyAway."""
        for key_id, meter in list(self._meters.items()):
            if not meter.open and now - meter.used_at > _FORGET_AFTER_S:
                del self._meters[key_id]
                continue
            meter.add(await self._records.read_usage(key_id, meter.until, list(meter.open)))
