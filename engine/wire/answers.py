"""The sans-IO readers between an upstream's bytes and a client's bytes: one interface, four situations.

`AnswerReader` is what the corridor pumps: `feed` takes bytes as they came off the network and returns bytes that may
go to the client now; the end of the answer is kept in `tail` until the call is settled. `SameWireStream` and
`SameWireAnswer` pass the upstream's own bytes; translation and rescue implement the same interface elsewhere.
"""

from typing import Any, Protocol

import orjson

from engine.errors import UpstreamFailure
from engine.wire.event_look import EventLook
from engine.wire.formats import Format
from engine.wire.json_text import parse_json
from engine.wire.look import Look, Seen
from engine.wire.mould import Mould, learn_mould
from engine.wire.usage import Usage

MAX_EVENT_BYTES = 16 * 1024 * 1024
LESSONS = 40
"""How often a stream's text events are learnt anew: some differ in more than their text, and are parsed instead."""
_LF, _CRLF = b"\n\n", b"\r\n\r\n"
_DATA = b"\ndata: "


class AnswerReader(Protocol):
    """One answer being read.

    begun: content was seen (the commit point).  ended: the answer is whole.  settling: only its end is missing.
    failure: the provider failed in-band, behind bytes that `feed` has just given out.
    """

    begun: bool
    ended: bool
    settling: bool
    tail: bytes
    damaged: int
    texts: list[str]
    carries: bool
    failure: UpstreamFailure | None

    @property
    def usage(self) -> Usage | None:
        """What was used so far, if the provider has said it."""
        ...

    def feed(self, data: bytes) -> bytes:
        """Take what arrived, return what may be sent. Raises UpstreamFailure while nothing was given out yet."""
        ...

    def close(self) -> bytes:
        """The upstream ended its answer. Raises UpstreamFailure("broken_stream") when it was not whole."""
        ...

    def finish(self) -> None:
        """End a `settling` answer whose last bytes never came."""
        ...


def fail_in_band(format: Format, error: Any, doc: Any = None) -> UpstreamFailure:
    """The failure that an error object inside an HTTP 200 means."""
    status = 0
    if isinstance(error, dict):
        code = error.get("code") or error.get("status") or error.get("http_status")
        text = str(code) if isinstance(code, int | str) else ""
        status = int(text) if len(text) == 3 and text.isdecimal() else 0
    status = status if 400 <= status <= 599 else 502
    facts = format.read_error(status, doc if doc is not None else {"error": error}, "")
    kind = format.kind_of_error(status, facts) or str(status)
    return UpstreamFailure(kind, facts.message or "the provider sent an error", status=status, error=facts)


