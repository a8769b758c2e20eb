"""Same-wire streams of any framing: whole frames pass as they came, and are read for what they say.

For dialects without a `look`, whose streams cannot be read at a glance. As in a translation everything before the
first content is held back, and everything from the last finish on, so that the call is settled before it ends.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from engine.errors import UpstreamFailure
from engine.wire.formats import Format
from engine.wire.frames import Frame, FramingBroke
from engine.wire.translation import TranslatedStream


class PassedStream(TranslatedStream):
    __slots__ = ("_before", "_rest")

    def __init__(self, format: Format, asked: Mapping[str, Any]) -> None:
        super().__init__(format, format, asked)
        self.writer = None  # nothing was written by us, so an error in the stream has its own
        self._before: list[bytes] = []
        self._rest: list[bytes] = []

    def feed(self, data: bytes) -> bytes:
        try:
            frames = self._splitter.feed(data)
        except FramingBroke as error:
            raise UpstreamFailure("broken_stream", str(error)) from error
        return self._pass(frames)

    def close(self) -> bytes:
        had_begun = self.begun
        out = self._pass(self._split_rest())
        if self.failure is not None:
            return out
        self._settle_fewer()
        if self.settling:
            self.finish()
            return out
        self.failure = UpstreamFailure("broken_stream", "the provider's stream ended before the answer did")
        if not had_begun:
            self._forget_beginning()
            raise self.failure
        return out

    def finish(self) -> None:
        if not self.ended:
            self.ended = True
            self.tail = b"".join((*self._before, *self._rest))

    def _pass(self, frames: Iterable[Frame]) -> bytes:
        had_begun, out = self.begun, list[bytes]()
        try:
            for frame in frames:
                for event in self._read_frame(frame.data, frame.event):
                    self._note(event)
                (self._rest if self.settling else out).append(frame.raw)
        except UpstreamFailure as failure:
            if not had_begun:
                self._forget_beginning()
                raise
            self.failure = failure
        self._count_damage()
        if not self.begun:
            self._before += out
            return b""
        whole = b"".join((*self._before, *out))
        self._before.clear()
        if self._reader.done:
            self._settle_fewer()
            if self.settling:
                self.finish()
        return whole
