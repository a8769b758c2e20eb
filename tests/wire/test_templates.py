"""YAML trees: their directives, what is dropped, what is refused and where."""

from typing import Any

import pytest

from engine.wire.expressions import TemplateFailed
from engine.wire.templates import TemplateRefused, compile_template, merge_trees


def render(tree: Any, fragments: dict[str, Any] | None = None, **names: Any) -> Any:
    return compile_template(tree, list(names), fragments)(*names.values())


def test_a_whole_leaf_is_native_and_a_mixed_one_is_text() -> None:
    tree = {"list": "{{ x }}", "text": "x is {{ x }}, {{ t }}", "n": 3, "yes": True, "plain": "as it is"}
    assert render(tree, x=[1, "a"], t="t") == {
        "list": [1, "a"],
        "text": 'x is [1,"a"], t',
        "n": 3,
        "yes": True,
        "plain": "as it is",
    }


def test_nothing_drops_its_key_and_null_is_written() -> None:
    tree = {
        "a": "{{ x.no }}",
        "b": None,
        "c": "{{ x.no or null }}",
        "d": ["{{ x.no }}", 1, None],
        "e": "{{ none }}",
    }
    assert render(tree, x={}) == {"b": None, "c": None, "d": [1, None]}


def test_false_zero_and_empty_are_not_nothing() -> None:
    assert render(
        {"a": "{{ x.f }}", "b": "{{ x.z }}", "c": "{{ x.e }}"}, x={"f": False, "z": 0, "e": ""}
    ) == {
        "a": False,
        "b": 0,
        "c": "",
    }


def test_a_mapping_left_without_keys_is_dropped_and_one_written_empty_stays() -> None:
    tree = {
        "meta": {"user": "{{ x.user }}"},
        "auto": {},
        "list": [{"k": "{{ x.no }}"}, {}],
        "deep": {"er": {"k": "{{ x.no }}"}},
    }
    assert render(tree, x={}) == {"auto": {}, "list": [{}]}


def test_each_goes_over_lists_with_conditions_and_unpacking() -> None:
    tree = {
        "messages": {"$each": "m in x.messages if m.role != 'system'", "role": "{{ m.role }}"},
        "pairs": {"$each": "k, v in x.table | items", "$item": "{{ k }}={{ v }}"},
        "none": {"$each": "m in x.no", "a": 1},
        "empty": {"$each": "m in x.empty", "a": 1},
    }
    x = {"messages": [{"role": "system"}, {"role": "user"}], "table": {"a": 1, "b": 2}, "empty": []}
    assert render(tree, x=x) == {"messages": [{"role": "user"}], "pairs": ["a=1", "b=2"], "empty": []}


def test_what_a_directive_yields_in_a_list_is_spliced() -> None:
    tree = [
        "first",
        {"$each": "a in x", "$item": [{"$each": "b in a", "$item": "{{ b }}"}, "|"]},
        {"$if": "x", "$then": ["then", "list"]},
        {"$switch": "1", 1: ["case", {"$use": "many"}]},
        ["a list", "stays"],
    ]
    assert render(tree, {"many": ["m1", "m2"]}, x=[[1, 2], [3]]) == [
        "first",
        1,
        2,
        "|",
        3,
        "|",
        "then",
        "list",
        "case",
        "m1",
        "m2",
        ["a list", "stays"],
    ]


def test_if_takes_siblings_then_or_else() -> None:
    tree = {
        "a": {"$if": "x.yes", "k": 1},
        "b": {"$if": "x.no", "k": 1},
        "c": {"$if": "x.no", "$then": 1, "$else": "other"},
        "d": {"$if": "x.no", "k": 1, "$else": {"$if": "x.yes", "$then": "nested"}},
    }
    assert render(tree, x={"yes": True}) == {"a": {"k": 1}, "c": "other", "d": "nested"}


def test_switch_takes_the_equal_case_or_the_default() -> None:
    tree = {
        "$each": "v in x",
        "$switch": "v",
        "text": "a text",
        7: "seven",
        True: "true",
        "$default": "other",
    }
    assert render(tree, x=["text", 7, True, "?", None]) == ["a text", "seven", "true", "other", "other"]
    assert render({"k": {"$switch": "x", "a": 1}}, x="b") is None


def test_let_names_values_for_its_siblings() -> None:
    tree = {"$let": {"first": "x[0]", "name": "first.name"}, "greeting": "hello {{ name }}"}
    assert render(tree, x=[{"name": "ann"}]) == {"greeting": "hello ann"}
    assert render({"$let": {"a": "x"}, "$in": "{{ a }}"}, x=5) == 5


