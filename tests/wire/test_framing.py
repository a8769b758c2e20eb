"""Framings: the same frames however the bytes are cut, every byte kept."""

import base64
from collections.abc import Callable

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.wire.eventstream import write_eventstream_frame
from engine.wire.frames import Frame, FramingBroke
from engine.wire.framing import FRAME_WRITERS, SPLITTERS, split_all, write_sse_frame

ENDS = st.sampled_from([b"\n", b"\r\n", b"\r"])
LINES = st.lists(
    st.one_of(
        st.builds(
            lambda text: b"data: " + text.encode(),
            st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=6),
        ),
        st.sampled_from(
            [b"data:x", b"data", b": comment", b"event: e\xc3\xa9", b"id: 1", b"", b"retry: 5", b"data: {}"]
        ),
    ),
    max_size=12,
)


@st.composite
def sse_bytes(draw: st.DrawFn) -> bytes:
    return b"".join(line + draw(ENDS) for line in draw(LINES)) + draw(
        st.sampled_from([b"", b"data: tail", b"\r"])
    )


@st.composite
def cuts(draw: st.DrawFn, raw: bytes) -> list[bytes]:
    places = sorted(draw(st.sets(st.integers(0, len(raw)), max_size=8)))
    return [raw[a:b] for a, b in zip([0, *places], [*places, len(raw)], strict=True)]


@given(sse_bytes(), st.data())
def test_sse_frames_do_not_depend_on_the_cuts(raw: bytes, data: st.DataObject) -> None:
    whole = split_all("sse", [raw])
    assert split_all("sse", [bytes([byte]) for byte in raw]) == whole
    assert split_all("sse", data.draw(cuts(raw))) == whole
    assert b"".join(frame.raw for frame in whole) == raw


@given(
    st.lists(
        st.dictionaries(st.text(max_size=4), st.text(max_size=6) | st.integers(-9, 9), max_size=3), max_size=5
    ),
    st.data(),
)
@pytest.mark.parametrize("framing", ["ndjson", "json_array", "eventstream"])
def test_documents_come_out_of_every_framing_however_it_is_cut(
    framing: str, docs: list[dict[str, str | int]], data: st.DataObject
) -> None:
    write: dict[str, Callable[[], bytes]] = {
        "ndjson": lambda: b"".join(orjson.dumps(doc) + b"\n" for doc in docs),
        "json_array": lambda: b"[" + b",\r\n".join(orjson.dumps(doc) for doc in docs) + b"]",
        "eventstream": lambda: b"".join(write_eventstream_frame({"event": doc}, None) for doc in docs),
    }
    raw = write[framing]()
    whole = split_all(framing, [raw])
    assert split_all(framing, [bytes([byte]) for byte in raw]) == whole
    assert split_all(framing, data.draw(cuts(raw))) == whole
    assert b"".join(frame.raw for frame in whole) == raw
    read = [orjson.loads(frame.data) for frame in whole if frame.data is not None]
    assert read == ([{"event": doc} for doc in docs] if framing == "eventstream" else docs)


def test_an_sse_event_is_known_as_soon_as_its_blank_line_is() -> None:
    splitter = SPLITTERS["sse"]()
    assert splitter.feed(b"data: 1\n") == []
    assert splitter.feed(b"\ndata: 2\n\nda") == [
        Frame(b"data: 1\n\n", None, b"1"),
        Frame(b"data: 2\n\n", None, b"2"),
    ]
    assert splitter.feed(b"ta: 3\r\n\r\n") == [Frame(b"data: 3\r\n\r\n", None, b"3")]


def test_sse_comments_names_and_joined_lines_are_read() -> None:
    raw = b"\xef\xbb\xbf: hello\n\nevent: ping\ndata: {\ndata:}\nid: 7\n\n:only a comment\n\n"
    assert [(frame.event, frame.data) for frame in split_all("sse", [raw])] == [
        (None, None),
        ("ping", b"{\n}"),
        (None, None),
    ]


def test_an_event_without_an_end_is_given_at_the_close() -> None:
    assert split_all("sse", [b"data: 1"]) == [Frame(b"data: 1", None, b"1")]
    assert split_all("ndjson", [b'{"a":1}']) == [Frame(b'{"a":1}', None, b'{"a":1}')]


def test_an_array_of_one_error_is_one_document() -> None:
    raw = b'[{\n "error": {"code": 400, "text": "a } b \\" ]"}\n}\n]\n'
    assert [orjson.loads(f.data) for f in split_all("json_array", [raw]) if f.data] == orjson.loads(raw)


def test_a_plain_answer_is_one_frame_at_the_close() -> None:
    splitter = SPLITTERS["json"]()
    assert splitter.feed(b'{"a"') == [] and splitter.feed(b":1}\n") == []
    assert splitter.close() == [Frame(b'{"a":1}\n', None, b'{"a":1}')]


def test_an_sse_frame_is_written_with_its_name() -> None:
    assert write_sse_frame({"a": "ü\n"}, None) == 'data: {"a":"ü\\n"}\n\n'.encode()
    assert write_sse_frame({}, "stop") == b"event: stop\ndata: {}\n\n"


def test_an_event_stream_presents_exceptions_and_wrapped_chunks() -> None:
    exception = write_eventstream_frame(
        {"exception": {"type": "throttlingException", "message": "slow down"}}, None
    )
    inner = {"type": "message_stop"}
    chunk = write_eventstream_frame(
        {"chunk": {"bytes": base64.b64encode(orjson.dumps(inner)).decode()}}, None
    )
    frames = split_all("eventstream", [exception + chunk])
    assert orjson.loads(frames[0].data or b"") == {
        "exception": {"type": "throttlingException", "message": "slow down"}
    }
    assert orjson.loads(frames[1].data or b"") == inner


@pytest.mark.parametrize("position", [1, 9, 14, 40, -1])
def test_a_damaged_event_stream_is_noticed(position: int) -> None:
    raw = bytearray(write_eventstream_frame({"contentBlockDelta": {"delta": {"text": "hello"}}}, None))
    raw[position] ^= 0xFF
    with pytest.raises(FramingBroke):
        split_all("eventstream", [bytes(raw)])


def test_an_event_stream_cut_inside_a_message_is_noticed() -> None:
    with pytest.raises(FramingBroke, match="ended inside"):
        split_all("eventstream", [write_eventstream_frame({"a": {}}, None)[:-3]])


@pytest.mark.parametrize("framing", sorted(FRAME_WRITERS))
def test_half_an_emoji_is_written_as_an_escape(framing: str) -> None:
    assert b'"\\ud83d"' in FRAME_WRITERS[framing]({"delta": {"text": "\ud83d"}}, "piece")
