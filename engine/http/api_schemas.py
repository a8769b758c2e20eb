"""JSON Schemas for the description of the API: of the models of our routes, and of what an example shows."""

from collections.abc import Iterable, Mapping
from functools import reduce
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue, models_json_schema
from pydantic_core import CoreSchema, core_schema

REFERENCE = "#/components/schemas/{model}"


class _Describing(GenerateJsonSchema):
    """Whatever is read from text by code of ours (a secret, a network) is a text."""

    def handle_invalid_for_json_schema(self, schema: CoreSchema, error_info: str) -> JsonSchemaValue:
        return {"type": "string"}

    def datetime_schema(self, schema: core_schema.DatetimeSchema) -> JsonSchemaValue:
        """Seconds since 1970 are taken, too."""
        return {"anyOf": [{"type": "string", "format": "date-time"}, {"type": "number"}]}


def describe_models(
    models: Iterable[type[BaseModel]],
) -> tuple[dict[type[BaseModel], dict[str, Any]], dict[str, Any]]:
    """The schema of each model (a reference), and the definitions that they refer to."""
    wanted = sorted(set(models), key=lambda model: (model.__name__, model.__module__))
    references, document = models_json_schema(
        [(model, "validation") for model in wanted],
        ref_template=REFERENCE,
        schema_generator=_Describing,
    )
    found = {model: references[model, "validation"] for model in wanted}
    return found, dict(document.get("$defs", {}))


def resolve(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> Mapping[str, Any]:
    """The definition that a reference leads to."""
    name = str(schema.get("$ref", "")).rpartition("/")[2]
    found: Mapping[str, Any] = definitions[name] if name else schema
    return found


def keep_common(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """The shape of both: what only one of them has need not be there."""
    if "items" in one and "items" in other:
        return {**one, "items": keep_common(one["items"], other["items"])}
    first, second = one.get("properties"), other.get("properties")
    if first is None or second is None:
        return dict(one)
    shared = first.keys() & second.keys()
    properties = {**second, **first} | {name: keep_common(first[name], second[name]) for name in shared}
    required = sorted(set(one["required"]) & set(other["required"]))
    return {**one, "properties": properties, "required": required}


def infer_schema(example: Any) -> dict[str, Any]:
    """The shape of a value: which keys there are and of what types. What is null in the example may be anything."""
    if isinstance(example, dict):
        keys = {key: infer_schema(value) for key, value in example.items()}
        return {"type": "object", "properties": keys, "required": sorted(keys)}
    if isinstance(example, list):
        items = [infer_schema(item) for item in example]
        return {"type": "array", **({"items": reduce(keep_common, items)} if items else {})}
    for kind, name in ((bool, "boolean"), (int, "integer"), (float, "number"), (str, "string")):
        if isinstance(example, kind):
            return {"type": name}
    return {}
