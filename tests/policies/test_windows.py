import random

from hypothesis import given, settings
from hypothesis import strategies as st

from engine.policies.windows import GRAIN, Window

PAUSES_S = st.one_of(*(st.floats(0, longest, allow_subnormal=False) for longest in (0.02, 0.5, 5, 70)))
GAPS_S = st.lists(PAUSES_S, min_size=1, max_size=200)


def admit(window: Window, number: int, now: float, amount: int = 1) -> bool:
    window.expire(now)
    if window.total + amount > number:
        return False
    window.add(amount, now)
    return True


def most_in_any_span(times: list[float], size_s: int) -> int:
    return max((sum(1 for t in times if start <= t and t < start + size_s) for start in times), default=0)


@settings(deadline=None)
@given(GAPS_S, st.integers(1, 20), st.sampled_from([1, 7, 60]))
def test_no_span_of_the_windows_length_ever_sees_more_than_the_number(
    gaps: list[float], number: int, size_s: int
) -> None:
    window, now, admitted = Window(size_s), 1000.0, []
    for gap in gaps:
        now += gap
        if admit(window, number, now):
            admitted.append(now)
    assert most_in_any_span(admitted, size_s) <= number


def test_dense_traffic_of_any_rhythm_stays_under_the_number() -> None:
    for seed in range(20):
        chance = random.Random(seed)
        window, now, admitted = Window(60), 1000.0, []
        for _ in range(1500):
            now += chance.expovariate(chance.choice((0.5, 3, 20)))
            if admit(window, 50, now):
                admitted.append(now)
        assert most_in_any_span(admitted, 60) == 50


def test_a_caller_at_full_speed_gets_98_percent_of_the_number() -> None:
    for per_second in (5, 20, 100):
        window, number, minutes = Window(60), 240, 30
        admitted = sum(admit(window, number, 1 + i / per_second) for i in range(60 * minutes * per_second))
        assert admitted >= 0.98 * number * minutes


def test_an_even_pace_below_the_grain_loses_nothing() -> None:
    window = Window(60)
    assert all(admit(window, 60, 1.0 + second) for second in range(600))


def test_a_window_stays_small_whatever_its_number() -> None:
    window = Window(86400)
    for second in range(0, 3 * 86400, 10):
        window.expire(float(second))
        window.add(1, float(second))
        assert len(window.lasts) <= GRAIN + 2


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 20), st.integers(1, 50)), min_size=1, max_size=100), st.integers(1, 60)
)
def test_after_the_wait_it_names_the_amount_fits_and_before_it_does_not(
    steps: list[tuple[float, int]], amount: int
) -> None:
    window, now, number = Window(60), 500.0, 100
    for gap, size in steps:
        now += gap
        admit(window, number, now, size)
    wait_s = window.wait_s(amount, number, now)
    assert wait_s is not None
    if wait_s > 0.01:
        window.expire(now + wait_s - 0.01)
        assert window.total + amount > number
    window.expire(now + wait_s + 1e-6)
    assert window.total + amount <= number


def test_an_amount_above_the_number_never_fits() -> None:
    assert Window(60).wait_s(11, 10, 0.0) is None


def test_what_is_given_back_after_its_entry_expired_changes_nothing() -> None:
    window = Window(60)
    entry = window.add(100, 10.0)
    window.expire(70.0)
    later = window.add(5, 71.0)
    window.give_back(entry, 60)
    assert window.total == 5
    window.give_back(later, 2)
    assert window.total == 3
