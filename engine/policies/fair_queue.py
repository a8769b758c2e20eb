"""Who of those that wait is next: classes by weight, keys of a class alike, and nobody waits for ever. Pure.

The classes are critical, high, medium, low and background. Among classes turns go by weight, among the keys of a class
one after another, and a key's own calls in their order. Who has waited for `age_s` goes one class up, and again after
that. When the queue is full the key that has most in it gives way to one that has fewer: its newest call is put out.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Generic, TypeVar

from engine.policies.turns import Turns

CLASSES = ("critical", "high", "medium", "low", "background")
WEIGHTS = (1.0, 0.9, 0.7, 0.5, 0.3)

Caller = TypeVar("Caller")


class Waiter(Generic[Caller]):
    """One call that waits; `caller` is whatever the stage around this needs to wake it."""

    __slots__ = ("caller", "key", "level", "raised_at", "waits")

    def __init__(self, caller: Caller, key: str, level: int, now: float) -> None:
        self.caller, self.key, self.level = caller, key, level
        self.raised_at = now
        self.waits = True


Line = OrderedDict[Waiter[Caller], None]


class _Class(Generic[Caller]):
    """The calls of one class, in one line for each key."""

    __slots__ = ("arrivals", "lines", "turns")

    def __init__(self) -> None:
        self.lines: dict[str, Line[Caller]] = {}
        self.turns: Turns[str] = Turns()
        self.arrivals: Line[Caller] = OrderedDict()
        """All of them in the order in which they came into this class."""

    def add(self, waiter: Waiter[Caller]) -> None:
        self.lines.setdefault(waiter.key, OrderedDict())[waiter] = None
        self.arrivals[waiter] = None
        self.turns.want(waiter.key)

    def remove(self, waiter: Waiter[Caller]) -> None:
        line = self.lines[waiter.key]
        del line[waiter], self.arrivals[waiter]
        if not line:
            del self.lines[waiter.key]
            self.turns.leave(waiter.key)

    def take(self) -> Waiter[Caller]:
        key = self.turns.take()
        line = self.lines[key]
        waiter, _ = line.popitem(last=False)
        del self.arrivals[waiter]
        if line:
            self.turns.want(key)
        else:
            del self.lines[key]
        self.turns.rest()
        return waiter


class FairQueue(Generic[Caller]):
    """Those who wait. Who is let in, and when there is room, is for the stage around it to say."""

    __slots__ = ("_classes", "_counts", "_turns", "_weights")

    def __init__(self, weights: Sequence[float] = WEIGHTS) -> None:
        self._weights = tuple(weights)
        self._classes: tuple[_Class[Caller], ...] = tuple(_Class() for _ in CLASSES)
        self._turns: Turns[int] = Turns()
        self._counts: dict[str, int] = {}
        """How many calls of each key wait."""

    def __len__(self) -> int:
        return sum(self._counts.values())

    def __iter__(self) -> Iterator[Waiter[Caller]]:
        for each in self._classes:
            yield from each.arrivals

    def join(self, caller: Caller, key: str, level: int, now: float) -> Waiter[Caller]:
        waiter = Waiter(caller, key, level, now)
        self._counts[key] = self._counts.get(key, 0) + 1
        self._put(waiter)
        return waiter

    def leave(self, waiter: Waiter[Caller]) -> None:
        """It waits no longer, for whatever reason. Nothing of it is left; a second time does nothing."""
        if not waiter.waits:
            return
        waiter.waits = False
        found = self._classes[waiter.level]
        found.remove(waiter)
        if not found.arrivals:
            self._turns.leave(waiter.level)
        self._forget(waiter.key)

    def take(self, now: float, age_s: float) -> Waiter[Caller] | None:
        """The next one, who waits no longer."""
        if not self._counts:
            return None
        self._raise_old(now, age_s)
        level = self._turns.find_next()
        self._turns.take(self._weights[level])
        found = self._classes[level]
        waiter = found.take()
        waiter.waits = False
        if found.arrivals:
            self._turns.want(level, level)
        self._turns.rest()
        self._forget(waiter.key)
        return waiter

    def find_giving_way(self, key: str) -> Waiter[Caller] | None:
        """Who is put out of a full queue for a call of `key`: the newest of the lowest class of the key that has most,
        if `key` has fewer even with this call."""
        longest = max(self._counts, key=self._counts.__getitem__, default=key)
        if self._counts.get(longest, 0) <= self._counts.get(key, 0) + 1:
            return None
        lines = (found.lines[longest] for found in reversed(self._classes) if longest in found.lines)
        return next(reversed(next(lines)))

    def _put(self, waiter: Waiter[Caller]) -> None:
        self._classes[waiter.level].add(waiter)
        self._turns.want(waiter.level, waiter.level)

    def _raise_old(self, now: float, age_s: float) -> None:
        for level in range(1, len(self._classes)):
            found = self._classes[level]
            while found.arrivals:
                waiter = next(iter(found.arrivals))
                if waiter.raised_at + age_s > now:
                    break
                found.remove(waiter)
                waiter.level, waiter.raised_at = level - 1, now
                self._put(waiter)
            if not found.arrivals:
                self._turns.leave(level)

    def _forget(self, key: str) -> None:
        left = self._counts[key] - 1
        if left:
            self._counts[key] = left
        else:
            del self._counts[key]
