"""Checks on request fields, refused with the words, the `param` and the `code` of the real servers."""

from collections.abc import Mapping
from typing import Any

from engine.upstream.simulator.dialog import Refused

_NAMES: dict[type, str] = {
    str: "a string",
    int: "an integer",
    float: "a decimal",
    bool: "a boolean",
    list: "an array",
    dict: "an object",
    type(None): "null",
}


def name_type(value: Any) -> str:
    return _NAMES.get(type(value), "something else")


def refuse_type(param: str, expected: str, value: Any) -> Refused:
    message = f"Invalid type for '{param}': expected {expected}, but got {name_type(value)} instead."
    return Refused(400, message, param=param, code="invalid_type")


def require(body: Mapping[str, Any], param: str) -> Any:
    if body.get(param) is None:
        raise Refused(
            400, f"Missing required parameter: '{param}'.", param=param, code="missing_required_parameter"
        )
    return body[param]


def read_model(body: Mapping[str, Any]) -> str:
    model = body.get("model")
    if not model:
        raise Refused(400, "you must provide a model parameter")
    if not isinstance(model, str):
        raise refuse_type("model", "a string", model)
    return model


def read_flag(body: Mapping[str, Any], param: str, default: bool = False) -> bool:
    value = body.get(param)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise refuse_type(param, "a boolean", value)
    return value


def read_number(body: Mapping[str, Any], param: str, low: float, high: float) -> float | None:
    """A number within bounds, or None when it is absent."""
    value = body.get(param)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise refuse_type(param, "a decimal", value)
    kind = "integer" if isinstance(value, int) else "decimal"
    if value < low:
        wrong = f"{kind} below minimum value. Expected a value >= {low:g}, but got {value} instead."
        raise Refused(400, f"Invalid '{param}': {wrong}", param=param, code=f"{kind}_below_min_value")
    if value > high:
        wrong = f"{kind} above maximum value. Expected a value <= {high:g}, but got {value} instead."
        raise Refused(400, f"Invalid '{param}': {wrong}", param=param, code=f"{kind}_above_max_value")
    return value


def read_whole(body: Mapping[str, Any], param: str, low: int, high: int) -> int | None:
    value = read_number(body, param, low, high)
    if value is not None and not isinstance(value, int):
        raise refuse_type(param, "an integer", value)
    return value


def read_stops(body: Mapping[str, Any]) -> tuple[str, ...]:
    stop = body.get("stop")
    stops = [] if stop is None else [stop] if isinstance(stop, str) else stop
    if not isinstance(stops, list) or not all(isinstance(one, str) for one in stops):
        raise refuse_type("stop", "a string or an array of strings", stop)
    if len(stops) > 4:
        wrong = f"Expected an array with maximum length 4, but got one with length {len(stops)} instead."
        raise Refused(
            400, f"Invalid 'stop': array too long. {wrong}", param="stop", code="array_above_max_length"
        )
    return tuple(stops)


def read_usage_flag(body: Mapping[str, Any], stream: bool) -> bool:
    options = body.get("stream_options")
    if options is None:
        return False
    if not isinstance(options, dict):
        raise refuse_type("stream_options", "an object", options)
    if not stream:
        message = "The 'stream_options' parameter is only allowed when 'stream' is enabled."
        raise Refused(400, message, param="stream_options")
    return read_flag(options, "include_usage")


def check_sampling(body: Mapping[str, Any]) -> None:
    """The numbers that shape sampling change nothing here, but wrong ones are refused."""
    for param, low, high in (
        ("temperature", 0, 2),
        ("top_p", 0, 1),
        ("presence_penalty", -2, 2),
        ("frequency_penalty", -2, 2),
    ):
        if param in body:
            read_number(body, param, low, high)
