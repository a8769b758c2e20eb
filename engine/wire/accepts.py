"""What a dialect demands of a request, as a table of paths and shapes; a body that breaks it names the field.

model: text!                      `!` must be there; a null counts as not there
messages: list+                   `+` must be there and not be empty
messages[]: object!
messages[].role: [system, user, "!"]   one of these values
stop: text | list
background: unsupported           null and false say nothing; anything else is refused
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from engine.errors import InvalidRequest

Path = tuple[str | int, ...]

_SHAPES: Mapping[str, tuple[type, ...]] = {
    "text": (str,),
    "count": (int,),
    "number": (int, float),
    "integer": (int,),
    "boolean": (bool,),
    "list": (list,),
    "object": (dict,),
    "unsupported": (),
}
_WORDS = re.compile(r"^\s*\w+(\s*\|\s*\w+)*\s*[!+]?\s*$")


class Accepts:
    """A table of demands. Both checks raise InvalidRequest for the first field that breaks one."""

    def __init__(self, rules: Sequence[tuple[list[str], "_Demand"]]) -> None:
        self._root = _grow(rules)
        self._outline = {steps[0]: demand for steps, demand in rules if len(steps) == 1}
        self._items = {steps[0]: demand for steps, demand in rules if steps[1:] == ["[]"]}
        self._required = tuple(name for name, demand in self._outline.items() if demand.required)

    def check(self, body: Any) -> None:
        """Every rule, in one walk."""
        _walk(self._root, body, ())

    def describe(self) -> dict[str, Any]:
        """The table as a JSON Schema."""
        return {"type": "object", **_describe_node(self._root)}

    def check_outline(self, body: Mapping[str, Any]) -> None:
        """The rules for the body's own keys and for the items of its lists: cheap enough for every request."""
        outline = self._outline
        for name, value in body.items():
            demand = outline.get(name)
            if demand is None or value is None or (value and value.__class__ in demand.sure):
                continue
            demand.check(value, name)
        for name in self._required:
            if body.get(name) is None:
                outline[name].check(None, name)
        for name, demand in self._items.items():
            if name in body:
                demand.check_items(body[name], name)


def compile_accepts(raw: Mapping[str, Any], problems: list[tuple[Path, str]]) -> Accepts:
    return Accepts([_compile_rule(path, shape, problems) for path, shape in raw.items()])


class _Demand:
    def __init__(
        self, names: Sequence[str], allowed: tuple[Any, ...], *, required: bool, filled: bool = False
    ) -> None:
        self.names = names
        self.types = tuple(kind for name in names for kind in _SHAPES.get(name, ()))
        self.allowed = allowed
        self.required = required
        self.filled = filled
        self.counts = "count" in names
        self.unsupported = "unsupported" in names
        unsure = bool(allowed) or self.counts or self.unsupported
        self.takes_any = not unsure and not filled
        self.sure: frozenset[type] = frozenset(() if unsure else self.types)
        """Classes whose values fit unless they are empty."""

    def is_plainly_met(self, value: Any) -> bool:
        """True is certain; False may still pass `check`."""
        if value is None:
            return not self.required
        if self.allowed:
            return value in self.allowed
        return self.takes_any and value.__class__ in self.types

    def check(self, value: Any, where: str) -> None:
        if value is None:
            if self.required:
                raise InvalidRequest(f"{where} is required", code="missing_required_parameter", param=where)
            return
        if self.unsupported:
            if value is not False:
                raise InvalidRequest(
                    f"{where} is not supported here", code="unsupported_parameter", param=where
                )
            return
        if self.allowed:
            if value not in self.allowed:
                known = ", ".join(map(str, self.allowed))
                raise InvalidRequest(f"{where} must be one of {known}", code="invalid_value", param=where)
            return
        if not isinstance(value, self.types) or (isinstance(value, bool) and bool not in self.types):
            said = " or ".join(self.names)
            raise InvalidRequest(
                f"{where} must be {said}, not {_name_of(value)}", code="invalid_type", param=where
            )
        if self.filled and value in ("", []):
            raise InvalidRequest(f"{where} must not be empty", code="missing_required_parameter", param=where)
        if self.counts and value.__class__ is int and value < 1:
            raise InvalidRequest(f"{where} must be at least 1", code="invalid_value", param=where)

    def check_items(self, values: Any, where: str) -> None:
        for number, value in enumerate(values if isinstance(values, list) else ()):
            if value.__class__ not in self.types:
                self.check(value, f"{where}[{number}]")