class SameWireStream:
    """A stream whose client and provider speak the same wire: whole events pass as they are.

    Held back: everything before the first content (so that a failure keeps its true status), and everything from
    the last finish on (so that the call is settled before it ends). Dropped: the usage chunk that only we asked
    for, and events that are not JSON.
    """

    __slots__ = (
        "_blank",
        "_choices",
        "_counts",
        "_done",
        "_finished",
        "_format",
        "_held",
        "_lessons",
        "_look",
        "_mould",
        "_partial",
        "_passed",
        "begun",
        "carries",
        "damaged",
        "ended",
        "failure",
        "first_read",
        "hide_usage",
        "settling",
        "tail",
        "texts",
        "usage",
    )

    def __init__(self, format: Format, look: Look | EventLook, *, hide_usage: bool, choices: int = 1) -> None:
        self._format = format
        self._look = look
        self._done = format.done
        self._choices = choices
        self._finished: set[int] = set()
        self._counts: dict[str, Any] = {}
        self._held: list[bytes] = []
        self._partial = self._passed = b""
        self._blank: bytes | None = None
        """What ends an event of this stream; None until that is known."""
        self._mould: Mould | None = None
        self._lessons = LESSONS
        self.first_read = b""
        """The first whole events, from which a rescue takes the stream's id."""
        self.hide_usage = hide_usage
        self.begun = self.ended = self.settling = False
        self.carries = not look.can_be_rescued
        self.tail = b""
        self.texts: list[str] = []
        self.usage: Usage | None = None
        self.failure: UpstreamFailure | None = None
        self.damaged = 0

    def feed(self, data: bytes) -> bytes:
        mould = self._mould
        if (
            mould is not None
            and not self._partial
            and data.endswith(mould.behind)
            and self._take_run(data, 0)
        ):
            return data
        whole = self._take_whole_events(data)
        if not whole:
            return b""
        if not self.begun:
            self.first_read += whole
        had_begun = self.begun
        try:
            whole = self._look_at(whole)
        except UpstreamFailure as failure:
            if not had_begun:
                self._forget_beginning()
                raise
            self.failure = failure
            whole = self._passed
        return self._release(whole)

    def close(self) -> bytes:
        had_begun, out = self.begun, b""
        if self._partial.strip():
            self._partial = self._partial.rstrip(b"\r\n")
            out = self.feed(self._blank or _LF)
        if self.ended or self.failure is not None:
            return out
        if self.settling:
            self.finish()
            return out
        cut = UpstreamFailure("broken_stream", "the provider's stream ended before the answer did")
        if not had_begun:
            self._forget_beginning()
        if not had_begun or not out:
            raise cut
        self.failure = cut
        return out

    def finish(self) -> None:
        """End the answer ourselves: everything is here but the last mark."""
        if not self.ended and self._done is not None:
            self.tail += b"data: " + self._done + (self._blank or _LF)
        self.ended = True

    def _look_at(self, whole: bytes) -> bytes:
        """The events of one read that may go out. On a failure `_passed` holds those before it."""
        blank, kept, position, start = self._blank or _LF, list[bytes](), 0, 0
        while position < len(whole):
            end = self._take_run(whole, position) or self._take_text(whole, position, blank)
            if not end:
                end = whole.index(blank, position) + len(blank)
                try:
                    passes = self._pass_event(whole[position:end])
                except UpstreamFailure:
                    self._passed = b"".join((*kept, whole[start:position]))
                    raise
                if not passes:
                    kept.append(whole[start:position])
                    start = end
            position = end
        return b"".join((*kept, whole[start:])) if start else whole

    def _take_run(self, whole: bytes, start: int) -> int:
        """Note the texts of as many events as look like the last one; where they end, 0 for none."""
        mould = self._mould
        if mould is None or self.settling or not whole.startswith(mould.before, start):
            return 0
        end = mould.find_run(whole, start)
        texts = mould.read_texts(whole, start, end) if end > start else None
        if texts is None:
            self._mould = None
            return 0
        self.texts += texts
        return end

    def _take_text(self, whole: bytes, start: int, blank: bytes) -> int:
        """Note the text of the one event at `start` and learn how it is written; where it ends, 0 if it is no text."""
        head = whole[start : start + 7]
        if self.settling or (head != b"data: {" and head != b"event: "):
            return 0
        end = whole.index(blank, start) + len(blank)
        event = whole[start:end].rstrip(blank)
        data = 6 if head == b"data: {" else event.find(_DATA) + len(_DATA)
        try:
            text = self._look.plain_text(orjson.loads(event[data:]))
        except orjson.JSONDecodeError:
            return 0
        if text is None:
            return 0
        self.texts.append(text)
        self.begun = True
        if self._lessons:
            self._lessons -= 1
            self._mould = learn_mould(event, blank, self._look.text[-1], text)
        return end

    def _forget_beginning(self) -> None:
        """Content that never goes out was not said, and the next target may answer from the beginning."""
        self.begun = False
        self.carries = not self._look.can_be_rescued
        self.texts.clear()

    def _take_whole_events(self, data: bytes) -> bytes:
        if self._partial:
            data = self._partial + data
        if b"\r" in data or self._blank is _CRLF:
            data = self._settle_line_ends(data)
        blank = self._blank or _LF
        end = data.rfind(blank)
        if end < 0:
            if len(data) > MAX_EVENT_BYTES:
                raise UpstreamFailure("broken_stream", "the provider sent an event without an end")
            self._partial = data
            return b""
        self._blank = blank
        end = align_end(data, end + len(blank), blank)
        self._partial = data[end:]
        return data[:end] if self._partial else data

    def _settle_line_ends(self, data: bytes) -> bytes:
        """A stream of nothing but CRLF keeps them; in a mixed one all become LF, for no CR stands inside JSON."""
        ends, waiting = data.count(b"\r\n"), data.endswith(b"\r")
        pure = data.count(b"\n") == ends == data.count(b"\r") - waiting
        if pure and self._blank is not _LF:
            self._blank = _CRLF
            return data
        self._blank = _LF
        unified = data[: len(data) - waiting].replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        return unified + b"\r" * waiting

    def _pass_event(self, raw: bytes) -> bool:
        """Look at an event that is not plain text. True: it may go out with the rest of this read."""
        payload = read_payload(raw.rstrip(b"\r\n"))
        if payload is None:
            return not self._keep_end(raw)
        if payload == self._done:
            if not self.begun:
                raise UpstreamFailure("broken_stream", "the provider's stream ended before the answer began")
            self.ended = True
            self._keep_end(raw, always=True)
            return False
        try:
            doc = parse_json(payload)
        except ValueError:
            self.damaged += 1
            return False
        if not isinstance(doc, dict):
            self.damaged += 1
            return False
        return self._pass_doc(raw, doc)

    def _pass_doc(self, raw: bytes, doc: dict[str, Any]) -> bool:
        seen = self._look.read_event(doc)
        if seen.error or self._format.holds_error(doc):
            raise fail_in_band(self._format, seen.error, doc)
        counted = (
            seen.usage is not None or seen.finished
        )  # some count in a place of their own, beside the end
        if counted and (counts := self._format.read_counts(doc)):
            self._counts.update(counts)
            self.usage = self._format.make_usage(self._counts)
        if seen.text:
            self.texts.append(seen.text)
        self.carries = self.carries or seen.carries
        if seen.text or seen.carries or seen.thought:
            self.begun = True
        self._note_finish(seen)
        if seen.last:
            self.ended = self._keep_end(raw, always=True)
            return False
        if seen.empty and seen.usage is not None and self.hide_usage:
            return False
        return not self._keep_end(raw)

    def _note_finish(self, seen: Seen) -> None:
        self._finished.update(seen.finished)
        if seen.finished and len(self._finished) >= self._choices:
            self.begun = self.settling = True

    def _keep_end(self, raw: bytes, *, always: bool = False) -> bool:
        if self.settling or always:
            self.tail += raw
            return True
        return False

    def _release(self, whole: bytes) -> bytes:
        if not self.begun:
            self._held.append(whole)
            return b""
        if self._held:
            whole = b"".join((*self._held, whole))
            self._held.clear()
        return whole


