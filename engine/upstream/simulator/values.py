"""A JSON value that satisfies a JSON Schema: deterministic, small, and finite also for recursive schemas."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engine.upstream.simulator.text import pick_tokens

Schema = Mapping[str, Any]
_DEEP = 6
_DEEPEST = 60
_FORMATS = {
    "date-time": "2024-02-29T12:00:00Z",
    "date": "2024-02-29",
    "time": "12:00:00Z",
    "duration": "PT1H",
    "email": "someone@example.com",
    "hostname": "example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uri": "https://example.com/",
    "uuid": "7d444840-9dc0-41d1-b245-5ffdce74fad2",
}


def make_value(schema: Any, salt: int = 0) -> Any:
    """Return a value that `schema` accepts; `salt` varies the words in it."""
    root = schema if isinstance(schema, Mapping) else {}
    return _Maker(root, salt).make(root, 0)


@dataclass(slots=True)
class _Maker:
    root: Schema
    salt: int

    def make(self, schema: Any, depth: int) -> Any:
        if not isinstance(schema, Mapping):
            return "text"
        if depth > _DEEPEST:
            return None
        schema = self._resolve(schema, depth)
        if "const" in schema:
            return schema["const"]
        if schema.get("enum"):
            return schema["enum"][self.salt % len(schema["enum"])]
        match _kind_of(schema):
            case "object":
                return self._make_object(schema, depth)
            case "array":
                return self._make_array(schema, depth)
            case "string":
                return self._make_string(schema)
            case "integer" | "number" as kind:
                return _make_number(schema, whole=kind == "integer")
            case "boolean":
                return True
            case _:
                return None

    def _resolve(self, schema: Schema, depth: int) -> Schema:
        """Follow `$ref`, join `allOf` and choose one branch of `anyOf` or `oneOf` until none is left."""
        for _ in range(32):
            if "$ref" in schema:
                rest = {key: value for key, value in schema.items() if key != "$ref"}
                schema = _join(self._look_up(schema["$ref"]), rest)
            elif schema.get("allOf"):
                rest = {key: value for key, value in schema.items() if key != "allOf"}
                for part in schema["allOf"]:
                    rest = _join(rest, self._resolve(part, depth))
                schema = rest
            elif branches := schema.get("anyOf") or schema.get("oneOf"):
                rest = {key: value for key, value in schema.items() if key not in ("anyOf", "oneOf")}
                schema = _join(rest, self._choose_branch(branches, depth))
            else:
                break
        return schema

    def _choose_branch(self, branches: list[Schema], depth: int) -> Schema:
        """The first branch that says something; when it is deep enough, the one that ends soonest."""
        if depth >= _DEEP // 2:
            return min(branches, key=lambda branch: self._measure(branch, frozenset()))
        return next((branch for branch in branches if branch.get("type") != "null"), branches[0])

    def _measure(self, schema: Any, path: frozenset[str]) -> float:
        """How many levels the smallest value has; infinite for a branch that only leads back to itself."""
        if not isinstance(schema, Mapping):
            return 0
        if reference := schema.get("$ref"):
            return (
                math.inf if reference in path else self._measure(self._look_up(reference), path | {reference})
            )
        if branches := schema.get("anyOf") or schema.get("oneOf"):
            return min(self._measure(branch, path) for branch in branches)
        properties: Schema = schema.get("properties") or {}
        inner = [properties.get(name) for name in schema.get("required") or ()]
        inner += schema.get("allOf") or ()
        if schema.get("minItems"):
            inner.append(schema.get("items"))
        return 1 + max((self._measure(one, path) for one in inner), default=0)

    def _look_up(self, reference: str) -> Schema:
        found: Any = self.root
        for step in reference.removeprefix("#").strip("/").split("/"):
            if step and isinstance(found, Mapping):
                found = found.get(step.replace("~1", "/").replace("~0", "~"))
        return found if isinstance(found, Mapping) else {}

    def _make_object(self, schema: Schema, depth: int) -> dict[str, Any]:
        properties: Schema = schema.get("properties") or {}
        required = list(schema.get("required") or ())
        wanted = (
            required
            if depth >= _DEEP
            else [*properties, *(name for name in required if name not in properties)]
        )
        made = {name: self.make(properties.get(name, {"type": "string"}), depth + 1) for name in wanted}
        for number in range(len(made), int(schema.get("minProperties") or 0)):
            extra = schema.get("additionalProperties")
            made[f"key{number}"] = self.make(
                extra if isinstance(extra, Mapping) else {"type": "string"}, depth + 1
            )
        return made

    def _make_array(self, schema: Schema, depth: int) -> list[Any]:
        least = int(schema.get("minItems") or 0)
        count = max(least, 0 if depth >= _DEEP else 1)
        count = min(count, int(schema.get("maxItems", count)))
        fixed = list(schema.get("prefixItems") or ())
        made = [self.make(part, depth + 1) for part in fixed]
        for number in range(len(made), count):
            item = _Maker(self.root, self.salt + number).make(
                schema.get("items", {"type": "string"}), depth + 1
            )
            if schema.get("uniqueItems") and item in made and isinstance(item, int | float):
                item = max(made) + schema.get("items", {}).get("multipleOf", 1)
            made.append(item)
        return made

    def _make_string(self, schema: Schema) -> str:
        if schema.get("format") in _FORMATS:
            return _FORMATS[schema["format"]]
        least, most = int(schema.get("minLength") or 0), schema.get("maxLength")
        text = "".join(pick_tokens(self.salt * 31, 3))
        while len(text) < least:
            text += " " + text
        return text[: max(least, 24) if most is None else int(most)].strip().ljust(least, "x")


def _kind_of(schema: Schema) -> str:
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = next((one for one in kind if one != "null"), "null")
    if kind is None:
        kind = "object" if "properties" in schema else "array" if "items" in schema else "string"
    return str(kind)


def _join(one: Schema, other: Schema) -> dict[str, Any]:
    """Both schemas at once: properties and required names add up, the rest of `other` wins."""
    joined = {**one, **other}
    if "properties" in one and "properties" in other:
        joined["properties"] = {**one["properties"], **other["properties"]}
    if "required" in one and "required" in other:
        joined["required"] = list(dict.fromkeys([*one["required"], *other["required"]]))
    return joined


def _make_number(schema: Schema, *, whole: bool) -> int | float:
    step = schema.get("multipleOf") or (1 if whole else 0)
    low, high = _find_bounds(schema, step)
    value: float = low if low is not None else 7 if high is None or high >= 7 else high
    if step:
        value = math.ceil(value / step) * step
        if high is not None and value > high:
            value = math.floor(high / step) * step
    return int(value) if whole else value


def _find_bounds(schema: Schema, step: float) -> tuple[float | None, float | None]:
    """The least and greatest value allowed. What is exclusive is moved inside: by a step, or by part of the room."""
    low, high = schema.get("minimum"), schema.get("maximum")
    above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    least, most = low if above is None else above, high if below is None else below
    room = 1.0 if least is None or most is None else most - least
    if above is not None:
        inside = (math.floor(above / step) + 1) * step if step else above + room / 4
        low = inside if low is None else max(low, inside)
    if below is not None:
        inside = (math.ceil(below / step) - 1) * step if step else below - room / 4
        high = inside if high is None else min(high, inside)
    return low, high
