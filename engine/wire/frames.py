"""What every framing yields: an event with the bytes that it came in."""

from dataclasses import dataclass

MAX_FRAME_BYTES = 64 * 1024 * 1024


class FramingBroke(Exception):
    """The bytes are not what the framing says, or one event is larger than anything sensible."""


@dataclass(slots=True)
class Frame:
    raw: bytes
    event: str | None
    """The name beside the data (`event:` in SSE), when there is one."""
    data: bytes | None