def test_spread_comes_before_its_siblings_and_keys_may_be_expressions() -> None:
    assert render(
        {"$spread": "x.more", "a": 1, "{{ x.key }}": 2}, x={"more": {"a": 0, "z": 9}, "key": "k"}
    ) == {
        "a": 1,
        "z": 9,
        "k": 2,
    }
    assert render({"$spread": "x.no", "a": 1}, x={}) == {"a": 1}


def test_fragments_see_the_names_they_use_and_may_use_themselves() -> None:
    fragments = {
        "node": {"name": "{{ n.name }}", "children": {"$each": "n in n.children", "$use": "node"}},
        "wrapped": {"$use": "node", "$with": {"n": "x.left"}, "mark": "{{ x.mark }}"},
    }
    x = {"mark": "m", "left": {"name": "l", "children": [{"name": "k"}]}}
    assert render({"$use": "wrapped"}, fragments, x=x) == {
        "name": "l",
        "children": [{"name": "k"}],
        "mark": "m",
    }


def test_a_cycle_in_the_data_fails_instead_of_hanging() -> None:
    loop: dict[str, Any] = {}
    loop["next"] = loop
    with pytest.raises(TemplateFailed):
        render({"$use": "walk"}, {"walk": {"in": {"$use": "walk", "$with": {"n": "n.next"}}}}, n=loop)


def test_templates_do_not_change_what_they_are_given() -> None:
    x = {"a": [1, {"b": 2}]}
    render({"$spread": "x", "a": "{{ x.a }}", "c": 1}, x=x)
    assert x == {"a": [1, {"b": 2}]}


@pytest.mark.parametrize(
    ("tree", "path", "message"),
    [
        ({"a": {"b": ["x", "{{ y }}"]}}, ("a", "b", 1), "'y' is not known here"),
        ({"a": {"$each": "m of x"}}, ("a", "$each"), "not a loop"),
        ({"a": {"$each": "m in y"}}, ("a", "$each"), "'y' is not known"),
        ({"a": {"$if": "x ="}}, ("a", "$if"), "expected"),
        ({"a": {"$if": "{{ x }}"}}, ("a", "$if"), ""),
        ({"a": {"$use": "none"}}, ("a", "$use"), "no fragment named"),
        ({"a": {"$use": "needy"}}, ("a", "$use"), "uses 'z'"),
        ({"a": {"$eech": "m in x"}}, ("a", "$eech"), "no directive named"),
        ({"a": {"$then": 1}}, ("a", "$then"), "misplaced"),
        ({"a": {"$let": "x"}}, ("a", "$let"), "a mapping"),
        ({"a": float("inf")}, ("a",), "float"),
        ({"a": {"$switch": "x", "k": "{{ q }}"}}, ("a", "k"), "'q'"),
        ({"a": "{{ x | nope }}"}, ("a",), "no filter"),
    ],
)
def test_a_problem_names_its_leaf(tree: Any, path: tuple[Any, ...], message: str) -> None:
    with pytest.raises(TemplateRefused) as refused:
        render(tree, {"needy": "{{ z.a }}"}, x=[])
    assert [p for p, _ in refused.value.problems] == [path]
    assert message in refused.value.problems[0][1]


def test_all_problems_are_found_at_once() -> None:
    with pytest.raises(TemplateRefused) as refused:
        render({"a": "{{ p }}", "b": {"c": "{{ q }}"}, "d": {"$each": "m in r", "k": "{{ m }}"}}, x=1)
    assert len(refused.value.problems) == 3


def test_a_tree_nested_too_deeply_is_refused() -> None:
    tree: Any = "{{ x }}"
    for _ in range(100):
        tree = [tree]
    with pytest.raises(TemplateRefused, match="too deeply"):
        render(tree, x=1)


def test_quotes_and_braces_of_a_tree_cannot_break_out() -> None:
    tree = {'it\'s "quoted"': "a'b\"c\\d\n{}", "{0}": "{x}", "k": "'''{{ x }}'''"}
    assert render(tree, x="y") == {'it\'s "quoted"': "a'b\"c\\d\n{}", "{0}": "{x}", "k": "'''y'''"}


def test_merging_replaces_leaves_and_null_takes_a_key_away() -> None:
    base = {"a": {"b": 1, "c": [1, 2]}, "d": 4}
    assert merge_trees(base, {"a": {"b": None, "c": [3], "e": {"f": 1}}, "g": 7}) == {
        "a": {"c": [3], "e": {"f": 1}},
        "d": 4,
        "g": 7,
    }
    assert base == {"a": {"b": 1, "c": [1, 2]}, "d": 4}
