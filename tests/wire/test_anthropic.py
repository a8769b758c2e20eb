"""Messages, both directions: golden files of ours, streams in the grammar that the official SDK accumulates, and every
recorded exchange (kept outside of this repository; without them those tests are skipped)."""

import json
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson
import pytest
from anthropic.lib.streaming._messages import accumulate_event
from anthropic.types import Message, RawMessageStreamEvent
from pydantic import TypeAdapter
from ruamel.yaml import YAML

from engine.errors import InvalidRequest, ProviderError, UpstreamFailure
from engine.wire.answers import AnswerReader, SameWireAnswer, SameWireStream
from engine.wire.canonical import BlockEnded, BlockStarted, Event, Failed, Finished, Started, UsageReported
from engine.wire.streams import fold, unfold
from engine.wire.usage import Usage
from tests.wire.formats_at_hand import ROOT, load_format, read_stream, split_events, write_stream

CHAT, MESSAGES = load_format("openai-chat"), load_format("anthropic-messages")
GOLDEN = Path(__file__).parent / "golden" / "anthropic-messages"
RECORDED = ROOT.parent / "shared" / "transcripts"
EVENT: TypeAdapter[RawMessageStreamEvent] = TypeAdapter(RawMessageStreamEvent)


def load_golden(name: str) -> list[Any]:
    cases = YAML(typ="safe").load((GOLDEN / f"{name}.yaml").read_text())
    return [pytest.param(case, id=case["name"]) for case in cases]


def say(events: list[dict[str, Any]]) -> bytes:
    return b"".join(b"event: %s\ndata: %s\n\n" % (e["type"].encode(), orjson.dumps(e)) for e in events)


def shorten(answer: Mapping[str, Any]) -> dict[str, Any]:
    """An answer as the golden files write it: no zeros, no totals."""
    usage = {k: v for k, v in answer["usage"].items() if v and k not in ("prompt", "completion", "total")}
    finish = {k: v for k, v in answer["finish"].items() if v is not None}
    return {k: answer[k] for k in ("id", "model", "parts")} | {"finish": finish, "usage": usage}


# --- requests


@pytest.mark.parametrize("case", load_golden("requests"))
def test_a_request_of_another_dialect_is_sent_as_this_one_takes_it(case: dict[str, Any]) -> None:
    target = {
        "model": "up",
        "limits": case.get("limits", {}),
        "traits": MESSAGES.traits | case.get("traits", {}),
    }
    traits = {
        "cache_marks": True,
        "replays_signatures": True,
        "replays_reasoning": True,
        "more_sampling": True,
    }
    chat = CHAT.read_request(case["given"])
    sent = orjson.loads(orjson.dumps(MESSAGES.write_request(chat, target)))
    assert sent == case["sends"]
    again = orjson.loads(
        orjson.dumps(CHAT.write_request(MESSAGES.read_request(sent), {"model": "m", "traits": traits}))
    )
    assert len(again["messages"]) >= len([m for m in sent["messages"] if m["content"]])


@pytest.mark.parametrize("case", load_golden("reads"))
def test_a_clients_request_is_understood_and_written_again_as_it_was(case: dict[str, Any]) -> None:
    chat = MESSAGES.read_request(case["body"])
    assert {k: v for k, v in chat.items() if k != "dialect"} == case["chat"]
    able = {"thinking": "both", "efforts": ["low", "xhigh"], "sampling_together": True, "system_turns": True}
    target = {"model": "m", "traits": MESSAGES.traits | able}
    again = orjson.loads(orjson.dumps(MESSAGES.write_request(chat, target)))
    second = MESSAGES.read_request(again)
    lost = {"temperature", "top_p", "top_k"} if "thinking" in case["body"] else set()
    if "tools" not in case["body"]:
        lost.add("tool_choice")
    chat["turns"] = [without_made_up_citations(turn) for turn in chat["turns"]]
    assert {k: v for k, v in chat.items() if k not in lost} == second
    assert MESSAGES.find_loss(chat) == []


