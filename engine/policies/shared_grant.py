"""What a call holds of the limits that are counted in Redis: its place in this process and what Redis knows it by."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from engine.policies.limits import Grant
from engine.policies.refusals import HeaderPairs
from engine.policies.scopes import Scopes
from engine.policies.script_words import Told, write_headers

if TYPE_CHECKING:
    from engine.policies.shared_limits import SharedLimiter


class SharedGrant:
    """A call that may go on: corrected and released like the Grant of one process."""

    __slots__ = (
        "_limiter",
        "facts",
        "handle",
        "lease",
        "local",
        "more",
        "released",
        "reserved",
        "scopes",
        "told",
    )

    def __init__(
        self, limiter: "SharedLimiter", scopes: Scopes, told: Told, tokens: int, lease: bytes
    ) -> None:
        self._limiter, self.scopes, self.told = limiter, scopes, told
        self.reserved, self.lease = tokens, lease
        self.local: tuple[Grant, ...] = ()
        self.handle = b""
        """Where Redis has counted the tokens; empty when it has counted none."""
        self.facts: Sequence[int] = ()
        self.more = 0
        """Tokens beyond what was reserved."""
        self.released = False

    def correct(self, tokens: int, now: float) -> None:
        if not self.released:
            self.more = tokens - self.reserved
            for grant in self.local:
                grant.correct(tokens, now)

    def give_back(self, now: float) -> None:
        """What this process counted for a call that did not come to pass; its request stays counted."""
        for grant in self.local:
            grant.correct(0, now)
            grant.release(now)
        self.local = ()

    def come_late(self, reply: Any) -> None:
        """Redis has counted a call whose caller went away before the answer came."""
        if reply[0]:
            self._limiter.read_reply(self, reply)
            self.more = -self.reserved
            self.released = True
            self._limiter.settle(self)

    def release(self, now: float) -> None:
        if not self.released:
            self.released = True
            for grant in self.local:
                grant.release(now)
            self._limiter.settle(self)

    def headers(self, now: float) -> HeaderPairs:
        return write_headers(self.facts) if self.facts else self.local[0].headers(now)
