"""JSON in and out: orjson, and the standard library where orjson is stricter than the providers are.

Half of a surrogate pair (`"\\ud83d"`, a text cut in the middle of an emoji) is what clients and models do send. It
passes, as an escape, just as it came.
"""

import json
import math
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
            return json.loads(text.decode(), parse_constant=_refuse_constant, parse_float=_read_number)
        except RecursionError as error:
            raise ValueError("the JSON is nested too deeply") from error


def write_json(value: Any) -> bytes:
    """The JSON text of a value. Raises ValueError when it has none."""
    try:
        return orjson.dumps(value)
    except TypeError:
        try:
            return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()
        except RecursionError as error:
            raise ValueError("the JSON is nested too deeply") from error


def _read_number(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{text[:40]} is no number that can be kept")
    return number


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
