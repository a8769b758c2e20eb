"""The binary event stream framing (length-prefixed messages with headers and check sums), read and written.

A message is: total length, header length, CRC of these two; headers; payload; CRC of all before. The name of the
event comes around its payload, so that templates see `{"contentBlockDelta": {...}}`; an exception comes as
`{"exception": {"type": name, ...}}`.
"""

import base64
import struct
import zlib
from binascii import Error as NotBase64
from functools import lru_cache
from typing import Any

import orjson

from engine.wire.frames import MAX_FRAME_BYTES, Frame, FramingBroke
from engine.wire.json_text import write_json

_PRELUDE = struct.Struct(">III")
_SIZES = struct.Struct(">II")
_U16 = struct.Struct(">H")
_U32 = struct.Struct(">I")
_FIXED_SIZES = {0: 0, 1: 0, 2: 1, 3: 2, 4: 4, 5: 8, 8: 8, 9: 16}
_LENGTH_PREFIXED = (6, 7)


class EventStreamSplitter:
    """Cuts messages out of the stream and checks their sums."""

    __slots__ = ("_pending",)

    def __init__(self) -> None:
        self._pending = b""

    def feed(self, received: bytes) -> list[Frame]:
        pending = self._pending + received if self._pending else received
        frames: list[Frame] = []
        start = 0
        while len(pending) - start >= _PRELUDE.size:
            total, headers, check = _PRELUDE.unpack_from(pending, start)
            if (
                zlib.crc32(pending[start : start + 8]) != check
                or total < headers + 16
                or total > MAX_FRAME_BYTES
            ):
                raise FramingBroke("not an event stream")
            if len(pending) - start < total:
                break
            frames.append(_read_message(pending[start : start + total], headers))
            start += total
        self._pending = pending[start:]
        return frames

    def close(self) -> list[Frame]:
        rest, self._pending = self._pending, b""
        if rest:
            raise FramingBroke("the event stream ended inside a message")
        return []


def _read_message(raw: bytes, headers_size: int) -> Frame:
    if zlib.crc32(raw[:-4]) != _U32.unpack_from(raw, len(raw) - 4)[0]:
        raise FramingBroke("a message of the event stream is damaged")
    headers = _read_headers(raw[12 : 12 + headers_size])
    payload = raw[12 + headers_size : -4] or b"{}"
    kind = headers.get(":message-type", "event")
    if kind == "event":
        name = headers.get(":event-type", "")
        if name == "chunk":
            return Frame(raw, name, _unwrap_chunk(payload))
        return Frame(raw, name, b"{" + orjson.dumps(name) + b":" + payload + b"}")
    name = headers.get(":exception-type") or headers.get(":error-code") or "error"
    said = {"type": name, "message": headers.get(":error-message") or _message_of(payload)}
    return Frame(raw, name, orjson.dumps({"exception": said}))


def _unwrap_chunk(payload: bytes) -> bytes:
    """`{"bytes": base64}` of an invoke stream holds an event of the model's own wire."""
    try:
        return base64.b64decode(orjson.loads(payload)["bytes"])
    except (orjson.JSONDecodeError, NotBase64, KeyError, TypeError):
        return payload


def _message_of(payload: bytes) -> str:
    try:
        said = orjson.loads(payload)
    except orjson.JSONDecodeError:
        return payload.decode("utf-8", "replace")
    found = said.get("message", said.get("Message")) if isinstance(said, dict) else None
    return found if isinstance(found, str) else ""


def _read_headers(block: bytes) -> dict[str, str]:
    headers: dict[str, str] = {}
    position = 0
    try:
        while position < len(block):
            size = block[position]
            name = block[position + 1 : position + 1 + size].decode()
            kind = block[position + 1 + size]
            position += 2 + size
            length = _FIXED_SIZES.get(kind, 0)
            if kind in _LENGTH_PREFIXED:
                (length,) = _U16.unpack_from(block, position)
                position += 2
            if kind == 7:
                headers[name] = block[position : position + length].decode("utf-8", "replace")
            position += length
    except (IndexError, struct.error, UnicodeDecodeError) as error:
        raise FramingBroke("a message of the event stream has broken headers") from error
    return headers


def write_eventstream_frame(body: Any, name: str | None) -> bytes:
    """One message. The name is `name`, else the one key around the payload."""
    kind = "event"
    if name is None and isinstance(body, dict) and len(body) == 1:
        ((name, body),) = body.items()
    if name == "exception":
        kind, name = "exception", str(body.get("type", "internalServerException"))
        body = {"message": body.get("message", "")}
    headers = _write_headers(kind, name or "event")
    payload = write_json(body)
    prelude = _SIZES.pack(16 + len(headers) + len(payload), len(headers))
    message = b"".join((prelude, _U32.pack(zlib.crc32(prelude)), headers, payload))
    return message + _U32.pack(zlib.crc32(message))


@lru_cache(maxsize=64)
def _write_headers(kind: str, name: str) -> bytes:
    """The headers of a message: a stream has a handful of kinds of events and thousands of each."""
    headers = ((f":{kind}-type", name), (":content-type", "application/json"), (":message-type", kind))
    return b"".join(_write_header(key, value) for key, value in headers)


def _write_header(name: str, value: str) -> bytes:
    name_bytes, value_bytes = name.encode(), value.encode()
    return bytes((len(name_bytes),)) + name_bytes + b"\x07" + _U16.pack(len(value_bytes)) + value_bytes
