"""A target that keeps failing is left alone; the clock is made by hand."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from engine.config.snapshot import BreakerRule
from engine.routing.breaker import LONGEST_WAIT, MAX_TRACKED, Breakers


def make_rule(**facts: Any) -> BreakerRule:
    defaults: dict[str, Any] = {
        "failures": 5,
        "window_s": 60,
        "min_requests": 10,
        "ratio": 0.5,
        "open_s": 10,
        "half_open": 1,
        "counts": frozenset({"5xx"}),
    }
    return BreakerRule(**{**defaults, **facts})


RULE = make_rule()


def fail(breakers: Breakers, times: int, now: float, rule: BreakerRule = RULE) -> None:
    for _ in range(times):
        breakers.note_failure("t", rule, now)


def test_failures_in_a_row_open_it() -> None:
    breakers = Breakers()
    fail(breakers, 4, 0)
    assert breakers.admit("t", RULE, 0) == "closed"
    fail(breakers, 1, 0)
    assert breakers.admit("t", RULE, 0) == "open"
    assert breakers.seconds_until_open("t", 3) == 7
    assert breakers.states(3) == {"t": "open"}


def test_a_success_between_them_keeps_it_closed() -> None:
    breakers = Breakers()
    for _ in range(2):
        fail(breakers, 4, 0)
        for _ in range(8):
            breakers.note_success("t", RULE, 0)
    assert breakers.admit("t", RULE, 0) == "closed"


def test_a_share_of_failures_opens_it_once_enough_were_asked() -> None:
    breakers = Breakers()
    for _ in range(4):
        breakers.note_success("t", RULE, 0)
        fail(breakers, 1, 0)
    assert breakers.admit("t", RULE, 0) == "closed"
    breakers.note_success("t", RULE, 0)
    fail(breakers, 1, 0)
    assert breakers.admit("t", RULE, 0) == "open"


def test_the_share_is_taken_over_the_window_only() -> None:
    breakers = Breakers()
    for second in range(20):
        breakers.note_success("t", RULE, second * 31)
        fail(breakers, 1, second * 31)
    assert breakers.admit("t", RULE, 20 * 31) == "closed"


def test_one_probe_at_a_time_goes_through_when_it_has_waited() -> None:
    breakers = Breakers()
    fail(breakers, 5, 0)
    assert breakers.admit("t", RULE, 9.99) == "open"
    assert [breakers.admit("t", RULE, 10) for _ in range(3)] == ["probe", "open", "open"]
    assert breakers.states(10) == {"t": "half_open"}


def test_a_good_probe_closes_it() -> None:
    breakers = Breakers()
    fail(breakers, 5, 0)
    breakers.admit("t", RULE, 10)
    breakers.note_success("t", RULE, 10)
    assert breakers.admit("t", RULE, 10) == "closed" and breakers.states(10) == {}
    fail(breakers, 4, 10)
    assert breakers.admit("t", RULE, 10) == "closed"


def test_a_probe_that_was_given_back_can_be_taken_again() -> None:
    breakers = Breakers()
    fail(breakers, 5, 0)
    assert breakers.admit("t", RULE, 10) == "probe"
    breakers.give_back_probe("t")
    assert breakers.admit("t", RULE, 10) == "probe"


def test_failed_probes_wait_longer_but_never_long() -> None:
    breakers, now, waits = Breakers(), 0.0, []
    fail(breakers, 5, now)
    for _ in range(5):
        now += breakers.seconds_until_open("t", now)
        assert breakers.admit("t", RULE, now) == "probe"
        fail(breakers, 1, now)
        waits.append(breakers.seconds_until_open("t", now))
    assert waits == [20, 25, 25, 25, 25]


def test_failures_of_calls_from_before_do_not_lengthen_the_wait() -> None:
    breakers = Breakers()
    fail(breakers, 9, 0)
    assert breakers.seconds_until_open("t", 0) == 10


def test_targets_do_not_share_a_breaker() -> None:
    breakers = Breakers()
    fail(breakers, 5, 0)
    assert breakers.admit("other", RULE, 0) == "closed"


def test_it_remembers_a_bounded_number_of_targets() -> None:
    breakers = Breakers()
    for number in range(MAX_TRACKED + 500):
        breakers.note_success(f"p/{number}", RULE, 0)
    assert len(breakers._breakers) == MAX_TRACKED


Step = st.tuples(st.sampled_from(["ask", "pass"]), st.booleans(), st.floats(0, 30))


@given(st.lists(Step, max_size=80), st.integers(1, 3))
def test_whatever_happens_probes_are_few_and_the_way_back_is_open(
    steps: list[tuple[str, bool, float]], half_open: int
) -> None:
    rule, breakers, now, under_way = make_rule(half_open=half_open), Breakers(), 0.0, 0
    for action, good, pause_s in steps:
        now += pause_s
        admitted = breakers.admit("t", rule, now) if action == "ask" else "open"
        if admitted == "probe":
            under_way += 1
            assert under_way <= half_open
        if admitted == "open":
            continue
        (breakers.note_success if good else breakers.note_failure)("t", rule, now)
        under_way = 0
        assert breakers.seconds_until_open("t", now) <= rule.open_s * LONGEST_WAIT
    later = now + rule.open_s * LONGEST_WAIT
    assert breakers.admit("t", rule, later) in ("closed", "probe")
