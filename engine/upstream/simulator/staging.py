"""Turns an answer and a script into what a connection sends: steps (pause, bytes, tokens) and an ending.

Pure: no socket, no clock. The order of the layers is that of the wire: events, SSE lines, compression, HTTP
chunks, the cutting of writes.
"""

import zlib
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from enum import Enum
from http import HTTPStatus
from itertools import chain
from typing import Any

import orjson

from engine.upstream.simulator.dialog import JSON, TOKEN, Event, Refused, Ticket, Wire, Written
from engine.upstream.simulator.errors import write_page
from engine.upstream.simulator.mischief import BARE, BREAK, script_events
from engine.upstream.simulator.names import ENDLESS, Script

Step = tuple[float, bytes, int]
"""Seconds to wait, what to send then, and how many tokens are in it."""

FLUSH_S = 0.02
"""Before a reset: what was written must have left, or the reset would take it back."""


class Ending(Enum):
    """What becomes of the connection once all steps are sent."""

    KEEP = "keep"
    CLOSE = "close"
    RESET = "reset"
    HOLD = "hold"


@dataclass(slots=True)
class Reply:
    """`status` is None when no header is ever sent."""

    status: int | None
    steps: Iterator[Step]
    ending: Ending
    counts: dict[str, int] | None = None


_ENDINGS = {
    "stall": Ending.HOLD,
    "cut": Ending.CLOSE,
    "cut-rst": Ending.RESET,
    "cut-clean": Ending.KEEP,
    "cut-in-event": Ending.CLOSE,
    "cut-in-chunk": Ending.CLOSE,
    "cut-in-tool-arguments": Ending.CLOSE,
}
_REASONS = {status.value: status.phrase for status in HTTPStatus} | {529: "Overloaded"}
_INTERIM = b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\n\r\n"
_HTML = b"text/html; charset=utf-8"


def stage_silence(script: Script) -> Reply | None:
    """The replies that never have a header, or None."""
    for word, ending in (("reset", Ending.RESET), ("close", Ending.CLOSE), ("silent", Ending.HOLD)):
        if word in script.parts:
            return Reply(None, iter(((_first_pause(script), b"", 0),)), ending)
    return None


def stage_refusal(refused: Refused, wire: Wire, ticket: Ticket, script: Script | None = None) -> Reply:
    """An error as the wire writes it, or as a page."""
    parts = script.parts if script is not None else {}
    page = "html" in parts
    body = write_page(refused) if page else wire.write_error(refused)
    more = b"" if page else wire.write_error_head(refused)
    if refused.retry_after_s:
        more += b"retry-after: %g\r\n" % refused.retry_after_s
    status = wire.statuses.get(refused.status, refused.status)
    head = _write_head(status, ticket, _HTML if page else JSON, len(body), more)
    pause = _first_pause(script) if script is not None else 0.0
    steps: Iterator[Step] = iter(((pause, head + body, 0),))
    if script is not None:
        steps = _cut_writes(script, steps)
    return Reply(status, steps, Ending.KEEP if ticket.keep_alive else Ending.CLOSE)


def stage_document(document: Any, ticket: Ticket, media: bytes = JSON, status: int = 200) -> Reply:
    """A plain answer that no script touches: bytes as they are, everything else as JSON."""
    body = document if isinstance(document, bytes) else orjson.dumps(document)
    steps: Iterator[Step] = iter(((0.0, _write_head(status, ticket, media, len(body)) + body, 0),))
    return Reply(status, steps, Ending.KEEP if ticket.keep_alive else Ending.CLOSE)


