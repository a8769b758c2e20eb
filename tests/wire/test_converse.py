"""The Converse dialect on both sides: every block of a request, answers, event stream bytes, errors.

The official SDK's own parser reads what is written for its clients.
"""

import base64
import copy
import json
from pathlib import Path
from typing import Any

import boto3
import orjson
import pytest
from botocore.awsrequest import AWSResponse
from botocore.config import Config
from botocore.exceptions import EventStreamError
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from engine.errors import InvalidRequest, ProviderError
from engine.wire.blocks import BlockMachine
from engine.wire.canonical import Event, Failed, Finished
from engine.wire.eventstream import write_eventstream_frame
from engine.wire.framing import split_all
from engine.wire.streams import fold
from tests.wire.formats_at_hand import ROOT, load_format, read_stream, write_stream

FORMAT = load_format("bedrock-converse")
CHAT = load_format("openai-chat")
GOLDEN = Path(__file__).parent / "golden" / "bedrock-converse"
RECORDED = ROOT.parent / "shared" / "transcripts" / "protocols"
RECORDINGS = sorted(RECORDED.glob("*/bedrock/*response*.json"))


def load_golden(name: str) -> Any:
    return json.loads((GOLDEN / name).read_text())


def make_target(**traits: Any) -> dict[str, Any]:
    return {"model": "m", "limits": {"output": 8000}, "traits": {**FORMAT.traits, **traits}}


def ask(body: dict[str, Any], **traits: Any) -> dict[str, Any]:
    """What a chat completions request becomes."""
    question = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
    return FORMAT.write_request(CHAT.read_request({**question, **body}), make_target(**traits))


# --- requests


def test_every_block_of_a_request_is_read() -> None:
    assert FORMAT.read_request(load_golden("request.json"), {"model": "m", "stream": True}) == load_golden(
        "chat.json"
    )


def test_a_request_comes_back_as_it_was_but_for_thinking_that_a_forced_tool_forbids() -> None:
    body = load_golden("request.json")
    written = FORMAT.write_request(load_golden("chat.json"), make_target())
    del body["additionalModelRequestFields"]["thinking"]
    assert written == body


def test_a_request_of_another_dialect_keeps_what_converse_can_say() -> None:
    chat = CHAT.read_request(load_golden("from-chat-completions.json"))
    assert FORMAT.write_request(chat, make_target()) == load_golden("sent.json")
    assert FORMAT.find_loss(chat) == ["seed", "user"]


@pytest.mark.parametrize(
    ("effort", "traits", "fields"),
    [
        ("low", {}, {"thinking": {"type": "enabled", "budget_tokens": 1024}}),
        (
            "high",
            {"thinking": "adaptive"},
            {"thinking": {"type": "adaptive"}, "output_config": {"effort": "high"}},
        ),
        ("none", {}, {"thinking": {"type": "disabled"}}),
        ("high", {"thinking": "none"}, None),
        ("xhigh", {"fields": "nova"}, {"reasoningConfig": {"type": "enabled", "maxReasoningEffort": "high"}}),
        ("high", {"fields": "openai"}, {"reasoning_effort": "high"}),
        ("high", {"fields": "none"}, None),
    ],
)
def test_each_maker_s_models_are_told_to_think_in_their_own_words(
    effort: str, traits: dict[str, Any], fields: Any
) -> None:
    assert ask({"reasoning_effort": effort}, **traits).get("additionalModelRequestFields") == fields


def test_a_budget_leaves_room_for_an_answer_and_takes_the_place_of_sampling() -> None:
    sent = ask({"reasoning_effort": "high", "max_tokens": 500, "temperature": 0.3, "top_p": 0.5})
    assert sent["inferenceConfig"] == {"maxTokens": 16384 + 500}


def test_sampling_stays_in_the_range_and_is_left_out_where_it_is_refused() -> None:
    body = {"temperature": 1.7, "top_p": 0.5, "max_tokens": 5}
    assert ask(body)["inferenceConfig"] == {"maxTokens": 5, "temperature": 1, "topP": 0.5}
    assert ask(body, sampling=False)["inferenceConfig"] == {"maxTokens": 5}


TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("auto", {"auto": {}}),
        ("required", {"any": {}}),
        ({"type": "function", "function": {"name": "look"}}, {"tool": {"name": "look"}}),
        (None, None),
    ],
)
def test_each_choice_of_tools_has_its_form(choice: Any, expected: Any) -> None:
    sent = ask({"tools": [TOOL], "tool_choice": choice} if choice else {"tools": [TOOL]})
    assert sent["toolConfig"].get("toolChoice") == expected


def test_tools_that_must_not_be_called_are_left_out_unless_the_conversation_called_some() -> None:
    assert "toolConfig" not in ask({"tools": [TOOL], "tool_choice": "none"})
    called = [
        {"role": "user", "content": "look"},
        {
            "role": "assistant",
            "tool_calls": [{"id": "c", "type": "function", "function": {"name": "look", "arguments": "{}"}}],
        },
        {"role": "tool", "tool_call_id": "c", "content": "seen"},
    ]
    kept = ask({"tools": [TOOL], "tool_choice": "none", "messages": called})["toolConfig"]
    assert [tool["toolSpec"]["name"] for tool in kept["tools"]] == ["look"]
    bare = ask({"messages": called})["toolConfig"]
    assert [tool["toolSpec"]["name"] for tool in bare["tools"]] == ["not_available"]


def test_one_tool_at_a_time_is_said_where_the_model_has_a_word_for_it() -> None:
    body = {"tools": [TOOL], "parallel_tool_calls": False}
    assert ask(body)["additionalModelRequestFields"] == {
        "tool_choice": {"type": "auto", "disable_parallel_tool_use": True}
    }
    assert "additionalModelRequestFields" not in ask(body, fields="none")


def test_a_document_stands_beside_a_text_and_its_name_fits() -> None:
    file = {
        "type": "file",
        "file": {"filename": "Q3/2026_é.pdf", "file_data": "data:application/pdf;base64,cGRm"},
    }
    [message] = ask({"messages": [{"role": "user", "content": [file]}]})["messages"]
    document, text = message["content"]
    assert set(document["document"]["name"]) <= set(
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 ()-"
    )
    assert text == {"text": "Document"}


def test_cache_points_are_left_out_for_models_that_refuse_them() -> None:
    chat = load_golden("chat.json")
    assert b"cachePoint" in orjson.dumps(FORMAT.write_request(chat, make_target()))
    assert b"cachePoint" not in orjson.dumps(FORMAT.write_request(chat, make_target(cache_points=False)))


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"messages": "hi"}, "messages"),
        ({"messages": [{"role": "user", "content": "hi"}]}, "messages.0.content"),
        ({"messages": [{"role": "tool", "content": []}]}, "messages.0.role"),
        ({"inferenceConfig": {"maxTokens": "5"}}, "inferenceConfig.maxTokens"),
        ({"toolConfig": {}}, "toolConfig.tools"),
        (
            {"messages": [{"role": "user", "content": [{"toolResult": {"content": []}}]}]},
            "messages.0.content.0.toolResult.toolUseId",
        ),
    ],
)
def test_what_the_dialect_forbids_is_refused_with_its_field(change: dict[str, Any], param: str) -> None:
    body = {"messages": [{"role": "user", "content": [{"text": "hi"}]}], **change}
    with pytest.raises(InvalidRequest) as refused:
        FORMAT.read_request(body, {"model": "m"})
    assert (refused.value.param or "").replace("[", ".").replace("]", "") == param


# --- answers


def test_usage_is_read_and_written_by_class() -> None:
    said = {
        "inputTokens": 10,
        "outputTokens": 5,
        "totalTokens": 65,
        "cacheReadInputTokens": 20,
        "cacheWriteInputTokens": 30,
        "cacheDetails": [{"ttl": "1h", "inputTokens": 12}, {"ttl": "5m", "inputTokens": 18}],
    }
    usage = FORMAT.read_usage({"usage": said})
    assert usage is not None
    assert usage.as_record() == {
        "input": 10,
        "output": 5,
        "cached_input": 20,
        "cache_write": 18,
        "cache_write_1h": 12,
    }
    answer = {
        "output": {"message": {"role": "assistant", "content": [{"text": "x"}]}},
        "stopReason": "end_turn",
        "usage": said,
    }
    assert FORMAT.write_reply(FORMAT.read_reply(answer), {})["usage"] == said


