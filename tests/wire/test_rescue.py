"""A cut stream that another provider finishes: one text, one id, one end, whatever the cuts are."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import UpstreamFailure
from engine.wire.answers import SameWireStream
from engine.wire.rescue import (
    CONTINUE,
    RESTART,
    RescueStream,
    Resumption,
    TextDiffers,
    count_delivered_tokens,
    read_identity,
)
from engine.wire.usage import Usage
from tests.wire.formats_at_hand import load_format
from tests.wire.test_answers import COMMENT, DONE, FINISH, OPENING, TORN, chunk, cut, fail

FORMAT = load_format("openai-chat")
TEXT = "One two three four."
PIECES = ["One", " two", " three", " four."]


def stream_of(pieces: list[str], name: str = "second", usage: tuple[int, int] = (9, 4)) -> bytes:
    events = [OPENING, *(chunk({"content": piece}) for piece in pieces), FINISH]
    counted = {"prompt_tokens": usage[0], "completion_tokens": usage[1], "total_tokens": sum(usage)}
    whole = b"".join([*events, chunk(None, usage=counted), DONE])
    return whole.replace(b'"c1"', json.dumps(name).encode()).replace(b'"created": 7', b'"created": 8')


def begin(pieces: list[str]) -> SameWireStream:
    assert FORMAT.look is not None
    reader = SameWireStream(FORMAT, FORMAT.look, hide_usage=False)
    reader.feed(COMMENT)
    reader.feed(OPENING + b"".join(chunk({"content": piece}) for piece in pieces))
    return reader


def resume(begun: SameWireStream | RescueStream, mode: str, *, usage_asked: bool = True) -> RescueStream:
    assert FORMAT.look is not None
    identity = read_identity(begun.first_read, FORMAT.look)
    return RescueStream(FORMAT, FORMAT.look, begun, Resumption(mode, identity, ["second/model"], usage_asked))


def read_events(data: bytes) -> list[Any]:
    payloads = [event.removeprefix(b"data: ") for event in data.split(b"\n\n") if event]
    return [payload if payload == b"[DONE]" else json.loads(payload) for payload in payloads]


def join_text(events: list[Any]) -> str:
    chunks = [event for event in events if event != b"[DONE]" and event["choices"]]
    return "".join(each["choices"][0]["delta"].get("content") or "" for each in chunks)


def feed_all(reader: RescueStream, pieces: list[bytes]) -> bytes:
    out = b"".join(reader.feed(piece) for piece in pieces)
    if not reader.ended:
        out += reader.close()
    if reader.failure is not None:
        raise reader.failure
    return out + reader.tail


@given(
    st.integers(0, len(PIECES) - 1),
    st.lists(st.integers(0, len(TEXT)), max_size=4),
    st.lists(st.integers(0, 10**6), max_size=8),
    st.sampled_from([RESTART, CONTINUE]),
    st.booleans(),
)
def test_text_goes_on_where_it_stopped(
    delivered: int, words: list[int], places: list[int], mode: str, crlf: bool
) -> None:
    begun = begin(PIECES[:delivered])
    said = "".join(PIECES[:delivered])
    rest = TEXT if mode == RESTART else TEXT[len(said) :]
    edges = sorted({0, *(place for place in words if place < len(rest)), len(rest)})
    second = stream_of([rest[a:b] for a, b in zip(edges, edges[1:], strict=False)])
    stream = second.replace(b"\n", b"\r\n") if crlf else second
    reader = resume(begun, mode)
    events = read_events(feed_all(reader, cut(stream, places)))
    assert said + join_text(events) == TEXT == "".join(reader.texts)
    assert events[-1] == b"[DONE]"
    assert {(event["id"], event["created"]) for event in events[:-1]} == {("c1", 7)}
    assert events[-2]["gateway"] == {"rescued_by": ["second/model"]}
    assert [e["choices"][0]["finish_reason"] for e in events[:-1] if e["choices"]][-1] == "stop"


def test_the_identity_is_found_behind_comments_and_in_any_line_ends() -> None:
    assert FORMAT.look is not None
    for first in (COMMENT + OPENING, (COMMENT + TORN + OPENING).replace(b"\n", b"\r\n")):
        assert read_identity(first, FORMAT.look) == {"id": "c1", "created": 7}
    assert read_identity(COMMENT, FORMAT.look) == {}


@pytest.mark.parametrize("other", ["Other words.", "One too many.", "One"])
def test_another_text_is_refused_before_it_is_mixed(other: str) -> None:
    reader = resume(begin(PIECES[:2]), RESTART)
    with pytest.raises(TextDiffers):
        feed_all(reader, [stream_of([other])])
    assert "".join(reader.texts) == "One two"


def test_a_tool_call_cannot_go_on_with_text() -> None:
    reader = resume(begin(PIECES[:2]), RESTART)
    reader.feed(OPENING + chunk({"tool_calls": [{"index": 0, "id": "a"}]}))
    assert isinstance(reader.failure, TextDiffers)


def test_the_prompt_is_shown_once_and_output_as_delivered() -> None:
    reader = resume(begin(PIECES[:2]), CONTINUE)
    events = read_events(feed_all(reader, [stream_of(PIECES[2:], usage=(11, 2))]))
    assert events[-2]["usage"] == {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}
    assert reader.usage == Usage(input=11, output=2) and reader.shown_usage == Usage(input=9, output=4)
    again = resume(begin(PIECES[:2]), RESTART)
    events = read_events(feed_all(again, [stream_of(PIECES)]))
    assert events[-2]["usage"]["completion_tokens"] == 4


def test_usage_is_hidden_from_who_did_not_ask() -> None:
    reader = resume(begin(PIECES[:2]), RESTART, usage_asked=False)
    events = read_events(feed_all(reader, [stream_of(PIECES)]))
    assert not any("usage" in event for event in events[:-1]) and reader.usage == Usage(input=9, output=4)


def test_a_rescue_that_breaks_keeps_what_it_gave_out_for_the_next() -> None:
    first = resume(begin(PIECES[:1]), RESTART)
    out = first.feed(OPENING + chunk({"content": "One two"}) + fail("boom") + chunk({"content": " three"}))
    assert join_text(read_events(out)) == " two" and first.failure is not None
    second = resume(first, RESTART)
    assert join_text(read_events(feed_all(second, [stream_of(PIECES)]))) == " three four."


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_a_rescue_that_ends_early_is_broken(stop: int) -> None:
    for mark in (b"", DONE):
        reader = resume(begin(PIECES[:1]), RESTART)
        with pytest.raises(UpstreamFailure) as caught:
            feed_all(reader, [OPENING + chunk({"content": "".join(PIECES[:stop])}) + mark])
        assert caught.value.kind == "broken_stream"


def test_a_torn_event_is_left_out_of_a_rescue() -> None:
    reader = resume(begin(PIECES[:1]), RESTART)
    stream = stream_of(PIECES).replace(FINISH.replace(b"c1", b"second"), b"")
    out = feed_all(reader, [stream[:-14].replace(DONE, b"") + TORN + FINISH])
    assert join_text(read_events(out)) == " two three four." and reader.damaged == 1


def test_tokens_of_bundled_text_are_estimated() -> None:
    assert count_delivered_tokens([]) == 0
    assert count_delivered_tokens(["one", " two", " three"]) == 3
    assert count_delivered_tokens(["a" * 400]) == 100
