import random
from collections.abc import Callable
from math import ceil
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.config.snapshot import Limit
from engine.policies.limits import Grant, Limiter, LimitReached

Take = Callable[..., Grant]


def one(limit: Limit, scope: str = "key", identity: str = "k1") -> tuple[tuple[str, str, Limit], ...]:
    return ((scope, identity, limit),)


def refusal(limiter: Limiter, scopes: Any, tokens: int, now: float) -> LimitReached:
    with pytest.raises(LimitReached) as caught:
        limiter.take(scopes, tokens, now)
    return caught.value


def test_the_request_over_the_number_is_refused_with_scope_window_and_number() -> None:
    limiter, limit = Limiter(), Limit(requests={60: 2})
    limiter.take(one(limit), 0, 100.0)
    limiter.take(one(limit), 0, 110.5)
    error = refusal(limiter, one(limit), 0, 120.0)
    assert (error.status, error.code, error.retry_after_s) == (429, "rate_limit_exceeded", 40.0)
    assert error.message == "The limit of 2 requests per minute for this key is used up. Try again in 40 s."
    assert error.headers == {
        "x-ratelimit-limit-requests": "2",
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": "40",
        "ratelimit-limit": "2",
        "ratelimit-remaining": "0",
        "ratelimit-reset": "40",
    }
    refusal(limiter, one(limit), 0, 159.9)
    limiter.take(one(limit), 0, 160.0)


def test_identities_and_scopes_do_not_share() -> None:
    limiter, limit = Limiter(), Limit(requests={60: 1})
    for scope, identity in (("key", "a"), ("key", "b"), ("user", "a")):
        limiter.take(one(limit, scope, identity), 0, 1.0)
    assert limiter.count_identities() == {"key": 2, "user": 1}


def test_a_burst_bounds_what_comes_within_one_second() -> None:
    limiter, limit = Limiter(), Limit(requests={60: 100}, burst=3)
    for _ in range(3):
        limiter.take(one(limit), 0, 50.0)
    error = refusal(limiter, one(limit), 0, 50.5)
    assert error.retry_after_s == 1.0
    assert "3 requests per second" in error.message
    assert error.headers["x-ratelimit-limit-requests"] == "3"
    limiter.take(one(limit), 0, 51.0)


def test_headers_show_the_tightest_window_and_leave_a_burst_that_has_room_out() -> None:
    limiter, limit = Limiter(), Limit(requests={60: 10, 3600: 12}, tokens={60: 500}, burst=5)
    grant = limiter.take(one(limit), 120, 1.0)
    assert dict(grant.headers(1.0)) == {
        b"x-ratelimit-limit-requests": b"10",
        b"x-ratelimit-remaining-requests": b"9",
        b"x-ratelimit-reset-requests": b"60",
        b"ratelimit-limit": b"10",
        b"ratelimit-remaining": b"9",
        b"ratelimit-reset": b"60",
        b"x-ratelimit-limit-tokens": b"500",
        b"x-ratelimit-remaining-tokens": b"380",
        b"x-ratelimit-reset-tokens": b"60",
    }
    for number in range(9):
        limiter.take(one(limit), 0, 100.0 + 100 * number)
    grant = limiter.take(one(limit), 0, 1000.0)
    assert dict(grant.headers(1000.0))[b"x-ratelimit-limit-requests"] == b"12"
    assert dict(grant.headers(1000.0))[b"x-ratelimit-remaining-requests"] == b"1"


def test_no_limit_of_a_kind_means_no_header() -> None:
    assert Limiter().take(one(Limit(concurrency=1)), 5, 1.0).headers(1.0) == []


def test_concurrency_is_taken_and_given_back_once() -> None:
    limiter, limit = Limiter(), Limit(concurrency=2)
    first, _ = limiter.take(one(limit), 0, 1.0), limiter.take(one(limit), 0, 1.0)
    error = refusal(limiter, one(limit), 0, 2.0)
    assert (error.code, error.retry_after_s) == ("concurrent_request_limit", 1.0)
    assert error.message == "This key may have 2 calls running at once and has as many. Try again in 1 s."
    first.release(3.0)
    first.release(3.0)
    limiter.take(one(limit), 0, 3.0)
    refusal(limiter, one(limit), 0, 3.0)


