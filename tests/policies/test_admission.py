"""What a call takes it gives back, however it ends."""

import asyncio
from contextlib import nullcontext
from typing import Any

import pytest

from engine.billing.books import estimate_input_tokens
from engine.call import Call, Caller
from engine.errors import LimitExceeded
from engine.policies.admission import Admission, LimitStage, expect_output, reserve_tokens
from engine.policies.limits import Limiter
from engine.policies.refusals import LimitReached
from engine.policies.scopes import find_scopes
from engine.storage.key_rules import compile_bounds
from engine.wire.doors import Door
from engine.wire.usage import Usage
from tests.routing.things import DOOR, make_door, make_model, make_policy, make_snapshot, make_target
from tests.wire.formats_at_hand import load_format

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
    names = ("key", "user", "team", "model", "ip", "system")
    policy = make_policy(limits={name: {"concurrency": 9} for name in names})
    expected = {"key": "key_1", "user": "user_1", "model": "m", "ip": "10.0.0.1", "system": "all"}
    assert {scope: identity for scope, identity, _ in find_scopes(make_call(), policy)} == expected
    of_team = make_call(Caller("key_1", "user_1", team_id="team_1"))
    found = {scope: identity for scope, identity, _ in find_scopes(of_team, policy)}
    assert found == {**expected, "team": "team_1"}


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
    call.door = DOOR if operation == "chat" else make_door(operation)
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


async def test_a_month_is_thirty_days_and_slides() -> None:
    admission, clock = make_admission()
    policy = make_policy(limits={"user": {"requests": {"month": 2}}})
    for day in (0, 10):
        clock.now = day * 86400.0
        async with admission.admit(make_call(), policy):
            pass
    clock.now = 29.9 * 86400
    with pytest.raises(LimitExceeded) as refused:
        async with admission.admit(make_call(), policy):
            pass
    assert "2 requests per month" in refused.value.message
    assert refused.value.retry_after_s == pytest.approx(0.1 * 86400, abs=1)
    clock.now = 30.01 * 86400
    async with admission.admit(make_call(), policy):
        pass


async def test_answers_and_refusals_tell_the_limits_where_any_client_looks() -> None:
    admission, _ = make_admission()
    policy = make_policy(limits={"key": {"requests": {"minute": 1}, "burst": 7}})
    async with admission.admit(make_call(), policy) as headers:
        told = {name.decode(): value.decode() for name, value in headers}
    with pytest.raises(LimitReached) as refused:
        async with admission.admit(make_call(), policy):
            pass
    for shown in (told, refused.value.headers):
        assert shown["x-ratelimit-limit-requests"] == shown["ratelimit-limit"] == "1"
        assert shown["x-ratelimit-remaining-requests"] == shown["ratelimit-remaining"] == "0"
        assert shown["x-ratelimit-reset-requests"] == shown["ratelimit-reset"] == "60"
        assert shown["x-ratelimit-burst-window"] == "7 per 1 seconds"


SAID = "Say so." * 20


@pytest.mark.parametrize(
    ("format", "body", "most"),
    [
        ("openai-chat", {"messages": [{"role": "user", "content": SAID}], "max_completion_tokens": 9}, 9),
        ("openai-chat", {"messages": [{"role": "user", "content": SAID}], "max_tokens": 9}, 9),
        ("openai-completions", {"prompt": SAID, "max_tokens": 9}, 9),
        ("openai-responses", {"input": SAID, "max_output_tokens": 9}, 9),
        ("anthropic-messages", {"system": SAID, "messages": [], "max_tokens": 9}, 9),
        ("gemini", {"contents": [{"parts": [{"text": SAID}]}], "generationConfig": {"maxOutputTokens": 9}}, 9),
        ("gemini", {"system_instruction": {"parts": [{"text": SAID}]},
                    "generation_config": {"max_output_tokens": 9}}, 9),
        ("bedrock-converse", {"messages": [{"content": [{"text": SAID}]}],
                              "inferenceConfig": {"maxTokens": 9}}, 9),
        ("cohere", {"messages": [{"role": "user", "content": SAID}], "max_tokens": 9}, 9),
        ("anthropic-messages", {"system": SAID, "messages": []}, 4096),
        ("openai-responses", {"input": SAID, "max_output_tokens": True}, 4096),
    ],
)  # fmt: skip
def test_every_dialect_is_read_for_its_prompt_and_the_longest_answer(
    format: str, body: dict[str, Any], most: int
) -> None:
    call = make_call()
    spoken = load_format(format)
    call.door, call.request = Door(spoken, spoken.client.serves[0]), body
    assert estimate_input_tokens(body) == 35
    assert expect_output(call, make_policy()) == most
