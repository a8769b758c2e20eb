"""One call between two wires: the same events for any cutting, the end last, failures never counted as content."""

from types import SimpleNamespace
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import UpstreamFailure
from engine.wire.formats import Format
from engine.wire.splice import DROPPED
from engine.wire.translation import TranslatedAnswer, TranslatedStream, Translation, open_translation
from engine.wire.usage import Usage
from tests.gateway.replay import TEXT
from tests.gateway.test_cross_wire import CALLS, OPENING, OVERLOADED, SPOKEN, STARTED, WHOLE, WORDS, say
from tests.wire.formats_at_hand import WILLING, load_format
from tests.wire.test_answers import DONE, chunk, cut
from tests.wire.test_rescue import join_text, read_events

CHAT, BLOCKS = load_format("openai-chat"), load_format("anthropic-messages")
ASKED = {"id": "call_1", "created": 7, "usage_asked": True, "choices": 1}


def make_stream(surface: Format = CHAT, format: Format = BLOCKS, **asked: Any) -> TranslatedStream:
    return TranslatedStream(surface, format, {**ASKED, **asked})


def read_all(reader: TranslatedStream, pieces: list[bytes]) -> bytes:
    out = b""
    for piece in pieces:
        if not reader.ended:
            out += reader.feed(piece)
    if not reader.ended:
        out += reader.close()
    assert reader.failure is None and reader.ended
    return out + reader.tail


@pytest.mark.parametrize("stream", [SPOKEN, CALLS, SPOKEN.replace(b"\n", b"\r\n")])
def test_a_cut_at_every_byte_gives_the_same_bytes(stream: bytes) -> None:
    wanted = read_all(make_stream(), [stream])
    for place in range(0, len(stream), 5):
        assert read_all(make_stream(), cut(stream, [place])) == wanted
    assert read_all(make_stream(), [stream[at : at + 1] for at in range(len(stream))]) == wanted


@given(st.lists(st.integers(0, 10**6), max_size=10))
def test_any_cutting_tells_text_usage_and_one_end(places: list[int]) -> None:
    reader = make_stream()
    events = read_events(read_all(reader, cut(SPOKEN, places)))
    assert join_text(events) == TEXT and events[-1] == b"[DONE]" and events.count(b"[DONE]") == 1
    assert {event["id"] for event in events[:-1]} == {"msg_1"}
    assert events[-2]["usage"]["total_tokens"] == 14
    assert reader.usage == Usage(input=8, cached_input=3, output=3)


def test_usage_is_not_shown_to_who_did_not_ask() -> None:
    events = read_events(read_all(make_stream(usage_asked=False), [SPOKEN]))
    assert not any(event.get("usage") for event in events[:-1])


def test_the_end_is_held_and_content_is_not() -> None:
    reader = make_stream()
    assert reader.feed(OPENING) == b"" and not reader.begun
    assert join_text(read_events(reader.feed(say(WORDS[0])))) == "Nä,"
    rest = reader.feed(SPOKEN[len(OPENING + say(WORDS[0])) :])
    assert join_text(read_events(rest)) == " so wide." and b'finish_reason":"stop' not in rest
    assert reader.ended and reader.tail.endswith(DONE) and b'"finish_reason":"stop"' in reader.tail


def test_several_choices_have_finished_when_all_have() -> None:
    two = [chunk({"content": "a"}), chunk({"content": "b"}, index=1), chunk({}, "stop")]
    reader = make_stream(BLOCKS, CHAT, choices=2)
    reader.feed(b"".join(two))
    assert not reader.settling
    reader.feed(chunk({}, "stop", index=1))
    assert reader.settling
    broken = make_stream(CHAT, CHAT, choices=2)
    broken.feed(b"".join(two))
    broken.close()
    assert broken.failure is not None and not broken.ended


def test_fewer_choices_than_asked_for_are_an_answer_when_the_provider_says_it_is_done() -> None:
    assert join_text(read_events(read_all(make_stream(choices=3), [SPOKEN]))) == TEXT
    events = chunk({"content": "a"}) + chunk({}, "stop") + DONE
    assert read_all(make_stream(CHAT, CHAT, choices=3), [events]).endswith(DONE)