class SameWireAnswer:
    """A plain answer on the same wire: held until it is whole, read for usage, passed byte for byte."""

    __slots__ = (
        "_format",
        "_look",
        "_pieces",
        "begun",
        "carries",
        "damaged",
        "ended",
        "failure",
        "settling",
        "tail",
        "texts",
        "usage",
    )

    def __init__(self, format: Format) -> None:
        self._format = format
        self._look = format.look
        self._pieces: list[bytes] = []
        self.begun = self.ended = self.settling = self.carries = False
        self.tail = b""
        self.texts: list[str] = []
        self.usage: Usage | None = None
        self.failure: UpstreamFailure | None = None
        self.damaged = 0

    def feed(self, data: bytes) -> bytes:
        self._pieces.append(data)
        return b""

    def close(self) -> bytes:
        body = b"".join(self._pieces) if len(self._pieces) != 1 else self._pieces[0]
        try:
            doc = parse_json(body)
        except ValueError as error:
            raise UpstreamFailure("broken_stream", "the provider's answer is not JSON") from error
        if not isinstance(doc, dict):
            raise UpstreamFailure("broken_stream", "the provider's answer is not a JSON object")
        if (failure := find_failure(self._format, doc)) is not None:
            raise failure
        self.usage = self._format.read_usage(doc)
        if self.usage is None and self._look is not None:
            self.texts.append(self._look.read_answer_text(doc))
        self.tail, self.begun, self.ended = body, True, True
        return b""

    def finish(self) -> None:
        self.ended = True


def align_end(data: bytes, end: int, blank: bytes) -> int:
    """Where the last whole event of `data[:end]` ends: an odd line end behind it is the next one's."""
    if data[end - len(blank) - 1 : end - len(blank)] != b"\n":
        return end
    text_end = len(data[:end].rstrip(blank))
    return text_end + (end - text_end) // len(blank) * len(blank)


def find_failure(format: Format, doc: dict[str, Any]) -> UpstreamFailure | None:
    """The failure inside an HTTP 200 answer: at the top, in a choice of a provider that relays others, or marked."""
    if doc.get("error"):
        return fail_in_band(format, doc["error"], doc)
    choices = doc.get("choices")
    if isinstance(choices, list) and len(choices) == 1 and isinstance(choices[0], dict):
        if error := choices[0].get("error"):
            return fail_in_band(format, error, {"error": error})
    return fail_in_band(format, None, doc) if format.holds_error(doc) else None


def read_payload(event: bytes) -> bytes | None:
    """The data of one server-sent event (lines joined), or None when it has none (a comment, a bare id)."""
    if event.startswith(b"data: ") and b"\n" not in event:
        return event[6:].strip()
    lines = [line[5:].removeprefix(b" ") for line in event.split(b"\n") if line.startswith(b"data:")]
    return b"\n".join(lines).strip() if lines else None
