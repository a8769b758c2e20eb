"""From a name to the targets that may answer."""

import time
from decimal import Decimal

import pytest

from engine.call import Caller
from engine.config.snapshot import Endpoint
from engine.errors import NobodyAvailable, NotAllowed, NotFound, Unpriced
from engine.routing.resolve import find_near_names, find_price, list_visible, make_plan
from engine.storage.key_rules import compile_bounds
from tests.routing.things import (
    FORMAT,
    make_model,
    make_policy,
    make_price,
    make_provider,
    make_snapshot,
    make_target,
)

ANYBODY = Caller("k", "u")


def limited(*globs: str) -> Caller:
    return Caller("k", "u", models=globs)


SMALL = make_model("gpt-small", make_target("one"), aliases=("openai/gpt-small", "small"))
LARGE = make_model("claude-large", make_target("two"))
SNAPSHOT = make_snapshot(SMALL, LARGE)


@pytest.mark.parametrize("name", ["gpt-small", "openai/gpt-small", "small"])
def test_a_model_is_found_under_each_of_its_names(name: str) -> None:
    assert make_plan(SNAPSHOT, ANYBODY, name, "chat").model is SMALL


@pytest.mark.parametrize("name", ["GPT-small", "gpt-small ", "gpt", "", "one/gpt-small", "one/", "/"])
def test_a_name_is_taken_exactly(name: str) -> None:
    with pytest.raises(NotFound):
        make_plan(SNAPSHOT, ANYBODY, name, "chat")


def test_near_names_are_told() -> None:
    with pytest.raises(NotFound, match=r"did you mean 'gpt-small'") as refused:
        make_plan(SNAPSHOT, ANYBODY, "gpt-smal", "chat")
    assert (refused.value.param, refused.value.code) == ("model", "model_not_found")


def test_near_names_show_nobody_what_they_may_not_use() -> None:
    with pytest.raises(NotFound) as refused:
        make_plan(SNAPSHOT, limited("claude-*"), "gpt-smal", "chat")
    assert "gpt-small" not in refused.value.message


def test_looking_for_near_names_is_bounded() -> None:
    names = [f"provider-{number % 7}/model-{number}" for number in range(20_000)]
    began = time.process_time()
    find_near_names("x" * 100_000, names)
    find_near_names("provider-3/model-19999-" * 100, names)
    assert time.process_time() - began < 2


@pytest.mark.parametrize(
    ("globs", "name", "allowed"),
    [
        (("gpt-*",), "gpt-small", True),
        (("gpt-*",), "small", True),
        (("gpt-*",), "openai/gpt-small", True),
        (("openai/*",), "gpt-small", True),
        (("claude-*",), "gpt-small", False),
        ((), "gpt-small", False),
        (("GPT-*",), "gpt-small", False),
        (("claude-*", "gpt-small"), "small", True),
        (("*",), "claude-large", True),
    ],
)
def test_a_key_may_use_what_its_globs_cover(globs: tuple[str, ...], name: str, allowed: bool) -> None:
    if allowed:
        assert make_plan(SNAPSHOT, limited(*globs), name, "chat")
        return
    with pytest.raises(NotAllowed) as refused:
        make_plan(SNAPSHOT, limited(*globs), name, "chat")
    assert refused.value.code == "model_not_allowed"


def test_a_passthrough_provider_answers_for_any_model() -> None:
    snapshot = make_snapshot(
        SMALL, providers={"open": make_provider("open", passthrough=True, unknown_price="free")}
    )
    plan = make_plan(snapshot, ANYBODY, "open/some/model:tag", "chat")
    assert [target.name for target in plan.targets] == ["open/some/model:tag"]
    assert plan.policy is snapshot.default_policy
    with pytest.raises(NotFound):
        make_plan(snapshot, ANYBODY, "open/", "chat")


def test_a_provider_without_passthrough_serves_its_list_only() -> None:
    with pytest.raises(NotFound, match="serves only the models listed"):
        make_plan(SNAPSHOT, ANYBODY, "one/zzzzzzzzzz", "chat")


def test_a_keys_globs_hold_for_passthrough_too() -> None:
    snapshot = make_snapshot(
        providers={"open": make_provider("open", passthrough=True, unknown_price="free")}
    )
    assert make_plan(snapshot, limited("open/gpt-*"), "open/gpt-9", "chat")
    with pytest.raises(NotAllowed):
        make_plan(snapshot, limited("gpt-*"), "open/gpt-9", "chat")


