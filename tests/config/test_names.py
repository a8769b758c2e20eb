"""Tables of names: what is taken in, what is refused and where."""

import pytest

from tests.config.conftest import Folder, provider

MODELS = """
    models:
      large:
        aliases: [team/large]
        price: {input: "1", output: "2"}
        targets: [{provider: alpha, model: big}]
      small:
        price: {input: "1", output: "2"}
        targets: [{provider: alpha, model: tiny}]
    """
FILES = {
    "gateway.yaml": "include: {builtin: false}",
    "providers.d/a.yaml": provider(),
    "models.d/m.yaml": MODELS,
}


def test_an_alias_of_a_table_is_found_like_the_model_itself(folder: Folder) -> None:
    snapshot = folder.load(FILES | {"models.d/n.yaml": "names: ours\naliases: {big: huge, huge: team/large}"})
    assert snapshot.names["big"] is snapshot.names["huge"] is snapshot.models["large"]
    assert snapshot.naming.renames["huge"].place == "models.d/n.yaml:2:22"


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        ("aliases: {big: lage}", '2:11 aliases.big: leads to "lage", which no model has (did you mean "large"?)'),
        ("aliases: {a: b, b: c, c: a}", "2:11 aliases.a: leads in a circle: a -> b -> c -> a ..."),
        ("aliases: {small: large}", '2:11 aliases.small: "small" is also a name of model "small" (models.d/m.yaml:6:3)'),  # noqa: E501
        ("rules: [{match: old*, use: older}]", None),
        ("rules: [{match: old, use: older}]", '2:9 rules[0]: leads to "older", which no model has'),
        ("rules: [{match: a*, use: b-1}, {match: b*, use: a-1}]", "2:9 rules[0]: leads in a circle: ax -> b-1 -> a-1 -> b-1 ..."),  # noqa: E501
        ("rules: [{match: x*, ask: {provider: alfa}}]", '2:27 rules[0].ask.provider: no provider "alfa" (did you mean "alpha"?)'),  # noqa: E501
        ("rules: [{match: x*, use: '{2}'}]", '2:9 rules[0]: "{2}" names a star that `match` does not have'),
        ("rules: [{match: x*}]", "2:9 rules[0]: one of `use` and `ask` is expected"),
        ("rules: [{match: x*, use: large, ask: {provider: alpha}}]", "2:9 rules[0]: one of `use` and `ask` is expected"),  # noqa: E501
        ("rule: []", '2:1 rule: unknown key (did you mean "rules"?)'),
    ],
)  # fmt: skip
def test_a_row_that_cannot_be_followed_is_refused_with_its_place(
    folder: Folder, table: str, problem: str | None
) -> None:
    files = FILES | {"models.d/n.yaml": f"names: ours\n{table}"}
    if problem is None:
        assert folder.load(files).naming.rules
        return
    assert any(said == f"models.d/n.yaml:{problem}" for said in folder.refuse(files)), folder.refuse(files)


def test_the_users_table_goes_before_the_shipped_one_and_replaces_the_one_of_its_name(folder: Folder) -> None:
    shipped = folder.load({}).naming
    assert shipped.rules and shipped.renames
    mine = "names: ours\nrules: [{match: 'o*', use: gpt-4o}]"
    both = folder.load({"models.d/n.yaml": mine}).naming
    assert both.rules[0].globs == (("o", ""),) and len(both.rules) == len(shipped.rules) + 1
    replaced = folder.load({"models.d/n.yaml": mine.replace("ours", "standard")}).naming
    assert len(replaced.rules) == 1


def test_a_users_alias_goes_over_a_shipped_one(folder: Folder) -> None:
    shipped = folder.load({})
    name = next(name for name in shipped.naming.renames if shipped.names[name].name != "gpt-4o")
    snapshot = folder.load({"models.d/n.yaml": f"names: ours\naliases: {{'{name}': gpt-4o}}"})
    assert snapshot.names[name].name == "gpt-4o"
    assert any(f'"{name}" is also a name of names "ours"' in warning for warning in snapshot.warnings)


def test_a_users_provider_takes_its_own_name_back_from_shipped_rules(folder: Folder) -> None:
    shipped = folder.load({}).naming
    assert any(rule.globs[0][0] == "qwen/" for rule in shipped.rules)
    mine = {"providers.d/q.yaml": provider("qwen", "passthrough: true\nunknown_price: free")}
    assert not any(glob[0] == "qwen/" for rule in folder.load(mine).naming.rules for glob in rule.globs)


def test_a_reload_takes_up_a_changed_table(folder: Folder) -> None:
    folder.write(FILES | {"models.d/n.yaml": "names: ours\naliases: {big: large}"})
    loader = folder.loader()
    before = loader.prepare(loader.read(), run_examples=False)
    folder.write({"models.d/n.yaml": "names: ours\naliases: {big: small}"})
    after = loader.prepare(loader.read(), before, run_examples=False)
    assert (before.names["big"].name, after.names["big"].name) == ("large", "small")
