"""Requests, tokens and concurrency of every scope of a call, in this process's memory: all of them or none.

`Limiter.take` checks every scope first and only then counts, so a refused call takes nothing. It is
synchronous and pure (the clock is an argument, one monotonic clock for all calls); the `Grant` it returns
corrects the token estimate and gives the slots back. A limiter shared through Redis has the same three steps.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil, inf
from typing import TYPE_CHECKING

from engine.errors import LimitExceeded
from engine.policies.shelf import Counters, Shelf
from engine.policies.windows import Window

if TYPE_CHECKING:
    from engine.config.snapshot import Limit

SWEEP_EVERY_S = 0.001
WINDOW_NAMES = {1: "second", 60: "minute", 3600: "hour", 86400: "day"}
HeaderPairs = list[tuple[bytes, bytes]]
HEADER_NAMES = {
    kind: tuple(f"x-ratelimit-{fact}-{kind}".encode() for fact in ("limit", "remaining", "reset"))
    for kind in ("requests", "tokens")
}
WHOM = {
    "key": "this key",
    "user": "this user",
    "team": "this team",
    "model": "this model",
    "ip": "this address",
    "system": "the whole gateway",
}


class LimitReached(LimitExceeded):
    """A limit says no. `retry_after_s` is whole seconds; None means that this call can never fit."""

    def __init__(self, message: str, code: str, retry_after_s: float | None, headers: dict[str, str]) -> None:
        super().__init__(message, code=code, retry_after_s=retry_after_s)
        self.headers = headers


class Grant:
    """A call that may go on. Correct it while the call runs, release it once when the call ends."""

    __slots__ = ("_corrected", "_held", "_parts", "_tokens", "released")

    def __init__(self, held: list[Counters], tokens: int, parts: list[tuple[Window, int, int]]) -> None:
        self._held = held
        self._tokens = tokens
        self._parts = parts
        self._corrected = False
        self.released = False

    def correct(self, tokens: int, now: float) -> None:
        """Make `tokens` what this call counts for: an unused estimate goes back, an excess counts from now.

        After the release it does nothing: the counters may have been put away by then.
        """
        more = tokens - self._tokens
        if self.released or not more:
            return
        self._tokens = tokens
        if more > 0:
            self._corrected = True
            for window in {id(window): window for window, _, _ in self._parts}.values():
                window.expire(now)
                self._parts.append((window, window.add(more, now), more))
        else:
            self._give_back(-more)

    def release(self, now: float) -> None:
        """Free the concurrency slots. A second release does nothing."""
        if not self.released:
            self.released = True
            for counters in self._held:
                counters.in_flight -= 1

    def headers(self, now: float) -> HeaderPairs:
        """The x-ratelimit-* headers as of `now`; no header for a kind that has no limit."""
        return write_headers(self._held, now)

    def _give_back(self, amount: int) -> None:
        """Newest parts first, so that what was added by a correction leaves before the reservation does."""
        parts = self._parts
        if not self._corrected:  # each window has one part
            for window, entry, count in parts:
                window.give_back(entry, amount if amount < count else count)
            self._parts = [(window, entry, max(count - amount, 0)) for window, entry, count in parts]
            return
        left = {id(window): amount for window, _, _ in parts}
        kept: list[tuple[Window, int, int]] = []
        for window, entry, count in reversed(parts):
            back = min(count, left[id(window)])
            left[id(window)] -= back
            window.give_back(entry, back)
            kept.append((window, entry, count - back))
        self._parts = kept[::-1]


class Limiter:
    """All limits of one process. With `workers` > 1 each takes its share.

    The shares add up to the number when the workers are numbered one after another, from whatever number on.
    """

    def __init__(self, *, worker: int = 0, workers: int = 1) -> None:
        self._worker = worker % workers
        self._workers = workers
        self._shelves: dict[str, Shelf] = {}
        self._now = -inf
        self._sweep_at = -inf

    def take(self, scopes: "Sequence[tuple[str, str, Limit]]", tokens: int, now: float) -> Grant:
        """Count one request and `tokens` in every scope (name, identity, limit), or raise LimitReached."""
        if now < self._now:
            now = self._now
        self._now = now
        if now >= self._sweep_at:
            self.forget_idle(now)
        held = [self._find(scope, identity, limit) for scope, identity, limit in scopes]
        for counters in held:
            if not counters.fits(tokens, now):
                raise explain_refusal(scopes, held, tokens, now)
        parts: list[tuple[Window, int, int]] = []
        for counters in held:
            counters.count(tokens, now, parts)
        return Grant(held, tokens, parts)

    def forget_idle(self, now: float) -> None:
        """A bounded piece of housekeeping: pack what has been idle, drop what no window remembers."""
        self._sweep_at = now + SWEEP_EVERY_S
        for shelf in self._shelves.values():
            shelf.sweep(now)

    def count_identities(self) -> dict[str, int]:
        """How many identities are remembered, by scope."""
        return {scope: len(shelf) for scope, shelf in self._shelves.items()}

    def _find(self, scope: str, identity: str, limit: "Limit") -> Counters:
        shelf = self._shelves.get(scope)
        if shelf is None:
            shelf = self._shelves[scope] = Shelf()
        counters = shelf.hot.get(identity) or shelf.warm(identity)
        if counters.limit is not limit:
            counters.adopt(limit, self._share)
        return counters

    def _share(self, number: int) -> int:
        whole, rest = divmod(number, self._workers)
        return whole + (self._worker < rest)


@dataclass(frozen=True, slots=True)
class _Refusal:
    code: str
    sentence: str
    wait_s: float | None

    @property
    def order(self) -> float:
        return inf if self.wait_s is None else self.wait_s


def explain_refusal(
    scopes: "Sequence[tuple[str, str, Limit]]", held: list[Counters], tokens: int, now: float
) -> LimitReached:
    """The error for the limit that takes longest to give way, so that whoever waits that long is let in."""
    refusals = [
        refusal
        for (scope, _, _), counters in zip(scopes, held, strict=True)
        for refusal in _list_refusals(WHOM.get(scope, f"this {scope}"), counters, tokens, now)
    ]
    worst = max(refusals, key=lambda refusal: refusal.order)
    headers = {name.decode(): value.decode() for name, value in write_headers(held, now)}
    if worst.wait_s is None:
        return LimitReached(worst.sentence, worst.code, None, headers)
    seconds = max(1, ceil(worst.wait_s))
    if worst.code == "token_rate_limit":  # room for one token comes sooner than room for this call
        headers["x-ratelimit-reset-tokens"] = str(seconds)
    return LimitReached(f"{worst.sentence} Try again in {seconds} s.", worst.code, float(seconds), headers)


def _list_refusals(whom: str, counters: Counters, tokens: int, now: float) -> Iterator[_Refusal]:
    if counters.in_flight >= counters.concurrency:
        sentence = f"{whom} may have {counters.concurrency} calls running at once and has as many."
        yield _Refusal("concurrent_request_limit", sentence[0].upper() + sentence[1:], 1.0)
    for window, number in counters.request_checks:
        window.expire(now)
        if window.total >= number:
            sentence = f"The limit of {number} requests per {name_window(window)} for {whom} is used up."
            yield _Refusal("rate_limit_exceeded", sentence, window.wait_s(1, number, now))
    for window, number in counters.token_checks:
        window.expire(now)
        if window.total + tokens > number:
            yield _Refusal(
                "token_rate_limit",
                _word_token_refusal(whom, window, number, tokens),
                window.wait_s(tokens, number, now),
            )


def _word_token_refusal(whom: str, window: Window, number: int, tokens: int) -> str:
    limit = f"the limit of {number} tokens per {name_window(window)} for {whom}"
    if tokens > number:
        return (
            f"This call reserves {tokens} tokens, more than {limit} can ever hold: ask for a shorter answer."
        )
    left = max(0, number - window.total)
    return f"This call reserves {tokens} tokens and {limit} has {left} left."


def name_window(window: Window) -> str:
    return WINDOW_NAMES.get(window.size_s, f"{window.size_s} seconds")


def write_headers(held: list[Counters], now: float) -> HeaderPairs:
    """The x-ratelimit-* headers: of each kind the window with the least left, over all scopes."""
    headers: HeaderPairs = []
    for kind, (limit_name, remaining_name, reset_name) in HEADER_NAMES.items():
        tightest = find_tightest(held, kind, now)
        if tightest is not None:
            number, remaining, window = tightest
            headers += (
                (limit_name, b"%d" % number),
                (remaining_name, b"%d" % remaining),
                (reset_name, b"%d" % window.reset_s(now)),
            )
    return headers


def find_tightest(held: list[Counters], kind: str, now: float) -> tuple[int, int, Window] | None:
    """Number, what is left, window; of several that are empty the one that stays so longest.

    A burst with room is left out: it would always be the tightest and says nothing about the minutes to come.
    """
    tightest: tuple[int, int, Window] | None = None
    least: float = inf
    for counters in held:
        for window, number in counters.request_checks if kind == "requests" else counters.token_checks:
            lasts = window.lasts
            if lasts and lasts[0] + window.size_s <= now:
                window.expire(now)
            remaining = number - window.total
            if remaining > least or (remaining > 0 and window is counters.burst):
                continue
            remaining = max(0, remaining)
            if tightest is None or remaining < least or window.reset_s(now) > tightest[2].reset_s(now):
                tightest, least = (number, remaining, window), remaining
    return tightest
