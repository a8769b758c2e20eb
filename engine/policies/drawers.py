"""Many small records by name, each kept until some second. A few of them share one piece of bytes: none is an object.

Whenever so many have come as a drawer holds, one drawer is divided in two (linear hashing): no call pays for many,
however many there are. A record: the length of what follows, the second, the length of the name, the name, the rest.
"""

from collections.abc import Iterator
from math import ceil

from engine.policies.packing import read_number, write_number

FULL = 6
"""Records in a drawer, on average."""
SECOND = 4
"""Bytes of the second; what is to be kept for longer than they can say is kept for as long as they can."""
CODING = ("utf-8", "surrogatepass")


class Drawers:
    __slots__ = ("_count", "_drawers", "_round")

    def __init__(self) -> None:
        self._drawers = [b""]
        self._round = 1
        """How many there were when the last drawer was divided; from the first on they are divided once more."""
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def list_names(self) -> list[str]:
        return [
            _read_key(drawer, body)[0].decode(*CODING)
            for drawer in self._drawers
            for _, body, _ in _list_records(drawer)
        ]

    def put(self, name: str, until: float, record: bytes) -> None:
        """Keep a record; none of that name may be there."""
        key = name.encode(*CODING)
        self._drawers[self._find_place(key)] += _write_record(key, until, record)
        self._count += 1
        if self._count > FULL * len(self._drawers):
            self._divide()

    def read(self, name: str) -> bytes | None:
        key = name.encode(*CODING)
        drawer = self._drawers[self._find_place(key)]
        found = _find_record(drawer, key)
        return None if found is None else drawer[found[1] : found[2]]

    def take(self, name: str) -> bytes | None:
        """The same, and it is there no more."""
        key = name.encode(*CODING)
        place = self._find_place(key)
        drawer = self._drawers[place]
        found = _find_record(drawer, key)
        if found is None:
            return None
        start, rest, end = found
        self._drawers[place] = drawer[:start] + drawer[end:]
        self._count -= 1
        return drawer[rest:end]

    def clear_out(self, place: int, now: float) -> bool:
        """Drop what the drawer at `place` need not keep any more. False when there is no such drawer."""
        if place >= len(self._drawers):
            return False
        drawer = self._drawers[place]
        spans = [(start, body, end) for start, body, end in _list_records(drawer)]
        kept = [drawer[start:end] for start, body, end in spans if _read_until(drawer, body) > now]
        if len(kept) < len(spans):
            self._drawers[place] = b"".join(kept)
            self._count -= len(spans) - len(kept)
        return True

    def _find_place(self, key: bytes) -> int:
        hashed = hash(key)
        place = hashed & (self._round - 1)
        if place < len(self._drawers) - self._round:  # it has been divided already
            place = hashed & (2 * self._round - 1)
        return place

    def _divide(self) -> None:
        divided = len(self._drawers) - self._round
        drawer = self._drawers[divided]
        halves: tuple[list[bytes], list[bytes]] = ([], [])
        for start, body, end in _list_records(drawer):
            halves[bool(hash(_read_key(drawer, body)[0]) & self._round)].append(drawer[start:end])
        self._drawers[divided] = b"".join(halves[0])
        self._drawers.append(b"".join(halves[1]))
        if len(self._drawers) == 2 * self._round:
            self._round *= 2


def _write_record(key: bytes, until: float, record: bytes) -> bytes:
    rest = bytearray(min(ceil(until), (1 << 8 * SECOND) - 1).to_bytes(SECOND, "little"))
    write_number(rest, len(key))
    rest += key
    rest += record
    front = bytearray()
    write_number(front, len(rest))
    return bytes(front + rest)


def _list_records(drawer: bytes) -> Iterator[tuple[int, int, int]]:
    """Of each record: where it starts, where its second stands, where it ends."""
    start = 0
    while start < len(drawer):
        length, body = read_number(drawer, start)
        yield start, body, body + length
        start = body + length


def _read_until(drawer: bytes, body: int) -> int:
    return int.from_bytes(drawer[body : body + SECOND], "little")


def _read_key(drawer: bytes, body: int) -> tuple[bytes, int]:
    """The name, and where it ends."""
    length, start = read_number(drawer, body + SECOND)
    return drawer[start : start + length], start + length


def _find_record(drawer: bytes, key: bytes) -> tuple[int, int, int] | None:
    """Where it starts, where its rest begins, where it ends."""
    if key not in drawer:
        return None  # nearly always so when it is not there, and told at once
    for start, body, end in _list_records(drawer):
        found, rest = _read_key(drawer, body)
        if found == key:
            return start, rest, end
    return None
