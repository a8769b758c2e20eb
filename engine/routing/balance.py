"""The order in which a plan's targets are tried: failover, weighted, least_latency or cheapest.

Pure but for `Latencies`, a small table of moving averages that outlives reloads. Chance comes as an argument.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from decimal import Decimal

from engine.config.snapshot import Target
from engine.routing.resolve import Plan, find_price

Chance = Callable[[], float]
MAX_TRACKED = 10_000
NEWEST_SHARE = 0.2


class Latencies:
    """Moving average of the first-token time of each target, in seconds."""

    def __init__(self) -> None:
        self._averages: OrderedDict[str, float] = OrderedDict()

    def note(self, name: str, first_token_s: float) -> None:
        before = self._averages.get(name)
        average = first_token_s if before is None else before + NEWEST_SHARE * (first_token_s - before)
        self._averages[name] = average
        if before is None and len(self._averages) > MAX_TRACKED:
            self._averages.popitem(last=False)

    def average_s(self, name: str) -> float:
        """0 for a target nobody has measured: it is tried first, and then it is known."""
        return self._averages.get(name, 0.0)


def order_targets(
    plan: Plan, latencies: Latencies, chance: Chance, *, input_tokens: int, output_tokens: int
) -> list[Target]:
    """All targets of the plan, the one to try first in front."""
    targets = plan.targets
    if len(targets) == 1 or plan.model.strategy == "failover":
        return list(targets)
    if plan.model.strategy == "weighted":
        return _draw_by_weight(targets, chance)
    if plan.model.strategy == "least_latency":
        ordered = sorted(targets, key=lambda target: latencies.average_s(target.name))
        return _explore(ordered, chance, plan.policy.explore)
    return sorted(targets, key=lambda target: estimate_cost(plan, target, input_tokens, output_tokens))


def estimate_cost(plan: Plan, target: Target, input_tokens: int, output_tokens: int) -> Decimal:
    """What this call would cost at one target, in US dollars."""
    price = find_price(plan.model, target)
    return price.request + price.input * input_tokens + price.output * output_tokens


def _draw_by_weight(targets: Sequence[Target], chance: Chance) -> list[Target]:
    """Without replacement: the second is drawn by weight among the rest. Weight 0 is only ever a last resort."""
    left, ordered = [target for target in targets if target.weight > 0], []
    while left:
        point = chance() * sum(target.weight for target in left)
        for target in left:
            point -= target.weight
            if point <= 0:
                break
        left.remove(target)
        ordered.append(target)
    return ordered + [target for target in targets if target.weight <= 0]


def _explore(ordered: list[Target], chance: Chance, share: float) -> list[Target]:
    """Now and then another target goes first, so that one which became faster is found."""
    if chance() < share:
        chosen = 1 + int(chance() * (len(ordered) - 1))
        ordered.insert(0, ordered.pop(min(chosen, len(ordered) - 1)))
    return ordered
