import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from engine.config.files import find_library, find_sources
from engine.config.yamltree import MAX_BYTES, Document, format_path, parse_document

YAML_BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{new}: &{new} [{','.join(['*' + old] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


def said(text: str | bytes) -> list[str]:
    document = parse_document(text.encode() if isinstance(text, str) else text)
    return [f"{line}:{column} {path} {message}" for line, column, path, message in document.problems]


def test_plain_values_are_the_ones_of_yaml_1_2() -> None:
    text = "a: 1\nb: -2.5e3\nc: true\nd: null\ne: ~\nf:\ng: yes\nh: 2024-01-01\ni: '1'\nj: 0x1F\nk: off\n"
    assert parse_document(text.encode()).tree == {
        "a": 1, "b": -2500.0, "c": True, "d": None, "e": None, "f": None,
        "g": "yes", "h": "2024-01-01", "i": "1", "j": 31, "k": "off",
    }  # fmt: skip


def test_keys_are_text_as_written() -> None:
    assert parse_document(b"200: a\non: b\ntrue: c\n5xx: d\n").tree == {
        "200": "a",
        "on": "b",
        "true": "c",
        "5xx": "d",
    }


def test_every_node_knows_its_line_and_column() -> None:
    document = parse_document(b"models:\n  m:\n    targets:\n      - {provider: x}\n      - provider: y\n")
    assert document.find_mark(("models", "m", "targets", 1, "provider")) == (5, 9, 5)
    assert document.find_mark(("models", "m", "targets", 0, "provider")) == (4, 10, 5)
    assert document.find_mark(("models", "m", "targets", 1, "weight")) == (5, 9, 4)


def test_duplicate_keys_are_all_told_with_the_first_place() -> None:
    assert said("a: 1\nb: {c: 1, c: 2}\na: 3\n") == [
        '2:11 b.c duplicate key "c" (first at line 2, column 5)',
        '3:1 a duplicate key "a" (first at line 1, column 1)',
    ]


def test_a_bomb_of_aliases_is_refused() -> None:
    assert "aliases expand to more than" in said(YAML_BOMB)[0]


def test_honest_aliases_and_merge_keys_work() -> None:
    text = (
        b"x-base: &base {a: 1, b: {c: 2}}\none: {<<: *base, a: 5}\ntwo: *base\nthree: {<<: [{z: 1}, *base]}\n"
    )
    tree = parse_document(text).tree
    assert tree["one"] == {"a": 5, "b": {"c": 2}}
    assert tree["two"] == {"a": 1, "b": {"c": 2}}
    assert tree["three"] == {"z": 1, "a": 1, "b": {"c": 2}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "a: !!python/object/apply:os.system [ls]\n",
            "1:4  tag tag:yaml.org,2002:python/object/apply:os.system",
        ),
        ("a: !secret x\n", "1:4  tag !secret is not allowed"),
        ("a: !!binary aGk=\n", "1:4  tag tag:yaml.org,2002:binary"),
        ("a: *nowhere\n", "1:4  alias *nowhere has no anchor"),
        ("a: &a [*a]\n", "1:8  alias *a has no anchor before it (or contains itself)"),
        ("- 1\n", "1:1  a mapping (key: value) is expected"),
        ("just text\n", "1:1  a mapping"),
        ("a: 1\n---\nb: 2\n", "2:1  a second document"),
        ("a: [1,\n", "2:1  not YAML: expected the node content"),
        ("a: 'x\n", "not YAML: found unexpected end of stream"),
        ("\ta: 1\n", "1:1  not YAML: found character"),
        ("? [a, b]\n: c\n", "1:3  a key must be plain text"),
        ("a: 1e999\n", "1:4  the number is too large"),
        (f"a: {2**64}\n", "1:4  the number is too large"),
        ("a: " + "[" * 60 + "]" * 60 + "\n", "nested deeper than 40 levels"),
        ("a: {<<: 3}\n", "<< merges mappings only"),
    ],
)
def test_what_is_not_plain_yaml_is_refused_with_its_place(text: str, message: str) -> None:
    assert message in said(text)[0]


def test_bytes_that_are_not_text_and_files_that_are_huge_are_refused() -> None:
    assert said(b"a: 1\nb: \xff\n") == ["2:1  the file is not UTF-8 text"]
    assert "control" not in said("a: \x01\n")[0] and said("a: \x01\n")[0].startswith("1:1  not YAML")
    assert "bytes; at most" in said(b"#" * (MAX_BYTES + 1))[0]


def test_an_empty_file_says_nothing() -> None:
    assert parse_document(b"").tree == {}
    assert parse_document(b"# only a comment\n").tree == {}


def test_references_are_noticed() -> None:
    assert parse_document(b"a: ${X}/v1\nb: [{c: '${file:/run/x}'}]\n").refs == ("X", "file:/run/x")


NAMES = st.text("abckeys.-_", min_size=1, max_size=6)
HARD_TEXTS = st.text("abcxyz: -#'\"{}[]&*!|>%@`\n\t~0.1e", max_size=12)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | HARD_TEXTS
    | st.floats(allow_nan=False, allow_infinity=False).filter(lambda number: "e" not in repr(number)),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@given(st.dictionaries(NAMES, JSON, max_size=4))
def test_what_json_says_is_what_is_read(tree: dict[str, Any]) -> None:
    document = parse_document(json.dumps(tree).encode())
    assert document.problems == ()
    assert document.tree == tree


def test_a_path_is_shown_as_people_write_it() -> None:
    assert format_path(("targets", 1, "provider")) == "targets[1].provider"
    assert format_path(()) == ""


def test_the_parser_of_the_library_agrees_on_the_shipped_files() -> None:
    for source in find_sources(find_library(), (), find_library()).sources:
        with open(source.path, "rb") as file:
            content = file.read()
        document = parse_document(content)
        assert isinstance(document, Document) and document.problems == ()
        assert _as_text_keys(YAML(typ="safe", pure=True).load(content)) == document.tree


def _as_text_keys(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {
            str(key) if not isinstance(key, bool) else str(key).lower(): _as_text_keys(value)
            for key, value in tree.items()
        }
    if isinstance(tree, list):
        return [_as_text_keys(value) for value in tree]
    if isinstance(tree, float):
        assert math.isfinite(tree)
    return tree
