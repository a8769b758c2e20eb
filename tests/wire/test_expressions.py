"""Expressions: native values, nothing but the table of what is allowed, no secrets."""

from typing import Any

import pytest

from engine.secret import Secret
from engine.wire.expressions import TemplateFailed
from engine.wire.templates import TemplateRefused, compile_template


def evaluate(expression: str, **names: Any) -> Any:
    rendered = compile_template({"value": "{{ " + expression + " }}"}, list(names))(*names.values())
    return (rendered or {}).get("value")


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("x.a.b", 1),
        ("x['a'].b", 1),
        ("x.list[1]", 20),
        ("x.list[-1]", 30),
        ("x.list[1:]", [20, 30]),
        ("x.missing.deeper.still", None),
        ("x.list[9]", None),
        ("x.a.b + 2 * 3 - 1", 6),
        ("-x.a.b", -1),
        ("7 % 4 / 2", 1.5),
        ("'n=' ~ x.a.b ~ x.missing", "n=1"),
        ("x.a.b == 1 and not x.missing", True),
        ("1 < 2 < 3", True),
        ("'a' in x and 'z' not in x", True),
        ("'z' in x.missing", False),
        ("x.missing or 'other'", "other"),
        ("'yes' if x.a else 'no'", "yes"),
        ("'yes' if x.missing", None),
        ("x.a is mapping and x.list is sequence and x.text is string and x.a.b is number", True),
        ("x.missing is defined", False),
        ("{'k': x.a.b, 'l': [x.text]}", {"k": 1, "l": ["t"]}),
        ("x.text | upper", "T"),
        ("x.json | parsed", {"k": [1]}),
        ("x.a | dumped", '{"b":1}'),
    ],
)
def test_an_expression_gives_its_native_value(expression: str, value: Any) -> None:
    x = {"a": {"b": 1}, "list": [10, 20, 30], "text": "t", "json": '{"k":[1]}'}
    assert evaluate(expression, x=x) == value


def test_keys_come_before_methods() -> None:
    schema = {"items": {"type": "string"}, "keys": 1, "get": 2, "update": 3}
    assert evaluate("[s.items.type, s.keys, s.get, s.update]", s=schema) == ["string", 1, 2, 3]
    assert evaluate("s.copy or s.pop", s={}) is None


def test_text_of_a_user_stays_text() -> None:
    for text in ("[1, 2]", "123", "None", "{{ 7 * 7 }}", "{'a': 1}"):
        assert evaluate("t", t=text) == text


def test_json_is_not_escaped_for_html() -> None:
    assert evaluate("t | dumped", t={"a": "<b> & 'c'"}) == '{"a":"<b> & \'c\'"}'


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("x.__class__", "private"),
        ("x._secret", "private"),
        ("x.items()", "calls are not allowed"),
        ("range(3)", "calls are not allowed"),
        ("2 ** 99", r"\*\*"),
        ("y", "not known here"),
        ("x | uper", "did you mean 'upper'"),
        ("x is odd", "no test named"),
        ("x | mapped('nowhere')", "needs the name of a table"),
        ("x +", "unexpected|expected"),
        ("a b", "expected"),
        ("x | upper(*x)", "plain arguments"),
    ],
)
def test_what_is_not_allowed_is_refused_when_it_is_compiled(expression: str, reason: str) -> None:
    with pytest.raises(TemplateRefused, match=reason):
        evaluate(expression, x={})


def test_statements_are_refused() -> None:
    with pytest.raises(TemplateRefused, match="statements"):
        compile_template({"value": "{% for a in b %}{% endfor %}"}, ["b"])


def test_private_names_of_objects_cannot_be_reached_by_a_computed_key() -> None:
    class Thing:
        open = "open"

    assert evaluate("t['__class__'] or t[k] or t.open", t=Thing(), k="__dict__") is None


@pytest.mark.parametrize(
    "expression",
    [
        "target.key",
        "target['key']",
        "'Bearer ' ~ target.key",
        "target.list[0]",
        "target.key | dumped",
        "[target.key]",
        "target.key or 1",
    ],
)
def test_a_secret_cannot_be_rendered(expression: str) -> None:
    with pytest.raises(TemplateFailed, match="secret"):
        evaluate(expression, target={"key": Secret("hush"), "list": [Secret("hush")]})


def test_a_secret_in_a_mixed_text_cannot_be_rendered() -> None:
    render = compile_template("key={{ key }}", ["key"])
    with pytest.raises(TemplateFailed, match="secret"):
        render(Secret("hush"))


@pytest.mark.parametrize(
    "expression", ["'a' * n", "n * 'a'", "'%s' % n", "n - 'a'", "n < 'a'", "t.x | clamped(1, 'a')"]
)
def test_values_that_do_not_fit_fail_clearly(expression: str) -> None:
    with pytest.raises(TemplateFailed):
        evaluate(expression, n=10**9, t={"x": 5})
