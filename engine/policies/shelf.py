"""The counters of one scope's identities, bounded in memory by how recently each was used.

An identity in use is an object on `hot`; one idle for a few seconds, or sooner where many call, is packed into bytes
on `cold` (some 60 with its name, for a key that called once under five windows); one that no window remembers is
forgotten. All housekeeping comes in small pieces, so that no call pays for many.
"""

from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING

from engine.policies.drawers import Drawers
from engine.policies.packing import pack_windows, unpack_windows
from engine.policies.windows import Window

if TYPE_CHECKING:
    from engine.config.snapshot import Limit

Entries = list[tuple[str, list[tuple[float, int]]]]
Entry = tuple[Window, int]
"""A window, and the number of one of its entries."""
COOL_AFTER_S = 5.0
MOST_HOT = 2000
"""With so many nobody is waited for: each is 2.5 KB, and what many leave in a busy hour stays the process's."""
LOOK_AGAIN_S = 60.0
PIECE = 16
DRAWERS = 3
"""So many are looked at at once: some 16 identities."""


class Counters:
    """What one identity used. Windows that this call's limit does not name count it all the same."""

    __slots__ = (
        "burst",
        "concurrency",
        "in_flight",
        "limit",
        "request_checks",
        "request_windows",
        "token_checks",
        "token_windows",
    )

    def __init__(self) -> None:
        self.limit: Limit | None = None
        self.in_flight = 0
        self.concurrency: float = inf
        self.burst: Window | None = None
        self.request_windows: list[Window] = []
        self.token_windows: list[Window] = []
        self.request_checks: list[tuple[Window, int]] = []
        self.token_checks: list[tuple[Window, int]] = []

    def fits(self, tokens: int, now: float) -> bool:
        """Whether one more request with `tokens` stays within every number."""
        if self.in_flight >= self.concurrency:
            return False
        for window, number in self.request_checks:
            if window.total >= number:
                window.expire(now)
                if window.total >= number:
                    return False
        for window, number in self.token_checks:
            if window.total + tokens > number:
                window.expire(now)
                if window.total + tokens > number:
                    return False
        return True

    def count(self, tokens: int, now: float, entries: list[Entry]) -> None:
        """Take the slot, one request and `tokens`; `entries` notes where the tokens went."""
        self.in_flight += 1
        for window in self.request_windows:
            lasts = window.lasts
            if now < window.open_until:  # `add`, unrolled: this loop is most of what a limit costs
                lasts[-1] = now
                window.counts[-1] += 1
                window.total += 1
            else:
                window.expire(now)
                window.add(1, now)
        for window in self.token_windows:
            lasts = window.lasts
            if now < window.open_until:
                lasts[-1] = now
                window.counts[-1] += tokens
                window.total += tokens
                entries.append((window, window.dropped + len(lasts) - 1))
            else:
                window.expire(now)
                entries.append((window, window.add(tokens, now)))

    def adopt(self, limit: "Limit", share: "Callable[[int], int]") -> None:
        """Check against `limit` from now on. A window that is new begins empty."""
        self.limit = limit
        self.concurrency = inf if limit.concurrency is None else share(limit.concurrency)
        requests = {size_s: share(number) for size_s, number in limit.requests.items()}
        if limit.burst is not None:
            requests[1] = min(share(limit.burst), requests.get(1, share(limit.burst)))  # nosec B113 # a dict
        self.request_checks = _pair_windows(self.request_windows, requests)
        tokens = {size_s: share(number) for size_s, number in limit.tokens.items()}
        self.token_checks = _pair_windows(self.token_windows, tokens)
        only_burst = limit.burst is not None and 1 not in limit.requests
        self.burst = next((w for w in self.request_windows if w.size_s == 1), None) if only_burst else None

    def list_entries(self, now: float) -> Entries:
        """Per window ("r60": requests of a minute) the age and number of each entry, oldest first."""
        found: Entries = []
        for kind, windows in (("r", self.request_windows), ("t", self.token_windows)):
            for window in windows:
                window.expire(now)
                if window.lasts:
                    ages = [max(0.0, now - last) for last in window.lasts]
                    found.append((f"{kind}{window.size_s}", list(zip(ages, window.counts, strict=True))))
        return found

    def pack(self, now: float) -> tuple[float, bytes] | None:
        """All that has not expired, and when it will have; None when nothing is left."""
        for window in (*self.request_windows, *self.token_windows):
            window.expire(now)
        requests = [window for window in self.request_windows if window.lasts]
        tokens = [window for window in self.token_windows if window.lasts]
        if not requests and not tokens:
            return None
        until = max(window.lasts[-1] + window.size_s for window in (*requests, *tokens))
        return until, pack_windows(requests, tokens)

    @classmethod
    def unpack(cls, packed: bytes) -> "Counters":
        counters = cls()
        counters.request_windows, counters.token_windows = unpack_windows(packed)
        return counters