def test_a_stream_that_ends_early_is_broken() -> None:
    nothing_said = say(STARTED, {"type": "message_stop"})
    for stream in (b"", OPENING, OPENING[:40], nothing_said):
        reader = make_stream()
        with pytest.raises(UpstreamFailure) as caught:
            reader.feed(stream)
            reader.close()
        assert caught.value.kind == "broken_stream" and not reader.begun
    reader = make_stream()
    reader.feed(OPENING + say(WORDS[0]))
    reader.close()
    assert reader.failure is not None and reader.failure.kind == "broken_stream"


def test_an_error_before_content_leaves_nothing_begun() -> None:
    reader = make_stream()
    with pytest.raises(UpstreamFailure) as caught:
        reader.feed(OPENING + say(WORDS[0], OVERLOADED))
    assert caught.value.kind == "503" and caught.value.matches(frozenset(("5xx",)))
    assert not reader.begun and not reader.texts


def test_what_came_before_an_error_is_given_out_once_the_answer_has_begun() -> None:
    reader = make_stream()
    reader.feed(OPENING + say(WORDS[0]))
    assert join_text(read_events(reader.feed(say(WORDS[1], OVERLOADED, WORDS[2])))) == " so"
    assert reader.failure is not None and reader.failure.message == "Overloaded"


def test_events_that_are_not_json_are_left_out_and_counted() -> None:
    reader = make_stream()
    torn = OPENING + b"data: {no\n\n"
    assert join_text(read_events(read_all(reader, [torn, SPOKEN[len(OPENING) :]]))) == TEXT
    assert reader.damaged == 1


@pytest.mark.parametrize("stream", [True, False])
def test_a_plain_answer_is_told_whole_or_as_a_stream(stream: bool) -> None:
    reader = TranslatedAnswer(CHAT, BLOCKS, ASKED, stream=stream)
    reader.feed(orjson.dumps(WHOLE))
    reader.close()
    assert reader.ended and reader.usage == Usage(input=8, cached_input=3, output=3)
    if stream:
        assert join_text(read_events(reader.tail)) == TEXT
    else:
        assert orjson.loads(reader.tail)["choices"][0]["message"]["content"] == TEXT


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", orjson.dumps(OVERLOADED), b'{"type":"message"'])
def test_a_plain_answer_that_is_none_is_a_failure(body: bytes) -> None:
    reader = TranslatedAnswer(CHAT, BLOCKS, ASKED, stream=False)
    reader.feed(body)
    with pytest.raises(UpstreamFailure):
        reader.close()
    assert not reader.ended and not reader.begun


def translate(request: dict[str, Any], *, stream: bool = False) -> Translation:
    call: Any = SimpleNamespace(
        id="call_1",
        started_at=7.5,
        input_estimate=9,
        request={"model": "m", **request},
        as_asked=None,
        chat=None,
        kept_state={},
        requested_model="m",
        stream=stream,
        usage_asked=False,
    )
    return open_translation(call, CHAT, BLOCKS, WILLING)


def test_the_request_is_written_with_the_targets_name_and_declared_fixes() -> None:
    said = {"messages": [{"role": "user", "content": "hi"}], "stream": True, "seed": 3, "user": "u"}
    translation = translate(said, stream=True)
    sent = orjson.loads(translation.render({"metadata": DROPPED, "top_k": 5}))
    assert sent["model"] == "up" and sent["stream"] is True and sent["top_k"] == 5
    assert "metadata" not in sent and "/seed" in translation.loss


def test_the_reader_follows_what_the_provider_sent() -> None:
    streamed = translate({"messages": [{"role": "user", "content": "hi"}]}, stream=True)
    assert isinstance(streamed.reader(b"text/event-stream"), TranslatedStream)
    assert isinstance(streamed.reader(b"application/json; charset=utf-8"), TranslatedAnswer)
    plain = translate({"messages": [{"role": "user", "content": "hi"}]})
    assert isinstance(plain.reader(b"text/event-stream"), TranslatedAnswer)
