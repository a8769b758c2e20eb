from engine.config.snapshot import Limit
from engine.policies.shelf import COOL_AFTER_S, LOOK_AGAIN_S, Shelf

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