def test_tokens_are_reserved_and_the_rest_of_the_estimate_comes_back() -> None:
    limiter, limit = Limiter(), Limit(tokens={60: 1000})
    grant = limiter.take(one(limit), 900, 10.0)
    error = refusal(limiter, one(limit), 200, 11.0)
    assert (error.code, error.retry_after_s) == ("token_rate_limit", 59.0)
    assert error.message == (
        "This call reserves 200 tokens and the limit of 1000 tokens per minute for this key has 100 left. "
        "Try again in 59 s."
    )
    grant.correct(300, 12.0)
    limiter.take(one(limit), 700, 12.0)
    refusal(limiter, one(limit), 1, 12.0)


def test_tokens_beyond_the_estimate_count_from_when_they_were_known() -> None:
    limiter, limit = Limiter(), Limit(tokens={60: 1000})
    grant = limiter.take(one(limit), 100, 10.0)
    grant.correct(900, 40.0)
    assert refusal(limiter, one(limit), 950, 70.0).retry_after_s == 30.0
    limiter.take(one(limit), 950, 100.0)


def test_a_call_that_reserves_more_than_the_number_is_told_that_waiting_does_not_help() -> None:
    error = refusal(Limiter(), one(Limit(tokens={60: 1000})), 1001, 1.0)
    assert error.retry_after_s is None
    assert "more than the limit of 1000 tokens per minute for this key can ever hold" in error.message


def test_nobody_uses_less_than_nothing() -> None:
    limiter, limit = Limiter(), Limit(tokens={60: 100})
    limiter.take(one(limit), 60, 0.0).correct(-50, 1.0)
    limiter.take(one(limit), 100, 2.0)
    refusal(limiter, one(limit), 1, 3.0)


def test_a_correction_after_the_release_does_nothing() -> None:
    limiter, limit = Limiter(), Limit(tokens={60: 1000})
    grant = limiter.take(one(limit), 600, 1.0)
    grant.release(2.0)
    grant.correct(0, 3.0)
    refusal(limiter, one(limit), 600, 3.0)


def test_one_full_scope_refuses_and_the_others_keep_their_room() -> None:
    limiter = Limiter()
    key, system = Limit(requests={60: 5}, tokens={60: 50}, concurrency=5), Limit(requests={60: 1})
    limiter.take((("system", "", system),), 0, 1.0)
    for _ in range(20):
        error = refusal(limiter, (("key", "a", key), ("system", "", system)), 10, 2.0)
        assert "the whole gateway" in error.message
    for _ in range(5):
        limiter.take((("key", "a", key),), 10, 3.0)


def test_retry_after_waits_for_the_slowest_of_all_full_limits() -> None:
    limiter = Limiter()
    key, user = Limit(requests={60: 1}), Limit(requests={3600: 1})
    scopes = (("key", "a", key), ("user", "b", user))
    limiter.take(scopes, 0, 100.0)
    error = refusal(limiter, scopes, 0, 130.0)
    assert error.retry_after_s == 3570.0
    assert "per hour for this user" in error.message
    limiter.take(scopes, 0, 130.0 + 3570.0)


def test_a_reloaded_limit_keeps_what_was_counted() -> None:
    limiter = Limiter()
    for _ in range(3):
        limiter.take(one(Limit(requests={60: 5})), 0, 1.0)
    refusal(limiter, one(Limit(requests={60: 3})), 0, 2.0)
    limiter.take(one(Limit(requests={60: 4})), 0, 2.0)


@pytest.mark.parametrize("first", [0, 1, 7])
def test_the_shares_of_all_workers_add_up_to_the_number(first: int) -> None:
    for number in (1, 3, 4, 10, 250):
        limit = Limit(requests={60: number})
        admitted = 0
        for worker in range(first, first + 4):
            limiter = Limiter(worker=worker, workers=4)
            for _ in range(number + 1):
                try:
                    limiter.take(one(limit), 0, 1.0)
                except LimitReached:
                    break
                admitted += 1
        assert admitted == number


