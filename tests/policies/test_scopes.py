"""Whom a call counts for is worked out once, and anew as soon as anything that it was made from is another."""

from dataclasses import replace

from engine.call import Call, Caller
from engine.config.snapshot import Limit, Policy
from engine.policies import scopes
from engine.policies.scopes import ScopeBook, Scopes, find_scopes
from tests.policies.test_admission import make_call
from tests.routing.things import make_model, make_policy, make_target

POLICY = make_policy(limits={name: {"requests": {"minute": 9}} for name in ("key", "model")})
CALLER = Caller("key_1", "user_1")


def find(book: ScopeBook, call: Call, policy: Policy = POLICY, each_key: Limit | None = None) -> Scopes:
    assert call.caller is not None
    return book.find(call, call.caller, policy, each_key)


def test_the_second_call_of_a_key_to_a_model_finds_what_the_first_one_made() -> None:
    book, call = ScopeBook(), make_call(CALLER)
    first = find(book, call)
    assert list(first) == find_scopes(call, POLICY)
    assert find(book, call) is first


def test_whatever_it_was_made_from_may_change() -> None:
    book, call = ScopeBook(), make_call(CALLER)
    first = find(book, call)
    each = find(book, call, each_key=Limit({60: 1}))
    assert [scope for scope, _, _ in each] == ["key", "model", "key"]
    assert find(book, call) == first
    tighter = make_policy(limits={"key": {"requests": {"minute": 1}}})
    assert list(find(book, call, tighter)) == find_scopes(call, tighter)
    call.caller = replace(CALLER, user_id="user_2")  # the key was learned anew
    assert find(book, call) is not first
    call.model = make_model("other", make_target("p"))
    assert [identity for _, identity, _ in find(book, call)] == ["key_1", "other"]


def test_where_addresses_are_counted_each_has_its_own() -> None:
    book, call = ScopeBook(), make_call(CALLER)
    policy = make_policy(limits={"ip": {"requests": {"minute": 9}}})
    assert [identity for _, identity, _ in find(book, call, policy)] == ["10.0.0.1"]
    call.client_ip = "10.0.0.2"
    assert [identity for _, identity, _ in find(book, call, policy)] == ["10.0.0.2"]


def test_no_more_are_remembered_than_are_used() -> None:
    book, often = ScopeBook(), make_call(CALLER)
    first = find(book, often)
    for number in range(2 * scopes.MOST_REMEMBERED):
        find(book, make_call(Caller(f"key {number}", "user_1")))
        if number % 100 == 0:
            assert find(book, often) is first
    assert len(book) <= scopes.MOST_REMEMBERED
