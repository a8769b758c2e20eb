"""Circuit breakers, one for each provider+model: a target that keeps failing is left alone and probed now and then.

The state outlives reloads (its key is the target's name) and never leaves the process. Time is an argument.
"""

from collections import OrderedDict
from dataclasses import dataclass

from engine.config.snapshot import BreakerRule

MAX_TRACKED = 10_000
# A failed probe doubles the wait, up to this many times `open_s`: few probes, yet back soon after a recovery.
LONGEST_WAIT = 2.5


@dataclass(slots=True)
class Breaker:
    """closed (until == 0), open (now < until) or half-open (now >= until, `probes` under way)."""

    failures_in_row: int = 0
    window_began: float = 0.0
    ok: int = 0
    failed: int = 0
    until: float = 0.0
    wait_s: float = 0.0
    probes: int = 0


class Breakers:
    def __init__(self) -> None:
        self._breakers: OrderedDict[str, Breaker] = OrderedDict()

    def seconds_until_open(self, name: str, now: float) -> float:
        """How long this target is not to be asked (0: it may be asked, perhaps as a probe)."""
        breaker = self._breakers.get(name)
        return max(breaker.until - now, 0.0) if breaker is not None and breaker.until else 0.0

    def admit(self, name: str, rule: BreakerRule, now: float) -> str:
        """`closed`: go; `probe`: go, as a probe; `open`: do not."""
        breaker = self._breakers.get(name)
        if breaker is None or not breaker.until:
            return "closed"
        if now < breaker.until or breaker.probes >= rule.half_open:
            return "open"
        breaker.probes += 1
        return "probe"

    def give_back_probe(self, name: str) -> None:
        """A probe ended without saying anything about the target (its caller went away, it was refused)."""
        breaker = self._breakers.get(name)
        if breaker is not None and breaker.probes:
            breaker.probes -= 1

    def note_success(self, name: str, rule: BreakerRule, now: float) -> None:
        breaker = self._breakers.get(name)
        if breaker is None:
            breaker = self._begin(name, now)
        elif breaker.until:
            self._breakers[name] = Breaker(window_began=now, ok=1)
            return
        self._roll(breaker, rule, now)
        breaker.ok += 1
        breaker.failures_in_row = 0

    def note_failure(self, name: str, rule: BreakerRule, now: float) -> None:
        breaker = self._breakers.get(name) or self._begin(name, now)
        self._breakers.move_to_end(name)
        self._roll(breaker, rule, now)
        breaker.failed += 1
        breaker.failures_in_row += 1
        if breaker.until:
            if now >= breaker.until:
                self._open(breaker, min(breaker.wait_s * 2, rule.open_s * LONGEST_WAIT), now)
        elif self._is_too_bad(breaker, rule):
            self._open(breaker, rule.open_s, now)

    def states(self, now: float) -> dict[str, str]:
        """The breakers that are not closed, for metrics and `explain`."""
        return {
            name: "open" if now < breaker.until else "half_open"
            for name, breaker in self._breakers.items()
            if breaker.until
        }

    def _begin(self, name: str, now: float) -> Breaker:
        breaker = self._breakers[name] = Breaker(window_began=now)
        if len(self._breakers) > MAX_TRACKED:
            self._breakers.popitem(last=False)
        return breaker

    @staticmethod
    def _roll(breaker: Breaker, rule: BreakerRule, now: float) -> None:
        if now - breaker.window_began > rule.window_s:
            breaker.window_began, breaker.ok, breaker.failed = now, 0, 0

    @staticmethod
    def _is_too_bad(breaker: Breaker, rule: BreakerRule) -> bool:
        asked = breaker.ok + breaker.failed
        return breaker.failures_in_row >= rule.failures or (
            asked >= rule.min_requests and breaker.failed / asked >= rule.ratio
        )

    @staticmethod
    def _open(breaker: Breaker, wait_s: float, now: float) -> None:
        breaker.wait_s, breaker.until, breaker.probes = wait_s, now + wait_s, 0
