"""OpenAPI's schema and JSON Schema, keys and base64 in two spellings, places in bytes, results in order."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.wire.call_order import order_results
from engine.wire.openapi_schemas import read_openapi_schema, write_openapi_schema
from engine.wire.spellings import camel_case, camel_case_keys, standard_base64
from engine.wire.text_offsets import (
    count_bytes_before,
    count_characters_before,
    place_citations,
    place_in_whole,
)


@pytest.mark.parametrize(
    ("schema", "written"),
    [
        ({"const": "a"}, {"enum": ["a"], "type": "string"}),
        ({"enum": [1, 2], "type": "integer"}, {"type": "integer"}),
        ({"enum": ["a", None]}, {"enum": ["a"], "type": "string"}),
        ({"type": ["string", "null"]}, {"type": "string", "nullable": True}),
        ({"type": ["string", "number"]}, {"anyOf": [{"type": "string"}, {"type": "number"}]}),
        ({"oneOf": [{"type": "string"}, {"type": "null"}]}, {"type": "string", "nullable": True}),
        (
            {"anyOf": [{"type": "string"}, {"type": "number"}, {"type": "null"}]},
            {"anyOf": [{"type": "string"}, {"type": "number"}], "nullable": True},
        ),
        (
            {
                "allOf": [
                    {"properties": {"a": {}}, "required": ["a"]},
                    {"properties": {"b": {}}, "required": ["b"]},
                ]
            },
            {"properties": {"a": {}, "b": {}}, "required": ["b", "a"]},
        ),
        (
            {"$ref": "#/$defs/A", "$defs": {"A": {"type": "object", "additionalProperties": False}}},
            {"type": "object"},
        ),
        (
            {"type": "array", "items": {"type": "string", "exclusiveMinimum": 1}},
            {"type": "array", "items": {"type": "string"}},
        ),
        ({"properties": {"const": {"type": "string"}}}, {"properties": {"const": {"type": "string"}}}),
    ],
)
def test_what_the_older_schema_can_say_is_said(schema: Any, written: Any) -> None:
    found = write_openapi_schema(schema)
    assert {**found, "required": sorted(found.get("required", []))} == {
        **written,
        "required": sorted(written.get("required", [])),
    }


def test_a_schema_that_names_itself_ends() -> None:
    tree = {
        "$ref": "#/$defs/T",
        "$defs": {"T": {"type": "object", "properties": {"t": {"$ref": "#/$defs/T"}}}},
    }
    assert write_openapi_schema(tree) == {"type": "object", "properties": {"t": {"type": "object"}}}


def test_the_older_schema_is_read_as_json_schema() -> None:
    older = {
        "type": "OBJECT",
        "properties": {"any_of": {"type": "STRING", "nullable": True, "enum": ["a"]}},
        "any_of": [{"type": "ARRAY", "min_items": "2", "items": {"type": "NUMBER"}}],
    }
    assert read_openapi_schema(older) == {
        "type": "object",
        "properties": {"any_of": {"type": ["string", "null"], "enum": ["a", None]}},
        "anyOf": [{"type": "array", "minItems": 2, "items": {"type": "number"}}],
    }


@given(st.recursive(st.sampled_from(["string", "number"]).map(lambda kind: {"type": kind}), lambda inner: st.builds(
    lambda names: {"type": "object", "properties": names}, st.dictionaries(st.sampled_from(["a_b", "type"]), inner)
)))  # fmt: skip
def test_what_both_can_say_comes_back_as_it_was(schema: dict[str, Any]) -> None:
    assert read_openapi_schema(write_openapi_schema(schema)) == schema


def test_keys_are_spelled_in_camel_case_except_below_what_programs_named() -> None:
    assert camel_case("inline_data") == "inlineData" and camel_case("_x") == "_x"
    body = {"a_b": [{"c_d": 1}], "args": {"e_f": {"g_h": 1}}}
    assert camel_case_keys(body, frozenset({"args"})) == {"aB": [{"cD": 1}], "args": {"e_f": {"g_h": 1}}}


def test_base64_of_the_url_alphabet_becomes_standard() -> None:
    assert standard_base64("-_8") == "+/8=" and standard_base64(None) is None


@given(st.text(max_size=12), st.data())
def test_a_place_in_characters_and_in_bytes_is_the_same_place(text: str, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(text)))
    assert count_characters_before(text, count_bytes_before(text, place)) == place


def test_a_citation_without_bytes_stays_as_it_is() -> None:
    kept = {"url": "u", "start": 1}
    assert place_citations([kept, {"start_byte": 2, "url": "v"}], "äa") == [kept, {"url": "v", "start": 1}]


def test_results_stand_in_the_order_of_their_calls_and_strangers_last() -> None:
    calls = [{"type": "tool_call", "id": name} for name in ("a", "b")]
    results = [{"type": "tool_result", "id": name} for name in ("x", "b", "a")]
    said = {"type": "text", "text": "so"}
    turns = [{"role": "assistant", "parts": calls}, {"role": "user", "parts": [*results, said]}]
    assert [part.get("id") for part in order_results(turns)[1]["parts"]] == ["a", "b", "x", None]


def test_citations_of_texts_told_as_one_have_their_places_in_it() -> None:
    first = {
        "type": "text",
        "text": "It rains.",
        "citations": [{"url": "a"}, {"url": "b", "start": 3, "end": 8}],
    }
    second = {"type": "text", "text": " Often.", "citations": [{"url": "c"}]}
    placed = [
        {"url": "a", "start": 0, "end": 9},
        {"url": "b", "start": 3, "end": 8},
        {"url": "c", "start": 9, "end": 16},
    ]
    parts = [{"type": "reasoning", "text": "hm"}, first, second]
    assert place_in_whole(parts) == placed
    assert place_in_whole(parts, True) == placed[2:]
    assert place_in_whole(None) == []
