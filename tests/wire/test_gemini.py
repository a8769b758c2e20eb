"""generateContent, both directions: golden files of ours, answers that the official SDK takes, and every recorded
exchange (kept outside of this repository; without them those tests are skipped)."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from google.genai.types import GenerateContentResponse
from ruamel.yaml import YAML

from engine.errors import InvalidRequest, UpstreamFailure
from engine.wire.answers import SameWireStream
from engine.wire.canonical import Event, Failed
from engine.wire.streams import Answer, fold
from tests.wire.formats_at_hand import ROOT, load_format, read_stream, split_events, write_stream

CHAT, GEMINI = load_format("openai-chat"), load_format("gemini")
GOLDEN = Path(__file__).parent / "golden" / "gemini"
RECORDED = ROOT.parent / "shared" / "transcripts"
OTHERS = ("openai-chat", "openai-responses", "anthropic-messages")
CONTEXT = {"id": "answer-1", "created": 1700000000}
TOTALS = ("prompt", "completion", "total")


def load_golden(name: str) -> list[Any]:
    cases = YAML(typ="safe").load((GOLDEN / f"{name}.yaml").read_text())
    return [pytest.param(case, id=case["name"]) for case in cases]


def as_json(value: Any) -> Any:
    return orjson.loads(orjson.dumps(value))


def say(*docs: dict[str, Any]) -> bytes:
    return b"".join(b"data: %s\r\n\r\n" % orjson.dumps(doc) for doc in docs)


def shorten(answer: Answer) -> dict[str, Any]:
    """What an answer says: its parts, why it ended, and the classes of tokens that are not zero."""
    usage = {name: count for name, count in answer["usage"].items() if count and name not in TOTALS}
    return {"parts": answer["parts"], "finish": answer["finish"]["reason"], "usage": usage}


# --- requests


@pytest.mark.parametrize("case", load_golden("requests"))
def test_a_chat_completion_is_sent_as_this_wire_takes_it(case: dict[str, Any]) -> None:
    target = {"model": "up", "traits": {**GEMINI.traits, **case.get("traits", {})}}
    assert as_json(GEMINI.write_request(CHAT.read_request(case["given"]), target)) == case["sends"]


@pytest.mark.parametrize("case", load_golden("reads"))
def test_a_clients_request_is_understood(case: dict[str, Any]) -> None:
    chat = GEMINI.read_request(case["body"], {"model": "m"})
    assert {key: value for key, value in chat.items() if key != "dialect"} == case["chat"]


@pytest.mark.parametrize("case", load_golden("reads"))
def test_a_clients_request_is_the_same_when_it_is_sent_on(case: dict[str, Any]) -> None:
    chat = GEMINI.read_request(case["body"], {"model": "m"})
    target = {"model": "up", "traits": {**GEMINI.traits, "thinking": "level", "labels": True}}
    again = GEMINI.read_request(as_json(GEMINI.write_request(chat, target)), {"model": "m"})
    told = ("turns", "tools", "tool_choice", "response_format", "stop", "max_output", "modalities", "extra")
    assert {key: again.get(key) for key in told} == {key: chat.get(key) for key in told}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "contents"),
        ({"contents": []}, "contents"),
        ({"contents": [{"role": "system", "parts": []}]}, "contents[0].role"),
        ({"contents": [{"parts": [{"text": 5}]}]}, "contents[0].parts[0].text"),
        ({"contents": [{"parts": [{"functionCall": {}}]}]}, "contents[0].parts[0].functionCall.name"),
        (
            {"contents": [{"parts": []}], "generation_config": {"top_k": "x"}},
            "generationConfig.topK",
        ),
    ],
)
def test_what_the_dialect_forbids_is_refused_with_its_field(body: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        GEMINI.read_request(body, {"model": "m"})
    assert refused.value.param == param


# --- answers


@pytest.mark.parametrize("case", load_golden("answers"))
def test_an_answer_says_the_same_plain_and_streamed(case: dict[str, Any]) -> None:
    expected = {key: case[key] for key in ("parts", "finish", "usage")}
    assert shorten(fold(GEMINI.read_reply(case["doc"]))) == expected
    assert shorten(fold(read_stream(GEMINI, [say(case["doc"])]))) == expected


@pytest.mark.parametrize("case", load_golden("answers"))
def test_an_answer_is_written_as_the_sdk_takes_it_and_reads_back(case: dict[str, Any]) -> None:
    events = GEMINI.read_reply(case["doc"])
    plain = as_json(GEMINI.write_reply(events, CONTEXT))
    assert GenerateContentResponse.model_validate(plain)
    assert shorten(fold(GEMINI.read_reply(plain))) == shorten(fold(events))
    streamed = write_stream(GEMINI, events)
    for chunk in split_events(streamed):
        assert GenerateContentResponse.model_validate(chunk)
    assert tell(fold(read_stream(GEMINI, [streamed]))) == tell(fold(events))


@pytest.mark.parametrize("reason", ["MALFORMED_FUNCTION_CALL", "OTHER", "NO_IMAGE"])
def test_an_answer_that_went_wrong_is_a_failure(reason: str) -> None:
    doc = {"candidates": [{"finishReason": reason, "finishMessage": "said why"}]}
    for events in (GEMINI.read_reply(doc), read_stream(GEMINI, [say(doc)])):
        assert isinstance(events[-1], Failed) and events[-1].message == "said why"


def test_an_answer_of_nothing_is_a_failure() -> None:
    assert isinstance(GEMINI.read_reply({"candidates": [], "usageMetadata": {}})[-1], Failed)


def test_a_stream_of_a_cut_text_keeps_its_citations_in_place() -> None:
    grounding = {
        "groundingChunks": [{"web": {"uri": "https://a.example", "title": "A"}}],
        "groundingSupports": [{"segment": {"startIndex": 3, "endIndex": 6}, "groundingChunkIndices": [0]}],
    }
    docs = [
        {"candidates": [{"content": {"parts": [{"text": "ä "}]}}], "responseId": "r"},
        {"candidates": [{"content": {"parts": [{"text": "öb!"}]}}]},
        {
            "candidates": [
                {"content": {"parts": [{"text": ""}]}, "finishReason": "STOP", "groundingMetadata": grounding}
            ]
        },
    ]
    (part,) = fold(read_stream(GEMINI, [say(*docs)]))["parts"]
    assert part["citations"] == [{"url": "https://a.example", "title": "A", "start": 2, "end": 4}]


@pytest.mark.parametrize(
    ("status", "error", "kind", "code"),
    [
        (
            400,
            {"status": "INVALID_ARGUMENT", "details": [{"reason": "API_KEY_INVALID"}]},
            "401",
            "API_KEY_INVALID",
        ),
        (400, {"status": "FAILED_PRECONDITION", "message": "User location is not supported"}, "403", None),
        (
            400,
            {
                "status": "INVALID_ARGUMENT",
                "message": "The input token count (9) exceeds the maximum number of tokens allowed (8).",
            },
            "context_length_exceeded",
            None,
        ),
        (429, {"status": "RESOURCE_EXHAUSTED"}, "429", None),
        (503, {"status": "UNAVAILABLE"}, "503", None),
        (400, {"status": "INVALID_ARGUMENT", "message": "no"}, "invalid_request", None),
    ],
)
def test_errors_are_known_by_status_and_reason(
    status: int, error: dict[str, Any], kind: str, code: str | None
) -> None:
    for doc in ({"error": {"code": status, **error}}, [{"error": {"code": status, **error}}]):
        read = GEMINI.read_error(status, doc, "")
        assert GEMINI.kind_of_error(status, read) == kind
        assert read.code == (code or error["status"])


def test_how_long_to_wait_stands_in_the_body() -> None:
    info = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "34.4s"}
    said = {"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "details": [{"reason": "R"}, info]}}
    assert GEMINI.read_error(429, said, "").retry_after_s == 34.4
    assert GEMINI.read_error(429, {"error": {"details": [{"retryDelay": "soon"}]}}, "").retry_after_s is None


def test_an_error_for_a_client_names_its_field_and_reason() -> None:
    told = GEMINI.write_error(
        {
            "status": 429,
            "message": "slow down",
            "param": "contents",
            "code": "rate_limited",
            "request_id": "q1",
        }
    )
    assert told["error"]["code"] == 429 and told["error"]["status"] == "RESOURCE_EXHAUSTED"
    field, info = told["error"]["details"]
    assert field["fieldViolations"] == [{"field": "contents", "description": "slow down"}]
    assert info["reason"] == "RATE_LIMITED" and info["metadata"] == {"request_id": "q1"}


# --- the same wire


def pass_through(raw: bytes, size: int) -> tuple[bytes, SameWireStream]:
    assert GEMINI.look is not None
    reader = SameWireStream(GEMINI, GEMINI.look, hide_usage=False)
    out = b"".join(reader.feed(raw[start : start + size]) for start in range(0, len(raw), size))
    out += reader.close()
    return out + reader.tail, reader


def test_a_stream_of_the_same_wire_passes_and_is_read() -> None:
    raw = say(
        {"candidates": [{"content": {"parts": [{"text": "Hm.", "thought": True}]}}], "responseId": "r"},
        {"candidates": [{"content": {"parts": [{"text": "a"}, {"text": "b"}]}}]},
        {
            "candidates": [{"content": {"parts": [{"text": ""}]}, "finishReason": "STOP"}],
            "usageMetadata": {"promptTokenCount": 3, "candidatesTokenCount": 2, "thoughtsTokenCount": 1},
        },
    )
    for size in (1, 7, len(raw)):
        out, reader = pass_through(raw, size)
        assert out == raw and reader.ended
        assert "".join(reader.texts) == "ab"
        assert reader.usage is not None and reader.usage.as_record() == {
            "input": 3,
            "output": 2,
            "reasoning": 1,
        }


def test_a_refused_prompt_of_the_same_wire_passes() -> None:
    raw = say({"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": {"promptTokenCount": 3}})
    out, reader = pass_through(raw, len(raw))
    assert out == raw and reader.ended


def test_an_answer_of_the_same_wire_that_went_wrong_can_still_go_elsewhere() -> None:
    with pytest.raises(UpstreamFailure):
        pass_through(say({"candidates": [{"finishReason": "MALFORMED_FUNCTION_CALL", "index": 0}]}), 9999)


# --- recordings


def tell(answer: Answer) -> list[Any]:
    """What an answer says, without how the dialect cuts it into blocks."""
    parts = answer["parts"]
    return [
        "".join(part.get("text", "") for part in parts if part["type"] == "text"),
        [(p["name"], orjson.loads(p["arguments"])) for p in parts if p["type"] == "tool_call"],
        answer["finish"]["reason"],
        answer["usage"]["prompt"],
        answer["usage"]["completion"],
    ]


def find_exchanges() -> Iterator[Any]:
    """The bytes of every recorded answer, and whether it is a stream."""
    for path in sorted(RECORDED.glob("protocols/*/google/*response*.json")):
        doc = json.loads(path.read_bytes())
        raw = say(*doc) if isinstance(doc, list) else orjson.dumps(doc)
        yield pytest.param(raw, isinstance(doc, list), id=f"{path.parts[-3]}/{path.stem}")
    for path in sorted(RECORDED.glob("cassettes/**/*.yaml")):
        text = path.read_text()
        if "enerateContent" not in text:
            continue
        for number, exchange in enumerate(YAML(typ="safe").load(text)["interactions"]):
            url, answer = exchange["request"]["url"], exchange["response"]
            if "enerateContent" in url and answer["code"] == 200:
                name = f"{path.parent.parent.name}/{path.parent.name}/{path.stem}/{number}"
                yield pytest.param(answer["body"].encode(), "stream" in url, id=name)


EXCHANGES = list(find_exchanges())
STREAMS = [case for case in EXCHANGES if case.values[1]]


def read_exchange(raw: bytes, streamed: bool) -> list[Event]:
    return read_stream(GEMINI, [raw]) if streamed else GEMINI.read_reply(orjson.loads(raw))


def has_failed(raw: bytes, events: list[Event]) -> bool:
    failed = any(isinstance(event, Failed) for event in events)
    assert failed == any(b'"%s"' % reason in raw for reason in (b"NO_IMAGE", b"OTHER"))
    return failed


@pytest.mark.skipif(not EXCHANGES, reason="the recordings are not here")
@pytest.mark.parametrize(("raw", "streamed"), EXCHANGES)
def test_a_recorded_answer_is_told_the_same_in_every_dialect(raw: bytes, streamed: bool) -> None:
    events = read_exchange(raw, streamed)
    if has_failed(raw, events):
        return
    told = tell(fold(events))
    for name in (*OTHERS, "gemini"):
        form = load_format(name)
        written = as_json(form.write_reply(events, CONTEXT))
        assert tell(fold(form.read_reply(written))) == told
        assert tell(fold(read_stream(form, [write_stream(form, events)]))) == told


@pytest.mark.skipif(not STREAMS, reason="the recordings are not here")
@pytest.mark.parametrize(("raw", "streamed"), STREAMS)
def test_a_recorded_stream_is_the_same_however_it_is_cut(raw: bytes, streamed: bool) -> None:
    whole = read_exchange(raw, streamed)
    size = 1 if len(raw) < 20_000 else 997
    assert read_stream(GEMINI, [raw[at : at + size] for at in range(0, len(raw), size)]) == whole
    if has_failed(raw, whole):
        return
    for cut in (size, len(raw)):
        out, reader = pass_through(raw, cut)
        assert out == raw
        assert "".join(reader.texts) == tell(fold(whole))[0]
        assert reader.usage is not None and reader.usage.prompt == tell(fold(whole))[3]


@pytest.mark.skipif(not STREAMS, reason="the recordings are not here")
@pytest.mark.parametrize(("raw", "streamed"), STREAMS)
def test_what_is_written_of_a_recorded_stream_is_taken_by_the_sdk(raw: bytes, streamed: bool) -> None:
    for chunk in split_events(write_stream(GEMINI, read_exchange(raw, streamed))):
        if "error" not in chunk:
            assert GenerateContentResponse.model_validate(chunk)
