import tracemalloc
from math import ceil

from hypothesis import given, settings
from hypothesis import strategies as st

from engine.policies.drawers import FULL, Drawers

NAMES = st.one_of(
    st.sampled_from(["", "a", "aa", "key_1", "key_11", "key_1 own", "ключ", "\ud800", "k" * 300]), st.text()
)
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["put", "put", "put", "take", "clear"]),
        NAMES,
        st.integers(0, 50),
        st.binary(max_size=40),
    ),
    max_size=120,
)


def clear_all(drawers: Drawers, now: float) -> None:
    place = 0
    while drawers.clear_out(place, now):
        place += 1


@settings(deadline=None)
@given(STEPS)
def test_they_keep_what_a_dictionary_would(steps: list[tuple[str, str, int, bytes]]) -> None:
    drawers, kept = Drawers(), dict[str, tuple[int, bytes]]()
    for step, name, second, record in steps:
        if step == "put" and name not in kept:
            drawers.put(name, second, record)
            kept[name] = (second, record)
        elif step == "take":
            assert drawers.take(name) == kept.pop(name, (0, None))[1]
        elif step == "clear":
            clear_all(drawers, second)
            kept = {name: held for name, held in kept.items() if held[0] > second}
        assert drawers.read(name) == kept.get(name, (0, None))[1]
        assert len(drawers) == len(kept)
    assert sorted(drawers.list_names()) == sorted(kept)


def test_many_records_are_all_found_and_none_twice() -> None:
    drawers = Drawers()
    for number in range(20_000):
        drawers.put(f"key_{number}", 10.0, b"%d" % number)
    assert len(drawers) == 20_000 == len(set(drawers.list_names()))
    assert all(drawers.take(f"key_{number}") == b"%d" % number for number in range(0, 20_000, 2))
    assert all(drawers.take(f"key_{number}") is None for number in range(0, 20_000, 2))
    assert all(drawers.read(f"key_{number}") == b"%d" % number for number in range(1, 20_000, 2))
    assert len(drawers) == 10_000


def test_no_drawer_holds_many_however_many_records_there_are() -> None:
    drawers = Drawers()
    for number in range(20_000):
        drawers.put(f"key_{number}", 10.0, b"")
    sizes = [0]
    while drawers.clear_out(len(sizes) - 1, 1.0):
        sizes.append(len(drawers._drawers[len(sizes) - 1]))
    assert max(sizes) < 8 * FULL * len(b"key_12345......")


def test_a_record_is_never_cleared_before_its_time_and_always_within_the_second_after() -> None:
    for until in (5.0, 5.001, 5.999):
        drawers = Drawers()
        drawers.put("a", until, b"record")
        clear_all(drawers, until - 0.001)
        assert drawers.read("a") == b"record"
        clear_all(drawers, ceil(until))
        assert drawers.read("a") is None


def test_a_record_costs_some_twenty_bytes_beside_its_name_and_what_is_in_it() -> None:
    names = [f"key_{number:016x}" for number in range(30_000)]
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    drawers = Drawers()
    for name in names:
        drawers.put(name, 100.0, b"r" * 20)
    used = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert used / len(names) < 20 + 20 + 20
