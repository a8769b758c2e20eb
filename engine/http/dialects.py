"""How an error is worded for a client: by the `write_error` and the `failed` row of the format that it speaks.

Also the change of framing at the rim, for doors whose streams are cut otherwise than their format writes them.
"""

from typing import Any

from engine.errors import GatewayError, ProviderError
from engine.wire.canonical import Failed
from engine.wire.expressions import TemplateFailed
from engine.wire.formats import Format
from engine.wire.json_text import write_json
from engine.wire.streams import StreamWriter

Headers = list[tuple[bytes, bytes]]


def write_error(format: Format, error: GatewayError, request_id: str) -> bytes:
    """The whole body of an error answer."""
    return write_json(format.write_error(describe_error(error, request_id)))


def write_stream_error(
    format: Format, error: GatewayError, request_id: str, writer: StreamWriter | None
) -> bytes:
    """The last bytes of a begun stream: what the dialect's SDKs raise on. Nothing follows, for it is not whole."""
    said = ProviderError(error.message, error.type, error.code, error.param)
    failed = Failed(said, status=error.status, kind=error.code)
    writer = writer or format.new_stream_writer({"id": request_id})
    return writer.write_failure(failed, request_id)


def describe_error(error: GatewayError, request_id: str) -> dict[str, Any]:
    """An error as templates see it."""
    return {
        "status": error.status,
        "message": error.message,
        "type": error.type,
        "code": error.code,
        "param": error.param,
        "request_id": request_id,
    }


def write_error_headers(format: Format, error: GatewayError, request_id: str) -> Headers:
    """Headers that the dialect's clients read an error from."""
    try:
        written = format.write_error_headers(describe_error(error, request_id))
    except TemplateFailed:
        return []
    return [(name.encode(), str(value).encode("ascii", "replace")) for name, value in written.items()]
