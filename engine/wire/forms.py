"""multipart/form-data without I/O: where its parts stand, what its text fields say, and how few of its bytes change.

A form is passed on byte for byte, but for the fields that are edited. Files are never collected: `FormReader` is fed
whatever arrives and keeps only the text fields, which are bounded. A form that could be read in two ways is refused,
so that nobody can smuggle a second `model` past the first.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from engine.errors import InvalidRequest
from engine.wire.json_text import write_json
from engine.wire.splice import DROPPED

MOST_PARTS = 256
HEAD_BYTES = 16 * 1024
TEXT_BYTES = 1024 * 1024
"""All text fields together."""
_BOUNDARY = re.compile(
    r"""multipart/form-data\s*;(?:.*;)?\s*boundary=(?:"([^"\\\r\n]{1,70})"|([^\s;"]{1,70}))\s*(?:;.*)?""",
    re.I,
)
_PARAMETER = re.compile(rb';\s*([^\s=;"]+)\s*=\s*("(?:[^"\\]|\\.)*"|[^;\s"]*)')
_DISPOSITION = re.compile(rb"content-disposition[ \t]*:[ \t]*form-data([^\r\n]*)", re.I)


@dataclass(frozen=True, slots=True)
class Field:
    """One text field; the numbers are offsets in the body."""

    name: str
    value: str
    start: int
    """Of its delimiter."""
    value_start: int
    value_end: int
    end: int
    """Of the next delimiter."""


@dataclass(frozen=True, slots=True)
class Splice:
    start: int
    end: int
    text: bytes

    @property
    def growth(self) -> int:
        return len(self.text) - (self.end - self.start)


def read_boundary(media_type: str) -> bytes | None:
    """The boundary of a multipart/form-data; None when it is something else, or has none."""
    found = _BOUNDARY.fullmatch(media_type.strip())
    return (found[1] or found[2]).encode("latin-1") if found else None


class FormReader:
    """Fed the body in pieces of any size. `sole` names fields that may stand there once only, and as text."""

    def __init__(self, boundary: bytes, sole: Sequence[str] = ("model",)) -> None:
        self.boundary = boundary
        self.fields: list[Field] = []
        self.files: list[str] = []
        """The names of the file parts that have begun."""
        self.ended = False
        self._sole = frozenset(sole)
        self._delimiter = b"--" + boundary
        self._buffer = b""
        self._offset = 0
        """Of the buffer's first byte."""
        self._step = self._read_opening
        self._parts = self._text_bytes = 0
        self._start = self._value_start = 0
        self._name: str | None = None
        """Of the text field that is being read."""
        self._value: list[bytes] = []

    def feed(self, data: bytes) -> None:
        """Raises InvalidRequest when the form is malformed, ambiguous or too large."""
        self._buffer += data
        while not self.ended and self._step():
            pass
        if self.ended:
            self._skip(len(self._buffer))

    def as_request(self) -> dict[str, Any]:
        """The text fields by name; a name that is there several times has a list."""
        request: dict[str, Any] = {}
        for field in self.fields:
            if field.name not in request:
                request[field.name] = field.value
            else:
                before = request[field.name]
                request[field.name] = [*(before if isinstance(before, list) else [before]), field.value]
        return request

    def _skip(self, count: int) -> None:
        self._buffer = self._buffer[count:]
        self._offset += count

    def _read_opening(self) -> bool:
        """The first delimiter; nothing but a line break may stand before it."""
        body = self._buffer.removeprefix(b"\r\n")
        if len(body) < len(self._delimiter):
            if not self._delimiter.startswith(body):
                raise malformed("it does not begin with its boundary")
            return False
        if not body.startswith(self._delimiter):
            raise malformed("it does not begin with its boundary")
        self._skip(len(self._buffer) - len(body))
        return self._begin_delimiter()

    def _begin_delimiter(self) -> bool:
        self._start = self._offset
        self._skip(len(self._delimiter))
        self._step = self._read_delimiter_end
        return True

    def _read_delimiter_end(self) -> bool:
        if len(self._buffer) < 2:
            return False
        mark = self._buffer[:2]
        if mark == b"--":
            self.ended = True
        elif mark != b"\r\n":
            raise malformed("there is something behind a boundary")
        self._step = self._read_head
        self._skip(0 if self.ended else 2)
        return not self.ended

    def _read_head(self) -> bool:
        end = self._buffer.find(b"\r\n\r\n")
        if end > HEAD_BYTES or (end < 0 and len(self._buffer) > HEAD_BYTES):
            raise malformed(f"the header of a part is over {HEAD_BYTES} bytes")
        if end < 0:
            return False
        self._parts += 1
        if self._parts > MOST_PARTS:
            raise malformed(f"it has more than {MOST_PARTS} parts")
        name, is_file = read_part_head(self._buffer[:end])
        if name in self._sole and (is_file or any(field.name == name for field in self.fields)):
            raise InvalidRequest(f"'{name}' must stand in the form once, as text", param=name)
        self._name = None if is_file else name
        if is_file:
            self.files.append(name)
        self._skip(end + 4)
        self._value_start = self._offset
        self._step = self._read_content
        return True

    def _read_content(self) -> bool:
        end = self._buffer.find(b"\r\n" + self._delimiter)
        # Part of a delimiter may stand at the end.
        taken = end if end >= 0 else max(0, len(self._buffer) - len(self._delimiter) - 1)
        if self._name is not None:
            self._value.append(self._buffer[:taken])
            self._text_bytes += taken
            if self._text_bytes > TEXT_BYTES:
                raise malformed(f"its text fields are over {TEXT_BYTES} bytes")
        self._skip(taken)
        if end < 0:
            return False
        self._end_part()
        self._skip(2)
        return self._begin_delimiter()

    def _end_part(self) -> None:
        if self._name is not None:
            try:
                value = b"".join(self._value).decode()
            except UnicodeDecodeError as error:
                raise InvalidRequest(f"'{self._name}' is not UTF-8", param=self._name) from error
            place = (self._start, self._value_start, self._offset, self._offset + 2)
            self.fields.append(Field(self._name, value, *place))
        self._name, self._value = None, []


