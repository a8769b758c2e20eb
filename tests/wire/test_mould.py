"""The constant part of a stream's text events."""

from hypothesis import given
from hypothesis import strategies as st

from engine.wire.mould import learn_mould

BEFORE, BEHIND = b'data: {"id":"x","choices":[{"index":0,"delta":{"content":', b'},"finish_reason":null}]}'


def write(text: bytes) -> bytes:
    return BEFORE + b'"' + text + b'"' + BEHIND


MOULD = learn_mould(write(b"one"), b"\n\n", "content", "one")
assert MOULD is not None


def read(data: bytes) -> list[str] | None:
    assert MOULD is not None
    return MOULD.read_texts(data, 0, MOULD.find_run(data, 0))


@given(
    st.lists(
        st.text(alphabet=st.characters(exclude_characters='"\\', min_codepoint=32), max_size=8), min_size=1
    )
)
def test_a_run_of_texts_is_read_as_it_was_written(texts: list[str]) -> None:
    written = [text.encode("utf-8", "replace") for text in texts]
    assert read(b"".join(write(text) + b"\n\n" for text in written)) == [text.decode() for text in written]


def test_escapes_are_read_as_json_reads_them() -> None:
    assert read(write(rb"a\n") + b"\n\n" + write(rb"\"\u00e9") + b"\n\n") == ["a\n", '"é']


def test_anything_that_is_not_such_an_event_is_no_run() -> None:
    for odd in (
        b'a","role":"user',
        b"a\x01",
        b"a\nb",
        b"a\n\nb",
        b"\xff",
        rb"\x",
        b'a"},"finish_reason":"stop"}]}\n\n' + BEFORE + b'"b',
    ):
        assert read(write(odd) + b"\n\n") is None
        assert read(write(b"a") + b"\n\n" + write(odd) + b"\n\n" + write(b"b") + b"\n\n") is None


def test_nothing_is_learnt_where_the_text_is_not_plain_to_see() -> None:
    twice = b'data: {"content":"a","choices":[{"delta":{"content":"a"}}]}'
    assert learn_mould(twice, b"\n\n", "content", "a") is None
    assert learn_mould(write(rb"\n"), b"\n\n", "content", "\n") is None
    assert learn_mould(b'data: {"content": "a"}', b"\n\n", "content", "a") is None
