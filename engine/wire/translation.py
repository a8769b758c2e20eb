"""One call between two different wires: the caller's request is written in the target's, the answer read back.

`open_translation` does the request (pure); `reader` gives the `AnswerReader` of the answer, streamed or plain. There
is no translator from A to B: the canonical chat and the canonical events stand between. On the way, each blob of
provider-private state is kept for the provider that issued it (opaque.py, kept_state.py).
"""

from collections.abc import Mapping
from typing import Any

from engine.call import Call
from engine.errors import InvalidRequest, UpstreamFailure
from engine.wire.answers import find_failure
from engine.wire.canonical import BlockAdded, BlockEnded, BlockStarted, Event, Failed, Finished, UsageReported
from engine.wire.expressions import TemplateFailed
from engine.wire.formats import Format
from engine.wire.forms import write_form
from engine.wire.frames import Frame, FramingBroke
from engine.wire.json_text import parse_json, write_json
from engine.wire.kept_state import CallState, StateNotes, put_back
from engine.wire.opaque import LOST_REASONING, Chat, Tagger, give_blobs_back
from engine.wire.requests import read_chat
from engine.wire.splice import DROPPED
from engine.wire.streams import StreamWriter
from engine.wire.usage import Usage


class Translation:
    """What one attempt at a target of another wire needs."""

    __slots__ = ("_asked", "_format", "_surface", "body", "loss", "stream", "usage_asked")

    def __init__(self, call: Call, surface: Format, format: Format, facts: Mapping[str, Any]) -> None:
        self._surface, self._format = surface, format
        self.stream, self.usage_asked = call.stream, call.usage_asked
        self._asked: dict[str, Any] = {
            "id": call.id,
            "model": facts["model"],
            "created": int(call.started_at),
            "usage_asked": call.usage_asked,
            "input_estimate": call.input_estimate,
            "request": call.as_asked or call.request,
            "issuer": find_issuer(format, facts),
        }
        said = self._asked["chat"] = read_chat(call, surface)
        choices = said.get("n")
        self._asked["choices"] = choices if isinstance(choices, int) else 1
        chat, emptied = give_state_back(said, surface, format, facts, call.kept_state)
        lost = format.find_loss(chat) + [LOST_REASONING] * emptied
        self.loss = surface.point_at(lost, said, call.request) if lost else ()
        self.body = write_request(format, {**chat, "model": facts["model"]}, facts)
        if call.stream:
            self.body |= format.stream_flag
            if facts.get("asks_usage", True):
                self.body |= format.usage_request

    def render(self, edits: Mapping[str, Any]) -> bytes:
        """The request body with the provider's declared fixes."""
        body = {name: value for name, value in {**self.body, **edits}.items() if value is not DROPPED}
        try:
            return write_json(body)
        except (TypeError, ValueError) as error:
            raise InvalidRequest(f"the request cannot be written as {self._format.name}: {error}") from error

    def render_form(self, edits: Mapping[str, Any]) -> tuple[bytes, str]:
        """Likewise as a form, with its media type."""
        return write_form({name: v for name, v in {**self.body, **edits}.items() if v is not DROPPED})

    def reader(self, media_type: bytes) -> "TranslatedStream | TranslatedAnswer":
        if self.stream and not media_type.startswith(b"application/json"):
            return TranslatedStream(self._surface, self._format, self._asked)
        return TranslatedAnswer(self._surface, self._format, self._asked, stream=self.stream)


def open_translation(call: Call, surface: Format, format: Format, facts: Mapping[str, Any]) -> Translation:
    """`facts` is the target as templates see it: model, limits, capabilities. Raises InvalidRequest."""
    return Translation(call, surface, format, facts)


def write_request(format: Format, chat: Chat, facts: Mapping[str, Any]) -> dict[str, Any]:
    """The body for the target. What its template stumbles over stands in the client's request."""
    try:
        return format.write_request(chat, facts)
    except TemplateFailed as error:
        raise InvalidRequest(f"the request cannot be written as {format.name}: {error}") from error