def _compile_rule(path: str, shape: Any, problems: list[tuple[Path, str]]) -> tuple[list[str], _Demand]:
    steps = str(path).replace("[]", ".[]").split(".")
    if isinstance(shape, list):
        return steps, _Demand((), tuple(value for value in shape if value != "!"), required="!" in shape)
    if not isinstance(shape, str) or not _WORDS.match(shape):
        problems.append((("accepts", path), "a shape such as `text!` or a list of values is expected"))
        return steps, _Demand(("text",), (), required=False)
    mark = shape.strip()[-1]
    names = [name.strip() for name in shape.strip().rstrip("!+").split("|")]
    for name in names:
        if name not in _SHAPES:
            problems.append((("accepts", path), f"no shape named {name!r} ({', '.join(_SHAPES)})"))
    return steps, _Demand(names, (), required=mark in "!+", filled=mark == "+")


@dataclass(slots=True)
class _Node:
    """What is demanded of one place, and of the places below it."""

    demand: _Demand | None = None
    keys: dict[str, "_Node"] = field(default_factory=dict)
    items: "_Node | None" = None
    fits: frozenset[type] = frozenset()
    """Classes of which any value will do: nothing is demanded of what is in it."""
    is_required: bool = False

    def close(self) -> None:
        """Known when the table has been read."""
        demand = self.demand
        self.is_required = demand is not None and demand.required
        if demand is not None and demand.takes_any and not self.keys:
            self.fits = frozenset(kind for kind in demand.types if self.items is None or kind is not list)
        for below in (*self.keys.values(), *([self.items] if self.items else ())):
            below.close()


def _grow(rules: Sequence[tuple[list[str], _Demand]]) -> _Node:
    root = _Node()
    for steps, demand in rules:
        node = root
        for step in steps:
            if step == "[]":
                node.items = node.items or _Node()
                node = node.items
            else:
                node = node.keys.setdefault(step, _Node())
        node.demand = demand
    root.close()
    return root


def _walk(node: _Node, value: Any, path: Path) -> None:
    """Where a value stands is written only when it is refused: this runs for every message and part."""
    if node.demand is not None and not node.demand.is_plainly_met(value):
        node.demand.check(value, _say(path))
    if value is None:
        return
    if node.items is not None and isinstance(value, list):
        for number, item in enumerate(value):
            _walk(node.items, item, (*path, number))
    if not node.keys:
        return
    if isinstance(value, dict):
        _walk_keys(node, value, path)
    elif path:
        where = _say(path)
        raise InvalidRequest(
            f"{where} must be object, not {_name_of(value)}", code="invalid_type", param=where
        )


def _walk_keys(node: _Node, value: dict[str, Any], path: Path) -> None:
    """In the order of the table, so that of two flaws the same one is told as ever."""
    for name, below in node.keys.items():
        if name in value:
            found = value[name]
            if found.__class__ not in below.fits:
                _walk(below, found, (*path, name))
        elif below.is_required:
            _walk(below, None, (*path, name))


_JSON_TYPES = {
    "text": "string",
    "count": "integer",
    "number": "number",
    "integer": "integer",
    "boolean": "boolean",
    "list": "array",
    "object": "object",
}


def _describe_node(node: _Node) -> dict[str, Any]:
    schema = {} if node.demand is None else _describe_demand(node.demand)
    if node.items is not None:
        schema["items"] = _describe_node(node.items)
    if node.keys:
        schema["properties"] = {name: _describe_node(below) for name, below in node.keys.items()}
        if required := [name for name, below in node.keys.items() if below.is_required]:
            schema["required"] = required
    return schema


def _describe_demand(demand: _Demand) -> dict[str, Any]:
    null = () if demand.required else (None,)
    if demand.unsupported:
        return {"enum": [False, None]}
    if demand.allowed:
        return {"enum": [*demand.allowed, *null]}
    types = [_JSON_TYPES[name] for name in demand.names]
    schema: dict[str, Any] = {"type": types + ["null"] * len(null)}
    if demand.filled:
        schema |= {"minLength": 1} if "text" in demand.names else {}
        schema |= {"minItems": 1} if "list" in demand.names else {}
    return schema | ({"minimum": 1} if demand.counts else {})


def _say(path: Path) -> str:
    said = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return said.removeprefix(".")


def _name_of(value: Any) -> str:
    return next(
        (name for name, types in reversed(list(_SHAPES.items())) if type(value) in types),
        type(value).__name__,
    )
