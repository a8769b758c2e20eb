from hypothesis import given, settings
from hypothesis import strategies as st

from engine.policies.packing import pack_windows, read_number, unpack_windows, write_number
from engine.policies.windows import Window

SIZES_S = st.sampled_from([1, 10, 60, 3600, 86400, 604_800, 2_592_000])
GAPS_S = st.one_of(
    *(st.floats(0, longest, allow_subnormal=False) for longest in (0.0, 0.02, 0.5, 5, 70, 40_000))
)
EVENTS = st.lists(st.tuples(GAPS_S, st.integers(0, 300)), min_size=1, max_size=150)
COUNTS = st.one_of(st.integers(1, 20), st.integers(1, 10**12))
Facts = tuple[list[float], list[int], int, float]


def make_windows(
    sizes_s: list[int], events: list[tuple[float, int]], whole: bool
) -> tuple[list[Window], float]:
    windows, now = [Window(size_s) for size_s in sizes_s], 1000.0
    for gap, amount in events:
        now += gap
        for window in windows:
            window.expire(now)
            window.add(1 if whole else amount, now)
    return windows, now


def read_facts(window: Window) -> Facts:
    return window.lasts, window.counts, window.total, window.open_until


def repack(requests: list[Window], tokens: list[Window]) -> tuple[list[Window], list[Window]]:
    return unpack_windows(pack_windows(requests, tokens))


@settings(deadline=None)
@given(st.lists(SIZES_S, unique=True, min_size=1), st.lists(SIZES_S, unique=True), EVENTS)
def test_what_is_unpacked_is_what_was_packed(
    request_sizes: list[int], token_sizes: list[int], events: list[tuple[float, int]]
) -> None:
    requests, _ = make_windows(request_sizes, events, whole=True)
    tokens, _ = make_windows(token_sizes, events, whole=False)
    again = repack(requests, tokens)
    for windows, unpacked in zip((requests, tokens), again, strict=True):
        assert [window.size_s for window in unpacked] == [window.size_s for window in windows]
        assert [read_facts(window) for window in unpacked] == [read_facts(window) for window in windows]


@settings(deadline=None)
@given(SIZES_S, EVENTS, EVENTS, st.integers(1, 40), st.integers(1, 10))
def test_a_window_that_is_packed_between_all_events_decides_as_one_that_never_was(
    size_s: int, before: list[tuple[float, int]], after: list[tuple[float, int]], number: int, amount: int
) -> None:
    (kept,), now = make_windows([size_s], before, whole=False)
    (packed,), _ = make_windows([size_s], before, whole=False)
    for gap, _ in after:
        now += gap
        kept.expire(now)
        packed.expire(now)
        if packed.lasts:
            ((packed,), _) = repack([packed], [])
        assert packed.total == kept.total
        assert packed.wait_s(amount, number, now) == kept.wait_s(amount, number, now)
        assert packed.reset_s(now) == kept.reset_s(now)
        if kept.total + amount <= number:
            kept.add(amount, now)
            packed.add(amount, now)


def test_a_key_that_called_once_takes_few_bytes() -> None:
    requests, _ = make_windows([1, 60, 3600, 86400], [(0.0, 1)], whole=True)
    tokens, _ = make_windows([60, 86400], [(0.0, 120)], whole=False)
    assert len(pack_windows(requests, tokens)) == 9 + 6 * 2
    tokens, _ = make_windows([60, 86400], [(0.0, 16_000)], whole=False)
    assert len(pack_windows(requests, tokens)) == 9 + 4 * 2 + 2 * 3


@given(st.lists(st.integers(0, 10**15)))
def test_numbers_are_read_as_they_were_written(numbers: list[int]) -> None:
    written, at = bytearray(), 0
    for number in numbers:
        write_number(written, number)
    for number in numbers:
        read, at = read_number(bytes(written), at)
        assert read == number
    assert at == len(written)