def find_issuer(format: Format, facts: Mapping[str, Any]) -> str:
    """Whose blobs a target takes: its trait's, or those of its wire."""
    return str((facts.get("traits") or format.traits).get("issuer") or format.traits["issuer"])


def give_state_back(
    chat: Chat, surface: Format, format: Format, facts: Mapping[str, Any], kept: Mapping[str, CallState]
) -> tuple[Chat, bool]:
    """The chat with the target's own blobs and nobody else's; and whether reasoning was left out for it."""
    issuer = find_issuer(format, facts)
    chat, bare = give_blobs_back(chat, surface.traits["issuer"], issuer)
    replays = (facts.get("traits") or format.traits).get("replays_reasoning")
    return put_back(chat, kept, issuer) if kept else chat, bare and not replays


class _Translated:
    """What both readers keep; see AnswerReader."""

    __slots__ = (
        "_asked",
        "_format",
        "_missing",
        "_open",
        "_surface",
        "_tagger",
        "_usage",
        "begun",
        "carries",
        "damaged",
        "ended",
        "failure",
        "notes",
        "settling",
        "tail",
        "texts",
        "writer",
    )

    def __init__(self, surface: Format, format: Format, asked: Mapping[str, Any]) -> None:
        self._surface, self._format, self._asked = surface, format, asked
        self._missing: int = asked.get("choices", 1)
        """How many choices are still to finish; `_open` are those that have begun."""
        self._open: set[int] = set()
        self.begun = self.ended = self.settling = self.carries = False
        self.tail = b""
        self.texts: list[str] = []
        self._usage: Usage | None = None
        self.failure: UpstreamFailure | None = None
        self.damaged = 0
        self.writer: StreamWriter | None = None
        issuer = str(asked.get("issuer") or format.traits["issuer"])
        self.notes = StateNotes(issuer, surface.carries)
        """What the client's dialect cannot bring back."""
        foreign = issuer != surface.traits["issuer"]
        self._tagger = Tagger(issuer, signs_all="reasoning" in surface.carries) if foreign else None

    def _mark(self, events: list[Event]) -> list[Event]:
        """The events as the client is to have them."""
        self.notes.note(events)
        return events if self._tagger is None else self._tagger.tag(events)

    def _note(self, event: Event) -> None:
        if isinstance(event, BlockAdded):  # nearly all of them
            if event.field == "text" and event.kind == "text":
                self.texts.append(event.value)
            else:
                self.carries = self.carries or event.kind != "reasoning" or event.field == "signature"
            self.begun = True
        elif isinstance(event, Failed):
            kind = event.kind or str(event.status)
            raise UpstreamFailure(kind, event.message, status=event.status, error=event.error)
        elif isinstance(event, UsageReported):
            self._usage = event.usage
        elif isinstance(event, BlockStarted):
            self._open.add(event.choice)
            if event.kind not in ("text", "reasoning"):
                self.begun = self.carries = True
        elif isinstance(event, Finished):
            self._open.discard(event.choice)
            self._missing -= 1
            self.begun = True
            self.settling = self._missing <= 0 and not self._open

    @property
    def usage(self) -> Usage | None:
        return self._usage

    def _settle_fewer(self) -> None:
        """The provider has ended: what it began is whole, though it may be fewer choices than were asked for."""
        if self._missing < self._asked.get("choices", 1) and not self._open:
            self.settling = True

    def _forget_beginning(self) -> None:
        """Content that never goes out was not said, and the next target may answer from the beginning."""
        self.begun = self.carries = False
        self.texts.clear()


