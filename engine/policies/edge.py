"""Limits of those who have no valid key, by address and by kind of program, before anything is read or looked up.

Whoever has a key that this process knows is never counted and never refused here: addresses are shared. Who went over
a number is remembered as closed until there is room again, so that a flood costs a look into a dictionary.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from hashlib import sha256
from math import ceil
from typing import Any

from engine.config.networks import Networks, group_address
from engine.config.schema_edge import EdgeFile
from engine.config.snapshot import Limit, Snapshot
from engine.policies.limits import Limiter
from engine.policies.refusals import LimitReached
from engine.policies.shared_limits import SharedLimiter
from engine.policies.velocity import Velocity, is_failure

log = logging.getLogger(__name__)

Headers = Sequence[tuple[bytes, bytes]]
ADDRESS, AGENT = "address", "agent"
MOST_CLOSED = 10_000
_TRAITS = (b"user-agent", b"accept-language", b"accept-encoding")
_REASONS = {ADDRESS: "ip_limit", AGENT: "fingerprint_limit"}


class TooManyStrangers(LimitReached):
    type = "security_limit"


@dataclass(frozen=True, slots=True)
class Closed:
    """Somebody who is not let in before `until`."""

    until: float
    scope: str
    number: int
    velocity: bool


class Numbers:
    """A rule made ready: its limits, as they are and as they are in velocity mode, and its lists."""

    def __init__(self, rule: EdgeFile) -> None:
        self.rule = rule
        shares = (1.0, rule.velocity.multiplier)
        self.address = tuple(_per_minute(rule.per_address, share) for share in shares)
        self.strict = tuple(_per_minute(rule.strict.per_address, share) for share in shares)
        self.agent = tuple(_per_minute(rule.per_fingerprint, share) for share in shares)
        self.exempt, self.datacentres = Networks(rule.exempt.networks), Networks(rule.strict.networks)
        self.proxy_headers = frozenset(name.lower().encode() for name in rule.strict.headers)

    def is_strict(self, headers: Headers, address: str) -> bool:
        if any(name in self.proxy_headers for name, _ in headers) or self.datacentres.hold(address):
            return True
        agent = (
            next((value for name, value in headers if name == b"user-agent"), b"").decode("latin-1").lower()
        )
        return any(fnmatchcase(agent, glob) for glob in self.rule.strict.agents)


class Edge:
    def __init__(
        self,
        limiter: Limiter | SharedLimiter,
        read_snapshot: Callable[[], Snapshot],
        clock: Callable[[], float],
    ) -> None:
        self._limiter, self._read_snapshot, self._clock = limiter, read_snapshot, clock
        self._numbers: Numbers | None = None
        self.allowed = Networks(())
        """Networks that administrators let in (storage/limit_settings.py)."""
        self.closed: dict[str, Closed] = {}
        self.velocity = Velocity()

    async def count(self, headers: Headers, address: str, *, refused: bool, path: str = "") -> None:
        """One request without a valid key; `refused`: it asked for what needs one. Raises TooManyStrangers."""
        numbers = self._find_numbers()
        if numbers is None or path in numbers.rule.exempt.paths or self._is_exempt(numbers, address):
            return
        self.check(headers, address)
        now = self._clock()
        mode = int(self.velocity.is_on(now))
        limit = (numbers.strict if numbers.is_strict(headers, address) else numbers.address)[mode]
        scopes = [(ADDRESS, group_address(address), limit)]
        if refused:
            scopes.append((AGENT, fingerprint(headers), numbers.agent[mode]))
        try:
            if isinstance(self._limiter, SharedLimiter):
                grant: Any = await self._limiter.take(scopes, 0, now, "divide")
            else:
                grant = self._limiter.take(scopes, 0, now)
        except LimitReached as reached:
            raise self._close(reached, scopes, now) from None
        grant.release(now)

    def check(self, headers: Headers, address: str) -> None:
        """Raises TooManyStrangers when this address or program is closed; waits for nobody."""
        if not self.closed:
            return
        now = self._clock()
        for name in (f"{ADDRESS} {group_address(address)}", f"{AGENT} {fingerprint(headers)}"):
            closed = self.closed.get(name)
            if closed is None:
                continue
            if closed.until > now:
                raise _refuse(closed, now)
            del self.closed[name]

    def note(self, status: int, seconds: float) -> None:
        """A call has ended. Of everybody's calls the velocity mode learns whether there is trouble."""
        if self._numbers is not None and self.velocity.note(is_failure(status, seconds), self._clock()):
            log.warning("velocity mode: %d of %d calls failed", self.velocity.failures, self.velocity.total)

    def describe(self) -> dict[str, Any]:
        """The mode, and from what it goes."""
        numbers, now, velocity = self._find_numbers(), self._clock(), self.velocity
        velocity.forget(now)
        is_on = velocity.is_on(now)
        return {
            "enabled": numbers is not None,
            "active": is_on,
            "mode": "velocity" if is_on else "normal",
            "ends_in_s": round(velocity.until - now, 1) if is_on else None,
            "multiplier": velocity.rule.multiplier if is_on else 1.0,
            "requests": velocity.total,
            "errors": velocity.failures,
            "error_rate": round(velocity.failures / velocity.total, 4) if velocity.total else 0.0,
            "threshold": velocity.rule.ratio,
            "min_requests": velocity.rule.min_requests,
            "window_s": velocity.rule.window_s,
            "times_on": velocity.times_on,
            "closed": sum(closed.until > now for closed in self.closed.values()),
        }

    def _find_numbers(self) -> Numbers | None:
        rule = self._read_snapshot().declared(EdgeFile).get("default")
        if rule is None or not rule.enabled:
            self._numbers = None
            self.closed.clear()
        elif self._numbers is None or self._numbers.rule is not rule:
            self._numbers = Numbers(rule)
            self.velocity.rule = rule.velocity
        return self._numbers

    def _is_exempt(self, numbers: Numbers, address: str) -> bool:
        return numbers.exempt.hold(address) or self.allowed.hold(address)

    def _close(
        self, reached: LimitReached, scopes: Sequence[tuple[str, str, Limit]], now: float
    ) -> TooManyStrangers:
        assert reached.reached is not None and reached.retry_after_s is not None
        scope = reached.reached.scope
        identity = next(identity for name, identity, _ in scopes if name == scope)
        if len(self.closed) >= MOST_CLOSED:
            self.closed = {name: closed for name, closed in self.closed.items() if closed.until > now}
            if len(self.closed) >= MOST_CLOSED:
                self.closed.clear()
        closed = Closed(now + reached.retry_after_s, scope, reached.reached.number, self.velocity.is_on(now))
        self.closed[f"{scope} {identity}"] = closed
        return _refuse(closed, now)


def fingerprint(headers: Headers) -> str:
    """The kind of program, as far as it tells."""
    given = dict(headers)
    return sha256(b"\n".join(given.get(name, b"") for name in _TRAITS)).hexdigest()[:16]


def _per_minute(number: int, share: float) -> Limit:
    return Limit({60: max(1, int(number * share))})


def _refuse(closed: Closed, now: float) -> TooManyStrangers:
    seconds = max(1, ceil(closed.until - now))
    headers = {
        "ratelimit-limit": str(closed.number),
        "ratelimit-remaining": "0",
        "ratelimit-reset": str(seconds),
        "x-ratelimit-limit": str(closed.number),
        "x-ratelimit-remaining": "0",
        "x-ratelimit-reset": str(seconds),
        "x-ratelimit-reason": ("velocity_mode_" if closed.velocity else "") + _REASONS[closed.scope],
        "x-ratelimit-mode": "velocity" if closed.velocity else "normal",
    }
    error = TooManyStrangers(
        f"too many requests without a valid API key. Try again in {seconds} s.",
        _REASONS[closed.scope],
        float(seconds),
        headers,
    )
    if closed.velocity:
        error.type = "behavioral_limit"
    return error
