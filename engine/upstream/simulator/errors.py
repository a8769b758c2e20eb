"""Which refusals the behaviours stand for, and the OpenAI dialect's error object."""

import orjson

from engine.upstream.simulator.dialog import Ask, Refused
from engine.upstream.simulator.names import Script

# status: (type, code, message)
_STATUS: dict[int, tuple[str, str | None, str]] = {
    400: ("invalid_request_error", None, "The request is not valid."),
    401: ("invalid_request_error", "invalid_api_key", "Incorrect API key provided."),
    402: ("insufficient_quota", "insufficient_credits", "Insufficient credits. Add more to go on."),
    403: ("permission_error", "access_denied", "You are not allowed to use this model."),
    404: (
        "invalid_request_error",
        "model_not_found",
        "The model does not exist or you do not have access to it.",
    ),
    408: ("timeout_error", "request_timeout", "The request took too long to arrive."),
    409: ("conflict_error", "conflict", "The request conflicts with another one."),
    413: ("invalid_request_error", "request_too_large", "The request is too large."),
    422: ("invalid_request_error", "unprocessable", "The request cannot be processed."),
    429: ("rate_limit_error", "rate_limit_exceeded", "Rate limit reached for requests. Try again later."),
    500: ("server_error", None, "The server had an error while processing your request. Sorry about that!"),
    502: ("server_error", "bad_gateway", "Bad gateway."),
    503: (
        "server_error",
        "service_unavailable",
        "The engine is currently overloaded, please try again later.",
    ),
    504: ("server_error", "gateway_timeout", "Gateway timeout."),
    529: ("overloaded_error", "overloaded", "Overloaded."),
}
_FILTERED = {
    "content_filter_result": {
        "violence": {"filtered": True, "severity": "high"},
        "hate": {"filtered": False, "severity": "safe"},
    }
}


def make_refusal(status: int, retry_after_s: float = 0) -> Refused:
    kind, code, message = _STATUS[status]
    refused = Refused(status, message, type=kind, code=code)
    refused.retry_after_s = retry_after_s
    return refused


def find_refusal(script: Script, ask: Ask) -> Refused | None:
    """The refusal that the model's name asks for, if any."""
    parts = script.parts
    if script.status is not None:
        return make_refusal(script.status, parts[str(script.status)])
    if "context-length" in parts:
        message = (
            "This model's maximum context length is 8192 tokens. "
            "However, your messages resulted in 9001 tokens."
        )
        return Refused(400, message, code="context_length_exceeded", param="messages")
    if "content-filter" in parts:
        message = "The prompt was refused by the content filter: violence (severity high)."
        return Refused(400, message, code="content_filter", param="prompt", details={"innererror": _FILTERED})
    if "no-prefill" in parts and ask.prefill is not None:
        message = (
            "This model does not support assistant message prefill. "
            "The conversation must end with a user message."
        )
        return Refused(400, message)
    return None


def write_error(refused: Refused) -> bytes:
    error = {"message": refused.message, "type": refused.type, "param": refused.param, "code": refused.code}
    return orjson.dumps({"error": {**error, **refused.details}})


def write_page(refused: Refused) -> bytes:
    """The same refusal as a proxy's HTML page."""
    title = f"{refused.status} {refused.type}"
    return f"<html><head><title>{title}</title></head><body><h1>{title}</h1></body></html>\n".encode()
