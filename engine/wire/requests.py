"""A caller's JSON body becomes the call's request, or a 400 that names the field.

Only the outline of the body is checked (the top rows of the format's `accepts`); everything else is the provider's to
judge and passes untouched.
"""

from typing import Any

import orjson

from engine.call import Call
from engine.errors import InvalidRequest
from engine.wire.formats import Format
from engine.wire.json_text import parse_json

LONGEST_MODEL = 512


def read_request(call: Call) -> None:
    """Parse `call.body` into `call.request` and take from it, or from the path, what routing needs."""
    request, door = parse_object(call.body), call.door
    side = door.format.client
    door.format.check_outline(request)
    call.requested_model = read_model(call.named_model if door.names_model else request.get("model"))
    call.request = request
    if door.serving.stream is not None:
        call.stream = door.serving.stream
    else:
        call.stream = side.stream_key is not None and bool(request.get(side.stream_key))
    call.usage_asked = side.usage_asked is None or bool(side.usage_asked(request))


TRUE = frozenset(("true", "True", "1"))


def read_form(call: Call, request: dict[str, Any]) -> None:
    """Take the text fields of a form as the call's request."""
    format = call.door.format
    format.check_outline(request)
    call.requested_model = read_model(request.get("model"))
    call.request = request
    call.stream = format.client.stream_key is not None and request.get(format.client.stream_key) in TRUE
    call.usage_asked = format.client.usage_asked is None


def describe_asking(call: Call) -> dict[str, Any]:
    """What a request says beside its body, as templates see it."""
    return {"model": call.requested_model, "stream": call.stream}


def read_chat(call: Call, surface: Format) -> dict[str, Any]:
    """The chat that the call asks for, read once for all targets. Raises InvalidRequest with the field."""
    if call.chat is None:
        call.chat = surface.read_request(call.request, describe_asking(call))
    return call.chat


def read_model(model: Any) -> str:
    if not isinstance(model, str) or not model:
        raise InvalidRequest(
            "'model' is required and must be a string that names the model",
            code="missing_required_parameter",
            param="model",
        )
    if len(model) > LONGEST_MODEL:
        raise InvalidRequest(f"'model' is longer than {LONGEST_MODEL} characters", param="model")
    if not model.isascii() and model.encode("utf-8", "replace") != model.encode("utf-8", "surrogatepass"):
        raise InvalidRequest("'model' holds half of a surrogate pair", param="model")
    return model


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
