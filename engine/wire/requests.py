"""A caller's JSON body becomes the call's request, or a 400 that names the field.

Only what the gateway itself relies on is checked; everything else is the provider's to judge and passes untouched.
"""

from collections.abc import Callable, Mapping
from typing import Any

import orjson

from engine.call import Call
from engine.errors import InvalidRequest
from engine.wire.json_text import parse_json

Check = Callable[[Any], bool]
LONGEST_MODEL = 512


def read_request(call: Call) -> None:
    """Parse `call.body` into `call.request` and take from it what routing needs."""
    request = parse_object(call.body)
    model = request.get("model")
    if not isinstance(model, str) or not model:
        raise _missing("model", "a string that names the model")
    if len(model) > LONGEST_MODEL:
        raise InvalidRequest(f"'model' is longer than {LONGEST_MODEL} characters", param="model")
    if not model.isascii() and model.encode("utf-8", "replace") != model.encode("utf-8", "surrogatepass"):
        raise InvalidRequest("'model' holds half of a surrogate pair", param="model")
    for name, (fits, wanted) in _OPTIONAL.items():
        if name in request and request[name] is not None and not fits(request[name]):
            raise InvalidRequest(f"{name!r} must be {wanted}", code="invalid_type", param=name)
    for name, (fits, wanted) in _REQUIRED.get(call.operation, {}).items():
        if name not in request or not fits(request[name]):
            raise _missing(name, wanted)
    call.request, call.requested_model = request, model
    call.stream = bool(request.get("stream")) and call.operation != "embeddings"
    options = request.get("stream_options")
    call.usage_asked = bool(options and options.get("include_usage"))


def parse_object(body: bytes) -> dict[str, Any]:
    """The JSON object of a body. Raises InvalidRequest with the place of the first mistake."""
    try:
        parsed = parse_json(body)
    except orjson.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise InvalidRequest(
            f"the body is not valid JSON ({where}: {error.msg})", code="invalid_json"
        ) from error
    except ValueError as error:
        raise InvalidRequest(f"the body is not valid JSON ({error})", code="invalid_json") from error
    if not isinstance(parsed, dict):
        raise InvalidRequest("the body must be a JSON object", code="invalid_json")
    return parsed


def _missing(name: str, wanted: str) -> InvalidRequest:
    return InvalidRequest(
        f"{name!r} is required and must be {wanted}", code="missing_required_field", param=name
    )


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_messages(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(message, dict) for message in value)


def _is_list(value: Any) -> bool:
    return isinstance(value, list)


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _is_input(value: Any) -> bool:
    return isinstance(value, str | list) and bool(value)


_OPTIONAL: Mapping[str, tuple[Check, str]] = {
    "stream": (_is_flag, "true or false"),
    "stream_options": (_is_object, "an object"),
    "n": (_is_count, "a whole number of at least 1"),
    "max_tokens": (_is_count, "a whole number of at least 1"),
    "max_completion_tokens": (_is_count, "a whole number of at least 1"),
    "temperature": (_is_number, "a number"),
    "top_p": (_is_number, "a number"),
    "tools": (_is_list, "a list"),
    "response_format": (_is_object, "an object"),
    "metadata": (_is_object, "an object"),
}
_REQUIRED: Mapping[str, Mapping[str, tuple[Check, str]]] = {
    "chat": {"messages": (_is_messages, "a list of at least one message object")},
    "completions": {"prompt": (_is_input, "a string or a list")},
    "embeddings": {"input": (_is_input, "a string or a list")},
}