def read_part_head(head: bytes) -> tuple[str, bool]:
    """The name of a part, and whether it is a file."""
    found = _DISPOSITION.findall(head)
    if len(found) != 1:
        raise malformed("a part has no content-disposition: form-data")
    parameters = [(key.lower(), value) for key, value in _PARAMETER.findall(found[0])]
    names = [value for key, value in parameters if key in (b"name", b"name*")]
    if len(names) != 1 or any(key == b"name*" for key, _ in parameters):
        raise malformed("a part needs one name")
    name = names[0].strip(b'"').decode("utf-8", "replace")
    return name, any(key in (b"filename", b"filename*") for key, _ in parameters)


def edit_form(fields: Sequence[Field], edits: Mapping[str, Any], boundary: bytes) -> list[Splice]:
    """What to change so that each field of `edits` has its value, or is left out where it is DROPPED; in order."""
    splices: list[Splice] = []
    for field in fields:
        if field.name not in edits:
            continue
        value = edits[field.name]
        if value is DROPPED:
            splices.append(Splice(field.start, field.end, b""))
        else:
            splices.append(Splice(field.value_start, field.value_end, write_value(value)))
    known = {field.name for field in fields}
    added = {name: value for name, value in edits.items() if name not in known and value is not DROPPED}
    if added:
        splices.append(Splice(0, 0, b"".join(write_part(boundary, *each) for each in added.items())))
    return sorted(splices, key=lambda splice: (splice.start, splice.end))


def apply_splices(body: bytes, splices: Sequence[Splice]) -> bytes:
    pieces: list[bytes] = []
    at = 0
    for splice in splices:
        pieces += (body[at : splice.start], splice.text)
        at = splice.end
    return b"".join((*pieces, body[at:]))


def write_part(boundary: bytes, name: str, value: Any) -> bytes:
    told = name.replace("%", "%25").replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A").encode()
    head = b'--%b\r\ncontent-disposition: form-data; name="%b"\r\n\r\n' % (boundary, told)
    return head + write_value(value) + b"\r\n"


def write_form(fields: Mapping[str, Any]) -> tuple[bytes, str]:
    """A form of text fields, and its media type. The boundary follows from what is in it."""
    boundary = b"form-" + sha256(write_json(fields)).hexdigest()[:40].encode()
    parts = b"".join(write_part(boundary, name, value) for name, value in fields.items())
    return b"%b--%b--\r\n" % (parts, boundary), f"multipart/form-data; boundary={boundary.decode()}"


def write_value(value: Any) -> bytes:
    return value.encode("utf-8", "replace") if isinstance(value, str) else write_json(value)


def malformed(why: str) -> InvalidRequest:
    return InvalidRequest(f"the body is not a form: {why}", code="invalid_form")
