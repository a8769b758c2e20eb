"""In which order targets are tried. Chance is a list of numbers."""

import random
from collections import Counter
from collections.abc import Callable, Iterator
from decimal import Decimal

import pytest

from engine.config.snapshot import Target
from engine.routing.balance import MAX_TRACKED, Latencies, estimate_cost, order_targets
from engine.routing.resolve import Plan
from tests.routing.things import make_model, make_policy, make_price, make_target


def make_plan_of(strategy: str, *targets: Target, explore: float = 0.05) -> Plan:
    policy = make_policy(explore=explore)
    model = make_model("m", *targets, strategy=strategy, policy=policy)
    return Plan(model, policy, policy.timeouts, targets)


def scripted(*numbers: float) -> Callable[[], float]:
    left: Iterator[float] = iter(numbers)
    return lambda: next(left)


def names(targets: list[Target]) -> str:
    return "".join(target.provider.name for target in targets)


def order(plan: Plan, chance: Callable[[], float], latencies: Latencies | None = None, **tokens: int) -> str:
    counts = {"input_tokens": 1000, "output_tokens": 100, **tokens}
    return names(order_targets(plan, latencies or Latencies(), chance, **counts))


A, B, C = (make_target(name) for name in "abc")


def test_failover_keeps_the_written_order() -> None:
    assert order(make_plan_of("failover", C, A, B), scripted()) == "cab"


def test_a_single_target_needs_no_chance() -> None:
    for strategy in ("failover", "weighted", "least_latency", "cheapest"):
        assert order(make_plan_of(strategy, A), scripted()) == "a"


def test_weights_are_the_shares_of_the_first_place_and_of_the_second() -> None:
    chosen = random.Random(7)
    targets = (make_target("a", weight=70), make_target("b", weight=20), make_target("c", weight=10))
    plan = make_plan_of("weighted", *targets)
    orders = Counter(order(plan, chosen.random) for _ in range(20_000))
    first = Counter({name: sum(n for o, n in orders.items() if o[0] == name) for name in "abc"})
    assert all(
        abs(first[name] / 20_000 - share) < 0.02 for name, share in zip("abc", (0.7, 0.2, 0.1), strict=True)
    )
    behind_a = orders["abc"] / (orders["abc"] + orders["acb"])
    assert abs(behind_a - 2 / 3) < 0.02


def test_weight_nought_is_a_last_resort() -> None:
    plan = make_plan_of("weighted", make_target("z", weight=0), make_target("a", weight=1))
    assert {order(plan, random.Random(n).random) for n in range(50)} == {"az"}


@pytest.mark.parametrize("chance", [0.0, 0.999999999])
def test_the_ends_of_chance_choose_somebody(chance: float) -> None:
    plan = make_plan_of("weighted", *(make_target(name, weight=0.1) for name in "abc"))
    assert sorted(order(plan, lambda: chance)) == ["a", "b", "c"]


def test_the_quickest_goes_first() -> None:
    latencies = Latencies()
    for target, seconds in ((A, 0.9), (B, 0.2), (C, 0.5)):
        latencies.note(target.name, seconds)
    assert order(make_plan_of("least_latency", A, B, C), scripted(0.5), latencies) == "bca"


def test_a_target_nobody_measured_goes_first() -> None:
    latencies = Latencies()
    latencies.note(A.name, 0.001)
    assert order(make_plan_of("least_latency", A, B), scripted(0.5), latencies) == "ba"


def test_one_call_in_twenty_tries_another_first() -> None:
    latencies, chance = Latencies(), random.Random(3)
    for target, seconds in ((A, 0.1), (B, 0.2), (C, 0.3)):
        latencies.note(target.name, seconds)
    plan = make_plan_of("least_latency", A, B, C)
    firsts = Counter(order(plan, chance.random, latencies)[0] for _ in range(20_000))
    assert abs(1 - firsts["a"] / 20_000 - 0.05) < 0.008
    assert abs(firsts["b"] - firsts["c"]) < 200


def test_without_exploration_the_quickest_always_goes_first() -> None:
    latencies = Latencies()
    latencies.note(A.name, 0.1)
    latencies.note(B.name, 0.2)
    plan = make_plan_of("least_latency", B, A, explore=0)
    assert {order(plan, random.Random(n).random, latencies) for n in range(100)} == {"ab"}


def test_the_average_moves_with_what_is_seen() -> None:
    latencies = Latencies()
    latencies.note("t", 1.0)
    for _ in range(20):
        latencies.note("t", 0.1)
    assert 0.1 < latencies.average_s("t") < 0.12


def test_averages_are_kept_for_a_bounded_number_of_targets() -> None:
    latencies = Latencies()
    for number in range(MAX_TRACKED + 10):
        latencies.note(f"p/{number}", 1.0)
    assert len(latencies._averages) == MAX_TRACKED


def test_the_cheapest_depends_on_what_is_asked() -> None:
    reads_cheap = make_target("r", price=make_price("0.000001", "0.00001"))
    writes_cheap = make_target("w", price=make_price("0.000002", "0.000002"))
    plan = make_plan_of("cheapest", writes_cheap, reads_cheap)
    assert order(plan, scripted(), input_tokens=10_000, output_tokens=10) == "rw"
    assert order(plan, scripted(), input_tokens=10, output_tokens=10_000) == "wr"


def test_a_price_for_each_request_counts() -> None:
    flat = make_target("f", price=make_price("0", "0", request="0.01"))
    plan = make_plan_of("cheapest", flat, make_target("t", price=make_price("0.000001", "0.000001")))
    assert estimate_cost(plan, flat, 5, 5) == Decimal("0.01")
    assert order(plan, scripted(), input_tokens=100, output_tokens=100) == "tf"


def test_equal_prices_keep_the_written_order() -> None:
    assert order(make_plan_of("cheapest", B, A, C), scripted()) == "bac"