@pytest.mark.parametrize(
    ("stop_reason", "finish"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("tool_use", "tool_calls"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("guardrail_intervened", "content_filter"),
        ("content_filtered", "content_filter"),
        ("something_new", "stop"),
    ],
)
def test_every_stop_reason_has_a_meaning_and_keeps_its_word(stop_reason: str, finish: str) -> None:
    answer = {
        "output": {"message": {"role": "assistant", "content": [{"text": "x"}]}},
        "stopReason": stop_reason,
    }
    events = FORMAT.read_reply(answer)
    assert [event.reason for event in events if isinstance(event, Finished)] == [finish]
    kept = {"stop_sequence": "end_turn", "something_new": "end_turn"}
    assert FORMAT.write_reply(events, {})["stopReason"] == kept.get(stop_reason, stop_reason)


@pytest.mark.parametrize("stop_reason", ["malformed_model_output", "malformed_tool_use"])
def test_an_answer_that_the_model_spoilt_is_a_failure(stop_reason: str) -> None:
    answer = {"output": {"message": {"role": "assistant", "content": []}}, "stopReason": stop_reason}
    assert isinstance(FORMAT.read_reply(answer)[-1], Failed)


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (
            400,
            {"message": "Input is too long for requested model."},
            "context_length_exceeded",
        ),
        (400, {"message": "Malformed input request"}, None),
        (200, {"exception": {"type": "validationException", "message": "malformed"}}, "invalid_request"),
        (403, {"message": "The security token included in the request is invalid."}, "401"),
        (403, {"Message": "User is not authorized"}, None),
        (429, {"message": "Too many tokens, please wait before trying again."}, None),
        (200, {"exception": {"type": "throttlingException", "message": "slow"}}, "429"),
        (200, {"exception": {"type": "modelStreamErrorException", "message": "broke"}}, "424"),
        (200, {"exception": {"type": "serviceUnavailableException", "message": "away"}}, "503"),
    ],
)
def test_errors_have_kinds(status: int, body: dict[str, Any], kind: str | None) -> None:
    error = FORMAT.read_error(status, body, "")
    assert error.message in json.dumps(body)
    assert FORMAT.kind_of_error(status, error) == kind


# --- streams, as the official SDK reads them


class Raw:
    """A body as the SDK's transport hands it over."""

    def __init__(self, data: bytes, size: int) -> None:
        self._pieces = [data[at : at + size] for at in range(0, len(data), size)]

    def stream(self, *_: Any, **__: Any) -> Any:
        yield from self._pieces

    def read(self, *_: Any, **__: Any) -> bytes:
        return b"".join(self._pieces)

    def close(self) -> None:
        self._pieces.clear()


class Client:
    """boto3 with answers that are at hand."""

    def __init__(self) -> None:
        self._boto = boto3.client(
            "bedrock-runtime",
            region_name="eu-west-1",
            aws_access_key_id="x",
            aws_secret_access_key="y",
            config=Config(retries={"total_max_attempts": 1}),
        )
        self._answer: Any = None
        self._boto.meta.events.register("before-send.*", lambda **_: self._answer)

    def _prepare(self, status: int, media_type: str, raw: Raw) -> None:
        self._answer = AWSResponse("https://x", status, {"content-type": media_type}, raw)

    def converse(self, status: int, body: dict[str, Any]) -> Any:
        self._prepare(status, "application/json", Raw(orjson.dumps(body), 1 << 20))
        return self._boto.converse(modelId="m", messages=[])

    def stream(self, data: bytes, size: int = 7) -> list[Any]:
        self._prepare(200, FORMAT.stream_content_type, Raw(data, size))
        return list(self._boto.converse_stream(modelId="m", messages=[])["stream"])


@pytest.fixture(scope="module")
def client() -> Client:
    return Client()


