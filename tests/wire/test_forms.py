"""Forms are read in pieces of any size, changed where it is declared, and refused where they are ambiguous."""

import pytest

from engine.errors import InvalidRequest
from engine.wire.forms import FormReader, apply_splices, edit_form, read_boundary
from engine.wire.splice import DROPPED

BODY = (
    b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nwhisper\r\n'
    b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.mp3"\r\nContent-Type: audio/mpeg\r\n\r\n'
    b"\x00\r\n--c\r\n--\xff\r\n"
    b'--b\r\nContent-Disposition: form-data; name="prompt"\r\n\r\n\r\n'
    b"--b--\r\n"
)


def read(body: bytes, size: int = 1 << 20) -> FormReader:
    reader = FormReader(b"b")
    for start in range(0, len(body), size):
        reader.feed(body[start : start + size])
    return reader


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 10_000])
def test_fields_and_files_are_found_in_pieces_of_any_size(size: int) -> None:
    reader = read(BODY, size)
    assert reader.ended and reader.files == ["file"]
    assert reader.as_request() == {"model": "whisper", "prompt": ""}
    assert [BODY[field.value_start : field.value_end] for field in reader.fields] == [b"whisper", b""]


def test_only_the_fields_that_are_edited_change() -> None:
    reader = read(BODY)
    edits = {"model": "large", "prompt": DROPPED, "stream": False, "gone": DROPPED}
    edited = apply_splices(BODY, edit_form(reader.fields, edits, b"b"))
    again = read(edited)
    assert again.as_request() == {"stream": "false", "model": "large"} and again.files == ["file"]
    start, end = (
        BODY.index(b"Content-Type"),
        BODY.index(b'--b\r\nContent-Disposition: form-data; name="prompt"'),
    )
    assert BODY[start:end] in edited
    assert len(edited) == len(BODY) + sum(splice.growth for splice in edit_form(reader.fields, edits, b"b"))


def test_no_edit_leaves_every_byte() -> None:
    assert apply_splices(BODY, edit_form(read(BODY).fields, {}, b"b")) == BODY


def part(head: bytes, value: bytes = b"x") -> bytes:
    return b"--b\r\n" + head + b"\r\n\r\n" + value + b"\r\n"


MODEL = b'content-disposition: form-data; name="model"'


@pytest.mark.parametrize(
    "body",
    [
        part(MODEL) + part(MODEL) + b"--b--",
        part(MODEL + b'; filename="m"') + b"--b--",
        part(b'content-disposition: form-data; name="a"; name="model"') + b"--b--",
        part(b"content-disposition: form-data; name*=utf-8''model") + b"--b--",
        part(MODEL + b"\r\n" + MODEL) + b"--b--",
        part(b"content-type: text/plain") + b"--b--",
        b"hello" + part(MODEL) + b"--b--",
        b"--b?" + part(MODEL),
        part(MODEL, b"\xff") + b"--b--",
        b"--b\r\n" + b"a" * 20_000,
    ],
)
def test_what_could_be_read_in_two_ways_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        read(body)


def test_text_fields_are_bounded_and_files_are_not_kept() -> None:
    reader = FormReader(b"b")
    reader.feed(part(b'content-disposition: form-data; name="f"; filename="f"')[:-2])
    for _ in range(64):
        reader.feed(bytes(64 * 1024))
    assert len(reader._buffer) < 200
    with pytest.raises(InvalidRequest):
        read(part(b'content-disposition: form-data; name="t"', bytes(1024 * 1024 + 1)) + b"--b--")


def test_the_boundary_is_read_from_the_media_type() -> None:
    assert read_boundary("multipart/form-data; boundary=abc") == b"abc"
    assert read_boundary('Multipart/Form-Data; charset=utf-8; Boundary="a b"') == b"a b"
    assert read_boundary("multipart/form-data") is None
    assert read_boundary("application/json; boundary=abc") is None
