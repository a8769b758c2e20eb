"""The loop over targets and credentials, with scripted answers and a clock made by hand."""

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest

from engine.call import Attempt, Call, Caller, OwnKeys
from engine.config.snapshot import Auth, Credential, Policy, Target
from engine.errors import (
    GatewayError,
    NobodyAvailable,
    NotAllowed,
    UpstreamBroke,
    UpstreamFailure,
    UpstreamRefused,
)
from engine.routing.attempts import Attempts
from engine.routing.balance import Latencies
from engine.routing.breaker import Breakers
from engine.routing.credentials import CoolDowns
from engine.routing.failover import Delivery, Router
from engine.routing.resolve import Plan
from engine.secret import Secret
from engine.wire.answers import AnswerReader
from tests.routing.things import (
    DOOR,
    make_credentials,
    make_model,
    make_policy,
    make_provider,
    make_snapshot,
    make_target,
)

Answer = Callable[[str, Credential, float], str]
"""(target, credential, time) to "ok" or the kind of a failure, `429@2` with a Retry-After."""


class House:
    """A router whose clock moves only in sleeps and while a target is asked."""

    def __init__(self, answer: Answer, ask_s: float = 0.01) -> None:
        self.now = 0.0
        self.answer, self.ask_s = answer, ask_s
        self.asked: list[tuple[float, str, str]] = []
        self.slept: list[float] = []
        self.router = Router(Breakers(), CoolDowns(), Latencies(), lambda: self.now, lambda: 0.5, self.sleep)
        self.reader: AnswerReader | None = None
        self.last = Attempt("", "", "", 0)

    async def sleep(self, seconds: float) -> None:
        self.slept.append(round(seconds, 3))
        self.now += seconds

    async def make(self, target: Target, credential: Credential, mode: str) -> AnswerReader:
        self.asked.append((round(self.now, 3), target.name, credential.name))
        assert len(self.asked) < 100, "a loop without an end"
        kind, _, retry_after = self.answer(target.name, credential, self.now).partition("@")
        self.now += self.ask_s
        if kind == "ok":
            return cast("AnswerReader", object())
        raise UpstreamFailure(
            kind.removesuffix("!"),
            f"said {kind}",
            status=int(kind) if kind.isdecimal() else None,
            clock="headers" if kind == "timeout" else None,
            retry_after_s=float(retry_after) if retry_after else None,
        )

    def is_final(self) -> bool:
        return False

    async def deliver(self, *targets: Target, policy: Policy | None = None) -> AnswerReader:
        rules = policy or make_policy(retry={"backoff": {"jitter": 0}})
        model = make_model("m", *targets, policy=rules)
        call = Call("c", "c", DOOR, 0.0, 0.0, make_snapshot(model))
        plan = Plan(model, rules, rules.timeouts, targets)
        return await Delivery(call, plan, self.router, cast("Attempts", self)).run()

    @property
    def targets(self) -> list[str]:
        return [target.split("/")[0] for _, target, _ in self.asked]


def always(kind: str) -> Answer:
    return lambda target, credential, now: kind


def by_target(**kinds: str) -> Answer:
    return lambda target, credential, now: kinds[target.split("/")[0]]


def by_key(**kinds: str) -> Answer:
    return lambda target, credential, now: kinds[credential.secret.reveal()]


def make_keyed(name: str, *secrets: str) -> Target:
    return make_target(
        make_provider(name, auth=Auth("bearer", "authorization", make_credentials(name, *secrets)))
    )


async def test_retries_pause_longer_each_time_and_then_the_next_target_is_asked() -> None:
    house = House(by_target(a="503", b="ok"))
    await house.deliver(make_target("a"), make_target("b"))
    assert house.targets == ["a", "a", "a", "b"] and house.slept == [0.4, 0.8]


