"""An OpenAI client before providers of another wire, which the gateway knows only from its YAML file."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from tests.gateway.replay import JSON, PLAIN, STREAM, TEXT, Replay, Script, replaying
from tests.harness import ADMIN_KEY, Gateway, join_text, read_events, running, write_files

PROVIDER = """
provider: NAME
format: FORMAT
base_url: URL
auth: {header: {name: x-api-key, value: key-of-NAME}}
headers: {x-wire-version: "2023-06-01"}
allow_private: true
passthrough: true
unknown_price: free
"""
POLICY = """
policy: default
extends: default
retry: {max: 0}
breaker: {failures: 1000, min_requests: 1000}
"""
MODELS = """
models:
  there-and-back:
    price: {input: "1", output: "2", cached_input: "0.5"}
    targets: [{provider: blocks, model: first}, {provider: chunks, model: second}]
  back-and-there:
    price: {input: "1", output: "2"}
    targets: [{provider: chunks, model: first}, {provider: blocks, model: second}]
"""


def say(*events: dict[str, Any]) -> bytes:
    return b"".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode() for event in events)


def begin_block(index: int, **block: Any) -> dict[str, Any]:
    return {"type": "content_block_start", "index": index, "content_block": block}


def add(index: int, **delta: Any) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": delta}


def end_block(index: int) -> dict[str, Any]:
    return {"type": "content_block_stop", "index": index}


def end(reason: str, **usage: int) -> bytes:
    delta = {"stop_reason": reason, "stop_sequence": None}
    return say({"type": "message_delta", "delta": delta, "usage": usage}, {"type": "message_stop"})


STARTED = {
    "type": "message_start",
    "message": {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "blocks-1",
        "content": [],
        "usage": {"input_tokens": 8, "cache_read_input_tokens": 3, "output_tokens": 1},
    },
}
WORDS = [add(0, type="text_delta", text=piece) for piece in ("Nä,", " so", " wide.")]
OPENING = say(STARTED, {"type": "ping"}, begin_block(0, type="text", text=""))
SPOKEN = OPENING + say(*WORDS, end_block(0)) + end("end_turn", output_tokens=3)
CALLS = say(
    STARTED,
    begin_block(0, type="tool_use", id="toolu_a", name="look", input={}),
    add(0, type="input_json_delta", partial_json='{"city": '),
    add(0, type="input_json_delta", partial_json='"Bern"}'),
    end_block(0),
    begin_block(1, type="tool_use", id="toolu_b", name="clock", input={}),
    end_block(1),
) + end("tool_use", output_tokens=9)
WHOLE = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "blocks-1",
    "content": [{"type": "text", "text": TEXT}],
    "stop_reason": "end_turn",
    "usage": {"input_tokens": 8, "cache_read_input_tokens": 3, "output_tokens": 3},
}
OVERLOADED = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
USAGE = {"prompt_tokens": 11, "completion_tokens": 3, "total_tokens": 14}
USER: Any = [{"role": "user", "content": "hello there"}]
TOOLS: Any = [
    {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": {}}}}
    for name in ("look", "clock")
]


@pytest.fixture(scope="module")
def upstream() -> Iterator[Replay]:
    with replaying() as replay:
        yield replay


@pytest.fixture(scope="module")
def gateway(upstream: Replay, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("cross")
    blocks = PROVIDER.replace("NAME", "blocks").replace("FORMAT", "anthropic-messages")
    chunks = PROVIDER.replace("NAME", "chunks").replace("FORMAT", "openai-chat")
    files = {
        "providers.d/blocks.yaml": blocks.replace("URL", upstream.url),
        "providers.d/chunks.yaml": chunks.replace("URL", upstream.url),
        "policies.d/default.yaml": POLICY,
        "models.d/both.yaml": MODELS,
    }
    started = Gateway(write_files(folder, files))
    with running(started):
        yield started


@pytest.fixture
def client(gateway: Gateway) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(api_key=ADMIN_KEY, base_url=f"{gateway.url}/v1", max_retries=0) as made:
        yield made


@pytest.fixture(autouse=True)
def forget(upstream: Replay) -> None:
    upstream.requests.clear()


def whole(**changes: Any) -> Script:
    return Script(json.dumps({**WHOLE, **changes}).encode(), JSON)


def test_a_plain_answer_is_read_and_the_request_is_the_providers(
    upstream: Replay, client: openai.OpenAI
) -> None:
    upstream.scripts["opus"] = whole()
    messages: Any = [{"role": "system", "content": "be brief"}, *USER]
    raw = client.chat.completions.with_raw_response.create(
        model="blocks/opus", messages=messages, max_tokens=50, stop=["END"], temperature=1.5, seed=4
    )
    answer = raw.parse()
    assert answer.choices[0].message.content == TEXT and answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None and answer.usage.prompt_tokens_details is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (11, 3)
    assert answer.usage.prompt_tokens_details.cached_tokens == 3
    ((head, body),) = upstream.requests
    assert head.startswith(b"POST /v1/messages HTTP/1.1\r\n")
    assert b"x-api-key: key-of-blocks" in head and b"x-wire-version: 2023-06-01" in head
    assert json.loads(body) == {
        "model": "opus",
        "system": "be brief",
        "messages": [{"role": "user", "content": "hello there"}],
        "max_tokens": 50,
        "stop_sequences": ["END"],
        "temperature": 1,
    }
    assert "/seed" in raw.headers["x-loss"]


@pytest.mark.parametrize("pieces", [None, 1, 10])
@pytest.mark.parametrize("asked", [True, False])
def test_a_stream_is_told_as_chunks(
    upstream: Replay, gateway: Gateway, asked: bool, pieces: int | None
) -> None:
    upstream.scripts["opus"] = Script(SPOKEN, pieces=pieces)
    options = {"stream_options": {"include_usage": True}} if asked else {}
    answer = gateway.chat("blocks/opus", stream=True, **options)
    events = read_events(answer.text)
    assert join_text(events) == TEXT and events[-1] == "[DONE]"
    chunks = [event for event in events[:-1] if event["choices"]]
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    shown = [event["usage"] for event in events[:-1] if event.get("usage")]
    assert len(shown) == asked and all(USAGE.items() <= usage.items() for usage in shown)
    record = gateway.find_record(answer.headers["x-request-id"])
    assert record["tokens"] == {"input": 8, "cached_input": 3, "output": 3}
    assert record["usage_source"] == "reported" and record["status"] == "ok"


def test_tools_are_called_in_fragments_and_their_results_go_back(
    upstream: Replay, client: openai.OpenAI
) -> None:
    upstream.scripts["opus"] = Script(CALLS)
    with client.chat.completions.stream(model="blocks/opus", messages=USER, tools=TOOLS) as stream:
        message: Any = stream.get_final_completion().choices[0].message
    calls = message.tool_calls
    assert [(call.id, call.function.name) for call in calls] == [("toolu_a", "look"), ("toolu_b", "clock")]
    assert [json.loads(call.function.arguments) for call in calls] == [{"city": "Bern"}, {}]
    upstream.scripts["opus"] = whole()
    told: list[Any] = [{"role": "tool", "tool_call_id": call.id, "content": call.id} for call in calls]
    asked: Any = {"role": "assistant", "tool_calls": [call.model_dump() for call in calls]}
    answer = client.chat.completions.create(
        model="blocks/opus", messages=[*USER, asked, *told, *USER], tools=TOOLS
    )
    assert answer.choices[0].message.content == TEXT
    sent = json.loads(upstream.requests[-1][1])["messages"]
    assert [turn["role"] for turn in sent] == ["user", "assistant", "user"]
    assert sent[1]["content"][0] == {
        "type": "tool_use",
        "id": "toolu_a",
        "name": "look",
        "input": {"city": "Bern"},
    }
    assert [part["type"] for part in sent[2]["content"]] == ["tool_result", "tool_result", "text"]


def test_a_plain_answer_with_tools_is_read(upstream: Replay, client: openai.OpenAI) -> None:
    call = {"type": "tool_use", "id": "toolu_a", "name": "look", "input": {"city": "Bern"}}
    upstream.scripts["opus"] = whole(
        content=[{"type": "text", "text": "Wait."}, call], stop_reason="tool_use"
    )
    choice: Any = client.chat.completions.create(model="blocks/opus", messages=USER, tools=TOOLS).choices[0]
    assert choice.finish_reason == "tool_calls" and choice.message.content == "Wait."
    assert json.loads(choice.message.tool_calls[0].function.arguments) == {"city": "Bern"}


def test_an_answer_that_was_not_streamed_is_told_as_a_stream(upstream: Replay, gateway: Gateway) -> None:
    upstream.scripts["opus"] = whole()
    events = read_events(gateway.chat("blocks/opus", stream=True).text)
    assert join_text(events) == TEXT and events[-1] == "[DONE]"


REFUSED = {"type": "error", "error": {"type": "invalid_request_error", "message": "max_tokens: too many"}}
TOO_LONG = {
    "type": "error",
    "error": {"type": "invalid_request_error", "message": "prompt is too long: 9 > 8"},
}


@pytest.mark.parametrize("stream", [False, True])
def test_a_refusal_is_told_in_the_clients_dialect(
    upstream: Replay, client: openai.OpenAI, stream: bool
) -> None:
    for said, code in ((REFUSED, None), (TOO_LONG, "context_length_exceeded")):
        upstream.scripts["opus"] = Script(json.dumps(said).encode(), JSON, status=400, framing="length")
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(model="blocks/opus", messages=USER, stream=stream)
        assert said["error"]["message"] in caught.value.message  # type: ignore[index]
        assert code is None or caught.value.code == code


FAILURES = {
    "503": Script(json.dumps(OVERLOADED).encode(), JSON, status=503, framing="length"),
    "error as the first event": Script(say(OVERLOADED)),
    "error before content": Script(say(STARTED, {"type": "ping"}, OVERLOADED)),
    "error in a 200": Script(json.dumps(OVERLOADED).encode(), JSON),
    "cut before content": Script(SPOKEN, cut=len(OPENING) - 20),
    "clean end before content": Script(say(STARTED)),
    "nothing at all": Script(b""),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_a_failure_before_content_is_a_true_status_or_another_wires_answer(
    upstream: Replay, gateway: Gateway, failure: str
) -> None:
    upstream.scripts.update(opus=FAILURES[failure], first=FAILURES[failure], second=Script(STREAM))
    alone = gateway.chat("blocks/opus", stream=True)
    assert alone.status_code in (502, 503) and alone.json()["error"]["message"]
    answer = gateway.chat("there-and-back", stream=True)
    assert answer.status_code == 200 and join_text(read_events(answer.text)) == TEXT
    assert answer.headers["x-provider"] == "chunks" and answer.headers["x-attempts"] == "2"


def test_failover_goes_to_another_wire_and_back(upstream: Replay, gateway: Gateway) -> None:
    gone = Script(b"{}", JSON, status=500, framing="length")
    upstream.scripts.update(first=gone, second=Script(PLAIN, JSON))
    assert gateway.chat("there-and-back").content == PLAIN
    upstream.scripts.update(second=whole())
    answer = gateway.chat("back-and-there")
    assert answer.json()["choices"][0]["message"]["content"] == TEXT
    assert answer.headers["x-model"] == "second" and answer.headers["x-provider"] == "blocks"
    upstream.scripts.update(second=Script(SPOKEN))
    assert join_text(read_events(gateway.chat("back-and-there", stream=True).text)) == TEXT


def test_an_error_within_a_stream_ends_it_with_one_error(upstream: Replay, gateway: Gateway) -> None:
    said = OPENING + say(WORDS[0], WORDS[1])
    upstream.scripts["opus"] = Script(said + say(OVERLOADED), rest=len(said))
    answer = gateway.chat("blocks/opus", stream=True)
    events = read_events(answer.text)
    assert answer.status_code == 200 and join_text(events) == "Nä, so"
    assert events[-1]["error"]["message"] and "[DONE]" not in answer.text
    assert gateway.find_record(answer.headers["x-request-id"])["status"] == "error"


@pytest.mark.parametrize("framing", ["chunked", "close"])
def test_a_stream_cut_at_any_byte_is_whole_or_one_clear_error(
    upstream: Replay, gateway: Gateway, framing: str
) -> None:
    with gateway.client() as client:
        for at in range(0, len(SPOKEN), 3):
            upstream.scripts["opus"] = Script(SPOKEN, cut=at, framing=framing)
            request = {"model": "blocks/opus", "messages": USER, "stream": True}
            judge(client.post("/v1/chat/completions", json=request))


def judge(answer: httpx.Response) -> None:
    if answer.status_code != 200:
        assert answer.status_code == 502 and answer.json()["error"]["message"]
        return
    events = read_events(answer.text)
    errors = [event for event in events if isinstance(event, dict) and event.get("error")]
    assert TEXT.startswith(join_text(events))
    if errors:
        assert len(errors) == 1 and events[-1] is errors[0]
    else:
        assert join_text(events) == TEXT and events[-1] == "[DONE]"


def test_a_stream_cut_after_content_ends_with_an_error_even_beside_a_healthy_target(
    upstream: Replay, gateway: Gateway
) -> None:
    broken = Script(OPENING + say(*WORDS), cut=len(OPENING + say(*WORDS[:2])))
    upstream.scripts.update(first=broken, second=Script(STREAM))
    answer = gateway.chat("there-and-back", stream=True)
    events = read_events(answer.text)
    assert join_text(events) in ("Nä, so", TEXT)
    assert events[-1] == "[DONE]" if join_text(events) == TEXT else events[-1]["error"]


def test_content_parts_arrive_as_blocks(upstream: Replay, client: openai.OpenAI) -> None:
    upstream.scripts["opus"] = whole()
    parts: Any = [
        {"type": "text", "text": "what is this"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,QUJD"}},
    ]
    client.chat.completions.create(model="blocks/opus", messages=[{"role": "user", "content": parts}])
    (turn,) = json.loads(upstream.requests[-1][1])["messages"]
    assert turn["content"] == [
        {"type": "text", "text": "what is this"},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "QUJD"}},
    ]