def make_events() -> list[Event]:
    machine, events = BlockMachine("seed"), list[Event]()
    facts: list[dict[str, Any]] = [
        {"started": {"id": "a-1", "model": "m"}},
        {"kind": "reasoning", "key": 0, "text": "Hm", "open": True},
        {"kind": "reasoning", "key": 0, "text": "m.", "signature": "c2ln", "end": True},
        {"kind": "reasoning", "key": 1, "redacted": "cmVk", "open": True, "end": True},
        {"kind": "text", "key": 2, "text": "Hel"},
        {"kind": "text", "key": 2, "text": "lo é", "end": True},
        {"kind": "tool_call", "key": 3, "id": "t1", "name": "look", "arguments": '{"a"', "open": True},
        {"kind": "tool_call", "key": 4, "id": "t:2", "name": "go", "open": True},
        {"key": 3, "arguments": ":1}", "end": True},
        {"key": 4, "end": True},
        {"finish": "tool_calls"},
    ]
    for fact in facts:
        machine.take(fact, events)
    usage = FORMAT.read_usage({"usage": {"inputTokens": 3, "outputTokens": 4}})
    assert usage is not None
    return [
        *events,
        *FORMAT.new_stream_reader().feed({"metadata": {"usage": {"inputTokens": 3, "outputTokens": 4}}}),
    ]


def test_the_official_sdk_reads_a_stream_that_is_written_for_it(client: Client) -> None:
    said = client.stream(write_stream(FORMAT, make_events()))
    assert said[0] == {"messageStart": {"role": "assistant"}}
    blocks: dict[int, dict[str, Any]] = {}
    for event in said:
        if delta := event.get("contentBlockDelta"):
            block = blocks.setdefault(delta["contentBlockIndex"], {"text": "", "input": "", "thought": ""})
            inner = delta["delta"]
            block["text"] += inner.get("text", "")
            block["input"] += inner.get("toolUse", {}).get("input", "")
            block["thought"] += inner.get("reasoningContent", {}).get("text", "")
            block |= {k: v for k, v in inner.get("reasoningContent", {}).items() if k != "text"}
        if start := event.get("contentBlockStart"):
            blocks[start["contentBlockIndex"]] = {
                "text": "",
                "input": "",
                "thought": "",
                **start["start"]["toolUse"],
            }
    assert [block["text"] for block in blocks.values()] == ["", "", "Hello é", "", ""]
    assert (blocks[0]["thought"], blocks[0]["signature"], blocks[1]["redactedContent"]) == (
        "Hmm.",
        "c2ln",
        b"red",
    )
    assert [(blocks[i]["toolUseId"], blocks[i]["name"], blocks[i]["input"]) for i in (3, 4)] == [
        ("t1", "look", '{"a":1}'),
        ("t:2", "go", "{}"),
    ]
    stops = [event["contentBlockStop"]["contentBlockIndex"] for event in said if "contentBlockStop" in event]
    assert stops == [0, 1, 2, 3, 4]
    assert said[-2] == {"messageStop": {"stopReason": "tool_use"}}
    assert said[-1]["metadata"]["usage"] == {
        "inputTokens": 3,
        "outputTokens": 4,
        "totalTokens": 7,
        "cacheReadInputTokens": 0,
        "cacheWriteInputTokens": 0,
    }


def test_the_official_sdk_reads_a_plain_answer_that_says_the_same(client: Client) -> None:
    answer = client.converse(200, FORMAT.write_reply(make_events(), {}))
    thought, hidden, text, look, go = answer["output"]["message"]["content"]
    assert thought == {"reasoningContent": {"reasoningText": {"text": "Hmm.", "signature": "c2ln"}}}
    assert hidden == {"reasoningContent": {"redactedContent": b"red"}}
    assert text == {"text": "Hello é"}
    assert [call["toolUse"]["input"] for call in (look, go)] == [{"a": 1}, {}]
    assert (answer["stopReason"], answer["usage"]["totalTokens"]) == ("tool_use", 7)