def test_a_clock_that_steps_back_does_not_open_the_window() -> None:
    limiter, limit = Limiter(), Limit(requests={60: 1})
    limiter.take(one(limit), 0, 100.0)
    refusal(limiter, one(limit), 0, 30.0)
    assert refusal(limiter, one(limit), 0, 100.0).retry_after_s == 60.0


def test_distinct_keys_do_not_pile_up_beyond_their_windows() -> None:
    limiter, limit = Limiter(), Limit(requests={60: 10}, tokens={60: 10_000})
    for number in range(30_000):
        limiter.take(one(limit, "key", f"key{number}"), 10, number / 10).release(number / 10)
    assert limiter.count_identities()["key"] < 10 * (60 + 2 * 60 + 10)


def test_dense_traffic_stays_under_every_number() -> None:
    for seed in range(10):
        chance = random.Random(seed)
        limiter, limit, now = Limiter(), Limit(requests={10: 30, 60: 100}, burst=9), 1000.0
        admitted: list[tuple[float, str, int]] = []
        for _ in range(1500):
            now += chance.expovariate(chance.choice((0.7, 20)))
            try:
                limiter.take(one(limit), 0, now).release(now)
            except LimitReached:
                continue
            admitted.append((now, "k1", 0))
        assert [most(admitted, size_s, tokens=False) for size_s in (1, 10, 60)] == [9, 30, 100]


CALLS = st.lists(
    st.tuples(
        st.one_of(*(st.floats(0, longest, allow_subnormal=False) for longest in (0.02, 0.4, 8))),  # pause
        st.sampled_from(["a", "b"]),
        st.integers(0, 60),  # tokens reserved
        st.integers(0, 60),  # tokens used, at most what was reserved
        st.floats(0, 10, allow_subnormal=False),  # until it ends
    ),
    min_size=1,
    max_size=150,
)
KEY = Limit(requests={10: 4, 60: 12}, tokens={30: 200}, burst=2, concurrency=3)
SYSTEM = Limit(requests={10: 6}, tokens={60: 400}, concurrency=5)


class Conversation:
    """Plays calls against a limiter and writes down what was admitted."""

    def __init__(self, limiter: Limiter) -> None:
        self.limiter = limiter
        self.running: list[tuple[float, int, Grant]] = []
        self.admitted: list[tuple[float, str, int]] = []
        self.most_running = {"a": 0, "b": 0, "all": 0}
        self.names: dict[int, str] = {}

    def end_calls(self, now: float) -> None:
        for ends_at, tokens, grant in sorted((r for r in self.running if r[0] <= now), key=lambda r: r[0]):
            grant.correct(tokens, ends_at)
            grant.release(ends_at)
        self.running = [r for r in self.running if r[0] > now]

    def call(self, now: float, identity: str, tokens: int) -> Grant | None:
        scopes = (("key", identity, KEY), ("system", "", SYSTEM))
        try:
            grant = self.limiter.take(scopes, tokens, now)
        except LimitReached:
            return None
        self.names[id(grant)] = identity
        return grant

    def play(self, calls: list[tuple[float, str, int, int, float]]) -> None:
        now = 1000.0
        for pause, identity, reserved, used, lasts_s in calls:
            now += pause
            self.end_calls(now)
            grant = self.call(now, identity, reserved)
            if grant is not None:
                self.admitted.append((now, identity, min(reserved, used)))
                self.running.append((now + lasts_s, min(reserved, used), grant))
                self.note_running()

    def note_running(self) -> None:
        names = [self.names[id(grant)] for _, _, grant in self.running]
        for name in ("a", "b"):
            self.most_running[name] = max(self.most_running[name], names.count(name))
        self.most_running["all"] = max(self.most_running["all"], len(names))


def most(admitted: list[tuple[float, str, int]], size_s: int, *, tokens: bool) -> int:
    return max(
        (
            sum(used if tokens else 1 for at, _, used in admitted if start <= at and at < start + size_s)
            for start, _, _ in admitted
        ),
        default=0,
    )


