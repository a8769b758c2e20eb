"""What a dialect demands of a request, as a table of paths and shapes; a body that breaks it names the field.

model: text!                      `!` must be there; a null counts as not there
messages: list!
messages[].role: [system, user, "!"]   one of these values
stop: text | list
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from engine.errors import InvalidRequest

Path = tuple[str | int, ...]
Check = Callable[[Any], None]

_SHAPES: Mapping[str, tuple[type, ...]] = {
    "text": (str,),
    "number": (int, float),
    "integer": (int,),
    "boolean": (bool,),
    "list": (list,),
    "object": (dict,),
}
_WORDS = re.compile(r"^\s*\w+(\s*\|\s*\w+)*\s*!?\s*$")


def compile_accepts(raw: Mapping[str, Any], problems: list[tuple[Path, str]]) -> Check:
    """A function that raises InvalidRequest for the first field that breaks the table."""
    rules = [_compile_rule(path, shape, problems) for path, shape in raw.items()]

    def check(body: Any) -> None:
        for steps, demand in rules:
            _walk(body, steps, "", demand)

    return check


class _Demand:
    def __init__(self, names: Sequence[str], allowed: tuple[Any, ...], required: bool) -> None:
        self.names = names
        self.types = tuple(kind for name in names for kind in _SHAPES.get(name, ()))
        self.allowed = allowed
        self.required = required

    def check(self, value: Any, where: str) -> None:
        if value is None:
            if self.required:
                raise InvalidRequest(f"{where} is required", code="missing_required_parameter", param=where)
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


def _compile_rule(path: str, shape: Any, problems: list[tuple[Path, str]]) -> tuple[list[str], _Demand]:
    steps = str(path).replace("[]", ".[]").split(".")
    if isinstance(shape, list):
        return steps, _Demand((), tuple(value for value in shape if value != "!"), required="!" in shape)
    if not isinstance(shape, str) or not _WORDS.match(shape):
        problems.append((("accepts", path), "a shape such as `text!` or a list of values is expected"))
        return steps, _Demand(("text",), (), required=False)
    names = [name.strip() for name in shape.strip().removesuffix("!").split("|")]
    for name in names:
        if name not in _SHAPES:
            problems.append((("accepts", path), f"no shape named {name!r} ({', '.join(_SHAPES)})"))
    return steps, _Demand(names, (), required=shape.strip().endswith("!"))


def _walk(value: Any, steps: Sequence[str], where: str, demand: _Demand) -> None:
    if not steps:
        demand.check(value, where)
    elif steps[0] == "[]":
        for number, item in enumerate(value if isinstance(value, list) else ()):
            _walk(item, steps[1:], f"{where}[{number}]", demand)
    elif isinstance(value, dict):
        _walk(value.get(steps[0]), steps[1:], f"{where}.{steps[0]}" if where else steps[0], demand)
    elif value is not None and where:
        raise InvalidRequest(
            f"{where} must be object, not {_name_of(value)}", code="invalid_type", param=where
        )


def _name_of(value: Any) -> str:
    return next(
        (name for name, types in reversed(list(_SHAPES.items())) if type(value) in types),
        type(value).__name__,
    )