@pytest.mark.parametrize(
    ("status", "name"),
    [
        (400, "ValidationException"),
        (403, "AccessDeniedException"),
        (404, "ResourceNotFoundException"),
        (429, "ThrottlingException"),
        (500, "InternalServerException"),
        (502, "InternalServerException"),
        (503, "ServiceUnavailableException"),
        (504, "ModelTimeoutException"),
    ],
)
def test_the_official_sdk_raises_its_own_error_for_each_status(
    status: int, name: str, client: Client
) -> None:
    body = FORMAT.write_error({"status": status, "message": "no luck"})
    with pytest.raises(getattr(client._boto.exceptions, name), match="no luck"):
        client.converse(status, body)


@pytest.mark.parametrize(
    ("status", "name"),
    [
        (400, "validationException"),
        (429, "throttlingException"),
        (424, "modelStreamErrorException"),
        (502, "internalServerException"),
        (503, "serviceUnavailableException"),
    ],
)
def test_a_failure_in_a_stream_is_an_exception_to_the_official_sdk(
    status: int, name: str, client: Client
) -> None:
    events = [*make_events()[:3], Failed(ProviderError("it broke"), status)]
    with pytest.raises(EventStreamError, match="it broke") as raised:
        client.stream(write_stream(FORMAT, events))
    assert raised.value.response["Error"]["Code"] == name


# --- streams of the provider


def frame(name: str, body: dict[str, Any]) -> bytes:
    return write_eventstream_frame(body, name)


def test_a_stream_is_read_the_same_however_its_bytes_are_cut() -> None:
    raw = write_stream(FORMAT, make_events())
    whole = read_stream(FORMAT, [raw])
    assert read_stream(FORMAT, [bytes([byte]) for byte in raw]) == whole
    assert fold(whole)["parts"] == fold(make_events())["parts"]


def test_an_exception_ends_a_stream_with_its_kind() -> None:
    raw = frame("messageStart", {"role": "assistant"}) + write_eventstream_frame(
        {"exception": {"type": "throttlingException", "message": "slow down"}}, None
    )
    failed = read_stream(FORMAT, [raw])[-1]
    assert isinstance(failed, Failed)
    assert (failed.kind, failed.message) == ("429", "slow down")


CITATION = {
    "title": "Weather",
    "sourceContent": [{"text": "rain"}],
    "location": {"web": {"url": "https://w.example"}},
}


def test_citations_padding_and_empty_starts_are_understood() -> None:
    raw = b"".join(
        (
            frame("messageStart", {"role": "assistant", "p": "abcd"}),
            frame("contentBlockStart", {"start": {}, "contentBlockIndex": 0}),
            frame("contentBlockDelta", {"delta": {"text": "It rains."}, "contentBlockIndex": 0, "p": "ab"}),
            frame(
                "contentBlockDelta",
                {"delta": {"citation": CITATION}, "contentBlockIndex": 0},
            ),
            frame("contentBlockStop", {"contentBlockIndex": 0}),
            frame("metadata", {"usage": {"inputTokens": 1, "outputTokens": 2, "totalTokens": 3}}),
            frame("messageStop", {"stopReason": "end_turn"}),
        )
    )
    answer = fold(read_stream(FORMAT, [raw]))
    assert answer["parts"] == [
        {
            "type": "text",
            "text": "It rains.",
            "citations": [{"url": "https://w.example", "title": "Weather", "text": "rain"}],
        }
    ]
    assert answer["usage"]["total"] == 3


@given(st.text(max_size=40), st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3))
def test_any_text_and_any_arguments_survive_the_wire(text: str, arguments: dict[str, str]) -> None:
    machine, events = BlockMachine("seed"), list[Event]()
    written = orjson.dumps(arguments).decode()
    for fact in (
        {"started": {"id": "a"}},
        {"kind": "text", "key": 0, "text": text, "open": True, "end": True},
        {
            "kind": "tool_call",
            "key": 1,
            "id": "t",
            "name": "n",
            "arguments": written,
            "open": True,
            "end": True,
        },
        {"finish": "tool_calls"},
    ):
        machine.take(fact, events)
    parts = fold(read_stream(FORMAT, [write_stream(FORMAT, events)]))["parts"]
    calls = [part for part in parts if part["type"] == "tool_call"]
    assert "".join(part["text"] for part in parts if part["type"] == "text") == text
    assert [orjson.loads(call["arguments"]) for call in calls] == [arguments]


