"""The inference doors of a snapshot in the description of the API: each dialect's demands, media types and errors."""

from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from typing import Any

from engine.config.snapshot import Snapshot
from engine.errors import DependencyAway, InvalidRequest, KeyRefused, LimitExceeded
from engine.http.api_schemas import infer_schema, keep_common
from engine.http.dialects import describe_error
from engine.wire.doors import Door
from engine.wire.formats import Format

Operation = dict[str, Any]
Paths = dict[str, dict[str, Operation]]

_FORM = "multipart/form-data"
_JSON = "application/json"
REFUSED = ("4XX", "501", "502", "503", "504")
"""A door's statuses beside the good one. Nothing is declared to answer 500."""
_EXAMPLES = (
    InvalidRequest("wrong", code="invalid_value", param="model"),
    InvalidRequest("wrong"),
    KeyRefused("wrong"),
    LimitExceeded("wrong", retry_after_s=1),
    DependencyAway("wrong", retry_after_s=1),
)
_CHANGED = frozenset({"message", "code", "param"})


def describe_doors(snapshot: Snapshot) -> Paths:
    """Doors with one path (they differ in their query) are one operation."""
    groups: dict[str, list[Door]] = {}
    for door in snapshot.doors.doors:
        groups.setdefault(door.path, []).append(door)
    paths: Paths = {path: {"post": _describe_door(doors)} for path, doors in groups.items()}
    for doors in groups.values():
        paths.update(_describe_kept(doors[0]))
    for format in snapshot.formats.values():
        paths.update(_describe_catalog(format))
    return paths


def describe_error_shape(format: Format) -> dict[str, Any]:
    """What the dialect's errors look like: written by its own template, so that it cannot be told otherwise."""
    shapes = [infer_schema(format.write_error(describe_error(error, "req_1"))) for error in _EXAMPLES]
    return _loosen(reduce(keep_common, shapes))


def name_error(format: Format) -> str:
    return f"Error-{format.name}"


def refer_error(format: Format) -> dict[str, Any]:
    schema = {"$ref": f"#/components/schemas/{name_error(format)}"}
    return {"description": "An error in the words of the dialect.", "content": {_JSON: {"schema": schema}}}


def list_error_formats(snapshot: Snapshot) -> Iterable[Format]:
    served = (door.format for door in snapshot.doors.doors)
    listed = (format for format in snapshot.formats.values() if format.client.catalogs)
    return dict.fromkeys((*served, *listed, *([snapshot.doors.common] if snapshot.doors.common else ())))


def _loosen(schema: dict[str, Any]) -> dict[str, Any]:
    """Some errors have no code and name no parameter."""
    keys: Mapping[str, Any] = schema.get("properties", {})
    properties = {
        name: {} if name in _CHANGED - {"message"} else _loosen(below) if below.get("properties") else below
        for name, below in keys.items()
    }
    return {**schema, "properties": properties} if properties else schema


def _describe_door(doors: Sequence[Door]) -> Operation:
    door = doors[0]
    format = door.format
    refused = refer_error(format)
    described: Operation = {
        "operationId": f"post{door.path.replace('/', '_')}",
        "summary": f"{format.operation.capitalize()} in the dialect {format.name}.",
        "tags": ["inference"],
        "parameters": [*_describe_query(doors)],
        "requestBody": {"required": True, "content": _describe_body(door)},
        "responses": {
            "200": {"description": "The answer.", "content": _describe_answers(doors)},
            **{status: refused for status in REFUSED},
        },
        "x-need": {"scope": "inference", "role": "user"},
    }
    if door.names_model:
        described["parameters"].append(_describe_name("model"))
    return described


def _describe_query(doors: Sequence[Door]) -> Iterable[dict[str, Any]]:
    """The parameters that tell doors of one path apart."""
    told: dict[str, set[str]] = {}
    for name, value in (pair for door in doors for pair in door.serving.query):
        told.setdefault(name, set()).add(value)
    for name, values in told.items():
        yield {"name": name, "in": "query", "schema": {"type": "string", "enum": sorted(values)}}


def _describe_body(door: Door) -> dict[str, Any]:
    schema = door.format.describe_request()
    return {_FORM if door.format.takes_form else _JSON: {"schema": schema}}


def _describe_answers(doors: Sequence[Door]) -> dict[str, Any]:
    types: dict[str, Any] = {}
    for door in doors:
        if door.serving.stream is not True:
            types |= {_JSON: {"schema": {"type": "object"}}} | {kind: {} for kind in door.format.answers}
        if door.serving.stream is not False:
            types.setdefault(dict(door.stream_head)[b"content-type"].decode(), {})
    return types


def _describe_kept(door: Door) -> Paths:
    """Answers that a format keeps are below its door."""
    if door.format.stored is None:
        return {}
    one, listing = f"{door.path}/{{id}}", f"{door.path}/{{id}}/{door.format.stored.listing}"
    paging = [
        {"name": "limit", "in": "query", "schema": {"type": "integer", "minimum": 1, "maximum": 100}},
        {"name": "order", "in": "query", "schema": {"type": "string", "enum": ["asc", "desc"]}},
        {"name": "after", "in": "query", "schema": {"type": "string"}},
    ]
    return {
        one: {
            "get": _describe_look(door.format, one, "A kept answer.", "inference"),
            "delete": _describe_look(door.format, f"{one}/delete", "Forget a kept answer.", "inference"),
        },
        listing: {
            "get": _describe_look(door.format, listing, "What was said to get it.", "inference", paging)
        },
    }


def _describe_catalog(format: Format) -> Paths:
    paths: Paths = {}
    for path, header in format.client.catalogs:
        if header:
            continue  # told apart by a header: the path itself is described by another
        one = f"{path}/{{id}}"
        paths[path] = {"get": _describe_look(format, path, "The models in this dialect's shape.", "catalog")}
        paths[one] = {"get": _describe_look(format, one, "One of them.", "catalog")}
    return paths


def _describe_look(
    format: Format, path: str, summary: str, scope: str, query: Sequence[dict[str, Any]] = ()
) -> Operation:
    good = {"description": "It.", "content": {_JSON: {"schema": {"type": "object"}}}}
    refused = refer_error(format)
    return {
        "operationId": f"get{path.replace('/', '_')}",
        "summary": summary,
        "tags": ["inference" if scope == "inference" else "catalog"],
        "parameters": [*query, *([_describe_name("id")] if "{id}" in path else [])],
        "responses": {"200": good, "4XX": refused, "503": refused},
        "x-need": {"scope": scope, "role": "user"},
    }


def _describe_name(name: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
