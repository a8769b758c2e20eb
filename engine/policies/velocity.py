"""Whether so many calls fail that strangers had better get less for a while. Pure; the clock is an argument."""

from engine.config.schema_edge import VelocityEntry

SLOW_S = 5.0
"""A caller who leaves earlier than that had no time to be disappointed."""
_MOST_PIECES = 60


def is_failure(status: int, seconds: float) -> bool:
    return status >= 500 or (status == 499 and seconds > SLOW_S)


class Velocity:
    """Calls and failures of the last `window_s`, in pieces; on for `for_s` once too many of them failed."""

    __slots__ = ("_pieces", "failures", "rule", "times_on", "total", "until")

    def __init__(self) -> None:
        self.rule = VelocityEntry()
        self.total = self.failures = 0
        self.until = 0.0
        self.times_on = 0
        self._pieces: list[list[float]] = []
        """When each began, its calls, its failures."""

    def is_on(self, now: float) -> bool:
        return now < self.until

    def note(self, failed: bool, now: float) -> bool:
        """One more call has ended; True when that switches it on."""
        pieces, rule = self._pieces, self.rule
        if pieces and pieces[0][0] + rule.window_s <= now:
            self.forget(now)
        if not pieces or now >= pieces[-1][0] + rule.window_s / _MOST_PIECES:
            pieces.append([now, 0, 0])
        pieces[-1][1] += 1
        pieces[-1][2] += failed
        self.total += 1
        self.failures += failed
        if now < self.until or self.total < rule.min_requests or self.failures < rule.ratio * self.total:
            return False
        self.until, self.times_on = now + rule.for_s, self.times_on + 1
        return True

    def forget(self, now: float) -> None:
        pieces, gone = self._pieces, 0
        for began, total, failures in pieces:
            if began + self.rule.window_s > now:
                break
            self.total -= int(total)
            self.failures -= int(failures)
            gone += 1
        del pieces[:gone]