# --- recordings


@pytest.mark.skipif(not RECORDINGS, reason="the recordings are not here")
@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: str(path.relative_to(RECORDED)))
def test_a_recorded_answer_is_the_same_after_its_own_wire(path: Path, client: Client) -> None:
    doc = json.loads(path.read_bytes())
    if "streaming" in path.name:
        raw = b"".join(write_eventstream_frame(event, None) for event in doc)
        assert b"".join(one.raw for one in split_all("eventstream", [raw])) == raw
        events = read_stream(FORMAT, [raw])
        assert read_stream(FORMAT, [bytes([byte]) for byte in raw]) == events
        said = client.stream(write_stream(FORMAT, events), 1 << 16)
        texts = [
            event["contentBlockDelta"]["delta"].get("text", "")
            for event in said
            if "contentBlockDelta" in event
        ]
        assert "".join(texts) == "".join(
            event["contentBlockDelta"]["delta"].get("text", "")
            for event in doc
            if "contentBlockDelta" in event
        )
        assert [event for event in said if "messageStop" in event][0]["messageStop"]["stopReason"] == [
            event for event in doc if "messageStop" in event
        ][0]["messageStop"]["stopReason"]
        return
    again = FORMAT.write_reply(FORMAT.read_reply(doc), {})
    expected = copy.deepcopy(doc["output"])
    for block in expected["message"]["content"]:
        block.get("toolUse", {}).pop("type", None)
    assert again["output"] == expected
    assert again["stopReason"] == doc["stopReason"]
    assert again["usage"]["inputTokens"] == doc["usage"]["inputTokens"]


@pytest.mark.skipif(not RECORDINGS, reason="the recordings are not here")
@pytest.mark.parametrize(
    "path", sorted(RECORDED.glob("*/bedrock/*request.json")), ids=lambda path: str(path.relative_to(RECORDED))
)
def test_a_recorded_request_comes_back_as_it_was(path: Path) -> None:
    body = unpack_buffers(json.loads(path.read_bytes()))
    body.pop("modelId")
    chat = FORMAT.read_request(body, {"model": "m"})
    written = FORMAT.write_request(chat, make_target())
    for message in body["messages"]:
        for block in message["content"]:
            block.get("toolUse", {}).pop("type", None)
    assert written == body


def unpack_buffers(node: Any) -> Any:
    """Bytes as the wire has them: the recordings keep them as lists of numbers."""
    if isinstance(node, dict):
        if node.get("type") == "Buffer":
            return base64.b64encode(bytes(node["data"])).decode()
        return {key: unpack_buffers(value) for key, value in node.items()}
    return [unpack_buffers(item) for item in node] if isinstance(node, list) else node


CASSETTES = sorted((RECORDED.parent / "cassettes").glob("TestBedrock*/**/*streaming.yaml"))


@pytest.mark.skipif(not CASSETTES, reason="the recordings are not here")
@pytest.mark.parametrize("path", CASSETTES, ids=lambda path: "/".join(path.parts[-2:]))
def test_recorded_bytes_of_event_streams_are_cut_and_unwrapped(path: Path) -> None:
    """Streams of another wire in the same framing, as they came over the network."""
    inner = load_format("anthropic-messages")
    for exchange in YAML(typ="safe").load(path.read_text())["interactions"]:
        raw = exchange["response"]["body"]
        frames = split_all("eventstream", [raw])
        assert b"".join(one.raw for one in frames) == raw
        assert split_all("eventstream", [bytes([byte]) for byte in raw]) == frames
        reader = inner.new_stream_reader("seed")
        events = [event for one in frames for event in reader.feed(orjson.loads(one.data or b""), None)]
        answer = fold([*events, *reader.close()])
        assert reader.damaged == 0 and "failed" not in answer
        assert answer["parts"] and answer["usage"]["completion"] > 0
        again = fold(read_stream(FORMAT, [write_stream(FORMAT, events)]))
        assert [part.get("text", part.get("arguments")) for part in again["parts"]] == [
            part.get("text", part.get("arguments")) for part in answer["parts"]
        ]
        assert (again["finish"], again["usage"]) == (answer["finish"], answer["usage"])
