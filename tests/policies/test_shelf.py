import random
import tracemalloc

from engine.config.snapshot import Limit
from engine.policies.shelf import COOL_AFTER_S, LOOK_AGAIN_S, MOST_HOT, PIECE, Counters, Shelf

LIMIT = Limit(requests={60: 10, 3600: 100}, tokens={60: 1000})


def use(shelf: Shelf, identity: str, now: float, *, limit: Limit = LIMIT, release: bool = True) -> None:
    counters = shelf.hot.get(identity) or shelf.warm(identity)
    if counters.limit is not limit:
        counters.adopt(limit, int)
    counters.count(7, now, [])
    counters.in_flight -= release


def sweep_until(shelf: Shelf, start: float, end: float) -> None:
    now = start
    while now < end:
        shelf.sweep(now)
        now += 1.0


def totals(shelf: Shelf, identity: str) -> list[tuple[int, int]]:
    counters = shelf.hot.get(identity) or shelf.warm(identity)
    return [(w.size_s, w.total) for w in (*counters.request_windows, *counters.token_windows)]


def test_an_idle_identity_is_packed_and_comes_back_with_its_counts() -> None:
    shelf = Shelf()
    use(shelf, "a", 100.0)
    use(shelf, "a", 101.0)
    sweep_until(shelf, 101.0, 101.0 + 3 * COOL_AFTER_S)
    assert not shelf.hot and len(shelf) == 1
    assert sorted(totals(shelf, "a")) == [(60, 2), (60, 14), (3600, 2)]


def test_an_identity_that_came_back_while_cooling_is_hot_again() -> None:
    shelf = Shelf()
    use(shelf, "a", 100.0)
    shelf.sweep(100.0)
    assert "a" not in shelf.hot
    use(shelf, "a", 100.5)
    assert "a" in shelf.hot and len(shelf) == 1
    assert (3600, 2) in totals(shelf, "a")


def test_an_identity_is_forgotten_when_no_window_remembers_it() -> None:
    shelf = Shelf()
    for number in range(50):
        use(shelf, f"key{number}", 100.0)
    sweep_until(shelf, 100.0, 3700.0)
    assert len(shelf) == 50
    sweep_until(shelf, 3700.0, 3700.0 + 3 * LOOK_AGAIN_S)
    assert len(shelf) == 0


def test_an_identity_whose_windows_are_over_when_it_cools_is_forgotten_at_once() -> None:
    shelf = Shelf()
    use(shelf, "a", 100.0, limit=Limit(requests={1: 5}))
    sweep_until(shelf, 101.0, 120.0)
    assert len(shelf) == 0


def test_a_call_in_flight_keeps_its_identity_hot() -> None:
    shelf = Shelf()
    use(shelf, "a", 100.0, release=False)
    sweep_until(shelf, 100.0, 20_000.0)
    assert (shelf.hot.get("a") or shelf.warm("a")).in_flight == 1


def test_two_limits_in_turn_share_the_windows_of_the_same_length() -> None:
    shelf, other = Shelf(), Limit(requests={60: 99, 86400: 5})
    use(shelf, "a", 100.0)
    use(shelf, "a", 101.0, limit=other)
    use(shelf, "a", 102.0)
    assert sorted(totals(shelf, "a")) == [(60, 3), (60, 21), (3600, 3), (86400, 2)]
    counters = shelf.hot["a"]
    counters.adopt(other, int)
    assert [(window.size_s, number) for window, number in counters.request_checks] == [(60, 99), (86400, 5)]


def test_identities_that_come_and_go_have_the_counts_of_those_that_are_never_packed() -> None:
    shelf, kept, chance, now = Shelf(), dict[str, Counters](), random.Random(3), 1000.0
    for _ in range(20_000):
        now += chance.expovariate(20)
        identity = f"key{int(chance.paretovariate(0.4)) % 2000}"
        use(shelf, identity, now)
        if identity not in kept:
            kept[identity] = Counters()
            kept[identity].adopt(LIMIT, int)
        kept[identity].count(7, now, [])
        shelf.sweep(now)
    assert len(shelf._cold) > 200
    for identity, counters in kept.items():
        assert shelf.read_entries(identity, now) == counters.list_entries(now)
        warm = shelf.hot.get(identity) or shelf.warm(identity)
        assert warm.list_entries(now) == counters.list_entries(now)


def test_of_many_identities_in_a_short_time_few_are_objects() -> None:
    shelf, most = Shelf(), 0
    for number in range(4 * MOST_HOT):
        use(shelf, f"key{number}", 100.0 + number / 10_000)
        shelf.sweep(100.0 + number / 10_000)
        most = max(most, len(shelf.hot) + len(shelf._cooling))
    assert MOST_HOT <= most <= MOST_HOT + MOST_HOT // PIECE + 1
    assert len(shelf) == 4 * MOST_HOT


def test_many_idle_identities_are_all_there_and_all_forgotten_in_the_end() -> None:
    shelf = Shelf()
    for number in range(5000):
        use(shelf, f"key{number}", 100.0)
    for turn in range(1000):
        shelf.sweep(110.0 + turn / 1000)
    assert not shelf.hot and len(shelf) == 5000 == len(set(shelf.list_names()))
    assert all((3600, 1) in totals(shelf, f"key{number}") for number in range(0, 5000, 100))
    now = 3701.0
    while now < 3701.0 + 3 * LOOK_AGAIN_S:
        shelf.sweep(now)
        now += 0.05
    assert len(shelf) == 0


def test_an_idle_key_that_called_once_under_five_windows_takes_at_most_seventy_bytes() -> None:
    limit = Limit(
        requests={3600: 10, 86400: 1000, 2_592_000: 10_000}, tokens={86400: 10**6, 2_592_000: 10**7}
    )
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    shelf, keys, now = Shelf(), 5000, 100.0
    for number in range(keys):
        if number % 100 == 0:  # so many are in use at once
            sweep_until(shelf, now, now + 3 * COOL_AFTER_S)
            now += 3 * COOL_AFTER_S
        use(shelf, f"key_{number:016x}", now, limit=limit)
    sweep_until(shelf, now, now + 3 * COOL_AFTER_S)
    used = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert len(shelf) == len(shelf._cold)
    assert used / len(shelf._cold) <= 70
