"""Requests, tokens and concurrency of every scope of a call, in this process's memory: all of them or none.

`Limiter.take` checks every scope first and only then counts, so a refused call takes nothing. It is
synchronous and pure (the clock is an argument, one monotonic clock for all calls); the `Grant` it returns
corrects the token estimate and gives the slots back. A limiter shared through Redis has the same three steps.
"""

from collections.abc import Iterator, Sequence
from math import ceil, inf
from typing import TYPE_CHECKING

from engine.policies.refusals import HEADER_NAMES, HeaderPairs, LimitReached, Reached, name_facts, refuse
from engine.policies.shelf import Counters, Entries, Entry, Shelf

if TYPE_CHECKING:
    from engine.config.snapshot import Limit

SWEEP_EVERY_S = 0.001


class Grant:
    """A call that may go on. Correct it while the call runs, release it once when the call ends."""

    __slots__ = ("_held", "_layers", "_tokens", "released")

    def __init__(self, held: list[Counters], tokens: int, entries: list[Entry]) -> None:
        self._held = held
        self._tokens = tokens
        self._layers = [(tokens, entries)]
        """What was reserved, and what each correction added: an amount, and where every window has it."""
        self.released = False

    def correct(self, tokens: int, now: float) -> None:
        """Make `tokens` what this call counts for: an unused estimate goes back, an excess counts from now.

        After the release it does nothing: the counters may have been put away by then.
        """
        tokens = max(tokens, 0)
        more = tokens - self._tokens
        if self.released or not more:
            return
        self._tokens = tokens
        if more < 0:
            self._give_back(-more)
            return
        entries = []
        for window, _ in self._layers[0][1]:
            window.expire(now)
            entries.append((window, window.add(more, now)))
        self._layers.append((more, entries))

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
        """Newest layers first, so that what was added by a correction leaves before the reservation does."""
        while amount:
            held, entries = self._layers.pop()
            back = min(amount, held)
            for window, entry in entries:  # `give_back`, unrolled
                at = entry - window.dropped
                if at >= 0:
                    window.counts[at] -= back
                    window.total -= back
            amount -= back
            if back < held or not self._layers:
                self._layers.append((held - back, entries))


class Limiter:
    """All limits of one process. With `workers` > 1 each takes its share.

    The shares add up to the number when the workers are numbered one after another, from whatever number on.
    """

    def __init__(self, *, worker: int = 0, workers: int = 1) -> None:
        self._worker, self._workers = worker % workers, workers
        self._shelves: dict[str, Shelf] = {}
        self._now = -inf
        self._sweep_at = -inf

    def take(self, scopes: "Sequence[tuple[str, str, Limit]]", tokens: int, now: float) -> Grant:
        """Count one request and `tokens` in every scope (name, identity, limit), or raise LimitReached."""
        now = self._tell_time(now)
        held = self._find(scopes)
        for counters in held:
            if not counters.fits(tokens, now):
                raise explain_refusal(scopes, held, tokens, now)
        return _count(held, tokens, now)

    def count(self, scopes: "Sequence[tuple[str, str, Limit]]", tokens: int, now: float) -> Grant:
        """Count without asking: what somebody else has allowed already."""
        held = self._find(scopes)
        return _count(held, tokens, self._tell_time(now))

    def count_running(self, scope: str, identity: str) -> int:
        """How many calls of an identity run in this process."""
        shelf = self._shelves.get(scope)
        return 0 if shelf is None else shelf.count_running(identity)

    def explain(
        self, reached: Reached, scopes: "Sequence[tuple[str, str, Limit]]", tokens: int, now: float
    ) -> LimitReached:
        """The error for a number that somebody else has looked at, with the headers of this process."""
        return refuse(reached, tokens, write_headers(self._find(scopes), self._tell_time(now)))

    def divide(self, worker: int, workers: int) -> None:
        """From now on this is another part of the whole."""
        if (worker % workers, workers) != (self._worker, self._workers):
            self._worker, self._workers = worker % workers, workers
            for shelf in self._shelves.values():
                shelf.forget_limits()

    def list_identities(self) -> list[tuple[str, str]]:
        """Scope and identity of everybody who is remembered."""
        return [
            (scope, identity) for scope, shelf in self._shelves.items() for identity in shelf.list_names()
        ]

    def read_entries(self, scope: str, identity: str, now: float) -> Entries:
        """What an identity used: per window ("r60": requests of a minute) the age in seconds and number of each
        entry, oldest first.
        """
        return self._shelves[scope].read_entries(identity, now)

    def forget_idle(self, now: float) -> None:
        """A bounded piece of housekeeping: pack what has been idle, drop what no window remembers."""
        self._sweep_at = now + SWEEP_EVERY_S
        for shelf in self._shelves.values():
            shelf.sweep(now)

    def count_identities(self) -> dict[str, int]:
        """How many identities are remembered, by scope."""
        return {scope: len(shelf) for scope, shelf in self._shelves.items()}

    def _tell_time(self, now: float) -> float:
        now = self._now = max(now, self._now)
        if now >= self._sweep_at:
            self.forget_idle(now)
        return now

    def _find(self, scopes: "Sequence[tuple[str, str, Limit]]") -> list[Counters]:
        held = []
        for scope, identity, limit in scopes:
            shelf = self._shelves.get(scope)
            if shelf is None:
                shelf = self._shelves[scope] = Shelf()
            counters = shelf.hot.get(identity) or shelf.warm(identity)
            if counters.limit is not limit:
                counters.adopt(limit, self._share)
            held.append(counters)
        return held

    def _share(self, number: int) -> int:
        whole, rest = divmod(number, self._workers)
        return whole + (self._worker < rest)


