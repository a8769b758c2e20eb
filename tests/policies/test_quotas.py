"""What a plan allows holds for all keys of its payer together, and keys that are not live have a part of it."""

from dataclasses import replace
from typing import Any

import pytest

from engine.call import Call, Caller
from engine.config.schema_plan import PlanFile
from engine.errors import LimitExceeded
from engine.policies.admission import limits_tokens
from engine.policies.quotas import find_quota
from engine.policies.scopes import find_scopes
from tests.policies.test_admission import make_admission, make_call
from tests.routing.things import make_policy

PLANS: dict[str, dict[str, Any]] = {
    "default": {"limits": {}},
    "free": {"limits": {"requests": {"day": 4, "month": 6}, "concurrency": 3}, "priority": "low"},
    "counted": {"limits": {"tokens": {"day": 1000}}},
}
THINGS = {"plan": {name: PlanFile.model_validate({"plan": name, **file}) for name, file in PLANS.items()}}
SNAPSHOT = replace(make_call().snapshot, things=THINGS)


def make_planned(plan: str = "free", **caller: Any) -> Call:
    call = make_call(Caller(**{"key_id": "key_1", "user_id": "user_1", "plan": plan, **caller}))
    call.snapshot = SNAPSHOT
    return call


async def test_all_keys_of_a_payer_share_its_quota_by_day_and_month() -> None:
    admission, clock = make_admission()
    for number in range(4):
        async with admission.admit(make_planned(key_id=f"key_{number}"), make_policy()):
            pass
    with pytest.raises(LimitExceeded) as refused:
        async with admission.admit(make_planned(key_id="another"), make_policy()):
            pass
    assert refused.value.code == "daily_quota_exceeded"
    assert refused.value.message.startswith("Daily request limit exceeded")
    async with admission.admit(make_planned(user_id="user_2"), make_policy()):
        pass
    async with admission.admit(make_planned(team_id="team_1"), make_policy()):
        pass
    clock.now = 86401.0
    for _ in range(2):
        async with admission.admit(make_planned(), make_policy()):
            pass
    with pytest.raises(LimitExceeded) as refused:
        async with admission.admit(make_planned(), make_policy()):
            pass
    assert refused.value.code == "monthly_quota_exceeded"


async def test_test_keys_have_half_and_what_they_use_counts_for_all() -> None:
    admission, _ = make_admission()
    for _ in range(2):
        async with admission.admit(make_planned(environment="test"), make_policy()):
            pass
    with pytest.raises(LimitExceeded):
        async with admission.admit(make_planned(environment="test"), make_policy()):
            pass
    for _ in range(2):
        async with admission.admit(make_planned(), make_policy()):
            pass
    with pytest.raises(LimitExceeded):
        async with admission.admit(make_planned(), make_policy()):
            pass


def test_a_plans_limits_are_the_same_objects_for_every_call_of_a_snapshot() -> None:
    """Limiters know a limit by its identity: another one would be taken anew with each call."""
    first = find_scopes(make_planned(environment="test"), make_policy())
    again = find_scopes(make_planned(environment="test"), make_policy())
    live = find_scopes(make_planned(), make_policy())
    assert [scope[:2] for scope in first] == [("plan", "user:user_1"), ("plan", "user:user_1 test")]
    assert [scope[2] is other[2] for scope, other in zip(first, again, strict=True)] == [True, True]
    assert live[0][2] is first[0][2]


def test_a_plan_without_numbers_asks_nobody_and_an_unknown_plan_is_the_default() -> None:
    for plan in ("", "gone", "default"):
        assert find_scopes(make_planned(plan), make_policy()) == []
    assert find_quota(make_planned("free")).priority == "low"


def test_prompts_are_estimated_where_a_plan_counts_tokens() -> None:
    assert limits_tokens(make_planned("counted"), make_policy())
    assert not limits_tokens(make_planned("free"), make_policy())