@settings(deadline=None, max_examples=150)
@given(CALLS)
def test_whatever_comes_no_span_and_no_moment_sees_more_than_the_numbers(
    calls: list[tuple[float, str, int, int, float]],
) -> None:
    conversation = Conversation(Limiter())
    conversation.play(calls)
    for identity in ("a", "b"):
        mine = [call for call in conversation.admitted if call[1] == identity]
        assert most(mine, 1, tokens=False) <= 2
        assert most(mine, 10, tokens=False) <= 4
        assert most(mine, 60, tokens=False) <= 12
        assert most(mine, 30, tokens=True) <= 200
        assert conversation.most_running[identity] <= 3
    assert most(conversation.admitted, 10, tokens=False) <= 6
    assert most(conversation.admitted, 60, tokens=True) <= 400
    assert conversation.most_running["all"] <= 5


@settings(deadline=None, max_examples=100)
@given(CALLS)
def test_a_refused_call_takes_nothing(calls: list[tuple[float, str, int, int, float]]) -> None:
    """Asking in vain in between changes nothing for those who are let in."""
    plain, nagged = Conversation(Limiter()), Conversation(Limiter())
    plain.play(calls)
    take = nagged.call

    def nag_first(now: float, identity: str, tokens: int) -> Grant | None:
        for _ in range(3):
            refusal(nagged.limiter, (("key", identity, KEY), ("system", "", SYSTEM)), 10_000, now)
        return take(now, identity, tokens)

    nagged.call = nag_first  # type: ignore[method-assign]
    nagged.play(calls)
    assert plain.admitted == nagged.admitted


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 500), st.lists(st.integers(0, 900), max_size=4)), max_size=30))
def test_corrections_conserve_what_was_used(calls: list[tuple[int, list[int]]]) -> None:
    limiter, limit, number = Limiter(), Limit(tokens={3600: 10**6, 86400: 10**7}), 10**6
    now, used, grant = 1.0, 0, None
    for reserved, corrections in calls:
        now += 7
        grant = limiter.take(one(limit), reserved, now)
        for tokens in corrections:
            now += 3
            grant.correct(tokens, now)
        used += corrections[-1] if corrections else reserved
        assert dict(grant.headers(now))[b"x-ratelimit-remaining-tokens"] == b"%d" % (number - used)


@settings(deadline=None)
@given(CALLS)
def test_retry_after_is_true_to_the_second(calls: list[tuple[float, str, int, int, float]]) -> None:
    conversation = Conversation(Limiter())
    conversation.play([(pause, who, reserved, reserved, 0.0) for pause, who, reserved, _, _ in calls])
    now = 1000.0 + sum(call[0] for call in calls)
    conversation.end_calls(now + 10)
    scopes = (("key", "a", KEY), ("system", "", SYSTEM))
    try:
        conversation.limiter.take(scopes, 60, now)
    except LimitReached as error:
        assert error.retry_after_s is not None and error.retry_after_s == ceil(error.retry_after_s)
        if error.retry_after_s > 1:
            refusal(conversation.limiter, scopes, 60, now + error.retry_after_s - 1.001)
        conversation.limiter.take(scopes, 60, now + error.retry_after_s + 1e-6)  # sums of floats


def test_a_plans_quota_is_refused_in_its_own_words() -> None:
    limiter, limit = Limiter(), Limit({86400: 1, 2592000: 2}, {3600: 10})
    scopes = one(limit, "plan", "user:u")
    limiter.take(scopes, 4, 0.0)
    error = refusal(limiter, scopes, 4, 10.0)
    assert error.code == "daily_quota_exceeded"
    assert error.message.startswith("Daily request limit exceeded: the plan has 1 requests per day.")
    limiter.take(scopes, 4, 86400.0)
    error = refusal(limiter, scopes, 4, 2 * 86400.0)
    assert error.code == "monthly_quota_exceeded"
    assert error.message.startswith("Monthly request limit exceeded")
    error = refusal(Limiter(), scopes, 11, 0.0)
    assert (error.code, error.retry_after_s) == ("hourly_quota_exceeded", None)
    assert "Hourly token limit exceeded" in error.message