@pytest.mark.parametrize("kind", ["401", "404", "timeout", "broken_stream", "context_length_exceeded"])
async def test_what_a_retry_would_not_mend_is_not_retried(kind: str) -> None:
    house = House(by_target(a=kind, b="ok"))
    await house.deliver(make_target("a", "x"), make_target("b", "y", context=10))
    assert house.targets == ["a", "b"] and house.slept == []


@pytest.mark.parametrize("kind", ["content_filter", "invalid_request"])
async def test_what_no_target_may_repeat_ends_the_call(kind: str) -> None:
    house = House(always(kind))
    with pytest.raises(UpstreamRefused):
        await house.deliver(make_target("a"), make_target("b"))
    assert house.targets == ["a"]


async def test_a_policy_may_forbid_a_failover() -> None:
    policy = make_policy(failover={"never": ["503"]})
    house = House(always("503"))
    with pytest.raises(GatewayError) as refused:
        await house.deliver(make_target("a"), make_target("b"), policy=policy)
    assert house.targets == ["a"] and refused.value.status == 503


async def test_a_failure_outside_of_the_list_is_the_answer() -> None:
    policy = make_policy(failover={"on": ["429"]}, retry={"max": 0})
    house = House(always("500"))
    with pytest.raises(UpstreamBroke):
        await house.deliver(make_target("a"), make_target("b"), policy=policy)
    assert house.targets == ["a"]


async def test_retry_after_is_waited_for_when_it_is_short_enough() -> None:
    house = House(lambda target, credential, now: "429@2" if now < 2 else "ok")
    await house.deliver(make_target("a"))
    assert house.targets == ["a", "a"] and house.slept == [2.0]


async def test_a_long_retry_after_is_not_waited_for() -> None:
    house = House(by_target(a="429@60", b="ok"))
    await house.deliver(make_target("a"), make_target("b"))
    assert house.targets == ["a", "b"] and house.slept == []


async def test_the_next_credential_is_tried_at_once_and_the_refused_one_left() -> None:
    house, target = House(by_key(bad="401", good="ok")), make_keyed("a", "bad", "good")
    for _ in range(5):
        await house.deliver(target)
    assert house.slept == []
    assert [name for _, _, name in house.asked].count("a#0") <= 1


async def test_a_refused_credential_is_tried_again_after_a_minute() -> None:
    house, target = House(by_key(bad="401", good="ok")), make_keyed("a", "bad")
    with pytest.raises(UpstreamBroke):
        await house.deliver(target)
    with pytest.raises(NobodyAvailable) as refused:
        await house.deliver(target)
    assert refused.value.retry_after_s == pytest.approx(60, abs=1)
    house.now = 61
    house.answer = always("ok")
    await house.deliver(target)


@pytest.mark.parametrize("ask_s", [0.001, 0.3, 1.0, 5.0])
async def test_limited_credentials_never_make_a_tight_loop(ask_s: float) -> None:
    house = House(always("429"), ask_s)
    with pytest.raises(UpstreamRefused):
        await house.deliver(make_keyed("a", "one", "two", "three"))
    assert len(house.asked) <= 9 and len(house.slept) == 2


async def test_a_limited_credential_is_not_asked_by_the_next_call_at_once() -> None:
    house, target = House(by_key(one="429@30", two="ok")), make_keyed("a", "one", "two")
    for _ in range(20):
        await house.deliver(target)
    assert [name for _, _, name in house.asked].count("a#0") <= 1


async def test_an_open_breaker_answers_at_once_with_the_time_to_wait() -> None:
    house = House(always("503"))
    for _ in range(2):
        with pytest.raises(NobodyAvailable):
            await house.deliver(make_target("a"))
    asked = len(house.asked)
    with pytest.raises(NobodyAvailable) as refused:
        await house.deliver(make_target("a"))
    assert len(house.asked) == asked
    assert 1 <= (refused.value.retry_after_s or 0) <= 10


