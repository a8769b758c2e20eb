"""Byte streams cut into events, and events written as bytes. Incremental: bytes may be cut anywhere.

Every splitter keeps the raw bytes of each event, so that the raw bytes of all frames, one after another, are the
stream. Feeding byte by byte and feeding everything at once give the same frames. A framing is a named verb that a
format chooses; binary event streams have their own module.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from engine.wire.eventstream import EventStreamSplitter, write_eventstream_frame
from engine.wire.frames import MAX_FRAME_BYTES, Frame, FramingBroke
from engine.wire.json_text import write_json


class Splitter(Protocol):
    """`data` of a frame is the JSON text of the event, or None when it has none (a comment, a blank line)."""

    def feed(self, received: bytes) -> list[Frame]:
        """The events that are whole now. Raises FramingBroke when the bytes cannot be cut."""
        ...

    def close(self) -> list[Frame]:
        """What is left when the stream has ended: the last event may lack its end."""
        ...


# One line end and another: a blank line. Atomic, so that a CR LF is never read as two ends.
_BLANK_LINE = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)")
_LINE_END = re.compile(rb"\r\n|\n|\r")


class SseSplitter:
    """Server-sent events with any of the three line ends, comments, several data lines."""

    __slots__ = ("_looked", "_pending")

    def __init__(self) -> None:
        self._pending = b""
        self._looked = 0

    def feed(self, received: bytes) -> list[Frame]:
        pending = self._pending + received if self._pending else received
        if b"\r" not in pending:
            return self._cut_at_line_feeds(pending)
        frames: list[Frame] = []
        start, look = 0, max(0, self._looked - 3)
        while (match := _BLANK_LINE.search(pending, look)) is not None:
            end = match.end()
            if end == len(pending) and pending[-1] == 13:
                break  # the LF that belongs to this CR may be the next byte
            frames.append(_read_sse(pending[start:end]))
            start = look = end
        self._keep(pending[start:])
        return frames

    def _cut_at_line_feeds(self, pending: bytes) -> list[Frame]:
        """What nearly every stream is, for a quarter of the time."""
        frames: list[Frame] = []
        start, blank = 0, pending.find(b"\n\n", max(0, self._looked - 1))
        while blank >= 0:
            frames.append(_read_sse(pending[start : blank + 2]))
            start = blank + 2
            blank = pending.find(b"\n\n", start)
        self._keep(pending[start:])
        return frames

    def close(self) -> list[Frame]:
        rest, self._pending, self._looked = self._pending, b"", 0
        return [_read_sse(rest)] if rest else []

    def _keep(self, rest: bytes) -> None:
        if len(rest) > MAX_FRAME_BYTES:
            raise FramingBroke(f"an event is larger than {MAX_FRAME_BYTES} bytes")
        self._pending, self._looked = rest, len(rest)


def _read_sse(raw: bytes) -> Frame:
    if raw.endswith(b"\n\n") and b"\r" not in raw:
        last = len(raw) - 2
        if raw.startswith(b"data: "):
            if raw.find(b"\n", 6) == last:
                return Frame(raw, None, raw[6:last])
        elif raw.startswith(b"event: "):
            start = raw.find(b"\n") + 1
            if raw.startswith(b"data: ", start) and raw.find(b"\n", start) == last:
                return Frame(raw, raw[7 : start - 1].decode("utf-8", "replace"), raw[start + 6 : last])
    name: str | None = None
    data: list[bytes] = []
    for line in _LINE_END.split(raw.removeprefix(b"\xef\xbb\xbf")):
        key, _, value = line.partition(b":")
        if key == b"data":
            data.append(value.removeprefix(b" "))
        elif key == b"event":
            name = value.removeprefix(b" ").decode("utf-8", "replace")
    return Frame(raw, name, b"\n".join(data) if data else None)


class LineSplitter:
    """One JSON text in each line (NDJSON); blank lines are frames without data."""

    __slots__ = ("_pieces", "_size")

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._size = 0

    def feed(self, received: bytes) -> list[Frame]:
        if b"\n" not in received:
            self._keep(received)
            return []
        whole, end, rest = b"".join((*self._pieces, received)).rpartition(b"\n")
        self._pieces.clear()
        self._size = 0
        self._keep(rest)
        return [_read_line(line + end) for line in whole.split(b"\n")]

    def close(self) -> list[Frame]:
        rest = b"".join(self._pieces)
        self._pieces.clear()
        return [_read_line(rest)] if rest else []

    def _keep(self, rest: bytes) -> None:
        self._size += len(rest)
        if self._size > MAX_FRAME_BYTES:
            raise FramingBroke(f"a line is larger than {MAX_FRAME_BYTES} bytes")
        if rest:
            self._pieces.append(rest)


def _read_line(raw: bytes) -> Frame:
    return Frame(raw, None, raw.strip() or None)


_STRUCTURE = re.compile(rb'[\[\]{}"\\]')


class ArraySplitter:
    """A JSON array that arrives item by item: each object in it is an event. A lone object is one, too."""

    __slots__ = ("_depth", "_escaped", "_in_text", "_looked", "_pending", "_start")

    def __init__(self) -> None:
        self._pending = b""
        self._looked = 0
        self._start = -1
        self._depth = 0
        self._in_text = False
        self._escaped = -1

    def feed(self, received: bytes) -> list[Frame]:
        pending = self._pending + received
        frames: list[Frame] = []
        sent = 0
        for match in _STRUCTURE.finditer(pending, self._looked):
            position = match.start()
            if self._opens_or_closes(position, pending[position]):
                frames.append(Frame(pending[sent : position + 1], None, pending[self._start : position + 1]))
                sent, self._start = position + 1, -1
        self._looked = len(pending) - sent
        self._start -= sent if self._start >= 0 else 0
        self._escaped -= sent
        self._pending = pending[sent:]
        if len(self._pending) > MAX_FRAME_BYTES:
            raise FramingBroke(f"an item is larger than {MAX_FRAME_BYTES} bytes")
        return frames

    def close(self) -> list[Frame]:
        rest, self._pending, self._looked = self._pending, b"", 0
        if not rest:
            return []
        return [Frame(rest, None, rest[self._start :] if self._start >= 0 else None)]

    def _opens_or_closes(self, position: int, byte: int) -> bool:
        """Note one structural byte. True when it ends an item."""
        if position == self._escaped:
            return False
        if self._in_text:
            if byte == 92:
                self._escaped = position + 1
            elif byte == 34:
                self._in_text = False
            return False
        if byte == 34:
            self._in_text = True
        elif byte == 123:
            self._start = position if self._depth == 0 else self._start
            self._depth += 1
        elif byte == 125 and self._depth:
            self._depth -= 1
            return self._depth == 0
        elif byte in b"[]" and self._depth:
            return False
        return False


class WholeSplitter:
    """A plain answer: everything is one event, known when the stream has ended."""

    __slots__ = ("_pieces", "_size")

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._size = 0

    def feed(self, received: bytes) -> list[Frame]:
        self._size += len(received)
        if self._size > MAX_FRAME_BYTES:
            raise FramingBroke(f"an answer is larger than {MAX_FRAME_BYTES} bytes")
        self._pieces.append(received)
        return []

    def close(self) -> list[Frame]:
        whole = b"".join(self._pieces)
        self._pieces.clear()
        return [Frame(whole, None, whole.strip() or None)] if whole else []


def write_sse_frame(body: Any, name: str | None) -> bytes:
    text = write_json(body)
    return (
        b"data: " + text + b"\n\n"
        if name is None
        else b"event: " + name.encode() + b"\ndata: " + text + b"\n\n"
    )


def write_line_frame(body: Any, name: str | None) -> bytes:
    return write_json(body) + b"\n"


FrameWriter = Callable[[Any, str | None], bytes]

SPLITTERS: Mapping[str, Callable[[], Splitter]] = {
    "sse": SseSplitter,
    "ndjson": LineSplitter,
    "json_array": ArraySplitter,
    "json": WholeSplitter,
    "eventstream": EventStreamSplitter,
}
FRAME_WRITERS: Mapping[str, FrameWriter] = {
    "sse": write_sse_frame,
    "ndjson": write_line_frame,
    "json_array": write_line_frame,
    "json": write_line_frame,
    "eventstream": write_eventstream_frame,
}


MEDIA_TYPES: Mapping[str, str] = {
    "sse": "text/event-stream; charset=utf-8",
    "ndjson": "application/x-ndjson",
    "json_array": "application/json",
    "json": "application/json",
    "eventstream": "application/vnd.amazon.eventstream",
}


def split_all(framing: str, pieces: Iterable[bytes]) -> list[Frame]:
    """All frames of a stream that is at hand as a whole."""
    splitter = SPLITTERS[framing]()
    frames = [frame for piece in pieces for frame in splitter.feed(piece)]
    return [*frames, *splitter.close()]