def test_an_operation_that_no_target_serves_is_not_found() -> None:
    with pytest.raises(NotFound, match="does not serve embeddings"):
        make_plan(SNAPSHOT, ANYBODY, "gpt-small", "embeddings")


def test_only_targets_that_serve_the_operation_are_asked() -> None:
    both = make_provider("both", endpoints={name: Endpoint(FORMAT, "/") for name in ("chat", "embeddings")})
    model = make_model("m", make_target("chat-only"), make_target(both))
    plan = make_plan(make_snapshot(model), ANYBODY, "m", "embeddings")
    assert [target.provider.name for target in plan.targets] == ["both"]


def test_targets_that_are_off_or_not_configured_are_left_out() -> None:
    off = make_provider("off", enabled=False, reason="too slow")
    bare = make_provider("bare", configured=False, reason="the environment variable BARE_KEY is not set")
    mixed = make_model("mixed", make_target(off), make_target("good"), make_target(bare))
    plan = make_plan(make_snapshot(mixed), ANYBODY, "mixed", "chat")
    assert [target.provider.name for target in plan.targets] == ["good"]
    dead = make_model("dead", make_target(off), make_target(bare))
    with pytest.raises(NobodyAvailable, match="BARE_KEY") as refused:
        make_plan(make_snapshot(dead), ANYBODY, "dead", "chat")
    assert refused.value.code == "provider_not_configured" and "too slow" in refused.value.message
    assert list_visible(make_snapshot(dead, mixed), ANYBODY) == [mixed]


def test_the_nearest_price_counts() -> None:
    own, models, providers = make_price("1"), make_price("2"), make_price("3")
    with_price = make_provider("p", unknown_price=providers)
    model = make_model("m", make_target("a", price=own), price=models)
    assert find_price(model, model.targets[0]) is own
    assert find_price(model, make_target(with_price)) is models
    unpriced = make_model("m", make_target(with_price), price=None)
    assert find_price(unpriced, unpriced.targets[0]) is providers


@pytest.mark.parametrize("rule", ["free", "refuse", "price"])
def test_what_the_policy_says_of_unknown_prices(rule: str) -> None:
    said = {"input": "1", "output": "2"} if rule == "price" else rule
    policy = make_policy(billing={"unknown_price": said})
    model = make_model("m", make_target("a"), price=None, policy=policy)
    if rule == "refuse":
        with pytest.raises(Unpriced) as refused:
            make_plan(make_snapshot(model), ANYBODY, "m", "chat")
        assert refused.value.status == 422
        return
    assert make_plan(make_snapshot(model), ANYBODY, "m", "chat")
    expected = Decimal(0) if rule == "free" else Decimal("0.000001")
    assert find_price(model, model.targets[0]).input == expected


def test_a_provider_goes_before_the_policy_with_unknown_prices() -> None:
    policy = make_policy(billing={"unknown_price": "free"})
    strict = make_model(
        "m", make_target(make_provider("a", unknown_price="refuse")), price=None, policy=policy
    )
    with pytest.raises(Unpriced):
        make_plan(make_snapshot(strict), ANYBODY, "m", "chat")


def bind(*providers: str) -> Caller:
    return Caller("k", "u", bounds=compile_bounds({"providers": list(providers)}))


def test_a_key_reaches_only_the_providers_on_its_list() -> None:
    model = make_model("m", make_target("alpha"), make_target("beta"))
    snapshot = make_snapshot(model)
    plan = make_plan(snapshot, bind("be*"), "m", "chat")
    assert [target.provider.name for target in plan.targets] == ["beta"]
    assert len(make_plan(snapshot, ANYBODY, "m", "chat").targets) == 2
    with pytest.raises(NotAllowed) as refused:
        make_plan(snapshot, bind("gamma"), "m", "chat")
    assert refused.value.code == "provider_not_allowed"
    assert list_visible(snapshot, bind("gamma")) == [] and list_visible(snapshot, bind("alpha")) == [model]


def test_a_scope_of_models_and_a_list_of_models_both_have_to_cover_the_model() -> None:
    snapshot = make_snapshot(make_model("gpt-a", make_target("p")), make_model("gpt-b", make_target("p")))
    both = Caller("k", "u", models=("*-a", "x"), scoped_models=("gpt-*",))
    assert make_plan(snapshot, both, "gpt-a", "chat")
    with pytest.raises(NotAllowed):
        make_plan(snapshot, both, "gpt-b", "chat")
    assert [model.name for model in list_visible(snapshot, both)] == ["gpt-a"]
