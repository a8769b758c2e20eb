from pathlib import Path

import pytest

from engine.config.references import Unset, Values, expand_tree
from engine.secret import Secret


@pytest.fixture
def values(tmp_path: Path) -> Values:
    (tmp_path / "key.txt").write_text("from-file\n")
    return Values({"SET": "value", "EMPTY": ""}, tmp_path)


def expand(tree: object, values: Values, secret: bool = False) -> tuple[object, list[str]]:
    expanded, missing = expand_tree(tree, values, lambda path: secret)
    return expanded, [unset.reason for _, unset in missing]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("${SET}", "value"),
        ("a ${SET} b ${SET}", "a value b value"),
        ("${NOT_SET:-default}", "default"),
        ("${EMPTY:-default}", "default"),
        ("${NOT_SET:-}", ""),
        ("${SET:-default}", "value"),
        ("${NOT_SET:-http://127.0.0.1:9}/v1", "http://127.0.0.1:9/v1"),
        ("${file:key.txt}", "from-file"),
        ("$SET {x}", "$SET {x}"),
    ],
)
def test_a_reference_becomes_its_value(text: str, expected: str, values: Values) -> None:
    assert expand(text, values) == (expected, [])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("${NOT_SET}", "environment variable NOT_SET is not set"),
        ("${EMPTY}", "environment variable EMPTY is empty"),
        ("${file:/nowhere/at/all}", "file /nowhere/at/all cannot be read"),
        ("${two words}", "${two words} is not a reference: ${NAME}, ${NAME:-default} or ${file:/path}"),
    ],
)
def test_what_is_not_there_is_said(text: str, reason: str, values: Values) -> None:
    expanded, reasons = expand({"a": [text]}, values)
    assert reasons == [reason]
    assert isinstance(expanded, dict) and isinstance(expanded["a"][0], Unset)


def test_in_a_secret_place_the_value_is_a_secret(values: Values) -> None:
    expanded, _ = expand({"a": "Bearer ${SET}", "b": "plain"}, values, secret=True)
    assert expanded == {"a": Secret("Bearer value"), "b": "plain"}
    assert "value" not in repr(expanded)


def test_a_value_that_looks_like_a_reference_is_not_expanded_again(tmp_path: Path) -> None:
    values = Values({"SET": "${OTHER}", "OTHER": "x"}, tmp_path)
    assert expand("${SET}", values) == ("${OTHER}", [])
