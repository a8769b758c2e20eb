"""A cap on all the life of a key holds although its count comes from records that are written later."""

from collections.abc import Collection
from decimal import Decimal

import pytest

from engine.call import Attempt, Call, Caller, KeyBounds
from engine.errors import DependencyAway, GatewayError, LimitExceeded
from engine.policies.admission import Admission, LimitStage
from engine.policies.caps import Caps
from engine.policies.limits import Limiter
from engine.storage.key_rules import compile_bounds
from engine.storage.key_usage import KeyUsage
from tests.routing.things import DOOR, make_model, make_policy, make_snapshot, make_target


class Records:
    """Call records: (seq, id, cost) that somebody wrote."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, str, Decimal]] = []
        self.away = False

    async def read_usage(self, key_id: str, after: int, ids: Collection[str]) -> KeyUsage:
        if self.away:
            raise DependencyAway("away")
        new = [row for row in self.rows if row[0] > after]
        spent = sum((row[2] for row in new), Decimal(0))
        until = max((row[0] for row in new), default=after)
        return KeyUsage(len(new), spent, until, [row[1] for row in new if row[1] in ids])


class House:
    def __init__(self, **rules: object) -> None:
        self.records = Records()
        self.now = 0.0
        self.caps = Caps(self.records, self.tell_time)
        self.admission = Admission([LimitStage(Limiter(), self.tell_time), self.caps])
        bounds = compile_bounds(rules)
        assert isinstance(bounds, KeyBounds)
        self.caller = Caller("k", "u", bounds=bounds)
        self.calls = 0

    def tell_time(self) -> float:
        return self.now

    async def call(self, *, cost: str = "0", asked: bool = True) -> Call:
        self.calls += 1
        call = Call(f"c{self.calls}", "r", DOOR, 0, 0, make_snapshot())
        call.caller, call.model = self.caller, make_model("m", make_target("p"))
        async with self.admission.admit(call, make_policy()):
            if asked:
                call.attempts.append(Attempt("p", "m", "c", 0))
            call.cost = Decimal(cost)
        return call

    def write_down(self, call: Call) -> None:
        self.records.rows.append((len(self.records.rows) + 1, call.id, call.cost))


async def refuse(house: House, kind: type[GatewayError], code: str) -> None:
    with pytest.raises(kind) as refused:
        await house.call()
    assert refused.value.code == code


async def test_not_one_request_more_is_let_in_before_or_after_it_is_recorded() -> None:
    house = House(max_requests=3)
    calls = [await house.call() for _ in range(2)]
    house.write_down(calls[0])
    await house.caps.refresh()
    calls.append(await house.call())
    await refuse(house, LimitExceeded, "key_requests_used_up")
    for call in calls[1:]:
        house.write_down(call)
    await house.caps.refresh()
    await refuse(house, LimitExceeded, "key_requests_used_up")


async def test_calls_that_asked_nobody_do_not_count() -> None:
    house = House(max_requests=1)
    for _ in range(3):
        await house.call(asked=False)
    await house.call()
    await refuse(house, LimitExceeded, "key_requests_used_up")


async def test_what_others_recorded_counts() -> None:
    house = House(max_requests=2)
    await house.call()
    house.records.rows.append((1, "elsewhere", Decimal(0)))
    await house.caps.refresh()
    await refuse(house, LimitExceeded, "key_requests_used_up")


async def test_a_cap_of_nothing_lets_nothing_in() -> None:
    await refuse(House(max_requests=0), LimitExceeded, "key_requests_used_up")


async def test_a_known_count_outlives_the_database_and_an_unknown_one_is_503() -> None:
    house = House(max_requests=5)
    await house.call()
    house.records.away = True
    await house.call()
    fresh = House(max_requests=5)
    fresh.records.away = True
    with pytest.raises(DependencyAway):
        await fresh.call()


async def test_a_key_that_nobody_uses_is_forgotten() -> None:
    house = House(max_requests=5)
    house.write_down(await house.call())
    await house.caps.refresh()
    house.now = 10_000
    await house.caps.refresh()
    assert not house.caps._meters


async def test_a_refused_call_gives_its_places_back() -> None:
    house = House(max_requests=1, limits={"concurrency": 1})
    await house.call()
    await refuse(house, LimitExceeded, "key_requests_used_up")
    await refuse(house, LimitExceeded, "key_requests_used_up")
