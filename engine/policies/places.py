"""The places that others hold, as Redis told last: while it is away nobody takes one that is taken.

The script tells it only of those of which more than half are taken, so that calls with room pay nothing for it.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from engine.policies.limits import Limiter
from engine.policies.refusals import Reached

if TYPE_CHECKING:
    from engine.config.snapshot import Limit

KNOWN_FOR_S = 16.0
"""As long as the places of a process that was killed. Then this worker has its part again, whoever holds more."""
MOST_KNOWN = 10_000


class OthersPlaces:
    def __init__(self, local: Limiter) -> None:
        self._local = local
        self.held: dict[tuple[str, str], tuple[int, float]] = {}
        """By scope and identity: how many, and when that was heard."""

    def note(
        self, scopes: "Sequence[tuple[str, str, Limit]]", told: Sequence[int], own: int, now: float
    ) -> None:
        """What the answer for a call under `scopes` told: which of the places, and how many are held in all.

        `own` of them this process has not counted yet.
        """
        held = dict(zip(told[::2], told[1::2], strict=True))
        with_places = [
            (scope, identity) for scope, identity, limit in scopes if limit.concurrency is not None
        ]
        for at, name in enumerate(with_places, 1):
            others = held[at] - own - self._local.count_running(*name) if at in held else 0
            if others <= 0:
                self.held.pop(name, None)
                continue
            if len(self.held) >= MOST_KNOWN:
                self.held.clear()
            self.held[name] = (others, now)

    def check(self, scopes: "Sequence[tuple[str, str, Limit]]", tokens: int, now: float) -> None:
        """Raises LimitReached when there is no place beside those of the others."""
        for scope, identity, limit in scopes:
            others, since = self.held.get((scope, identity), (0, now))
            if not others or limit.concurrency is None:
                continue
            running = others + self._local.count_running(scope, identity)
            if now - since > KNOWN_FOR_S:
                del self.held[scope, identity]
            elif running >= limit.concurrency:
                reached = Reached(scope, "c", 0, limit.concurrency, running, 1.0)
                raise self._local.explain(reached, scopes, tokens, now)
