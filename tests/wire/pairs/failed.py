"""Errors of providers, before an answer and inside a stream, and what a client must find in an error of its dialect."""

from json import dumps, loads
from typing import Any

from tests.wire.pairs.grammar import ANY
from tests.wire.pairs.streamed import write_message

MESSAGE = "slow down, please"

# A refusal for having asked too often, as each provider words it.
REFUSALS: dict[str, Any] = {
    "openai-chat": {
        "error": {
            "message": MESSAGE,
            "type": "rate_limit_error",
            "param": None,
            "code": "rate_limit_exceeded",
        }
    },
    "openai-responses": {
        "error": {
            "message": MESSAGE,
            "type": "rate_limit_error",
            "param": None,
            "code": "rate_limit_exceeded",
        }
    },
    "anthropic-messages": {"type": "error", "error": {"type": "rate_limit_error", "message": MESSAGE}},
    "gemini": {"error": {"code": 429, "message": MESSAGE, "status": "RESOURCE_EXHAUSTED"}},
    "bedrock-converse": {"message": MESSAGE, "__type": "ThrottlingException"},
    "cohere": {"id": "c-9", "message": MESSAGE},
}
_RESPONSE = {
    "id": "resp_1",
    "object": "response",
    "created_at": 1,
    "status": "failed",
    "model": "up-1",
    "output": [],
}
# The same, after the answer has begun.
_FAILURES: dict[str, Any] = {
    "openai-chat": REFUSALS["openai-chat"],
    "openai-responses": {
        "type": "response.failed",
        "response": {**_RESPONSE, "error": {"code": "rate_limit_exceeded", "message": MESSAGE}},
    },
    "anthropic-messages": REFUSALS["anthropic-messages"],
    "gemini": REFUSALS["gemini"],
    "cohere": {"type": "message-end", "delta": {"finish_reason": "ERROR", "error": MESSAGE}},
}

# Of an error that a client reads: status 429 where the body says it.
ERRORS: dict[str, Any] = {
    "openai-chat": {
        "error": {"message": str, "type": str, "param": (str, None), "code": (str, None)},
        "request_id?": str,
    },
    "openai-responses": {"error": {"message": str, "type": str, "param": (str, None), "code": (str, None)}},
    "anthropic-messages": {
        "type": "error",
        "error": {"type": "rate_limit_error", "message": str},
        "request_id": (str, None),
    },
    "gemini": {"error": {"code": 429, "message": str, "status": "RESOURCE_EXHAUSTED", "details?": [ANY]}},
    "bedrock-converse": {"message": str, "__type": "ThrottlingException"},
    "cohere": {"id?": str, "message": str},
}


def fail_inside(dialect: str) -> bytes:
    """The frame with which a provider breaks off."""
    if dialect == "bedrock-converse":
        return write_message({"throttlingException": {"message": MESSAGE}}, exception=True)
    event = _FAILURES[dialect]
    name = f"event: {event['type']}\n".encode() if "type" in event else b""
    return name + b"data: " + dumps(event).encode() + b"\n\n"


def read_failure(dialect: str, raw: bytes) -> str:
    """The message that a client's SDK raises on, from the last frames of a stream."""
    if dialect == "bedrock-converse":
        assert b":exception-type" in raw and b"throttlingException" in raw
        return str(loads(raw[raw.rindex(b"{") : raw.rindex(b"}") + 1])["message"])
    events = [loads(frame.split(b"data: ")[1]) for frame in raw.split(b"\n\n") if frame]
    last = events[-1]
    if dialect == "openai-responses":
        assert last["type"] == "response.failed" and last["response"]["status"] == "failed"
        return str(last["response"]["error"]["message"])
    if dialect == "cohere":
        assert last["type"] == "message-end" and last["delta"]["finish_reason"] == "ERROR"
        return str(last["delta"]["error"])
    return str(last["error"]["message"])
