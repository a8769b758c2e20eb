"""Windows as few bytes, and exactly the same windows again. Pure.

Calls come to several windows at the same moments, so the moments are written once, in front: how many, 8 bytes
each. Then each window: a head byte (kind, length, whether it is PLAIN), and its entries as (which moment, number).
Numbers are written seven bits to a byte. A key that called once takes 9 bytes and 2 to 4 more for each window.
"""

from collections.abc import Sequence
from struct import pack, unpack_from

from engine.policies.windows import Window

TOKENS = 0x80
PLAIN = 0x40
"""One entry, of one event at the first moment: only its number follows."""
FRESH = 0x20
"""The newest entry is one event, so that is when it was opened; else `open_until` follows as it is."""
SIZES_S = (1, 60, 3600, 86400, 2592000)
OTHER_SIZE = 0x1F
"""A length that SIZES_S has not follows as a number."""
_PLACES = {size_s: place for place, size_s in enumerate(SIZES_S)}


def write_number(packed: bytearray, number: int) -> None:
    while number > 0x7F:
        packed.append(number & 0x7F | 0x80)
        number >>= 7
    packed.append(number)


def read_number(packed: bytes, at: int) -> tuple[int, int]:
    """The number that begins at `at`, and where what comes after it begins."""
    byte = packed[at]
    number, shift = byte & 0x7F, 0
    while byte > 0x7F:
        at += 1
        shift += 7
        byte = packed[at]
        number |= (byte & 0x7F) << shift
    return number, at + 1


def pack_windows(requests: Sequence[Window], tokens: Sequence[Window]) -> bytes:
    """None of the windows may be empty."""
    moments: dict[float, int] = {}
    packed = bytearray()
    for kind, windows in ((0, requests), (TOKENS, tokens)):
        for window in windows:
            _write_window(packed, kind, window, moments)
    front = bytearray()
    write_number(front, len(moments))
    front += pack(f"<{len(moments)}d", *moments)
    return bytes(front + packed)


def _write_window(packed: bytearray, kind: int, window: Window, moments: dict[float, int]) -> None:
    lasts, counts, size_s = window.lasts, window.counts, window.size_s
    places = [moments.setdefault(last, len(moments)) for last in lasts]
    if window.open_until == lasts[-1] + window.width_s:
        kind |= PLAIN if places == [0] else FRESH
    packed.append(kind | _PLACES.get(size_s, OTHER_SIZE))
    if size_s not in _PLACES:
        write_number(packed, size_s)
    if kind & PLAIN:
        write_number(packed, counts[0])
        return
    if not kind & FRESH:
        packed += pack("<d", window.open_until)
    write_number(packed, len(places))
    for place, count in zip(places, counts, strict=True):
        write_number(packed, place)
        write_number(packed, count)


def unpack_windows(packed: bytes) -> tuple[list[Window], list[Window]]:
    """Those of requests and those of tokens."""
    requests: list[Window] = []
    tokens: list[Window] = []
    number, at = read_number(packed, 0)
    moments = unpack_from(f"<{number}d", packed, at)
    at += 8 * number
    while at < len(packed):
        window, after = _read_window(packed, at, moments)
        (tokens if packed[at] & TOKENS else requests).append(window)
        at = after
    return requests, tokens


def _read_window(packed: bytes, at: int, moments: Sequence[float]) -> tuple[Window, int]:
    head = packed[at]
    at += 1
    place = head & OTHER_SIZE
    if place == OTHER_SIZE:
        size_s, at = read_number(packed, at)
    else:
        size_s = SIZES_S[place]
    window = Window(size_s)
    if head & PLAIN:
        count, at = read_number(packed, at)
        window.lasts, window.counts = [moments[0]], [count]
    else:
        if not head & FRESH:
            (window.open_until,) = unpack_from("<d", packed, at)
            at += 8
        at = _read_entries(window, packed, at, moments)
    if head & (PLAIN | FRESH):
        window.open_until = window.lasts[-1] + window.width_s
    window.total = sum(window.counts)
    return window, at


def _read_entries(window: Window, packed: bytes, at: int, moments: Sequence[float]) -> int:
    """Where the window ends."""
    entries, at = read_number(packed, at)
    for _ in range(entries):
        place, at = read_number(packed, at)
        count, at = read_number(packed, at)
        window.lasts.append(moments[place])
        window.counts.append(count)
    return at