def without_made_up_citations(turn: dict[str, Any]) -> dict[str, Any]:
    """Citations that nobody vouches for are not sent."""
    parts = [
        {**part, "citations": [c for c in part["citations"] if "native" in c]}
        if "citations" in part
        else part
        for part in turn["parts"]
    ]
    return {**turn, "parts": parts}


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": ["hi"]}, "messages[0]"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"text": "x"}]}]}, "messages[0].content[0].type"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": 1}]}]},
            "messages[0].content[0].text",
        ),
        ({"messages": [{"role": "user", "content": [1]}]}, "messages[0].content[0]"),
        ({"system": 3}, "system"),
        ({"tool_choice": {"type": "some"}}, "tool_choice.type"),
        ({"tools": [{"name": "x", "input_schema": "y"}]}, "tools[0].input_schema"),
        ({"thinking": {"type": "enabled", "budget_tokens": "many"}}, "thinking.budget_tokens"),
        ({"output_config": {"format": {"type": "json_schema"}}}, "output_config.format.schema"),
        ({"stop_sequences": [1]}, "stop_sequences[0]"),
    ],
)
def test_what_the_dialect_forbids_is_refused_with_its_place(change: dict[str, Any], where: str) -> None:
    body = {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}], **change}
    with pytest.raises(InvalidRequest) as caught:
        MESSAGES.read_request(body)
    assert caught.value.param == where


# --- answers


@pytest.mark.parametrize("case", load_golden("answers"))
def test_an_answer_is_understood_plain_and_streamed_and_told_to_its_own_clients_as_it_was(
    case: dict[str, Any],
) -> None:
    wire = case["wire"]
    events = MESSAGES.read_reply(wire)
    assert shorten(fold(events)) == case["answer"]
    assert orjson.loads(orjson.dumps(MESSAGES.write_reply(events, {}))) == wire
    writer = MESSAGES.new_stream_writer({})
    streams = [writer.write(events) + writer.close()] + ([say(case["stream"])] if "stream" in case else [])
    for stream in streams:
        streamed = read_stream(MESSAGES, [stream])
        told = orjson.loads(orjson.dumps(MESSAGES.write_reply(streamed, {})))
        nothing_said = [{"type": "text", "text": ""}]
        assert {**told, "content": [] if told["content"] == nothing_said else told["content"]} == wire
        assert [read_stream(MESSAGES, [stream[at : at + 1] for at in range(len(stream))])] == [streamed]
    Message.model_validate(wire)


@pytest.mark.parametrize("case", load_golden("answers"))
def test_the_official_accumulator_makes_the_plain_answer_of_our_stream(case: dict[str, Any]) -> None:
    events = MESSAGES.read_reply(case["wire"])
    writer = MESSAGES.new_stream_writer({})
    message = accumulate(split_events(writer.write(events) + writer.close()))
    plain = Message.model_validate(orjson.loads(orjson.dumps(MESSAGES.write_reply(events, {}))))
    told = message.model_dump(exclude_none=True, exclude={"content": {"__all__": {"parsed_output"}}})
    if not plain.content:
        told["content"] = []
    wanted = plain.model_dump(exclude_none=True)
    assert told == wanted


def accumulate(documents: list[dict[str, Any]]) -> Message:
    """The message that the official SDK makes of the events; each must be an event that it knows."""
    message: Any = None
    buffers: dict[int, bytes] = {}
    for document in documents:
        event = EVENT.validate_python(document)
        message = accumulate_event(event=event, current_snapshot=message, json_bufs=buffers)
    assert documents[-1]["type"] == "message_stop"
    return message


