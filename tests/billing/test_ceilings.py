"""The most that a call can cost, and the answer that it is bounded to: what is held is what the upstream will keep."""

from dataclasses import replace
from decimal import Decimal
from typing import Any

import orjson
import pytest

from engine.billing.ceilings import bound_input_tokens, find_ceiling, needs_estimate
from engine.billing.holds import Hold, HoldStage
from engine.billing.purses import PurseDesk
from engine.call import Call, Caller
from engine.config.snapshot import Model, Target
from engine.errors import InvalidRequest
from engine.storage.leases import OpenHold, PurseTerms, Taken
from engine.wire.doors import Door
from engine.wire.formats import Format
from tests.billing.desks import CHAT, PER_TOKEN
from tests.routing.things import make_model, make_policy, make_price, make_snapshot, make_target
from tests.wire.formats_at_hand import load_format

PREPAID = Caller("key_a", "alice", prepaid=True)
METERED = Caller("key_b", "bob")


class Pot:
    """A bank with one pot, for rules that no other worker has a part in."""

    available = True

    def __init__(self, free: str) -> None:
        self.free = Decimal(free)

    async def register(self, worker: str) -> None: ...

    async def take(
        self, terms: PurseTerms, worker: str, turn: int, need: Decimal, want: Decimal
    ) -> Taken | None:
        taken = need if 0 < need <= self.free else Decimal(0)
        self.free -= taken
        return Taken(taken, self.free, self.free)

    async def give_back(self, purse: str, worker: str, turn: int, amount: Decimal) -> None: ...
    async def forget(self, worker: str, purses: list[str]) -> None: ...
    async def leave(self, worker: str) -> None: ...
    async def read_recalled(self, worker: str) -> list[str]:
        return []

    async def renew(self, worker: str) -> bool:
        return True

    async def write_open_holds(self, worker: str, holds: list[OpenHold]) -> None: ...
    async def close_dead(self, grace_usd: Decimal) -> list[str]:
        return []


def make_call(
    request: dict[str, Any], *targets: Target, caller: Caller = PREPAID, format: Format = CHAT, **billing: Any
) -> Call:
    """A cent for each token that is written; the prompt is free."""
    policy = make_policy(billing=billing)
    answering = targets or (make_target("p", "real", output=10_000),)
    model: Model = make_model("m", *answering, price=make_price("0", str(PER_TOKEN)), policy=policy)
    call = Call("c", "c", Door(format, format.client.serves[0]), 0.0, 0.0, make_snapshot(model))
    call.request, call.body = request, orjson.dumps(request)
    call.caller, call.model, call.policy, call.targets = caller, model, policy, answering
    return call


async def enter(call: Call, free: str = "1000") -> tuple[Hold | None, dict[bytes, bytes]]:
    stage, headers = HoldStage(PurseDesk(Pot(free), "w1", lambda: 0.0), lambda: 0.0), list[Any]()
    assert call.policy is not None
    return await stage.enter(call, call.policy, headers), dict(headers)


@pytest.mark.parametrize(
    ("request_body", "free", "billing", "held", "told"),
    [
        # stated: held as it is, however much that is of what is free
        ({"max_tokens": 500}, "1000", {}, 500, None),
        ({"max_tokens": 500}, "6", {}, 500, None),
        ({"max_completion_tokens": 500, "max_tokens": 20}, "1000", {}, 500, None),
        ({"max_tokens": 500, "n": 3}, "1000", {}, 1500, None),
        # unstated: the model's limit, bounded to an eighth of what is free, never below min_output_tokens
        ({}, "1000", {}, 10_000, None),
        ({}, "800", {}, 10_000, None),
        ({}, "799.92", {}, 9_999, 9_999),
        ({}, "80", {}, 1_000, 1_000),
        ({}, "20.48", {}, 256, 256),
        ({}, "20", {}, 256, 256),
        ({}, "3", {}, 256, 256),
        ({}, "3", {"min_output_tokens": 100}, 100, 100),
        ({"n": 4}, "80", {}, 4 * 256, 256),
        ({"n": 4}, "160", {}, 2_000, 500),
        # stated and lower_max_tokens
        ({"max_tokens": 5_000}, "80", {"lower_max_tokens": True}, 1_000, 1_000),
        ({"max_tokens": 5_000}, "8", {"lower_max_tokens": True}, 256, 256),
        ({"max_tokens": 200}, "3", {"lower_max_tokens": True}, 200, None),
        ({"max_tokens": 500}, "1000", {"lower_max_tokens": True}, 500, None),
    ],
)
async def test_what_is_held_and_what_the_caller_is_told(
    request_body: dict[str, Any], free: str, billing: dict[str, Any], held: int, told: int | None
) -> None:
    call = make_call(request_body, **billing)
    hold, headers = await enter(call, free)
    assert hold is not None and hold.amount == held * PER_TOKEN
    assert headers.get(b"x-max-tokens-set") == (None if told is None else b"%d" % told)
    if told is not None:
        assert told in orjson.loads(call.body).values()
    else:
        assert call.request is request_body


async def test_a_length_that_no_model_states_is_assumed_and_sent_so_that_the_upstream_keeps_to_it() -> None:
    call = make_call({}, make_target("p", "real"))
    hold, headers = await enter(call)
    assert hold is not None and hold.amount == 4096 * PER_TOKEN
    assert headers[b"x-max-tokens-set"] == b"4096"
    assert orjson.loads(call.body) == {"max_completion_tokens": 4096}