def stage_plain(script: Script, written: Written, ticket: Ticket, body: bytes) -> Reply:
    """A whole body with its length, broken in the ways that a plain body can break."""
    parts = script.parts
    ending = Ending.KEEP if ticket.keep_alive else Ending.CLOSE
    if "bad-event" in parts:
        body = body[:-1]
    if "gzip" in parts:
        body = _compress_whole(body)
    length: int | None = len(body)
    if "wrong-length" in parts:
        length, ending = len(body) + 64, Ending.CLOSE
    if "until-close" in parts:
        length, ending = None, Ending.CLOSE
    if script.breaks:
        body, ending = body[: len(body) // 2], _ENDINGS[script.breaks]
        ending = Ending.CLOSE if ending is Ending.KEEP else ending
    more = b"content-encoding: gzip\r\n" if "gzip" in parts else b""
    head = _write_head(written.status, ticket, _name_charset(script, written.media), length, more)
    if "1xx" in parts:
        head = _INTERIM + head
    pause = _first_pause(script) + parts.get("slow-first-token", 0) + parts.get("slow", 0)
    steps: Iterator[Step] = iter(((pause, head + body, written.tokens),))
    return _finish_reply(script, steps, ending, written)


def stage_stream(script: Script, wire: Wire, written: Written, ticket: Ticket) -> Reply:
    """Server-sent events in HTTP chunks (or until the close), with all that the script puts in their way."""
    parts = script.parts
    ending = _stream_ending(script, ticket)
    chunked = not ("until-close" in parts or ticket.http_1_0)
    more = b"cache-control: no-cache\r\n"
    more += b"transfer-encoding: chunked\r\n" if chunked else b""
    if "gzip" in parts:
        more += b"content-encoding: gzip\r\n"
    head = _write_head(200, ticket, _name_charset(script, wire.media), None, more)
    if "1xx" in parts:
        head = _INTERIM + head
    steps = _Pacer(script, wire, written).frame(script_events(script, wire, written))
    if "gzip" in parts:
        steps = _compress_steps(steps)
    if chunked and script.breaks == "cut-in-chunk":
        steps = _break_last_chunk(steps)
    elif chunked:
        whole = (not script.breaks or script.breaks == "cut-clean") and "no-done-open" not in parts
        steps = _chunk_steps(steps, ends=whole)
    steps = chain(((_first_pause(script), head, 0),), steps)
    return _finish_reply(script, steps, ending, written)


def _finish_reply(script: Script, steps: Iterator[Step], ending: Ending, written: Written) -> Reply:
    """Cut the writes; before a hang-up or a reset let time pass."""
    steps = _cut_writes(script, steps)
    if ending is Ending.KEEP and "hang-up" in script.parts:
        steps, ending = chain(steps, ((script.parts["hang-up"], b"", 0),)), Ending.CLOSE
    if ending is Ending.RESET:
        steps = chain(steps, ((FLUSH_S, b"", 0),))
    return Reply(written.status, steps, ending, written.counts.as_record())


def _stream_ending(script: Script, ticket: Ticket) -> Ending:
    if script.breaks:
        ending = _ENDINGS[script.breaks]
        if ending is not Ending.KEEP:
            return ending
    if "no-done-open" in script.parts:
        return Ending.HOLD
    if "until-close" in script.parts or ticket.http_1_0 or not ticket.keep_alive:
        return Ending.CLOSE
    return Ending.KEEP


def _write_head(status: int, ticket: Ticket, media: bytes, length: int | None, more: bytes = b"") -> bytes:
    head = b"HTTP/1.1 %d %b\r\ncontent-type: %b\r\nx-request-id: req_%b\r\n" % (
        status, _REASONS.get(status, "Unknown").encode(), media, ticket.number.encode()
    )  # fmt: skip
    if length is not None:
        head += b"content-length: %d\r\n" % length
    if not ticket.keep_alive:
        head += b"connection: close\r\n"
    return head + more + b"\r\n"


def _name_charset(script: Script, media: bytes) -> bytes:
    return media.partition(b";")[0] + b"; charset=iso-8859-1" if "charset" in script.parts else media


def _first_pause(script: Script) -> float:
    return script.parts.get("latency", 0.0) + script.parts.get("slow-headers", 0.0)


class _Pacer:
    """Frames events as the wire does and says how long to wait before each."""

    def __init__(self, script: Script, wire: Wire, written: Written) -> None:
        parts = script.parts
        self._breaks = script.breaks
        self._frame = wire.frame
        self._line = b"\r\n" if "crlf" in parts else b"\n"
        self._between = parts.get("chunk-ms", 0.0)
        if "slow" in parts:
            self._between = parts["slow"] / max(1, written.tokens)
        self._before_first = parts.get("slow-first-token", 0.0)
        self._comment = wire.comment.replace(b"\n", self._line)
        self._comment_every = parts.get("comments", ENDLESS) if wire.comment else ENDLESS

    def frame(self, events: Iterator[Event]) -> Iterator[Step]:
        line, between, write, first = self._line, self._between, self._frame, True
        pause = between + self._before_first
        if self._comment_every != ENDLESS:
            yield 0.0, self._comment, 0
        for kind, payload in events:
            if kind == TOKEN:
                if pause > self._comment_every:
                    pause = yield from self._give_signs(pause)
                yield pause, write(payload, line, first), 1
                pause = between
            elif kind == BREAK:
                yield from self._break_off(write(payload, line, first))
            else:
                yield 0.0, payload + line if kind == BARE else write(payload, line, first), 0
            first = False

    def _break_off(self, event: bytes) -> Iterator[Step]:
        if self._breaks in ("cut-in-event", "cut-in-chunk"):
            yield self._between, event[: len(event) // 2], 0
        while self._breaks == "stall" and self._comment_every != ENDLESS:
            yield self._comment_every, self._comment, 0

    def _give_signs(self, pause: float) -> Generator[Step, None, float]:
        """Comments during a long pause; what is left of it comes before the next event."""
        while pause > self._comment_every:
            yield self._comment_every, self._comment, 0
            pause -= self._comment_every
        return pause


def _chunk_steps(steps: Iterator[Step], *, ends: bool) -> Iterator[Step]:
    """HTTP/1.1 chunks, one for each step."""
    for pause, payload, tokens in steps:
        yield pause, b"%x\r\n%b\r\n" % (len(payload), payload), tokens
    if ends:
        yield 0.0, b"0\r\n\r\n", 0


def _break_last_chunk(steps: Iterator[Step]) -> Iterator[Step]:
    """Chunks, of which the last announces twice what comes."""
    held = next(steps)
    for step in steps:
        yield held[0], b"%x\r\n%b\r\n" % (len(held[1]), held[1]), held[2]
        held = step
    yield held[0], b"%x\r\n%b" % (len(held[1]) * 2, held[1]), held[2]


def _compress_whole(body: bytes) -> bytes:
    press = zlib.compressobj(wbits=31)
    return press.compress(body) + press.flush()


def _compress_steps(steps: Iterator[Step]) -> Iterator[Step]:
    press = zlib.compressobj(wbits=31)
    for pause, payload, tokens in steps:
        yield pause, press.compress(payload) + press.flush(zlib.Z_SYNC_FLUSH), tokens
    yield 0.0, press.flush(), 0


def _cut_writes(script: Script, steps: Iterator[Step]) -> Iterator[Step]:
    if "merged" in script.parts and script.breaks != "stall":
        return _merge_steps(steps)
    if "split" in script.parts:
        return _split_steps(steps, max(1, int(script.parts["split"])))
    return steps


def _merge_steps(steps: Iterator[Step]) -> Iterator[Step]:
    """One write after all the pauses."""
    whole = list(steps)
    yield sum(step[0] for step in whole), b"".join(step[1] for step in whole), sum(step[2] for step in whole)


def _split_steps(steps: Iterator[Step], size: int) -> Iterator[Step]:
    """Writes of `size` bytes, each in a turn of the loop of its own (a pause too short to be a timer)."""
    for pause, payload, tokens in steps:
        for at in range(0, len(payload), size):
            last = at + size >= len(payload)
            yield max(pause, 1e-9), payload[at : at + size], tokens if last else 0
            pause = 0.0
