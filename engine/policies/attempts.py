"""How often somebody may try to get in: counted by the limiter that all gateways share, before any work is done."""

import ipaddress
from collections.abc import Callable

from engine.config.schema_login import AttemptEntry
from engine.config.snapshot import Limit
from engine.errors import LimitExceeded
from engine.policies.limits import Limiter
from engine.policies.refusals import LimitReached
from engine.policies.shared_limits import SharedLimiter


class Attempts:
    """`workers` is how many of them share the numbers when there is no Redis: each has one attempt at least."""

    def __init__(
        self, limiter: Limiter | SharedLimiter, clock: Callable[[], float], workers: int = 1
    ) -> None:
        self._limiter, self._clock = limiter, clock
        self._least = 1 if isinstance(limiter, SharedLimiter) else workers
        self._limits: dict[AttemptEntry, Limit] = {}

    async def count(self, what: str, who: str, entry: AttemptEntry) -> None:
        """Count one attempt. Raises LimitExceeded, with the seconds until the next can be made."""
        limit = self._limits.get(entry)
        if limit is None:
            limit = self._limits[entry] = Limit({entry.within_s: max(entry.attempts, self._least)})
        scopes, now, limiter = [(f"auth_{what}", who, limit)], self._clock(), self._limiter
        try:
            if isinstance(limiter, SharedLimiter):
                grant = await limiter.take(scopes, 0, now, "divide")
                grant.release(self._clock())
            else:
                limiter.take(scopes, 0, now).release(now)
        except LimitReached as reached:
            wait_s = reached.retry_after_s or float(entry.within_s)
            raise LimitExceeded(
                f"Too many attempts. Try again in {wait_s:.0f} s.",
                code="too_many_attempts",
                retry_after_s=wait_s,
            ) from None


def name_place(address: str) -> str:
    """Whom an address counts for: itself, or the network that one customer has of IPv6."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network(f"{parsed}/64", strict=False))
    return address
