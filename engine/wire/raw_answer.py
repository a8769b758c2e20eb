"""Answers that are no JSON, such as sound: their bytes go to the client as they come.

Only the last byte is kept until the call is settled, because an answer must not end before that.
"""

from collections.abc import Sequence
from fnmatch import fnmatchcase

from engine.errors import UpstreamFailure
from engine.wire.usage import Usage


class RawAnswer:
    """See AnswerReader."""

    __slots__ = (
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

    def __init__(self) -> None:
        self.begun = self.ended = self.settling = False
        self.carries = True
        self.tail = b""
        self.texts: list[str] = []
        self.usage: Usage | None = None
        self.failure: UpstreamFailure | None = None
        self.damaged = 0

    def feed(self, data: bytes) -> bytes:
        self.begun = True
        whole = self.tail + data
        self.tail = whole[-1:]
        return whole[:-1]

    def close(self) -> bytes:
        if not self.begun:
            raise UpstreamFailure("broken_stream", "the provider's answer is empty")
        self.ended = True
        return b""

    def finish(self) -> None:
        self.ended = True


def is_passed(media_type: bytes, globs: Sequence[str]) -> bool:
    """Whether an answer of this type is passed as it comes: one of the format's `answers` covers it."""
    name = media_type.partition(b";")[0].strip().lower().decode("latin-1")
    return any(fnmatchcase(name, glob) for glob in globs)