async def test_the_dearest_target_that_may_answer_is_held() -> None:
    cheap = make_target("p", "cheap", output=10_000, price=make_price("0", "0.001"))
    dear = make_target("q", "dear", output=200, price=make_price("0", "1"))
    hold, _ = await enter(make_call({}, cheap, dear))
    assert hold is not None and hold.amount == 200  # of an eighth, the dear one may write more than it can
    hold, _ = await enter(make_call({"max_tokens": 20}, cheap, dear))
    assert hold is not None and hold.amount == 20


async def test_the_tightest_purse_bounds_the_answer() -> None:
    budget = {"per": "user", "every": "day", "usd": "40"}
    call = make_call({})
    call.policy = make_policy(budgets=[budget])
    # The pot stands for both purses: the credit and the budget.
    _, headers = await enter(call, "40")
    assert headers[b"x-max-tokens-set"] == b"500"


async def test_whoever_pays_later_and_has_no_budget_holds_nothing_and_is_not_bounded() -> None:
    call = make_call({}, caller=METERED)
    assert await enter(call) == (None, {})
    assert call.request == {}


async def test_what_costs_nothing_holds_nothing() -> None:
    free = make_target("p", "free", output=100, price=make_price("0", "0"))
    hold, headers = await enter(make_call({}, free), "0")
    assert hold is not None and (hold.amount, hold.purses, headers) == (0, [], {})


# --- x-max-cost-usd


@pytest.mark.parametrize("caller", [PREPAID, METERED, replace(METERED, unlimited=True)])
@pytest.mark.parametrize(
    ("request_body", "most", "told"),
    [({}, "1000", None), ({}, "5", 500), ({}, "2.56", 256), ({"max_tokens": 300}, "3", None)],
)
async def test_an_answer_of_unstated_length_is_as_long_as_its_caller_wants_to_pay_for(
    caller: Caller, request_body: dict[str, Any], most: str, told: int | None
) -> None:
    call = make_call(request_body, caller=caller)
    call.max_cost = Decimal(most)
    _, headers = await enter(call)
    assert headers.get(b"x-max-tokens-set") == (None if told is None else b"%d" % told)


@pytest.mark.parametrize(
    ("request_body", "most", "billing"),
    [
        ({}, "2.55", {}),
        ({"max_tokens": 300}, "2.99", {}),
        ({"max_tokens": 300}, "2", {"lower_max_tokens": True}),
        ({}, "0", {}),
    ],
)
async def test_a_call_that_may_cost_more_than_its_caller_wants_is_refused_before_anybody_is_asked(
    request_body: dict[str, Any], most: str, billing: dict[str, Any]
) -> None:
    call = make_call(request_body, **billing)
    call.max_cost = Decimal(most)
    with pytest.raises(InvalidRequest) as refused:
        await enter(call)
    assert (refused.value.code, refused.value.param) == ("max_cost_exceeded", "x-max-cost-usd")


async def test_a_stated_length_is_lowered_for_x_max_cost_usd_only_where_the_policy_says_so() -> None:
    call = make_call({"max_tokens": 1_000}, lower_max_tokens=True)
    call.max_cost = Decimal(5)
    assert (await enter(call))[1] == {b"x-max-tokens-set": b"500"}


# --- the prompt


@pytest.mark.parametrize(
    ("prompt", "answers"),
    [("one", 1), (["one"], 1), (["one", "two", "three"], 3), ([7, 8, 9], 1), ([[7, 8], [9]], 2), ([], 1)],
)
async def test_each_prompt_of_a_list_may_be_answered_at_full_length(prompt: Any, answers: int) -> None:
    completions = load_format("openai-completions")
    call = make_call({"prompt": prompt, "max_tokens": 100}, format=completions)
    call.door = Door(completions, completions.client.serves[0])
    hold, _ = await enter(call)
    assert hold is not None and hold.amount == answers * 100 * PER_TOKEN


IMAGE = {"type": "image_url", "image_url": {"url": "https://x.example/a.png"}}
FILE = {"type": "file", "file": {"file_id": "file-1"}}


@pytest.mark.parametrize(
    ("content", "least"),
    [
        ("hello", 2),
        ("grüße " * 500, 1000),
        ([IMAGE] * 20, 20_000),
        ([{"type": "text", "text": "what is it?"}, FILE], 1_000),
        ("x" * 60_000, 15_000),
        ("漢" * 10_000, 10_000),
    ],
)
def test_a_prompt_is_counted_upwards(content: Any, least: int) -> None:
    call = make_call({"messages": [{"role": "user", "content": content}]})
    from_words = 1000 * sum(part["type"] != "text" for part in content if isinstance(part, dict))
    estimate = from_words or len(content) // 4 if needs_estimate(call.body) else 0
    assert bound_input_tokens(call, estimate) >= least


async def test_images_by_their_address_are_held_although_their_request_is_small() -> None:
    target = make_target("p", "real", output=10, price=make_price("0.001", "0"))
    request = {"messages": [{"role": "user", "content": [IMAGE] * 20}], "max_tokens": 1}
    hold, _ = await enter(make_call(request, target))
    assert hold is not None and hold.amount >= 20


def test_a_longer_answer_never_has_a_lower_ceiling() -> None:
    call = make_call(
        {"n": 2}, make_target("p", "real", output=10_000, price=make_price("0.3", "0.7", request="2"))
    )
    assert call.policy is not None
    ceiling = find_ceiling(call, call.targets, call.policy, 0)
    amounts = [ceiling.at(most) for most in (0, 1, 2, 255, 256, 9_999, 10_000, 20_000)]
    assert amounts == sorted(amounts) and amounts[-1] == amounts[-2] == ceiling.at()
    for amount in (Decimal(30), Decimal(500), Decimal(7_000)):
        length = ceiling.find_length(amount)
        assert ceiling.at(length) <= amount < ceiling.at(length + 1)
