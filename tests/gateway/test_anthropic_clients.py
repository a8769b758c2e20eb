"""Anthropic's own client before providers of its wire and of another: answers, plain and streamed, and errors."""

import json
from collections.abc import Iterator
from typing import Any

import anthropic
import httpx
import orjson
import pytest

from tests.gateway.replay import JSON, PLAIN, STREAM, TEXT, Replay, Script, replaying
from tests.gateway.test_cross_wire import (
    CALLS,
    OPENING,
    OVERLOADED,
    POLICY,
    PROVIDER,
    SPOKEN,
    WHOLE,
    WORDS,
    say,
)
from tests.harness import ADMIN_KEY, Gateway, running, write_files

USER: Any = [{"role": "user", "content": "hello there"}]
TOOLS: Any = [
    {"name": name, "input_schema": {"type": "object", "properties": {}}} for name in ("look", "clock")
]
BOTH = pytest.mark.parametrize("provider", ["blocks", "chunks"])


@pytest.fixture(scope="module")
def upstream() -> Iterator[Replay]:
    with replaying() as replay:
        yield replay


@pytest.fixture(scope="module")
def gateway(upstream: Replay, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    blocks = PROVIDER.replace("NAME", "blocks").replace("FORMAT", "anthropic-messages")
    chunks = PROVIDER.replace("NAME", "chunks").replace("FORMAT", "openai-chat")
    files = {
        "providers.d/blocks.yaml": blocks.replace("URL", upstream.url),
        "providers.d/chunks.yaml": chunks.replace("URL", upstream.url),
        "policies.d/default.yaml": POLICY,
    }
    started = Gateway(write_files(tmp_path_factory.mktemp("anthropic"), files))
    with running(started):
        yield started


@pytest.fixture
def client(gateway: Gateway, upstream: Replay) -> Iterator[anthropic.Anthropic]:
    upstream.requests.clear()
    with anthropic.Anthropic(api_key=ADMIN_KEY, base_url=gateway.url, max_retries=0) as made:
        yield made


def script(provider: str, *, stream: bool) -> Script:
    if provider == "blocks":
        return Script(SPOKEN) if stream else Script(json.dumps(WHOLE).encode(), JSON)
    return Script(STREAM) if stream else Script(PLAIN.replace(" \\/ ✓".encode(), b""), JSON)


@BOTH
def test_an_answer_is_the_same_plain_and_streamed(
    client: anthropic.Anthropic, upstream: Replay, provider: str
) -> None:
    asked: Any = {"model": f"{provider}/m", "max_tokens": 50, "messages": USER}
    upstream.scripts["m"] = script(provider, stream=False)
    plain = client.messages.create(**asked)
    upstream.scripts["m"] = script(provider, stream=True)
    with client.messages.stream(**asked) as stream:
        streamed = stream.get_final_message()
    for answer in (plain, streamed):
        assert answer.content[0].type == "text" and answer.content[0].text == TEXT
        assert (
            answer.id.startswith("msg_") and answer.stop_reason == "end_turn" and answer.role == "assistant"
        )
        assert answer.usage.input_tokens + (answer.usage.cache_read_input_tokens or 0) == 11
        assert answer.usage.output_tokens == 3
    assert plain._request_id


def test_on_its_own_wire_bytes_pass_as_they_are(gateway: Gateway, upstream: Replay) -> None:
    upstream.scripts["m"] = Script(SPOKEN, pieces=1)
    body = {"model": "blocks/m", "max_tokens": 5, "messages": USER, "stream": True}
    headers = {"x-api-key": ADMIN_KEY, "anthropic-version": "2023-06-01", "anthropic-beta": "a-1,b-2"}
    answer = httpx.post(f"{gateway.url}/v1/messages", json=body, headers=headers)
    assert answer.content == SPOKEN and answer.headers["content-type"].startswith("text/event-stream")
    head, sent = upstream.requests[-1]
    assert json.loads(sent) == {**body, "model": "m"}
    assert b"anthropic-beta: a-1,b-2" in head.lower() and ADMIN_KEY.encode() not in head


@BOTH
def test_calls_of_tools_come_whole_and_their_results_go_back(
    client: anthropic.Anthropic, upstream: Replay, provider: str
) -> None:
    upstream.scripts["m"] = Script(
        CALLS if provider == "blocks" else call_two_tools("functions.look:0", "call.1")
    )
    asked: Any = {"model": f"{provider}/m", "max_tokens": 50, "messages": USER, "tools": TOOLS}
    with client.messages.stream(**asked) as stream:
        message = stream.get_final_message()
    calls = [block for block in message.content if block.type == "tool_use"]
    assert [(call.name, call.input) for call in calls] == [("look", {"city": "Bern"}), ("clock", {})]
    assert message.stop_reason == "tool_use"
    results: Any = [{"type": "tool_result", "tool_use_id": call.id, "content": "ok"} for call in calls]
    upstream.scripts["m"] = script(provider, stream=False)
    turns = [*USER, {"role": "assistant", "content": message.content}, {"role": "user", "content": results}]
    assert client.messages.create(**{**asked, "messages": turns}).stop_reason == "end_turn"
    sent = orjson.loads(upstream.requests[-1][1])["messages"]
    if provider == "blocks":
        assert [block["tool_use_id"] for block in sent[2]["content"]] == ["toolu_a", "toolu_b"]
    else:
        assert [message["tool_call_id"] for message in sent[2:]] == ["functions.look:0", "call.1"]
        assert [call["id"] for call in sent[1]["tool_calls"]] == ["functions.look:0", "call.1"]


def call_two_tools(*ids: str) -> bytes:
    """Two calls whose arguments come interleaved."""
    deltas: list[Any] = [
        [
            {"index": i, "id": ids[i], "type": "function", "function": {"name": n, "arguments": ""}}
            for i, n in enumerate(("look", "clock"))
        ],
        [{"index": 0, "function": {"arguments": '{"city": '}}, {"index": 1, "function": {"arguments": "{"}}],
        [{"index": 0, "function": {"arguments": '"Bern"}'}}, {"index": 1, "function": {"arguments": "}"}}],
    ]
    chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    said = [{"choices": [{"index": 0, "delta": {"tool_calls": d}, "finish_reason": None}]} for d in deltas]
    said.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]})
    return b"".join(b"data: %s\n\n" % orjson.dumps(chunk | one) for one in said) + b"data: [DONE]\n\n"


