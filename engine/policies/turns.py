"""Whose turn it is: start-time fair queueing among members that have weights. Pure, and small enough to be proven.

Each turn moves its member's tag on by 1/weight, and the least tag goes first, so that members who always want one get
turns in proportion to their weights, and one who comes after a while goes ahead of those who have just had theirs
without being paid for the time that it was away.
"""

from heapq import heapify, heappop, heappush
from typing import Generic, TypeVar

Member = TypeVar("Member", int, str)
_ROOM = 32


class Turns(Generic[Member]):
    """Members that want a turn. Once nobody does, nothing is remembered."""

    __slots__ = ("_behind", "_heap", "_now", "_number", "_wanting")

    def __init__(self) -> None:
        self._now = 0.0
        self._number = 0
        self._heap: list[tuple[float, int, Member]] = []
        self._wanting: dict[Member, tuple[float, int]] = {}
        """The tag and the order of each; what the heap says otherwise is out of date."""
        self._behind: dict[Member, float] = {}
        """The tag of each that had turns, as long as it is in the future."""

    def __bool__(self) -> bool:
        return bool(self._wanting)

    def __len__(self) -> int:
        return len(self._wanting)

    def want(self, member: Member, order: int | None = None) -> None:
        """`order` decides among equal tags; without it who came first does."""
        if member in self._wanting:
            return
        self._number += 1
        tag, order = max(self._now, self._behind.get(member, 0.0)), self._number if order is None else order
        self._wanting[member] = (tag, order)
        heappush(self._heap, (tag, order, member))

    def leave(self, member: Member) -> None:
        self._wanting.pop(member, None)
        self._tidy()

    def find_next(self) -> Member:
        heap, wanting = self._heap, self._wanting
        while wanting.get(heap[0][2]) != heap[0][:2]:
            heappop(heap)
        return heap[0][2]

    def take(self, weight: float = 1.0) -> Member:
        """The member whose turn it is. It wants no further one until it says so."""
        member = self.find_next()
        tag, _, _ = heappop(self._heap)
        del self._wanting[member]
        self._now = max(self._now, tag)
        self._behind[member] = tag + 1.0 / weight
        return member

    def rest(self) -> None:
        """Whoever took a turn has said whether it wants another: forget what no longer matters."""
        self._tidy()

    def _tidy(self) -> None:
        if not self._wanting:
            self._now, self._number = 0.0, 0
            self._heap.clear()
            self._behind.clear()
            return
        most = 2 * len(self._wanting) + _ROOM
        if len(self._heap) > most:
            self._heap = [(tag, order, member) for member, (tag, order) in self._wanting.items()]
            heapify(self._heap)
        if len(self._behind) > most:
            self._behind = {
                member: tag
                for member, tag in self._behind.items()
                if tag > self._now or member in self._wanting
            }