async def test_a_probe_is_one_request() -> None:
    house = House(always("503"))
    for _ in range(2):
        with pytest.raises(NobodyAvailable):
            await house.deliver(make_target("a"))
    house.now += 30
    asked = len(house.asked)
    with pytest.raises(NobodyAvailable):
        await house.deliver(make_target("a"))
    assert len(house.asked) == asked + 1


async def test_a_probe_that_finds_its_credential_cooling_does_not_keep_the_target_closed() -> None:
    house, target = House(always("503")), make_keyed("a", "only")
    for _ in range(2):
        with pytest.raises(NobodyAvailable):
            await house.deliver(target)
    house.now += 30
    (credential,) = target.provider.auth.credentials
    house.router.cool_downs.note_failure(
        credential, UpstreamFailure("429", "", status=429, retry_after_s=5), 5.0, house.now
    )
    with pytest.raises(NobodyAvailable):
        await house.deliver(target)
    house.now += 6
    house.answer = always("ok")
    await house.deliver(target)


async def test_a_caller_who_leaves_gives_the_probe_back() -> None:
    house, target = House(always("503")), make_target("a")
    for _ in range(2):
        with pytest.raises(NobodyAvailable):
            await house.deliver(target)
    house.now += 30

    def leave(*facts: Any) -> str:
        raise asyncio.CancelledError

    house.answer = leave
    with pytest.raises(asyncio.CancelledError):
        await house.deliver(target)
    house.answer = always("ok")
    await house.deliver(target)


async def test_the_worthiest_of_several_failures_is_told() -> None:
    house = House(by_target(a="401", b="429", c="401"))
    with pytest.raises(UpstreamRefused) as refused:
        await house.deliver(make_target("a"), make_target("b"), make_target("c"))
    assert refused.value.status == 429


async def test_a_prompt_that_is_too_long_goes_only_to_a_larger_context() -> None:
    house = House(by_target(a="context_length_exceeded", b="ok", c="ok", d="ok"))
    targets = (
        make_target("a", "x", context=8000),
        make_target("b", "x", context=8000),
        make_target("c", "y", context=4000),
        make_target("d", "z", context=128_000),
    )
    await house.deliver(*targets)
    assert house.targets == ["a", "d"]


async def test_no_pause_goes_beyond_the_calls_own_clock() -> None:
    policy = make_policy(retry={"max": 20, "backoff": {"jitter": 0, "factor": 1}}, timeouts={"total_s": 1})
    house = House(always("503"))
    with pytest.raises(NobodyAvailable):
        await house.deliver(make_target("a"), policy=policy)
    assert sum(house.slept) < 1
    limited = House(always("429@3"))
    with pytest.raises(UpstreamRefused):
        await limited.deliver(make_target("a"), policy=policy)
    with pytest.raises(NobodyAvailable):
        await limited.deliver(make_target("a"), policy=policy)
    assert limited.slept == []


async def test_a_users_own_key_fails_without_harm_to_anybody() -> None:
    house = House(lambda target, credential, now: "ok" if not credential.owned else "401")
    target = make_target("a")
    own = Credential("a#own_1", Secret("users-own"), owned=True)
    policy = make_policy(breaker={"failures": 1, "counts": ["401"]}, retry={"max": 0})
    model = make_model("m", target, policy=policy)
    call = Call("c", "c", DOOR, 0.0, 0.0, make_snapshot(model))
    call.caller = Caller("k", "u", own_keys=OwnKeys({}, {"a": own}))
    plan = Plan(model, policy, policy.timeouts, (target,))
    for _ in range(3):
        with pytest.raises(NotAllowed) as refused:
            await Delivery(call, plan, house.router, cast("Attempts", house)).run()
        assert refused.value.code == "provider_key_refused"
    assert [name for _, _, name in house.asked] == ["a#own_1"] * 3
    await house.deliver(target, policy=policy)
    assert house.asked[-1][2] == "a#0" and not house.slept