def _pair_windows(windows: list[Window], numbers: dict[int, int]) -> list[tuple[Window, int]]:
    """Each number with the window of its size, which is made when there is none. Shortest window first."""
    by_size = {window.size_s: window for window in windows}
    for size_s in numbers.keys() - by_size.keys():
        by_size[size_s] = Window(size_s)
        windows.append(by_size[size_s])
    return [(by_size[size_s], numbers[size_s]) for size_s in sorted(numbers)]


class Shelf:
    """Identities of one scope by how recently they were used."""

    __slots__ = ("_cold", "_cooling", "_look_at", "_rotate_at", "_unchecked", "hot")

    def __init__(self) -> None:
        self.hot: dict[str, Counters] = {}
        self._cooling: dict[str, Counters] = {}
        self._cold = Drawers()
        self._rotate_at = -inf
        self._look_at = -inf
        self._unchecked = 0
        """The drawer that is looked at next."""

    def __len__(self) -> int:
        return len(self.hot) + len(self._cooling) + len(self._cold)

    def warm(self, identity: str) -> Counters:
        """The counters of an identity that is not hot: cooling, packed or new. It is hot from now on."""
        counters = self._cooling.pop(identity, None)
        if counters is None:
            packed = self._cold.take(identity)
            counters = Counters() if packed is None else Counters.unpack(packed)
        self.hot[identity] = counters
        return counters

    def list_names(self) -> list[str]:
        return [*self.hot, *self._cooling, *self._cold.list_names()]

    def count_running(self, identity: str) -> int:
        counters = self.hot.get(identity) or self._cooling.get(identity)
        return 0 if counters is None else counters.in_flight

    def forget_limits(self) -> None:
        """Whoever is next takes its limit anew, as its share may have changed."""
        for counters in (*self.hot.values(), *self._cooling.values()):
            counters.limit = None

    def read_entries(self, identity: str, now: float) -> Entries:
        """What has not expired, by window; the shelf stays as it is."""
        counters = self.hot.get(identity) or self._cooling.get(identity)
        if counters is None:
            packed = self._cold.read(identity)
            counters = Counters() if packed is None else Counters.unpack(packed)
        return counters.list_entries(now)

    def sweep(self, now: float) -> None:
        """Pack up to PIECE cooling identities and look at a few drawers of packed ones."""
        if self._cooling:
            self._pack_some(now)
        elif now >= self._rotate_at or len(self.hot) >= MOST_HOT:
            self._cooling, self.hot = self.hot, self._cooling
            self._rotate_at = now + COOL_AFTER_S
        if now >= self._look_at and self._cold:
            self._forget_some(now)

    def _pack_some(self, now: float) -> None:
        for _ in range(min(PIECE, len(self._cooling))):
            identity, counters = self._cooling.popitem()
            if counters.in_flight:
                self.hot[identity] = counters
            elif packed := counters.pack(now):
                self._cold.put(identity, *packed)

    def _forget_some(self, now: float) -> None:
        for _ in range(DRAWERS):
            if not self._cold.clear_out(self._unchecked, now):
                self._unchecked = 0
                self._look_at = now + LOOK_AGAIN_S
                return
            self._unchecked += 1