def test_what_the_dialect_forbids_is_refused_before_anybody_is_asked(
    client: anthropic.Anthropic, upstream: Replay
) -> None:
    wrong: Any = [{"role": "robot", "content": "hi"}]
    with pytest.raises(anthropic.BadRequestError) as caught:
        client.messages.create(model="chunks/m", max_tokens=5, messages=wrong)
    body: Any = caught.value.body
    assert body["type"] == "error" and body["error"]["type"] == "invalid_request_error"
    assert "messages[0].role" in body["error"]["message"] and not upstream.requests


def test_errors_are_of_the_dialect(client: anthropic.Anthropic, gateway: Gateway, upstream: Replay) -> None:
    with pytest.raises(anthropic.NotFoundError) as missing:
        client.messages.create(model="no-such-model", max_tokens=5, messages=USER)
    assert missing.value.body["error"]["type"] == "not_found_error"  # type: ignore[index]
    stranger = anthropic.Anthropic(api_key="sk-nobody", base_url=gateway.url, max_retries=0)
    with stranger, pytest.raises(anthropic.AuthenticationError) as refused:
        stranger.messages.create(model="chunks/m", max_tokens=5, messages=USER)
    assert refused.value.body["error"]["type"] == "authentication_error"  # type: ignore[index]
    upstream.scripts["m"] = Script(b'{"error": {"message": "slow down"}}', JSON, status=429, framing="length")
    with pytest.raises(anthropic.RateLimitError) as slowed:
        client.messages.create(model="chunks/m", max_tokens=5, messages=USER)
    assert slowed.value.body["error"]["type"] == "rate_limit_error"  # type: ignore[index]


def test_an_error_within_a_stream_is_raised_by_the_client(
    client: anthropic.Anthropic, upstream: Replay
) -> None:
    # More than one read can hold, so that the answer has begun when the error comes.
    upstream.scripts["m"] = Script(OPENING + say(*WORDS * 4000, OVERLOADED))
    with (
        pytest.raises(anthropic.APIStatusError) as caught,
        client.messages.stream(model="blocks/m", max_tokens=5, messages=USER) as stream,
    ):
        stream.get_final_message()
    body: Any = caught.value.body
    assert body["type"] == "error" and body["error"]["type"] == "api_error"
    assert "Overloaded" in body["error"]["message"]


def test_a_stream_tells_at_its_start_what_was_read(client: anthropic.Anthropic, upstream: Replay) -> None:
    for provider, known in (("blocks", 8), ("chunks", 3)):
        upstream.scripts["m"] = script(provider, stream=True)
        events = list(client.messages.create(model=f"{provider}/m", max_tokens=5, messages=USER, stream=True))
        assert events[0].type == "message_start" and events[0].message.usage.input_tokens == known


def test_thinking_of_another_provider_is_shown_and_taken_back(
    client: anthropic.Anthropic, upstream: Replay
) -> None:
    message = {"role": "assistant", "content": TEXT, "reasoning_content": "hm"}
    answer = {
        "id": "c",
        "model": "m",
        "created": 1,
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
    }
    upstream.scripts["m"] = Script(json.dumps(answer).encode(), JSON)
    thinking: Any = {"type": "enabled", "budget_tokens": 2048}
    asked: Any = {"model": "chunks/m", "max_tokens": 4096, "thinking": thinking}
    told = client.messages.create(**asked, messages=USER)
    assert [block.type for block in told.content] == ["thinking", "text"]
    assert orjson.loads(upstream.requests[-1][1])["reasoning_effort"] == "low"
    turns = [*USER, {"role": "assistant", "content": told.content}, *USER]
    client.messages.create(**asked, messages=turns)
    sent = orjson.loads(upstream.requests[-1][1])["messages"]
    assert [message["content"] for message in sent] == ["hello there", TEXT, "hello there"]


def test_a_prompt_is_counted_where_the_provider_counts(client: anthropic.Anthropic, upstream: Replay) -> None:
    upstream.scripts["m"] = Script(b'{"input_tokens": 7}', JSON)
    assert client.messages.count_tokens(model="blocks/m", messages=USER).input_tokens == 7
    assert upstream.requests[-1][0].startswith(b"POST /v1/messages/count_tokens")
