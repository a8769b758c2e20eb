"""JSONPath reads: getters for plain paths, jsonpath-ng for the rest."""

from typing import Any

import pytest

from engine.wire.paths import PathRefused, compile_first, compile_path, compile_rows, split_plain_path

DOC = {
    "a": {"b": [{"c": 1}, {"c": 2}], "x y": 3, "x-y": 4},
    "data": [{"id": "m1"}, {"id": "m2"}],
    "null": None,
    "$": 5,
}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("$.a.b[0].c", 1),
        ("$.a.b[-1].c", 2),
        ("$.a['x y']", 3),
        ('$.a["x y"]', 3),
        ("$.a.x-y", 4),
        ("a.b[1].c", 2),
        ("$", DOC),
        ("$.a.b[7].c", None),
        ("$.nothing.at.all", None),
        ("$.null.deeper", None),
        ("$.a.b.c", None),
        ("$.data[?(@.id=='m2')].id", "m2"),
        ("$..c", 1),
        ("$.a.b[*].c", 1),
    ],
)
def test_a_path_reads_the_first_value_or_none(path: str, value: Any) -> None:
    assert compile_path(path)(DOC) == value


@pytest.mark.parametrize("doc", [None, 1, "text", [], {}, [1, 2], {"a": "text"}])
def test_a_path_never_raises(doc: Any) -> None:
    for path in ("$.a.b[0].c", "$.a", "$..c", "$.a[*].b"):
        assert compile_path(path)(doc) in (None, "text")


@pytest.mark.parametrize(
    ("path", "rows"),
    [
        ("$.data[*]", [{"id": "m1"}, {"id": "m2"}]),
        ("$.data", [{"id": "m1"}, {"id": "m2"}]),
        ("$.data[*].id", ["m1", "m2"]),
        ("$.missing[*]", []),
        ("$.a.b[*].c", [1, 2]),
    ],
)
def test_rows_are_all_values(path: str, rows: list[Any]) -> None:
    assert compile_rows(path)(DOC) == rows


def test_a_bare_list_has_rows() -> None:
    assert compile_rows("$[*]")([1, 2]) == [1, 2]
    assert compile_rows("$")([1, 2]) == [1, 2]


def test_the_first_path_with_a_value_counts() -> None:
    assert compile_first(["$.none", "$.null", "$.a.x-y", "$.data"])(DOC) == 4
    assert compile_first("$.a.x-y")(DOC) == 4
    assert compile_first(["$.none"])(DOC) is None


def test_plain_paths_are_told_from_searches() -> None:
    assert split_plain_path("$.a[0]['b c']") == ("a", 0, "b c")
    assert split_plain_path("$.a[*]") is None
    assert split_plain_path("$..a") is None


@pytest.mark.parametrize("path", ["$.[", "$.a[", "$.a b c", "$$$"])
def test_what_is_not_a_path_is_refused(path: str) -> None:
    with pytest.raises(PathRefused, match="not a JSONPath"):
        compile_path(path)
