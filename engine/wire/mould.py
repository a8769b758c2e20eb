"""The constant part of a stream's text events, learnt from one of them.

Nearly all events of a stream differ only in their piece of text. Once an event was parsed, the bytes before and behind
its text are known; whatever else has the same bytes around a valid JSON string is such an event too, and needs no
parsing: a hundred of them are cut at their blank lines and put together again for comparison. (Cutting at all that
stands between two texts says the same and takes four times as long: `split` prepares a long separator anew each time.)
"""

import re
from dataclasses import dataclass

import orjson

_NEEDS_CARE = re.compile(rb'["\\\x00-\x09\x0b-\x1f]')


@dataclass(frozen=True, slots=True)
class Mould:
    before: bytes
    """From the event's first byte to the opening quote of its text."""
    behind: bytes
    """From the closing quote to the end of the event, its blank line included."""
    between: bytes
    blank: bytes

    def find_run(self, data: bytes, start: int) -> int:
        """Where a run of such events that begins at `start` may end (the caller reads it to be sure)."""
        return data.rfind(self.behind, start + len(self.before)) + len(self.behind)

    def read_texts(self, data: bytes, start: int, end: int) -> list[str] | None:
        """The texts of `data[start:end]`, or None when it is anything but a run of such events."""
        before, behind = len(self.before), len(self.behind)
        events, behind_text = data[start:end].split(self.blank), len(self.blank) - behind
        events.pop()
        pieces = [event[before:behind_text] for event in events]
        if self.between.join(pieces) != data[start + before : end - behind]:
            return None
        lines = b"\n".join(pieces)
        try:
            if _NEEDS_CARE.search(lines) is None and lines.count(b"\n") == len(pieces) - 1:
                return lines.decode().split("\n")
            return [orjson.loads(b'"%b"' % piece) for piece in pieces]
        except ValueError:
            return None


def learn_mould(event: bytes, blank: bytes, key: str, text: str) -> Mould | None:
    """The mould of an event whose only member `key` is `text`; None when that is not plain to see."""
    mark = b'"%b":"' % key.encode()
    start = event.find(mark) + len(mark)
    end = start + len(text.encode("utf-8", "surrogatepass"))
    if event.count(mark) != 1 or event[start:end] != text.encode("utf-8", "surrogatepass"):
        return None
    if event[end : end + 1] != b'"':
        return None
    before, behind = event[:start], event[end:] + blank
    return Mould(before, behind, behind + before, blank)