def check_grammar(documents: list[dict[str, Any]]) -> None:
    """message_start, blocks one after another and numbered without gaps, message_delta, message_stop."""
    kinds = [document["type"] for document in documents]
    assert kinds[0] == "message_start" and kinds[-2:] == ["message_delta", "message_stop"]
    open_block, number = False, -1
    for document in documents[1:-2]:
        if document["type"] == "content_block_start":
            assert not open_block and document["index"] == number + 1
            open_block, number = True, number + 1
        else:
            assert open_block and document["index"] == number
            open_block = document["type"] != "content_block_stop"
    assert not open_block
    assert isinstance(documents[-2]["usage"]["output_tokens"], int) and documents[-2]["delta"]["stop_reason"]


def test_calls_that_come_interleaved_are_told_one_after_another() -> None:
    chunk = {"id": "c", "object": "chat.completion.chunk", "model": "m", "created": 1}
    deltas: list[dict[str, Any]] = [{"content": "So."}, {"reasoning_content": "hm"}]
    for piece in ("", '{"a"', ": 1}"):
        for index, name in enumerate(("f", "g")):
            call = {"index": index, "function": {"arguments": piece}}
            if not piece:
                call |= {
                    "id": f"tool:{index}",
                    "type": "function",
                    "function": {"name": name, "arguments": ""},
                }
            deltas.append({"tool_calls": [call]})
    said = [{**chunk, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    said.append({**chunk, "choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]})
    events = read_stream(
        CHAT, [b"".join(b"data: %s\n\n" % orjson.dumps(c) for c in said) + b"data: [DONE]\n\n"]
    )
    documents = split_events(write_stream(MESSAGES, events))
    check_grammar(documents)
    message = accumulate(documents)
    calls = [block for block in message.content if block.type == "tool_use"]
    assert [(call.name, call.input) for call in calls] == [("f", {"a": 1}), ("g", {"a": 1})]
    assert message.id == "msg_c" and message.stop_reason == "tool_use"
    turn = {"role": "assistant", "content": [call.model_dump(exclude_none=True) for call in calls]}
    results = [{"type": "tool_result", "tool_use_id": call.id, "content": "x"} for call in calls]
    body = {"model": "m", "max_tokens": 5, "messages": [turn, {"role": "user", "content": results}]}
    parts = [part for t in MESSAGES.read_request(body)["turns"] for part in t["parts"]]
    assert [part["id"] for part in parts] == ["tool:0", "tool:1", "tool:0", "tool:1"]


def test_what_was_read_is_told_at_the_start_when_it_is_known() -> None:
    started, usage = (
        Started("msg_1", "m"),
        UsageReported(Usage(input=3, cached_input=4, cache_write_1h=2, output=1)),
    )
    (start,) = split_events(MESSAGES.new_stream_writer({}).write([started, usage]))
    assert start["message"]["usage"]["input_tokens"] == 3
    assert start["message"]["usage"]["cache_creation"] == {
        "ephemeral_5m_input_tokens": 0,
        "ephemeral_1h_input_tokens": 2,
    }
    (start,) = split_events(MESSAGES.new_stream_writer({"input_estimate": 9}).write([started]))
    assert start["message"]["usage"]["input_tokens"] == 9


def test_why_it_refused_is_told_to_clients_of_chat_completions() -> None:
    (wire,) = [
        p.values[0]["wire"] for p in load_golden("answers") if p.values[0]["wire"]["stop_reason"] == "refusal"
    ]
    events = MESSAGES.read_reply(wire)
    choice = CHAT.write_reply(events, {"id": "x"})["choices"][0]
    assert choice["message"]["refusal"] == "Not that." and choice["finish_reason"] == "content_filter"
    (refusal,) = fold(read_stream(CHAT, [write_stream(CHAT, events)]))["parts"]
    assert refusal == {"type": "refusal", "text": "Not that."}


def test_native_blocks_of_another_issuer_leave_no_gap() -> None:
    foreign = {"type": "native", "issuer": "somebody", "block": {"code": "1"}}
    events = [
        Started("x", "m"),
        BlockStarted(0, 0, 0, "native", foreign),
        BlockEnded(0, 0, 0, "native", foreign),
        *unfold({"parts": [{"type": "text", "text": "hi"}]})[1:],
    ]
    events = [e if not isinstance(e, Started) and getattr(e, "kind", "") != "text" else e for e in events]
    shifted: list[Event] = []
    for event in events:
        if getattr(event, "kind", "") == "text":
            event.index = 1  # type: ignore[union-attr]
        shifted.append(event)
    documents = split_events(write_stream(MESSAGES, shifted))
    check_grammar(documents)
    assert accumulate(documents).content[0].type == "text"


def test_a_stream_without_content_has_an_empty_block() -> None:
    documents = split_events(write_stream(MESSAGES, [Started("x", "m"), Finished(0, "stop")]))
    check_grammar(documents)
    assert documents[1]["content_block"] == {"type": "text", "text": ""}


# --- errors


@pytest.mark.parametrize(
    ("status", "type_"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (402, "billing_error"),
        (403, "permission_error"),
        (404, "not_found_error"),
        (413, "request_too_large"),
        (429, "rate_limit_error"),
        (500, "api_error"),
        (502, "api_error"),
        (503, "overloaded_error"),
        (504, "timeout_error"),
    ],
)
def test_an_error_is_told_with_the_dialects_type_of_its_status(status: int, type_: str) -> None:
    told = MESSAGES.write_error({"status": status, "message": "no", "type": "x", "request_id": "r"})
    assert told == {"type": "error", "error": {"type": type_, "message": "no"}, "request_id": "r"}


@pytest.mark.parametrize(
    ("kind", "status", "type_"),
    [
        ("503", 502, "overloaded_error"),
        ("429", 502, "rate_limit_error"),
        (None, 504, "timeout_error"),
        ("x", 502, "api_error"),
    ],
)
def test_an_error_within_a_stream_is_its_last_event(kind: str | None, status: int, type_: str) -> None:
    failed = Failed(ProviderError("no"), status, kind)
    raw = write_stream(MESSAGES, [Started("x", "m"), failed, Finished(0, "stop")])
    assert raw.split(b"\n\n")[-2].startswith(b"event: error\n")
    assert split_events(raw)[-1]["error"] == {"type": type_, "message": "no"}


@pytest.mark.parametrize(
    ("type_", "message", "status", "kind"),
    [
        (
            "invalid_request_error",
            "prompt is too long: 200001 tokens > 200000 maximum",
            400,
            "context_length_exceeded",
        ),
        (
            "invalid_request_error",
            "input length and `max_tokens` exceed context limit: 190000 + 20000 > 200000",
            400,
            "context_length_exceeded",
        ),
        ("invalid_request_error", "Your credit balance is too low to access the API.", 400, "402"),
        ("invalid_request_error", "Output blocked by content filtering policy", 400, "content_filter"),
        ("invalid_request_error", "max_tokens: Field required", 400, "invalid_request"),
        ("rate_limit_error", "slow down", 429, "429"),
        ("overloaded_error", "Overloaded", 529, "503"),
    ],
)
def test_an_error_of_a_provider_is_of_a_kind(type_: str, message: str, status: int, kind: str) -> None:
    error = MESSAGES.read_error(status, {"type": "error", "error": {"type": type_, "message": message}}, "")
    assert (error.message, error.type) == (message, type_)
    assert MESSAGES.kind_of_error(status, error) == kind


# --- the same wire elsewhere, and the count of a prompt's tokens


BODY: dict[str, Any] = {
    "model": "m",
    "max_tokens": 50,
    "stream": True,
    "system": "Be brief.",
    "messages": [{"role": "user", "content": "hi"}],
    "metadata": {"user_id": "u"},
}


def test_on_vertex_the_model_is_not_in_the_body_and_the_version_is() -> None:
    form = load_format("vertex-anthropic")
    sent = form.write_request(MESSAGES.read_request(BODY), {"model": "claude@1", "traits": form.traits})
    assert sent == {k: v for k, v in BODY.items() if k != "model"} | {
        "anthropic_version": "vertex-2023-10-16"
    }
    assert form.stream_path.endswith(":streamRawPredict") and not form.client.serves
    google = {"error": {"code": 429, "message": "Quota exceeded", "status": "RESOURCE_EXHAUSTED"}}
    assert form.read_error(429, google, "").message == "Quota exceeded"


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("anthropic-count-tokens", {"model": "up"}),
        ("vertex-anthropic-count-tokens", {"model": "up", "anthropic_version": "vertex-2023-10-16"}),
    ],
)
def test_a_count_is_asked_for_without_what_shapes_the_answer(name: str, more: dict[str, Any]) -> None:
    form, count = load_format(name), load_format("anthropic-count-tokens")
    asked = {k: v for k, v in BODY.items() if k in ("model", "system", "messages")}
    sent = form.write_request(count.read_request(asked), {"model": "up", "traits": form.traits})
    assert sent == {k: v for k, v in asked.items() if k != "model"} | more
    events = form.read_reply({"input_tokens": 7})
    assert form.read_usage({"input_tokens": 7}) == Usage(input=7)
    assert count.write_reply(events, {}) == {"input_tokens": 7}
    with pytest.raises(InvalidRequest, match="messages"):
        count.read_request({"model": "m"})


# --- recordings


def find_cassettes() -> Iterator[Any]:
    paths = sorted(RECORDED.glob("cassettes/*/**/*.yaml"))
    for path in paths:
        if b"/v1/messages" not in path.read_bytes():
            continue
        for number, exchange in enumerate(
            YAML(typ="safe", pure=False).load(path.read_text())["interactions"]
        ):
            if "/v1/messages" in exchange["request"]["url"]:
                yield pytest.param(exchange, id=f"{path.relative_to(RECORDED / 'cassettes')}:{number}")


def find_protocols() -> Iterator[Any]:
    for host in ("anthropic", "vertex-anthropic", "bedrock-anthropic"):
        for path in sorted(RECORDED.glob(f"protocols/*/{host}/*response*.json")):
            yield pytest.param(path, id=str(path.relative_to(RECORDED / "protocols")))


def tell(events: list[Event]) -> Any:
    """What an answer says in any dialect, without how it is cut into blocks."""
    answer = fold(events)
    parts, usage = answer["parts"], answer["usage"]
    return (
        "".join(part.get("text", "") for part in parts if part["type"] == "text"),
        "".join(part.get("text", "") for part in parts if part["type"] == "reasoning"),
        [part.get("signature") or part.get("redacted") for part in parts if part["type"] == "reasoning"],
        [(p["id"], p["name"], orjson.loads(p["arguments"])) for p in parts if p["type"] == "tool_call"],
        # chat completions have no word for a turn that pauses
        {"pause": "stop"}.get(answer["finish"]["reason"], answer["finish"]["reason"]),
        usage and (usage["prompt"], usage["completion"], usage["cached_input"], usage["reasoning"]),
    )


def check_everywhere(events: list[Event]) -> None:
    assert not [event for event in events if isinstance(event, Failed)]
    raw = write_stream(MESSAGES, events)
    check_grammar(split_events(raw))
    accumulate(split_events(raw))
    plain = MESSAGES.read_reply(orjson.loads(orjson.dumps(MESSAGES.write_reply(events, {}))))
    assert tell(read_stream(MESSAGES, [raw])) == tell(plain) == tell(events)
    natives = [[p for p in fold(e)["parts"] if p["type"] == "native"] for e in (events, plain)]
    assert [show_block(p) for p in natives[0]] == [show_block(p) for p in natives[1]]
    chat = write_stream(CHAT, events)
    assert tell(read_stream(CHAT, [chat])) == tell(events)
    reply = CHAT.read_reply(orjson.loads(orjson.dumps(CHAT.write_reply(events, {"id": "x", "created": 1}))))
    assert tell(reply) == tell(events)


def show_block(part: dict[str, Any]) -> Any:
    asked = {"input": orjson.loads(part["arguments"])} if part.get("arguments") else {}
    return part["block"] | asked


def new_same_wire_stream() -> SameWireStream:
    assert MESSAGES.look is not None
    return SameWireStream(MESSAGES, MESSAGES.look, hide_usage=False)


def check_same_wire(reader: AnswerReader, pieces: list[bytes]) -> None:
    """On its own wire an answer passes byte for byte, and its usage is read."""
    passed = b"".join(reader.feed(piece) for piece in pieces)
    passed += b"" if reader.ended else reader.close()
    raw = b"".join(pieces)
    assert passed + reader.tail == raw and reader.ended and reader.damaged == 0
    events = (
        read_stream(MESSAGES, [raw]) if raw.startswith(b"event") else MESSAGES.read_reply(orjson.loads(raw))
    )
    assert reader.usage == [event for event in events if isinstance(event, UsageReported)][-1].usage


def test_a_stream_on_its_own_wire_is_read_for_text_usage_and_its_end() -> None:
    (case,) = [param.values[0] for param in load_golden("answers") if "stream" in param.values[0]]
    raw, reader = say(case["stream"]), new_same_wire_stream()
    check_same_wire(reader, [raw[at : at + 9] for at in range(0, len(raw), 9)])
    assert "".join(reader.texts) == "Looking." and reader.carries
    start = case["stream"][:11]
    failing = say([*start, {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}])
    for size in (60, len(failing)):
        broken = new_same_wire_stream()
        try:
            for at in range(0, len(failing), size):
                broken.feed(failing[at : at + size])
        except UpstreamFailure as failure:
            broken.failure = failure
        assert broken.failure is not None and broken.failure.kind == "503"


@pytest.mark.skipif(not RECORDED.is_dir(), reason="the recordings are not here")
@pytest.mark.parametrize("exchange", list(find_cassettes()))
def test_a_recorded_exchange_is_read_and_told_everywhere(exchange: dict[str, Any]) -> None:
    body, raw = json.loads(exchange["request"]["body"]), exchange["response"]["body"].encode()
    chat = MESSAGES.read_request({"model": "m", **body})
    assert MESSAGES.find_loss(chat) == []
    for form in (MESSAGES, CHAT):
        assert orjson.dumps(form.write_request(chat, {"model": "m", "traits": form.traits}))
    if not body.get("stream"):
        check_everywhere(MESSAGES.read_reply(orjson.loads(raw)))
        check_same_wire(SameWireAnswer(MESSAGES), [raw])
        return
    events = read_stream(MESSAGES, [raw])
    check_everywhere(events)
    for size in (1, 700, len(raw)):
        check_same_wire(new_same_wire_stream(), [raw[at : at + size] for at in range(0, len(raw), size)])
    assert read_stream(MESSAGES, [raw[at : at + 1] for at in range(len(raw))]) == events
    cuts = [at + 2 for at in range(len(raw)) if raw[at : at + 2] == b"\n\n"]
    bounds = sorted({0, *cuts[::3], len(raw)})
    assert read_stream(MESSAGES, [raw[a:b] for a, b in pairwise(bounds)]) == events


@pytest.mark.skipif(not RECORDED.is_dir(), reason="the recordings are not here")
@pytest.mark.parametrize("path", list(find_protocols()))
def test_a_recorded_answer_is_told_everywhere(path: Path) -> None:
    doc = json.loads(path.read_bytes())
    if isinstance(doc, dict):
        check_everywhere(MESSAGES.read_reply(doc))
        return
    reader = MESSAGES.new_stream_reader()
    events = [event for item in doc for event in reader.feed(item)] + reader.close()
    assert reader.damaged == 0
    check_everywhere(events)
