"""JSON in and out: orjson, and the standard library where orjson is stricter than the providers are.

Half of a surrogate pair (`"\\ud83d"`, a text cut in the middle of an emoji) is what clients and models do send. It
passes, as an escape, just as it came.
"""

import json
from typing import Any, NoReturn

import orjson


def parse_json(text: bytes) -> Any:
    """The value of a JSON text. Raises ValueError (orjson.JSONDecodeError has the line and column)."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        if b"\\ud" not in text and b"\\uD" not in text:
            raise
        try:
            return json.loads(text, parse_constant=_refuse_constant)
        except RecursionError as error:
            raise ValueError("the JSON is nested too deeply") from error


def write_json(value: Any) -> bytes:
    """The JSON text of a value."""
    try:
        return orjson.dumps(value)
    except TypeError:
        return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
