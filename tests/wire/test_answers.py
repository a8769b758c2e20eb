"""The same-wire readers: fed in any pieces they say the same, and nothing that was not said counts as said."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import UpstreamFailure
from engine.wire.answers import MAX_EVENT_BYTES, SameWireAnswer, SameWireStream, find_failure, read_payload
from engine.wire.formats import compile_format
from engine.wire.usage import Usage
from tests.wire.formats_at_hand import load_format, load_tree

FORMAT = load_format("openai-chat")
TEXT = "Nä, so wide."
DONE = b"data: [DONE]\n\n"


def chunk(delta: dict[str, Any] | None, finish: str | None = None, index: int = 0, **more: Any) -> bytes:
    choices = [] if delta is None else [{"index": index, "delta": delta, "finish_reason": finish}]
    return b"data: " + json.dumps({"id": "c1", "created": 7, "choices": choices, **more}).encode() + b"\n\n"


def fail(message: str, **more: Any) -> bytes:
    return b"data: " + json.dumps({"error": {"message": message, **more}}).encode() + b"\n\n"


OPENING = chunk({"role": "assistant", "content": ""})
WORDS = [chunk({"content": piece}) for piece in ("Nä,", " so", " wide.")]
FINISH = chunk({}, "stop")
USAGE = chunk(None, usage={"prompt_tokens": 11, "completion_tokens": 3})
COMMENT = b": PROCESSING\n\n"
TORN = b'data: {"choices": [{"in\n\n'
WHOLE = b"".join((COMMENT, OPENING, *WORDS[:2], TORN, WORDS[2], COMMENT, FINISH, USAGE, DONE))
CRLF = WHOLE.replace(b"\n", b"\r\n")


def make_reader(*, hide_usage: bool = False, choices: int = 1) -> SameWireStream:
    assert FORMAT.look is not None
    return SameWireStream(FORMAT, FORMAT.look, hide_usage=hide_usage, choices=choices)


def read_all(reader: SameWireStream, pieces: list[bytes]) -> bytes:
    """What the client gets of a stream that ends properly, the held end included."""
    out = b""
    for piece in pieces:
        if reader.ended:
            break
        out += reader.feed(piece)
    if not reader.ended:
        out += reader.close()
    assert reader.failure is None
    return out + reader.tail


def cut(stream: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % len(stream) for place in places), len(stream)]
    return [stream[start:end] for start, end in zip(edges, edges[1:], strict=False) if start < end]


def expect(stream: bytes, *, hide_usage: bool) -> bytes:
    """The stream without what is not JSON and, where it is hidden, without the usage chunk."""
    end = b"\r\n\r\n" if b"\r" in stream else b"\n\n"
    left_out = [TORN.strip()] + [USAGE.strip()] * hide_usage
    return end.join(event for event in stream.split(end) if event not in left_out)


@given(st.lists(st.integers(0, 10**6), max_size=12), st.booleans(), st.sampled_from([WHOLE, CRLF]))
def test_any_cutting_gives_the_same_bytes(places: list[int], hide_usage: bool, stream: bytes) -> None:
    reader = make_reader(hide_usage=hide_usage)
    assert read_all(reader, cut(stream, places)) == expect(stream, hide_usage=hide_usage)
    assert "".join(reader.texts) == TEXT and reader.damaged == 1
    assert reader.usage == Usage(input=11, output=3)


@pytest.mark.parametrize("stream", [WHOLE, CRLF])
def test_a_cut_at_every_byte_gives_the_same_bytes(stream: bytes) -> None:
    wanted = expect(stream, hide_usage=True)
    for place in range(len(stream)):
        assert read_all(make_reader(hide_usage=True), cut(stream, [place])) == wanted
    single = [stream[at : at + 1] for at in range(len(stream))]
    assert read_all(make_reader(hide_usage=True), single) == wanted


@given(st.lists(st.sampled_from([b"\n", b"\r\n", b"\r"]), min_size=8, max_size=8), st.integers(1, 40))
def test_mixed_line_ends_lose_nothing(ends: list[bytes], size: int) -> None:
    events = [OPENING, *WORDS, FINISH, USAGE, COMMENT, DONE]
    stream = b"".join(event.replace(b"\n\n", end * 2) for event, end in zip(events, ends, strict=True))
    reader = make_reader()
    out = read_all(reader, [stream[at : at + size] for at in range(0, len(stream), size)])
    assert "".join(reader.texts) == TEXT and reader.damaged == 0
    assert out.count(b"data: ") == len(events) - 1


def test_nothing_goes_out_before_content_and_the_end_waits() -> None:
    reader = make_reader()
    assert reader.feed(COMMENT + OPENING) == b"" and not reader.begun
    assert reader.feed(WORDS[0]) == COMMENT + OPENING + WORDS[0] and reader.begun
    assert reader.feed(FINISH) == b"" and reader.settling and not reader.ended
    assert reader.feed(USAGE + DONE) == b"" and reader.ended
    assert reader.tail == FINISH + USAGE + DONE


@pytest.mark.parametrize(
    "delta",
    [
        {"content": "a"},
        {"reasoning_content": "hm"},
        {"refusal": "no"},
        {"tool_calls": [{"index": 0, "function": {"arguments": ""}}]},
    ],
)
def test_every_kind_of_content_is_the_commit_point(delta: dict[str, Any]) -> None:
    reader = make_reader()
    reader.feed(OPENING)
    assert reader.feed(chunk(delta)) and reader.begun
    assert reader.carries == bool(delta.keys() & {"refusal", "tool_calls"})


def test_several_choices_have_finished_when_all_have() -> None:
    reader = make_reader(choices=2)
    reader.feed(chunk({"content": "a"}) + chunk({"content": "b"}, index=1) + FINISH)
    assert not reader.settling
    reader.feed(chunk({}, "stop", index=1))
    assert reader.settling


def test_a_stream_that_ends_early_is_broken_unless_only_its_mark_is_missing() -> None:
    for events, whole in ((WORDS, False), ([OPENING], False), ([], False), ([*WORDS, FINISH], True)):
        reader = make_reader()
        reader.feed(b"".join(events))
        if whole:
            reader.close()
            assert reader.tail == FINISH + DONE and reader.ended
        else:
            with pytest.raises(UpstreamFailure, match="ended before"):
                reader.close()


def test_an_end_mark_without_an_answer_is_broken() -> None:
    for begin in (b"", OPENING, COMMENT):
        with pytest.raises(UpstreamFailure) as caught:
            make_reader().feed(begin + DONE)
        assert caught.value.kind == "broken_stream"


def test_a_last_event_without_its_blank_line_counts() -> None:
    for lost in (1, 2):
        reader = make_reader()
        out = reader.feed((b"".join(WORDS) + FINISH)[:-lost])
        assert out + reader.close() + reader.tail == b"".join(WORDS) + FINISH + DONE
    reader = make_reader()
    assert reader.feed(b"".join(WORDS) + FINISH + DONE.strip()) + reader.close() == b"".join(WORDS)
    assert reader.tail == FINISH + DONE


def test_text_in_a_last_event_without_its_blank_line_is_given_out_or_not_counted() -> None:
    reader = make_reader()
    out = reader.feed(WORDS[0] + WORDS[1][:-2])
    out += reader.close()
    assert out == WORDS[0] + WORDS[1] and "".join(reader.texts) == "Nä, so"
    assert reader.failure is not None and reader.failure.kind == "broken_stream"
    reader = make_reader()
    assert reader.feed(WORDS[0][:-1]) == b""
    with pytest.raises(UpstreamFailure):
        reader.close()
    assert not reader.begun and not reader.texts


def test_what_came_before_an_error_is_given_out_once_the_answer_has_begun() -> None:
    reader = make_reader()
    reader.feed(WORDS[0])
    assert reader.feed(WORDS[1] + fail("boom") + WORDS[2]) == WORDS[1]
    assert reader.failure is not None and reader.failure.message == "boom"
    assert "".join(reader.texts) == "Nä, so"


def test_an_error_in_the_first_read_of_content_leaves_nothing_begun() -> None:
    reader = make_reader()
    with pytest.raises(UpstreamFailure, match="boom"):
        reader.feed(OPENING + WORDS[0] + fail("boom"))
    assert not reader.begun and not reader.texts


@pytest.mark.parametrize(
    ("error", "kind", "matched"),
    [
        ({"message": "slow down", "code": 429}, "429", "429"),
        ({"message": "busy", "type": "overloaded_error"}, "503", "5xx"),
        ({"message": "maximum context length is 8"}, "context_length_exceeded", "context_length_exceeded"),
        ({"message": "oops"}, "502", "5xx"),
    ],
)
def test_an_error_in_band_is_of_the_kind_that_policies_name(
    error: dict[str, Any], kind: str, matched: str
) -> None:
    with pytest.raises(UpstreamFailure) as caught:
        make_reader().feed(fail(**error))
    assert caught.value.kind == kind and caught.value.matches(frozenset((matched,)))


def test_a_finish_that_means_an_error_is_one() -> None:
    reader = make_reader()
    reader.feed(WORDS[0])
    reader.feed(chunk({"content": ""}, "error"))
    assert reader.failure is not None


def test_an_event_without_an_end_is_not_kept_for_ever() -> None:
    reader = make_reader()
    reader.feed(b"data: ")
    with pytest.raises(UpstreamFailure, match="without an end"):
        reader.feed(b"x" * (MAX_EVENT_BYTES + 1))


PLAIN = (
    b'{"choices":[{"message":{"content":"N\\u00e4"}}],  "usage":{"prompt_tokens":4,"completion_tokens":1}}\n'
)


@given(st.lists(st.integers(0, 10**6), max_size=6))
def test_a_plain_answer_is_its_bytes(places: list[int]) -> None:
    reader = SameWireAnswer(FORMAT)
    assert all(reader.feed(piece) == b"" for piece in cut(PLAIN, places))
    assert reader.close() == b"" and reader.tail == PLAIN and reader.ended
    assert reader.usage == Usage(input=4, output=1)


def test_a_plain_answer_without_usage_keeps_its_text_for_the_estimate() -> None:
    reader = SameWireAnswer(FORMAT)
    reader.feed(b'{"choices":[{"message":{"content":"one"}},{"message":{"content":"two"}}]}')
    reader.close()
    assert reader.usage is None and "".join(reader.texts) == "onetwo"


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b'"text"', PLAIN[:-5], b'{"error":{"message":"no"}}']
)
def test_a_plain_answer_that_is_none_is_a_failure(body: bytes) -> None:
    reader = SameWireAnswer(FORMAT)
    reader.feed(body)
    with pytest.raises(UpstreamFailure):
        reader.close()
    assert not reader.ended and not reader.begun


@pytest.mark.parametrize(
    ("doc", "message"),
    [
        ({"error": {"message": "a"}}, "a"),
        ({"choices": [{"error": {"message": "b", "code": 429}}]}, "b"),
        ({"error": None, "choices": [{}]}, None),
        ({"choices": [{"error": 1}, {}]}, None),
    ],
)
def test_a_failure_is_found_at_the_top_or_in_the_only_choice(
    doc: dict[str, Any], message: str | None
) -> None:
    failure = find_failure(FORMAT, doc)
    assert (failure and failure.message) == message


def test_a_wires_own_mark_of_an_error_is_seen_in_answers_and_in_streams() -> None:
    tree = {
        **load_tree("openai-chat"),
        "errors": {"inside": ["$.result.code"], "kinds": {"429": {"code": ["7"]}}},
    }
    format = compile_format({**tree, "errors": {**tree["errors"], "code": "$.result.code"}})
    assert format.look is not None
    assert find_failure(format, {"choices": [], "result": {"code": 0}}) is None
    failure = find_failure(format, {"choices": [], "result": {"code": 7}})
    assert failure is not None and failure.kind == "429"
    reader = SameWireStream(format, format.look, hide_usage=False)
    reader.feed(chunk({"content": "a"}, result={"code": 0}))
    with pytest.raises(UpstreamFailure, match="status"):
        SameWireStream(format, format.look, hide_usage=False).feed(chunk(None, result={"code": 7}))
    assert reader.begun and reader.failure is None


def test_the_payload_of_an_event_is_its_data_lines() -> None:
    assert read_payload(b"data: a") == b"a"
    assert read_payload(b"data:a\ndata: b\nid: 1") == b"a\nb"
    assert read_payload(b"id: 1\nevent: x") is None
    assert read_payload(b": a comment") is None
