import json

from engine.upstream.simulator.values import make_value

EXPRESSION = {
    "$defs": {
        "expr": {"anyOf": [{"$ref": "#/$defs/sum"}, {"$ref": "#/$defs/leaf"}]},
        "sum": {
            "type": "object",
            "properties": {"left": {"$ref": "#/$defs/expr"}, "right": {"$ref": "#/$defs/expr"}},
            "required": ["left", "right"],
        },
        "leaf": {"type": "object", "properties": {"value": {"type": "number"}}, "required": ["value"]},
    },
    "$ref": "#/$defs/expr",
}


def test_a_schema_that_refers_to_itself_ends() -> None:
    value = make_value(EXPRESSION)
    assert set(value) == {"left", "right"}
    assert len(json.dumps(value)) < 2000


def test_a_schema_that_cannot_end_is_given_up() -> None:
    loop = {"type": "object", "properties": {"self": {"$ref": "#"}}, "required": ["self"]}
    assert json.dumps(make_value(loop)).count("self") > 5


def test_constants_enums_and_bounds_are_kept() -> None:
    assert make_value({"const": [1]}) == [1]
    assert make_value({"enum": ["a", "b"]}, 1) == "b"
    assert make_value({"type": "integer", "minimum": 5, "maximum": 5}) == 5
    assert make_value({"type": "integer", "exclusiveMinimum": 7, "multipleOf": 5}) == 10
    assert make_value({"type": "integer", "maximum": -3}) == -3
    assert 0.1 < make_value({"type": "number", "exclusiveMinimum": 0.1, "exclusiveMaximum": 0.2}) < 0.2


def test_all_of_adds_up_and_null_is_the_last_choice() -> None:
    both = {
        "allOf": [
            {"type": "object", "properties": {"a": {"type": ["null", "boolean"]}}, "required": ["a"]},
            {"properties": {"b": {"anyOf": [{"type": "null"}, {"type": "integer"}]}}, "required": ["b"]},
        ]
    }
    assert make_value(both) == {"a": True, "b": 7}


def test_arrays_are_as_long_and_as_varied_as_they_must_be() -> None:
    numbers = make_value({"type": "array", "items": {"type": "integer"}, "minItems": 4, "uniqueItems": True})
    assert len(set(numbers)) == 4
    assert make_value({"type": "array", "items": {"type": "string"}, "maxItems": 0}) == []
    pair = make_value({"type": "array", "prefixItems": [{"const": 1}, {"type": "boolean"}], "items": False})
    assert pair == [1, True]


def test_strings_have_their_length_and_format() -> None:
    assert len(make_value({"type": "string", "minLength": 50, "maxLength": 50})) == 50
    assert len(make_value({"type": "string", "maxLength": 2})) <= 2
    assert make_value({"type": "string", "format": "date"}) == "2024-02-29"
