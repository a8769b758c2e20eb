"""From a name that nobody listed to its model, by the tables of names."""

from dataclasses import replace

import pytest

from engine.call import Caller
from engine.config.naming import MAX_STEPS, Ask, Naming, Rename, Rule, match_glob
from engine.config.snapshot import Snapshot
from engine.errors import NotAllowed, NotFound, Unpriced
from engine.routing.names import follow_name
from engine.routing.resolve import make_plan
from tests.routing.things import make_model, make_price, make_provider, make_snapshot, make_target

ANYBODY = Caller("k", "u")
OPEN = make_provider("open", passthrough=True)
SHUT = make_provider("shut")
LARGE = make_model("large", make_target(OPEN, "vendor/Large", price=make_price("3", "4")))


def make_rule(*globs: str, use: str = "", ignore_case: bool = False, **asks: str) -> Rule:
    pieces = tuple(tuple(glob.split("*")) for glob in globs)
    return Rule(pieces, use, tuple(Ask(*ask) for ask in asks.items()), ignore_case, "", "n.yaml:1:1")


def name_by(*rules: Rule, first: tuple[Rule, ...] = (), **facts: object) -> Snapshot:
    snapshot = make_snapshot(LARGE, providers={"open": OPEN, "shut": SHUT})
    return replace(snapshot, naming=Naming(rules=rules, first=first, **facts))  # type: ignore[arg-type]


def plan_targets(snapshot: Snapshot, name: str) -> list[str]:
    return [target.name for target in make_plan(snapshot, ANYBODY, name, "chat").targets]


@pytest.mark.parametrize(
    ("glob", "name", "stars"),
    [
        ("grok-2*", "grok-2-1212", ("-1212",)),
        ("grok-2*", "grok-2", ("",)),
        ("grok-2*", "grok-20", ("0",)),
        ("grok-2*", "xgrok-2", None),
        ("*:free", "a/b:free", ("a/b",)),
        ("*:free", "a/b:freer", None),
        ("google/*gemini*", "google/a-gemini-b", ("a-", "-b")),
        ("a*a", "a", None),
        ("*", "", ("",)),
        ("exact", "exact", ()),
        ("exact", "exactly", None),
        ("p/*/m/*", "p/1/m/2/m/3", ("1", "2/m/3")),
    ],
)
def test_a_glob_fits_the_whole_name(glob: str, name: str, stars: tuple[str, ...] | None) -> None:
    assert match_glob(tuple(glob.split("*")), name, name) == stars


def test_a_rule_that_ignores_case_keeps_the_case_of_what_its_star_stands_for() -> None:
    snapshot = name_by(make_rule("vendor/*", open="Org/{1}", ignore_case=True))
    with pytest.raises(Unpriced):
        plan_targets(snapshot, "VENDOR/MiXed")
    assert follow_name(snapshot, "VENDOR/MiXed").model.targets[0].name == "open/Org/MiXed"  # type: ignore[union-attr]


def test_a_listed_name_never_asks_the_rules() -> None:
    assert make_plan(name_by(make_rule("*", use="nobody")), ANYBODY, "large", "chat").model is LARGE


def test_a_rename_leads_to_the_model_and_the_whole_way_is_known() -> None:
    snapshot = name_by(make_rule("old-*", use="{1}"), make_rule("lar*", use="large"))
    found = follow_name(snapshot, "old-larger")
    assert found is not None and found.model is LARGE
    assert [(name, step.why) for name, step in found.steps] == [
        ("old-larger", "rule old-*"),
        ("larger", "rule lar*"),
        ("large", "models.d lists it"),
    ]


def test_the_first_rule_that_fits_decides() -> None:
    snapshot = name_by(make_rule("a*", open="one"), make_rule("ab*", open="two"))
    assert follow_name(snapshot, "abc").model.targets[0].model == "one"  # type: ignore[union-attr]


def test_provider_and_model_id_go_before_rules_but_not_before_the_first_ones() -> None:
    rules = make_rule("open/*", use="large")
    assert follow_name(name_by(rules), "open/x").model.targets[0].name == "open/x"  # type: ignore[union-attr]
    assert follow_name(name_by(first=(rules,)), "open/x").model is LARGE  # type: ignore[union-attr]


def test_a_target_that_a_model_lists_has_its_price_when_it_is_asked_for_by_name() -> None:
    plan = make_plan(name_by(), ANYBODY, "open/vendor/Large", "chat")
    assert plan.targets == (LARGE.targets[0],)
    assert (plan.model.name, plan.model.aliases) == ("open/vendor/Large", ())
    with pytest.raises(Unpriced):
        make_plan(name_by(), ANYBODY, "open/vendor/Unlisted", "chat")


def test_only_configured_providers_of_a_rule_are_asked() -> None:
    off = make_provider("off", configured=False, reason="OFF_KEY is not set")
    snapshot = make_snapshot(LARGE, providers={"open": OPEN, "off": off})
    rule = make_rule("v/*", off="{1}", open="vendor/{1}")
    assert plan_targets(replace(snapshot, naming=Naming(rules=(rule,))), "v/Large") == ["open/vendor/Large"]


def test_a_circle_of_rules_ends_in_not_found() -> None:
    snapshot = name_by(make_rule("a*", use="b{1}x"), make_rule("b*", use="a{1}x"))
    with pytest.raises(NotFound):
        make_plan(snapshot, ANYBODY, "a", "chat")
    assert MAX_STEPS < 20


def test_case_and_spaces_are_forgiven_where_a_table_says_so() -> None:
    forgiving = name_by(folded={"large": "large"})
    assert make_plan(forgiving, ANYBODY, " LaRGE ", "chat").model is LARGE
    with pytest.raises(NotFound):
        make_plan(name_by(), ANYBODY, "LaRGE", "chat")


def test_a_keys_globs_are_about_the_requested_name_or_the_models_own() -> None:
    snapshot = name_by(make_rule("old-*", use="large"), make_rule("v/*", open="vendor/{1}"))
    for globs, name in ((("old-*",), "old-1"), (("large",), "old-1"), (("v/*",), "v/Large")):
        assert make_plan(snapshot, Caller("k", "u", models=globs), name, "chat")
    for globs, name in ((("small",), "old-1"), (("large",), "v/Large"), (("large",), "open/vendor/Large")):
        with pytest.raises(NotAllowed):
            make_plan(snapshot, Caller("k", "u", models=globs), name, "chat")


def test_an_alias_of_a_table_that_a_rule_leads_on_is_followed() -> None:
    snapshot = name_by(make_rule("b*", use="large"), renames={"a": Rename("b-1", "n.yaml:2:1")})
    assert make_plan(snapshot, ANYBODY, "a", "chat").model is LARGE
