"""JSON Schema and the schema of OpenAPI 3.0, made of each other.

Some dialects describe arguments and answers in OpenAPI's older way: types in capitals, `nullable` instead of a null
type, no references, few keywords, keys that may be written with underscores. Schemas are copied, never changed.
"""

from collections.abc import Mapping
from typing import Any

from engine.wire.schemas import MAX_DEPTH, inline_references
from engine.wire.spellings import camel_case

KEYWORDS = frozenset(
    (
        *("type", "format", "title", "description", "nullable", "enum", "items", "properties", "required"),
        *("anyOf", "minItems", "maxItems", "minLength", "maxLength", "pattern", "minimum", "maximum"),
        *("minProperties", "maxProperties", "default", "example", "propertyOrdering"),
    )
)
_COUNTS = frozenset(("minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties"))
_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")


def read_openapi_schema(schema: Any) -> Any:
    """The JSON Schema that an OpenAPI schema means; a JSON Schema stays what it is."""
    return _read(schema, 0) if isinstance(schema, dict) else None


def _read(schema: Any, depth: int) -> Any:
    if not isinstance(schema, dict) or depth > MAX_DEPTH:
        return schema
    read: dict[str, Any] = {}
    for written, value in schema.items():
        key = camel_case(written)
        read[key] = _read_keyword(key, value, depth + 1)
    if read.pop("nullable", False):
        return _make_nullable(read)
    return read


def _read_keyword(key: str, value: Any, depth: int) -> Any:
    if key == "type" and isinstance(value, str):
        return value.lower()
    if key in _COUNTS and isinstance(value, str) and value.isdecimal():
        return int(value)
    if key in ("properties", "$defs", "defs") and isinstance(value, dict):
        return {name: _read(child, depth) for name, child in value.items()}
    if key in _LISTS and isinstance(value, list):
        return [_read(child, depth) for child in value]
    return _read(value, depth) if key in ("items", "additionalProperties") else value


def _make_nullable(schema: dict[str, Any]) -> dict[str, Any]:
    if isinstance(schema.get("type"), str):
        values = schema.get("enum")
        more = {"enum": [*values, None]} if isinstance(values, list) and None not in values else {}
        return {**schema, "type": [schema["type"], "null"], **more}
    if isinstance(schema.get("anyOf"), list):
        return {**schema, "anyOf": [*schema["anyOf"], {"type": "null"}]}
    return schema


def write_openapi_schema(schema: Any) -> Any:
    """What OpenAPI can say of a JSON Schema: references inlined, null types as `nullable`, other keywords left out."""
    if not isinstance(schema, dict):
        return None
    return _write(inline_references(schema), 0)


def _write(schema: Any, depth: int) -> Any:
    if not isinstance(schema, dict) or depth > MAX_DEPTH:
        return {}
    written = {key: value for key, value in _flatten(schema).items() if key in KEYWORDS}
    if isinstance(written.get("properties"), dict):
        written["properties"] = {n: _write(child, depth + 1) for n, child in written["properties"].items()}
    if isinstance(written.get("anyOf"), list):
        written["anyOf"] = [_write(child, depth + 1) for child in written["anyOf"]]
    if "items" in written:
        written["items"] = _write(written["items"], depth + 1)
    if "enum" in written:
        _write_enum(written)
    return written


def _write_enum(written: dict[str, Any]) -> None:
    """Only texts may be enumerated; a null among them is a nullable text, and other values are told by their type."""
    values = [value for value in written.pop("enum") or () if value is not None]
    if values and all(isinstance(value, str) for value in values):
        written["enum"] = values
        written.setdefault("type", "string")


def _flatten(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema without `const`, `oneOf`, `allOf`, lists of types and null types, as far as others can say them."""
    flat = dict(schema)
    if "const" in flat:
        flat["enum"] = [flat.pop("const")]
    if isinstance(flat.get("oneOf"), list):
        flat.setdefault("anyOf", flat.pop("oneOf"))
    for part in flat.pop("allOf", None) or ():
        flat = _join_schemas(flat, part) if isinstance(part, dict) else flat
    if isinstance(flat.get("type"), list):
        flat = _split_types(flat)
    if isinstance(flat.get("anyOf"), list):
        flat = _take_null_out(flat)
    return flat


def _join_schemas(schema: Mapping[str, Any], part: Mapping[str, Any]) -> dict[str, Any]:
    joined = {**part, **schema}
    if isinstance(schema.get("properties"), dict) and isinstance(part.get("properties"), dict):
        joined["properties"] = {**part["properties"], **schema["properties"]}
    if isinstance(schema.get("required"), list) and isinstance(part.get("required"), list):
        joined["required"] = list(dict.fromkeys([*schema["required"], *part["required"]]))
    return joined


def _split_types(schema: dict[str, Any]) -> dict[str, Any]:
    types = [name for name in schema["type"] if name != "null"]
    nullable = {"nullable": True} if len(types) < len(schema["type"]) else {}
    rest = {key: value for key, value in schema.items() if key != "type"}
    if len(types) == 1:
        return {**rest, "type": types[0], **nullable}
    return {**rest, "anyOf": [{"type": name} for name in types], **nullable}


def _take_null_out(schema: dict[str, Any]) -> dict[str, Any]:
    kinds = [kind for kind in schema["anyOf"] if not (isinstance(kind, dict) and kind.get("type") == "null")]
    if len(kinds) == len(schema["anyOf"]):
        return schema
    rest = {key: value for key, value in schema.items() if key != "anyOf"}
    if len(kinds) == 1 and isinstance(kinds[0], dict):
        return {**_flatten(kinds[0]), **rest, "nullable": True}
    return {**rest, "anyOf": kinds, "nullable": True}
