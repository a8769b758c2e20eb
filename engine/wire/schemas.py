"""JSON Schema made to fit dialects that take only a part of it. Schemas are copied, never changed."""

from collections.abc import Mapping
from typing import Any

MAX_DEPTH = 64

_CHILD_MAPS = ("properties", "$defs", "definitions", "patternProperties", "dependentSchemas")
_CHILD_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
_CHILDREN = ("items", "additionalProperties", "not", "if", "then", "else", "contains", "propertyNames")


def prune_schema(schema: Any, *names: str) -> Any:
    """The schema without these keywords at any depth. A property of such a name stays a property."""
    return _prune(schema, frozenset(names), 0) if isinstance(schema, dict) else None


def _prune(schema: Any, names: frozenset[str], depth: int) -> Any:
    if not isinstance(schema, dict) or depth > MAX_DEPTH:
        return schema
    pruned: dict[str, Any] = {}
    for key, value in schema.items():
        if key in names:
            continue
        if key in _CHILD_MAPS and isinstance(value, dict):
            pruned[key] = {name: _prune(child, names, depth + 1) for name, child in value.items()}
        elif key in _CHILD_LISTS and isinstance(value, list):
            pruned[key] = [_prune(child, names, depth + 1) for child in value]
        elif key in _CHILDREN:
            pruned[key] = _prune(value, names, depth + 1)
        else:
            pruned[key] = value
    return pruned


def close_objects(schema: Any) -> Any:
    """The schema with `additionalProperties: false` on every object, as dialects want it that hold a model to one."""
    return _close(schema, 0) if isinstance(schema, dict) else None


def _close(schema: Any, depth: int) -> Any:
    if not isinstance(schema, dict) or depth > MAX_DEPTH:
        return schema
    closed = dict(schema)
    for key, value in schema.items():
        if key in _CHILD_MAPS and isinstance(value, dict):
            closed[key] = {name: _close(child, depth + 1) for name, child in value.items()}
        elif key in _CHILD_LISTS and isinstance(value, list):
            closed[key] = [_close(child, depth + 1) for child in value]
        elif key in _CHILDREN:
            closed[key] = _close(value, depth + 1)
    if closed.get("type") == "object" or "properties" in closed:
        closed["additionalProperties"] = False
    return closed


def inline_references(schema: Any) -> Any:
    """The schema with its local `$ref`s replaced by what they name; one that names itself becomes any object."""
    if not isinstance(schema, dict):
        return None
    inlined = _inline(schema, schema, ())
    if isinstance(inlined, dict):
        inlined.pop("$defs", None)
        inlined.pop("definitions", None)
    return inlined


def _inline(node: Any, root: Mapping[str, Any], open_references: tuple[str, ...]) -> Any:
    if isinstance(node, list):
        return [_inline(item, root, open_references) for item in node]
    if not isinstance(node, dict):
        return node
    reference = node.get("$ref")
    if not isinstance(reference, str):
        return {key: _inline(value, root, open_references) for key, value in node.items()}
    rest = {key: value for key, value in node.items() if key != "$ref"}
    if reference in open_references or len(open_references) > MAX_DEPTH:
        return {"type": "object", **rest}
    target = _follow(root, reference)
    found = _inline(target, root, (*open_references, reference)) if target is not None else {}
    return {**found, **rest} if isinstance(found, dict) else found


def _follow(root: Mapping[str, Any], reference: str) -> Any:
    node: Any = root
    if not reference.startswith("#"):
        return None
    for step in reference.removeprefix("#").split("/")[1:]:
        if not isinstance(node, dict):
            return None
        node = node.get(step.replace("~1", "/").replace("~0", "~"))
    return node
