"""How each surface words an error and shows that it is alive. One `Dialect` for each family of clients."""

from collections.abc import Callable
from dataclasses import dataclass

from engine.errors import GatewayError
from engine.wire.json_text import write_json

Writer = Callable[[GatewayError, str], bytes]


@dataclass(frozen=True, slots=True)
class Dialect:
    """write_error: the whole body of an error answer. write_stream_error: the last bytes of a begun stream."""

    name: str
    write_error: Writer
    write_stream_error: Writer
    sign_of_life: bytes


def _write_openai_error(error: GatewayError, request_id: str) -> bytes:
    facts = {"message": error.message, "type": error.type, "param": error.param, "code": error.code}
    return write_json({"error": facts, "request_id": request_id})


def _write_openai_stream_error(error: GatewayError, request_id: str) -> bytes:
    """The SDKs raise on an event with a top-level `error`; no [DONE] follows, for the answer is not whole."""
    return b"data: " + _write_openai_error(error, request_id) + b"\n\n"


OPENAI = Dialect("openai", _write_openai_error, _write_openai_stream_error, b": keep-alive\n\n")
