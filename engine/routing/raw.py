"""Answers that are no JSON: the format's `answers` say of which media types they may be.

Such an answer is a stream for the caller, whatever was asked for, because its bytes go out as they come.
"""

from engine.call import Call
from engine.upstream.reply import Reply
from engine.wire.formats import Format
from engine.wire.framing import MEDIA_TYPES
from engine.wire.passing import PassedStream
from engine.wire.raw_answer import RawAnswer, is_passed


def read_as_it_comes(call: Call, format: Format, upstream: Reply) -> RawAnswer | PassedStream | None:
    """The reader of an answer that is passed by its media type; None when it is read as JSON."""
    media_type = upstream.header(b"content-type") or b""
    if not is_passed(media_type, format.answers):
        return None
    call.stream, call.answer_type = True, media_type
    if media_type.startswith(MEDIA_TYPES[format.framing].partition(";")[0].encode()):
        return PassedStream(format, {"id": call.id, "choices": 1})
    return RawAnswer()
