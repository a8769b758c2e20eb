"""The script in Redis decides as the limiter of one process does, to the entry and the second."""

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.config.snapshot import Limit
from engine.policies.limits import Limiter, LimitReached
from engine.policies.refusals import Reached, refuse
from engine.policies.script_words import Shape, write_entries, write_headers
from engine.policies.shared_limits import SCRIPT
from tests.valkey import Valkey

LONG_LEASE = 10**15
START_S = 1_700_000_000.0


class Counted:
    """Calls of the script with a clock of ours."""

    def __init__(self, server: Valkey, name: str = "a") -> None:
        self.script = server.client.register_script(SCRIPT.text)
        self.name = name
        self.calls = 0

    def take(self, scopes: Any, tokens: int, now: float) -> Any:
        self.calls += 1
        words: list[Any] = ["take", int(now * 1e6), tokens, f"lease{self.calls}", LONG_LEASE]
        for _, _, limit in scopes:
            words += Shape(limit).words
        hashes = [self.key(":", scope, identity) for scope, identity, _ in scopes]
        leases = [self.key("+", scope, identity) for scope, identity, limit in scopes if limit.concurrency]
        taken, *facts = self.script(keys=hashes + leases, args=words)
        if not taken:
            at, kind, size_s, number, total, wait_us, *rest = facts
            wait_s = wait_us / 1e6 if wait_us >= 0 else None
            reached = Reached(scopes[at - 1][0], kind.decode(), size_s, number, total, wait_s)
            raise refuse(reached, tokens, write_headers(rest))
        return hashes, leases, f"lease{self.calls}", facts[0], write_headers(facts[1:])

    def settle(self, taken: Any, more: int, now: float) -> None:
        hashes, leases, lease, handle, _ = taken
        if not more or not handle:
            hashes, handle = [], b""
        words = ["settle", int(now * 1e6), lease, more, handle, len(hashes), len(leases)]
        self.script(keys=hashes + leases, args=words)

    def restore(self, limiter: Limiter, now: float) -> None:
        for scope, identity in limiter.list_identities():
            entries = limiter.read_entries(scope, identity, now)
            self.script(
                keys=[self.key(":", scope, identity)],
                args=["restore", int(now * 1e6), write_entries(entries)],
            )

    def key(self, mark: str, scope: str, identity: str) -> str:
        return f"{{{self.name}}}{mark}{scope}:{identity}"


counts = st.integers(1, 12)
windows = st.dictionaries(st.sampled_from([1, 10, 60]), counts, max_size=3)
token_windows = st.dictionaries(st.sampled_from([10, 60]), st.integers(1, 300), max_size=2)
limits = st.builds(
    Limit, windows, token_windows, burst=st.none() | counts, concurrency=st.none() | st.integers(1, 4)
)
steps = st.lists(
    st.tuples(
        st.integers(0, 400),  # 1/64 seconds until
        st.sampled_from(["take", "take", "take", "settle", "other"]),
        st.integers(0, 120),  # tokens
    ),
    max_size=40,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(first=limits, second=limits, other=limits, story=steps)
def test_the_script_decides_as_one_process_does(
    redis: Valkey, first: Limit, second: Limit, other: Limit, story: list[tuple[int, str, int]]
) -> None:
    with redis.client as client:
        client.flushall()
    alone, shared, now = Limiter(), Counted(redis), START_S
    running: list[tuple[Any, Any, int]] = []
    for limit in (first, other):  # from here on both count in the same windows
        wide = Limit(dict.fromkeys(limit.requests, 99), dict.fromkeys(limit.tokens, 9999), limit.burst and 99)
        alone.take((("key", "k", wide),), 0, now).release(now)
        shared.take((("key", "k", wide),), 0, now)
    for gap, what, tokens in story:
        now += gap / 64
        if what == "settle":
            if running:
                grant, taken, reserved = running.pop(0)
                grant.correct(tokens, now)
                grant.release(now)
                shared.settle(taken, tokens - reserved, now)
            continue
        limit = first if what == "take" else other  # another policy counts in the same identity
        if first.concurrency is None or other.concurrency is None:
            limit = first
        scopes = (("key", "k", limit), ("system", "all", second))
        try:
            grant = alone.take(scopes, tokens, now)
        except LimitReached as error:
            expected: Any = (error.message, error.code, error.retry_after_s, error.headers)
        else:
            expected = grant.headers(now)
        try:
            taken = shared.take(scopes, tokens, now)
        except LimitReached as error:
            assert (error.message, error.code, error.retry_after_s, error.headers) == expected
        else:
            assert taken[-1] == expected
            running.append((grant, taken, tokens))


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    limit=limits,
    mine=st.lists(st.integers(0, 600), max_size=30),
    theirs=st.lists(st.integers(0, 600), max_size=30),
)
def test_what_two_gateways_counted_alone_adds_up(
    redis: Valkey, limit: Limit, mine: list[int], theirs: list[int]
) -> None:
    with redis.client as client:
        client.flushall()
    shared, end = Counted(redis), START_S + 600 / 64
    whole, wide = Limiter(), Limit({60: 1000}, {60: 100000})
    parts = (Limiter(), Limiter())
    events = sorted([(at, 0) for at in mine] + [(at, 1) for at in theirs])
    for at, who in events:
        for limiter in (whole, parts[who]):
            limiter.count((("key", "k", wide),), 7, START_S + at / 64)
    for part in parts:
        shared.restore(part, end)
    expected = whole.take((("key", "k", wide),), 0, end).headers(end)
    seen = shared.take((("key", "k", wide),), 0, end)[-1]
    assert [pair for pair in seen if b"reset" not in pair[0]] == [
        pair for pair in expected if b"reset" not in pair[0]
    ]


def test_everything_of_an_identity_leaves_redis_with_its_longest_window(redis: Valkey) -> None:
    shared = Counted(redis)
    shared.take((("key", "k", Limit({1: 5, 60: 5}, concurrency=2)),), 0, START_S)
    with redis.client as client:
        assert 60_000 < client.pttl("{a}:key:k") < 63_000
        assert 0 < client.pttl("{a}+key:k")


def test_a_clock_that_was_set_back_undoes_nothing(redis: Valkey) -> None:
    shared, limit = Counted(redis), Limit({60: 2})
    shared.take((("key", "k", limit),), 0, START_S)
    shared.take((("key", "k", limit),), 0, START_S - 3600)
    for at in (START_S - 3600, START_S + 59):
        try:
            shared.take((("key", "k", limit),), 0, at)
        except LimitReached as error:
            assert error.retry_after_s in (60.0, 1.0)
        else:
            raise AssertionError("a third call was let in")
    shared.take((("key", "k", limit),), 0, START_S + 60)
