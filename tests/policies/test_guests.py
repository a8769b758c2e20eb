"""Without a key: refused as ever, or, where that is declared, a few calls a day of models that cost nothing."""

import gc
import weakref
from dataclasses import replace
from hashlib import sha256
from types import SimpleNamespace
from typing import Any, cast

import pytest

from engine.call import Call
from engine.config.schema_anonymous import AnonymousFile
from engine.errors import KeyRefused, NotAllowed
from engine.gateway import identify_caller
from engine.policies.admission import Admission, LimitStage
from engine.policies.guests import Guests
from engine.policies.identity import Identity
from engine.policies.limits import Limiter
from engine.policies.refusals import LimitReached
from tests.policies.test_admission import make_call
from tests.routing.things import make_model, make_policy, make_price, make_snapshot, make_target

MISSING = KeyRefused("no API key was given", code="api_key_missing")
FREE = make_model("free", make_target("p"), price=make_price("0", "0"))
PAID = make_model("paid", make_target("p"))
HALF = make_model(
    "half", make_target("p"), make_target("q", price=make_price("0", "1")), price=make_price("0", "0")
)
UNKNOWN = make_model("unknown", make_target("p"), price=None)
SNAPSHOT = make_snapshot(FREE, PAID, HALF, UNKNOWN)


def seal(content: bytes) -> str:
    return f"ring:{sha256(content).hexdigest()}"


def make_guest_call(model: Any = FREE, address: str = "203.0.113.7", **rule: Any) -> Call:
    call = make_call()
    anonymous = AnonymousFile.model_validate({"anonymous": "default", "enabled": True, **rule})
    call.snapshot = replace(SNAPSHOT, things={"anonymous": {"default": anonymous}})
    call.caller, call.model, call.client_ip, call.body = None, model, address, b"{}"
    return call


def make_admission() -> tuple[Guests, Admission]:
    guests = Guests(seal)
    return guests, Admission([guests, LimitStage(Limiter(), lambda: 0.0, guests.limit)])


def test_where_guests_are_not_declared_the_refusal_stands() -> None:
    for call in (make_guest_call(enabled=False), make_call()):
        assert Guests(seal).welcome(call, MISSING) is None
    assert Guests(seal).welcome(make_guest_call(), KeyRefused("wrong key")) is None


def test_a_guest_is_a_keyed_hash_of_its_network_and_may_only_ask_for_inference() -> None:
    guests = Guests(seal)
    one = guests.welcome(make_guest_call(address="2001:db8::1"), MISSING)
    same = guests.welcome(make_guest_call(address="2001:db8::2"), MISSING)
    other = guests.welcome(make_guest_call(address="203.0.113.7"), MISSING)
    assert one == same != other
    assert (one.user_id, one.role, one.scopes) == ("", "guest", frozenset({"inference"}))
    assert "2001" not in one.key_id


async def test_who_is_turned_away_leaves_nothing_to_the_collector() -> None:
    rooms: Any = SimpleNamespace(identity=Identity(cast("Any", None), None), guests=Guests(seal))
    gone: list[weakref.ref[KeyRefused]] = []

    async def ask() -> None:
        try:
            await identify_caller(make_guest_call(enabled=False), [], rooms)
        except KeyRefused as refused:
            gone.append(weakref.ref(refused))

    gc.collect()
    gc.disable()
    try:
        await ask()
        assert [refused() for refused in gone] == [None]
    finally:
        gc.enable()


async def test_three_calls_a_day_from_one_address() -> None:
    guests, admission = make_admission()
    for _ in range(3):
        call = make_guest_call()
        call.caller = guests.welcome(call, MISSING)
        async with admission.admit(call, make_policy()) as headers:
            assert dict(headers)[b"x-ratelimit-limit-requests"] == b"3"
    call = make_guest_call()
    call.caller = guests.welcome(call, MISSING)
    with pytest.raises(LimitReached) as refused:
        async with admission.admit(call, make_policy()):
            pass
    assert (refused.value.code, refused.value.retry_after_s) == ("anonymous_daily_limit", 86400.0)
    other = make_guest_call(address="203.0.113.8")
    other.caller = guests.welcome(other, MISSING)
    async with admission.admit(other, make_policy()):
        pass


@pytest.mark.parametrize("model", [PAID, HALF, UNKNOWN])
async def test_only_models_whose_every_target_costs_nothing_are_open(model: Any) -> None:
    guests, admission = make_admission()
    call = make_guest_call(model)
    call.caller = guests.welcome(call, MISSING)
    with pytest.raises(NotAllowed) as refused:
        async with admission.admit(call, make_policy()):
            pass
    assert refused.value.code == "anonymous_model_restricted"
    assert refused.value.message.endswith("allowed models: free")


async def test_a_free_model_that_no_glob_names_is_closed() -> None:
    guests, admission = make_admission()
    call = make_guest_call(models=["other-*"])
    call.caller = guests.welcome(call, MISSING)
    with pytest.raises(NotAllowed, match="allowed models: none"):
        async with admission.admit(call, make_policy()):
            pass


async def test_a_guests_answer_is_bounded() -> None:
    guests, admission = make_admission()
    call = make_guest_call(max_tokens=50)
    call.caller, call.body, call.request = (
        guests.welcome(call, MISSING),
        b'{"max_tokens":90}',
        {"max_tokens": 90},
    )
    async with admission.admit(call, make_policy()):
        assert (call.request, call.body) == ({"max_tokens": 50}, b'{"max_tokens":50}')
