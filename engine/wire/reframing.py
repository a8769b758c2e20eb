"""A stream cut otherwise than its format writes it: the same events as server-sent events, lines or a JSON array."""

from engine.wire.doors import Door
from engine.wire.frames import Frame
from engine.wire.framing import SPLITTERS


class Reframing:
    """Takes the stream of one framing, gives that of another. Comments and end marks are left out."""

    __slots__ = ("_count", "_done", "_splitter", "_wanted")

    def __init__(self, given: str, wanted: str, done: bytes | None) -> None:
        self._splitter = SPLITTERS[given]()
        self._wanted, self._done = wanted, done
        self._count = 0

    def feed(self, data: bytes) -> bytes:
        return b"".join(map(self._write, self._splitter.feed(data)))

    def close(self, tail: bytes) -> bytes:
        """The end of the stream, which `tail` belongs to."""
        out = self.feed(tail) + b"".join(map(self._write, self._splitter.close()))
        if self._wanted == "json_array":
            out += b"]" if self._count else b"[]"
        return out

    def _write(self, frame: Frame) -> bytes:
        data = frame.data
        if data is None or data.strip() == self._done:
            return b""
        self._count += 1
        if self._wanted == "json_array":
            return (b"[" if self._count == 1 else b",\r\n") + data
        if self._wanted == "sse":
            return b"data: " + data + b"\n\n"
        return data + b"\n"


def make_reframing(door: Door) -> Reframing | None:
    """None for nearly every door: its streams go out as they are."""
    given, wanted = door.format.framing, door.serving.framing
    return None if given == wanted else Reframing(given, wanted, door.format.done)