class TranslatedStream(_Translated):
    """Events are written for the client as they come; what ends the answer is kept for the settlement."""

    __slots__ = ("_done_seen", "_end", "_held", "_reader", "_splitter", "_torn", "_writer")

    def __init__(self, surface: Format, format: Format, asked: Mapping[str, Any]) -> None:
        super().__init__(surface, format, asked)
        self._splitter = format.new_splitter()
        self._reader = format.new_stream_reader(str(asked["id"]))
        self._writer = self.writer = surface.new_stream_writer(asked)
        self._held: list[Event] = []
        self._end: list[Event] = []
        self._done_seen = False
        self._torn = 0
        """Frames that are not JSON."""

    @property
    def usage(self) -> Usage | None:
        """Up to date although not every event reports it."""
        return self._reader.usage

    def feed(self, data: bytes) -> bytes:
        try:
            frames = self._splitter.feed(data)
        except FramingBroke as error:
            raise UpstreamFailure("broken_stream", str(error)) from error
        events: list[Event] = []
        for frame in frames:
            events += self._read_frame(frame.data, frame.event)
        self._count_damage()
        return self._take(events)

    def close(self) -> bytes:
        events: list[Event] = []
        had_begun = self.begun
        for frame in self._split_rest():
            events += self._read_frame(frame.data, frame.event)
        out = self._take(events + self._reader.close(done=self._done_seen))
        if self.failure is not None:
            return out
        self._settle_fewer()
        if self.settling:
            self.finish()
            return out
        cut = UpstreamFailure("broken_stream", "the provider's stream ended before the answer did")
        if not had_begun:
            self._forget_beginning()
            raise cut
        self.failure = cut
        return out

    def finish(self) -> None:
        if not self.ended:
            self.ended = True
            self.tail = self._writer.write(self._end) + self._writer.close()

    def _split_rest(self) -> list[Frame]:
        """What is left when the stream has ended. A torn message says nothing, and the answer is cut anyway."""
        try:
            return self._splitter.close()
        except FramingBroke:
            self._torn += 1
            return []

    def _count_damage(self) -> None:
        self.damaged = self._torn + self._reader.damaged

    def _read_frame(self, data: bytes | None, name: str | None) -> list[Event]:
        if data is None:
            return []
        if self._format.done is not None and data.strip() == self._format.done:
            self._done_seen = True
            return self._reader.close(done=True)
        try:
            return self._reader.feed(parse_json(data), name)
        except ValueError:
            self._torn += 1
            return []

    def _take(self, events: list[Event]) -> bytes:
        out: list[Event] = []
        had_begun = self.begun
        try:
            for event in self._mark(events):
                self._note(event)
                (self._end if self.settling else out).append(event)
        except UpstreamFailure as failure:
            if not had_begun:
                self._forget_beginning()
                raise
            self.failure = failure
        if not self.begun:
            self._held += out
            return b""
        if self._held:
            out, self._held = [*self._held, *out], []
        written = self._writer.write(out)
        if self._reader.done:
            self._settle_fewer()
        if self._reader.done and self.settling:
            self.finish()  # after what stands before the end: the writer counts and remembers
        return written


class TranslatedAnswer(_Translated):
    """A plain upstream answer, for a plain client or unfolded into a stream."""

    __slots__ = ("_events", "_pieces", "_stream")

    def __init__(self, surface: Format, format: Format, asked: Mapping[str, Any], *, stream: bool) -> None:
        super().__init__(surface, format, asked)
        self._pieces: list[bytes] = []
        self._stream = stream
        self._events: list[Event] = []

    def feed(self, data: bytes) -> bytes:
        self._pieces.append(data)
        return b""

    def close(self) -> bytes:
        try:
            doc = parse_json(b"".join(self._pieces))
        except ValueError as error:
            raise UpstreamFailure("broken_stream", "the provider's answer is not JSON") from error
        if isinstance(doc, dict) and (failure := find_failure(self._format, doc)) is not None:
            raise failure
        events = self._mark(self._format.read_reply(doc, str(self._asked["id"])))
        for event in events:
            self._note(event)
        self.begun = self.ended = True
        self._events = events
        self.tail = self._write(events)
        return b""

    def list_pointers(self) -> list[dict[str, Any]]:
        """The media of the answer that are addresses; `write_again` when somebody has changed them."""
        blocks = (event.block for event in self._events if isinstance(event, BlockEnded))
        return [block for block in blocks if block.get("url") and not block.get("data")]

    def write_again(self) -> None:
        self.tail = self._write(self._events)

    def finish(self) -> None:
        self.ended = True

    def _write(self, events: list[Event]) -> bytes:
        if not self._stream:
            return write_json(self._surface.write_reply(events, self._asked))
        writer = self._surface.new_stream_writer(self._asked)
        return writer.write(events) + writer.close()
