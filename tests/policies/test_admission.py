"""What a call takes it gives back, however it ends."""

import asyncio
from contextlib import nullcontext
from typing import Any

import pytest

from engine.call import Call, Caller
from engine.errors import LimitExceeded
from engine.policies.admission import Admission, LimitStage, find_scopes, reserve_tokens
from engine.policies.limits import Limiter
from engine.storage.key_rules import compile_bounds
from engine.wire.usage import Usage
from tests.routing.things import DOOR, make_door, make_model, make_policy, make_snapshot, make_target

ONE_AT_A_TIME = make_policy(limits={"key": {"concurrency": 1}})


def make_call(caller: Caller | None = None, **request: Any) -> Call:
    model = make_model("m", make_target("p"))
    call = Call("c", "c", DOOR, 0.0, 0.0, make_snapshot(model), client_ip="10.0.0.1")
    call.caller, call.model, call.request = caller or Caller("key_1", "user_1"), model, request
    call.input_estimate = 100
    return call


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def make_admission() -> tuple[Admission, Clock]:
    clock = Clock()
    return Admission([LimitStage(Limiter(), clock)]), clock


@pytest.mark.parametrize(
    "ending", [None, ValueError, LimitExceeded, asyncio.CancelledError, KeyboardInterrupt]
)
async def test_the_place_is_free_again_after_every_exit(ending: type[BaseException] | None) -> None:
    admission, _ = make_admission()
    for _ in range(3):
        with pytest.raises(ending) if ending is not None else nullcontext():
            async with admission.admit(make_call(), ONE_AT_A_TIME):
                with pytest.raises(LimitExceeded):
                    async with admission.admit(make_call(), ONE_AT_A_TIME):
                        pass
                if ending is not None:
                    raise ending("ended")


async def test_a_refused_call_takes_nothing() -> None:
    admission, clock = make_admission()
    policy = make_policy(limits={"key": {"requests": {"minute": 2}}, "system": {"concurrency": 1}})
    async with admission.admit(make_call(), policy):
        for _ in range(20):
            with pytest.raises(LimitExceeded):
                async with admission.admit(make_call(), policy):
                    pass
    async with admission.admit(make_call(), policy) as headers:
        assert dict(headers)[b"x-ratelimit-remaining-requests"] == b"0"
    clock.now = 61
    async with admission.admit(make_call(), policy):
        pass


async def test_what_was_reserved_and_not_used_goes_back() -> None:
    admission, _ = make_admission()
    policy = make_policy(limits={"key": {"tokens": {"minute": 1000}}})
    for _ in range(15):
        call = make_call(max_tokens=100)
        async with admission.admit(call, policy):
            call.usage = Usage(input=30, output=20)
    with pytest.raises(LimitExceeded) as refused:
        async with admission.admit(make_call(max_tokens=800), policy):
            pass
    assert refused.value.retry_after_s


async def test_more_than_was_reserved_counts_too() -> None:
    admission, _ = make_admission()
    policy = make_policy(limits={"key": {"tokens": {"minute": 1000}}})
    call = make_call(max_tokens=1)
    async with admission.admit(call, policy):
        call.usage = Usage(input=600, output=500)
    with pytest.raises(LimitExceeded):
        async with admission.admit(make_call(max_tokens=1), policy):
            pass


async def test_the_environments_administrator_is_never_limited() -> None:
    admission, _ = make_admission()
    admin = Caller("admin", "admin", role="admin", unlimited=True)
    async with admission.admit(make_call(admin), ONE_AT_A_TIME) as headers:
        assert headers == []
        async with admission.admit(make_call(admin), ONE_AT_A_TIME):
            pass


async def test_a_policy_without_limits_asks_nobody() -> None:
    admission, _ = make_admission()
    async with admission.admit(make_call(), make_policy(limits={"key": None})) as headers:
        assert headers == []


def test_each_scope_counts_for_its_own_name() -> None:
    names = ("key", "user", "model", "ip", "system")
    policy = make_policy(limits={name: {"concurrency": 9} for name in names})
    found = {scope: identity for scope, identity, _ in find_scopes(make_call(), policy)}
    assert found == {"key": "key_1", "user": "user_1", "model": "m", "ip": "10.0.0.1", "system": "all"}


@pytest.mark.parametrize(
    ("request_body", "operation", "tokens"),
    [
        ({}, "chat", 100 + 4096),
        ({"max_tokens": 5}, "chat", 105),
        ({"max_completion_tokens": 7, "max_tokens": 5}, "chat", 107),
        ({"max_tokens": None}, "chat", 100 + 4096),
        ({}, "embeddings", 100),
    ],
)
def test_the_prompt_and_what_the_caller_allows_are_reserved(
    request_body: dict[str, Any], operation: str, tokens: int
) -> None:
    call = make_call(**request_body)
    call.door = make_door(operation)
    assert reserve_tokens(call, make_policy()) == tokens


async def test_of_a_policys_limit_and_a_keys_own_the_tighter_one_holds() -> None:
    for own, policys, fits in ((2, 9, 2), (9, 2, 2)):
        admission, _ = make_admission()
        bounds = compile_bounds({"limits": {"requests": {"minute": own}}})
        policy = make_policy(limits={"key": {"requests": {"minute": policys}}})
        for _ in range(fits):
            async with admission.admit(make_call(Caller("k", "u", bounds=bounds)), policy):
                pass
        with pytest.raises(LimitExceeded):
            async with admission.admit(make_call(Caller("k", "u", bounds=bounds)), policy):
                pass


async def test_a_keys_own_limit_holds_where_the_policy_has_none() -> None:
    admission, _ = make_admission()
    caller = Caller("k", "u", bounds=compile_bounds({"limits": {"tokens": {"minute": 500}}}))
    async with admission.admit(make_call(caller, max_tokens=300), make_policy()) as headers:
        assert dict(headers)[b"x-ratelimit-remaining-tokens"] == b"100"
    with pytest.raises(LimitExceeded):
        async with admission.admit(make_call(caller, max_tokens=500), make_policy()):
            pass
