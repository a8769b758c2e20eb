"""How many calls a key may make in all its life, for the few keys that have such a cap.

The count is that of the call records, to which comes what this process let in and has not seen recorded yet: exact in
one process, and true to what other workers wrote until `REFRESH_EACH_S` ago. What it may spend is a budget
(billing/budgets.py).
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Protocol

from engine.call import Call, KeyBounds
from engine.config.snapshot import Policy
from engine.errors import LimitExceeded
from engine.policies.refusals import HeaderPairs
from engine.storage.key_usage import KeyUsage

REFRESH_EACH_S = 1.0
_FORGET_AFTER_S = 600.0


class Records(Protocol):
    """The call records (storage/key_usage.py)."""

    async def read_usage(self, key_id: str, after: int, ids: Collection[str]) -> KeyUsage: ...


@dataclass(slots=True)
class _Meter:
    requests: int = 0
    until: int = 0
    open: set[str] = field(default_factory=set)
    """Calls that this process let in and has not seen recorded."""
    used_at: float = 0.0

    def add(self, usage: KeyUsage) -> None:
        self.requests += usage.requests
        self.until = max(self.until, usage.until)
        for call_id in usage.recorded:
            self.open.discard(call_id)

    def check(self, bounds: KeyBounds) -> None:
        most = bounds.max_requests
        if most is not None and self.requests + len(self.open) >= most:
            raise LimitExceeded(f"this key's {most} requests are used up", code="key_requests_used_up")


class CapPlace:
    __slots__ = ("_meter",)

    def __init__(self, meter: _Meter) -> None:
        self._meter = meter

    def leave(self, call: Call) -> None:
        """The call is over: one that asked nobody does not count."""
        if not call.attempts:
            self._meter.open.discard(call.id)


class Caps:
    """The stage of admission for keys that have a cap."""

    def __init__(self, records: Records, clock: Callable[[], float]) -> None:
        self._records, self._clock = records, clock
        self._meters: dict[str, _Meter] = {}

    async def enter(self, call: Call, policy: Policy, headers: HeaderPairs) -> "CapPlace | None":
        """Let a call in, or refuse it. Raises DependencyAway for a key whose count nobody here knows yet."""
        caller = call.caller
        bounds = caller.bounds if caller is not None else None
        if caller is None or bounds is None or not bounds.is_capped:
            return None
        meter = self._meters.get(caller.key_id)
        if meter is None:
            usage = await self._records.read_usage(caller.key_id, 0, ())
            meter = self._meters.get(caller.key_id)
            if meter is None:
                meter = self._meters[caller.key_id] = _Meter()
                meter.add(usage)
        meter.used_at = self._clock()
        meter.check(bounds)
        meter.open.add(call.id)
        return CapPlace(meter)

    async def refresh(self) -> None:
        """Read what was recorded since, of the keys that are in use. Raises DependencyAway."""
        now = self._clock()
        for key_id, meter in list(self._meters.items()):
            if not meter.open and now - meter.used_at > _FORGET_AFTER_S:
                del self._meters[key_id]
                continue
            meter.add(await self._records.read_usage(key_id, meter.until, list(meter.open)))
