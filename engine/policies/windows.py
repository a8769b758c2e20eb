"""A sliding window that keeps its promise with little memory: pure, the clock is an argument.

Events that come close together share one entry, which lasts until its NEWEST event is as old as the window.
So a span of the window's length never holds more than what is counted here, and an event is counted at most
1/GRAIN of the window too long: a caller at full speed gets at least GRAIN/(GRAIN+1) of the number (99 %).
Events further apart than 1/GRAIN are counted exactly. A window holds at most about GRAIN entries, whatever
its number.
"""

from math import ceil

GRAIN = 100


class Window:
    """What came within the last `size_s` seconds. Call `expire(now)` before `total` is believed."""

    __slots__ = ("counts", "dropped", "lasts", "open_until", "size_s", "total", "width_s")

    def __init__(self, size_s: int) -> None:
        self.size_s = size_s
        self.width_s = size_s / GRAIN
        self.total = 0
        self.dropped = 0
        """Entries expired so far: entry number N is at index N - dropped."""
        self.open_until = 0.0
        """Events before this moment join the newest entry."""
        self.lasts: list[float] = []
        self.counts: list[int] = []

    def add(self, amount: int, now: float) -> int:
        """Count `amount` at `now` and return the number of the entry that holds it."""
        lasts = self.lasts
        if now < self.open_until:
            lasts[-1] = now
            self.counts[-1] += amount
        else:
            lasts.append(now)
            self.counts.append(amount)
            self.open_until = now + self.width_s
        self.total += amount
        return self.dropped + len(lasts) - 1

    def expire(self, now: float) -> None:
        """Drop the entries whose newest event is `size_s` old."""
        lasts, size_s, gone = self.lasts, self.size_s, 0
        for last in lasts:
            if last + size_s > now:
                break
            gone += 1
        if gone:
            self.total -= sum(self.counts[:gone])
            del lasts[:gone]
            del self.counts[:gone]
            self.dropped += gone

    def give_back(self, entry: int, amount: int) -> None:
        """Take `amount` out of an entry, unless it has expired and so no longer counts."""
        if entry >= self.dropped:
            self.counts[entry - self.dropped] -= amount
            self.total -= amount

    def wait_s(self, amount: int, number: int, now: float) -> float | None:
        """Seconds until `amount` more fit under `number`; None when they never will."""
        excess = self.total + amount - number
        if amount > number:
            return None
        for last, count in zip(self.lasts, self.counts, strict=True):
            if excess <= 0:
                break
            excess -= count
            if excess <= 0:
                return max(0.0, last + self.size_s - now)
        return 0.0

    def reset_s(self, now: float) -> int:
        """Whole seconds, rounded up, until what is left begins to grow."""
        return max(0, ceil(self.lasts[0] + self.size_s - now)) if self.lasts else 0