def _count(held: list[Counters], tokens: int, now: float) -> Grant:
    entries: list[Entry] = []
    for counters in held:
        counters.count(tokens, now, entries)
    return Grant(held, tokens, entries)


def explain_refusal(
    scopes: "Sequence[tuple[str, str, Limit]]", held: list[Counters], tokens: int, now: float
) -> LimitReached:
    """The error for the limit that takes longest to give way, so that whoever waits that long is let in."""
    reached = [
        fact
        for (scope, _, _), counters in zip(scopes, held, strict=True)
        for fact in _list_reached(scope, counters, tokens, now)
    ]
    return refuse(max(reached, key=lambda fact: fact.order), tokens, write_headers(held, now))


def _list_reached(scope: str, counters: Counters, tokens: int, now: float) -> Iterator[Reached]:
    if counters.in_flight >= counters.concurrency:
        yield Reached(scope, "c", 0, int(counters.concurrency), counters.in_flight, 1.0)
    for kind, amount, checks in (("r", 1, counters.request_checks), ("t", tokens, counters.token_checks)):
        for window, number in checks:
            window.expire(now)
            if window.total + amount > number:
                wait_s = window.wait_s(amount, number, now)
                yield Reached(scope, kind, window.size_s, number, window.total, wait_s)


def write_headers(held: list[Counters], now: float) -> HeaderPairs:
    """The x-ratelimit-* headers: of each kind the window with the least left, over all scopes."""
    headers: HeaderPairs = []
    for kind in HEADER_NAMES:
        tightest = find_tightest(held, kind, now)
        if tightest is not None:
            headers += name_facts(kind, *tightest)
    return headers


def find_tightest(held: list[Counters], kind: str, now: float) -> tuple[int, int, int] | None:
    """Number, what is left, seconds until that grows; of several that are empty the one that stays so longest.

    A burst with room is left out: it would always be the tightest and says nothing about the minutes to come.
    """
    tightest, until = 0, now
    least: float = inf
    for counters in held:
        for window, number in counters.request_checks if kind == "requests" else counters.token_checks:
            remaining = number - window.total
            if remaining > least:
                continue  # and what has expired would only leave it more
            lasts = window.lasts
            grows_at = lasts[0] + window.size_s if lasts else now
            if lasts and grows_at <= now:
                window.expire(now)
                grows_at = lasts[0] + window.size_s if lasts else now
                remaining = number - window.total
            if remaining > least or (remaining > 0 and window is counters.burst):
                continue
            remaining = max(remaining, 0)
            if remaining < least or (grows_at > until and ceil(grows_at - now) > ceil(until - now)):
                tightest, least, until = number, remaining, grows_at
    return None if least is inf else (tightest, int(least), ceil(until - now))
