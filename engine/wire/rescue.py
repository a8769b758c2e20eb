"""A second provider goes on where a cut stream stopped, and the client sees one unbroken answer.

Two ways: `continue` (the target was given the delivered text as an assistant prefill and writes only the rest) and
`restart` (it writes the whole answer again, and the text already delivered is swallowed as long as it is the same).
Every event is written anew with the `id` and `created` of the stream that began.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import orjson

from engine.errors import UpstreamFailure
from engine.wire.answers import SameWireStream, fail_in_band
from engine.wire.formats import Format
from engine.wire.frames import Frame, FramingBroke
from engine.wire.framing import split_all
from engine.wire.look import Look, Seen, follow
from engine.wire.usage import Usage

CONTINUE, RESTART = "continue", "restart"
_CHARACTERS_PER_TOKEN = 4


class TextDiffers(UpstreamFailure):
    """The second answer is not the one that was begun: the two cannot be joined."""

    def __init__(self) -> None:
        super().__init__("broken_stream", "another provider began a different answer")


def read_identity(first_read: bytes, look: Look) -> dict[str, Any]:
    """The `id` and `created` of a stream, from its first events."""
    for frame in split_all("sse", [first_read]):
        if frame.data and frame.data[:1] == b"{":
            try:
                doc = orjson.loads(frame.data)
            except orjson.JSONDecodeError:
                continue
            return {name: doc[name] for name in (look.id, look.created) if name in doc}
    return {}


def count_delivered_tokens(texts: list[str]) -> int:
    """Tokens of delivered text: providers send about one in each event, unless they bundle them."""
    characters = sum(map(len, texts))
    if texts and characters / len(texts) <= 3 * _CHARACTERS_PER_TOKEN:
        return len(texts)
    return -(-characters // _CHARACTERS_PER_TOKEN)


@dataclass(frozen=True, slots=True)
class Resumption:
    """How a rescue goes on: its mode, what the stream is called, who has answered so far, what the client asked."""

    mode: str
    identity: Mapping[str, Any]
    rescued_by: list[str]
    usage_asked: bool


class RescueStream:
    """The reader of the second attempt's stream. Same interface as the other readers."""

    def __init__(
        self, format: Format, look: Look, begun: "SameWireStream | RescueStream", resumption: Resumption
    ) -> None:
        self._format, self._look = format, look
        self._mode, self._identity = resumption.mode, resumption.identity
        self._rescued_by, self._usage_asked = resumption.rescued_by, resumption.usage_asked
        self._delivered = "".join(begun.texts)
        self._delivered_tokens = count_delivered_tokens(begun.texts)
        self._swallowed = ""
        self._splitter = format.new_splitter()
        self._tail_docs: list[dict[str, Any]] = []
        self.first_read: bytes = begun.first_read
        self.texts: list[str] = list(begun.texts)
        self.begun = self.ended = self.settling = self.carries = False
        self.tail = b""
        self.usage: Usage | None = None
        self.shown_usage: Usage | None = None
        self.failure: UpstreamFailure | None = None
        self.damaged = 0

    def feed(self, data: bytes) -> bytes:
        try:
            return self._take_frames(self._splitter.feed(data))
        except FramingBroke as broke:
            self.failure = UpstreamFailure("broken_stream", str(broke))
            return b""

    def close(self) -> bytes:
        out = self._take_frames(self._splitter.close())
        if self.ended or self.failure is not None:
            return out
        if self.settling:
            self.finish()
        else:
            self.failure = UpstreamFailure(
                "broken_stream", "the provider's stream ended before the answer did"
            )
        return out

    def _take_frames(self, frames: list[Frame]) -> bytes:
        """What the client is to get of them; on a failure that is what came before it."""
        out: list[bytes] = []
        try:
            for frame in frames:
                if frame.data is not None:
                    out.append(self._take_payload(frame.data.strip()))
        except UpstreamFailure as failure:
            self.failure = failure
        return b"".join(out)

    def finish(self) -> None:
        """Write the held end, which names who really answered."""
        if self.ended:
            return
        self.ended = True
        if self._tail_docs:
            self._tail_docs[-1]["gateway"] = {"rescued_by": list(self._rescued_by)}
        done = b"data: " + self._format.done + b"\n\n" if self._format.done else b""
        self.tail = b"".join(map(_write_event, self._tail_docs)) + done

    def _take_payload(self, payload: bytes) -> bytes:
        if payload == self._format.done:
            if not self.settling:
                raise UpstreamFailure("broken_stream", "the provider's stream ended before the answer did")
            self.finish()
            return b""
        try:
            doc = orjson.loads(payload)
        except orjson.JSONDecodeError:
            self.damaged += 1
            return b""
        return self._take_doc(doc) if isinstance(doc, dict) else b""

    def _take_doc(self, doc: dict[str, Any]) -> bytes:
        seen = self._look.read_event(doc)
        if seen.error:
            raise fail_in_band(self._format, seen.error, doc)
        doc.update(self._identity)
        if seen.usage is not None:
            self._note_usage(doc)
        if seen.empty:
            if seen.usage is not None and self._usage_asked:
                self._tail_docs.append(doc)
            return b""
        if seen.carries:
            raise TextDiffers
        return self._take_text(doc, seen)

    def _take_text(self, doc: dict[str, Any], seen: Seen) -> bytes:
        text = self._swallow(seen.text) if self._mode == RESTART else seen.text
        if text:
            self.begun = True
            self.texts.append(text)
        if seen.finished:
            if len(self._swallowed) < len(self._delivered) and self._mode == RESTART:
                raise TextDiffers
            self.begun = self.settling = True
            self._look.set_text(doc[self._look.choices][0], text)
            self._tail_docs.append(doc)
            return b""
        if not text:
            return b""
        choice = doc[self._look.choices][0]
        self._look.set_text(choice, text)
        holder = follow(choice, self._look.text[:-1])
        if isinstance(holder, dict):
            holder.pop("role", None)
        return _write_event(doc)

    def _swallow(self, text: str) -> str:
        """Drop what the client already has; what is beyond it is new."""
        missing = self._delivered[len(self._swallowed) :]
        if not missing or not text:
            return text
        part = text[: len(missing)]
        if not missing.startswith(part):
            raise TextDiffers
        self._swallowed += part
        return text[len(part) :]

    def _note_usage(self, doc: dict[str, Any]) -> None:
        """Show the prompt once and the output as delivered; keep what this attempt itself used."""
        self.usage = self.shown_usage = self._format.read_usage(doc)
        if self._mode != CONTINUE or self.usage is None:
            return
        moved = min(self._delivered_tokens, self.usage.input)
        self.shown_usage = replace(
            self.usage, input=self.usage.input - moved, output=self.usage.output + moved
        )
        shown = follow(doc, self._look.usage)
        if isinstance(shown, dict):
            for name, change in ((self._look.prompt_count, -moved), (self._look.completion_count, moved)):
                if isinstance(shown.get(name), int):
                    shown[name] += change


def _write_event(doc: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(doc) + b"\n\n"
