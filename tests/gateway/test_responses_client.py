"""Responses before a provider of its own wire and before one that speaks it beside another; chat before Responses."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from tests.gateway.replay import JSON, Replay, Script, replaying
from tests.harness import ADMIN_KEY, Gateway, running, write_files
from tests.wire.formats_at_hand import ROOT

PROVIDER = """
provider: NAME
format: FORMAT
base_url: URL/v1
auth: {bearer: key-of-up}
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
STREAM = (ROOT / "tests" / "wire" / "golden" / "openai-responses" / "stream.txt").read_bytes()
WHOLE: dict[str, Any] = json.loads(STREAM.strip().rpartition(b"data: ")[2])["response"]
PLAIN = json.dumps(WHOLE).encode()
USAGE = {"input_tokens": 9, "output_tokens": 4, "total_tokens": 13}


@pytest.fixture(scope="module")
def upstream() -> Iterator[Replay]:
    with replaying() as replay:
        yield replay


@pytest.fixture(scope="module")
def gateway(upstream: Replay, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    both = PROVIDER + "also: {openai-responses: {path: /native}}\n"
    texts = {
        "own": PROVIDER.replace("FORMAT", "openai-responses"),
        "poor": PROVIDER.replace("FORMAT", "openai-responses"),
        "both": both.replace("FORMAT", "openai-chat"),
    }
    files = {"policies.d/default.yaml": POLICY}
    for name, text in texts.items():
        files[f"providers.d/{name}.yaml"] = text.replace("NAME", name).replace("URL", upstream.url)
    started = Gateway(write_files(tmp_path_factory.mktemp("responses"), files))
    with running(started):
        yield started


@pytest.fixture
def client(gateway: Gateway) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(api_key=ADMIN_KEY, base_url=f"{gateway.url}/v1", max_retries=0) as made:
        yield made


def post(gateway: Gateway, **body: Any) -> httpx.Response:
    with gateway.client() as plain:
        return plain.post("/v1/responses", json=body)


def last_request(upstream: Replay) -> tuple[str, dict[str, Any]]:
    """Path and body of what the provider was asked last."""
    head, body = upstream.requests[-1]
    return head.split(b" ", 2)[1].decode(), json.loads(body)


def test_a_stream_passes_byte_for_byte_and_is_counted(gateway: Gateway, upstream: Replay) -> None:
    upstream.scripts["told"] = Script(STREAM, pieces=7)
    answer = post(gateway, model="own/told", input="hi", stream=True)
    assert answer.content == STREAM
    record = gateway.find_record(answer.headers["x-request-id"])
    assert (record["status"], record["usage_source"]) == ("ok", "reported")
    assert record["tokens"] == {
        "input": 10,
        "output": 7,
        "cached_input": 5,
        "cache_write": 2,
        "reasoning": 3,
    }
    assert last_request(upstream) == ("/v1/responses", {"model": "told", "input": "hi", "stream": True})


def test_a_plain_answer_passes_byte_for_byte(gateway: Gateway, upstream: Replay) -> None:
    upstream.scripts["plain"] = Script(PLAIN, JSON)
    assert post(gateway, model="own/plain", input="hi").content == PLAIN


def test_a_provider_is_asked_on_the_callers_wire_if_it_speaks_it(gateway: Gateway, upstream: Replay) -> None:
    upstream.scripts["native"] = Script(PLAIN, JSON)
    tools = [{"type": "web_search"}]
    answer = post(gateway, model="both/native", input="hi", tools=tools)
    assert answer.content == PLAIN
    assert "x-loss" not in answer.headers
    assert last_request(upstream) == ("/v1/native", {"model": "native", "input": "hi", "tools": tools})


def test_a_conversation_goes_on_with_a_provider_of_the_same_wire(
    client: openai.OpenAI, upstream: Replay
) -> None:
    first = {**WHOLE, "id": "resp_first", "previous_response_id": None}
    upstream.scripts["first"] = Script(json.dumps(first).encode(), JSON)
    upstream.scripts["second"] = Script(STREAM)
    made = client.responses.create(model="own/first", input="Look at it.")
    with client.responses.stream(
        model="own/second",
        previous_response_id=made.id,
        input=[{"type": "function_call_output", "call_id": "call_1", "output": "a cat"}],
    ) as stream:
        stream.get_final_response()
    _, asked = last_request(upstream)
    assert "previous_response_id" not in asked
    assert [item["type"] for item in asked["input"]] == [
        "message",
        "reasoning",
        "message",
        "function_call",
        "custom_tool_call",
        "message",
        "function_call_output",
    ]
    assert asked["input"][1]["encrypted_content"] == "sealed"
    assert not [item for item in asked["input"] if "id" in item and item["type"] != "reasoning"]


def test_a_stream_that_fails_at_its_beginning_has_a_status(gateway: Gateway, upstream: Replay) -> None:
    events = [
        {"type": "response.created", "response": {"id": "resp_1", "status": "in_progress"}},
        {
            "type": "error",
            "error": {"type": "insufficient_quota", "code": "insufficient_quota", "message": "none"},
        },
    ]
    body = b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)
    upstream.scripts["poor"] = Script(body)
    answer = post(gateway, model="poor/poor", input="hi", stream=True)
    assert answer.status_code >= 400
    assert answer.json()["error"]["message"]


def test_a_stream_that_is_cut_ends_with_an_error_of_the_dialect(
    client: openai.OpenAI, upstream: Replay
) -> None:
    upstream.scripts["cut"] = Script(STREAM, cut=len(STREAM) - 300)
    with pytest.raises(openai.APIError):
        for _ in client.responses.create(model="own/cut", input="hi", stream=True):
            pass


def test_chat_completions_before_a_responses_provider(client: openai.OpenAI, upstream: Replay) -> None:
    upstream.scripts["chat"] = Script(PLAIN, JSON)
    said: Any = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}]
    message = client.chat.completions.create(model="own/chat", messages=said).choices[0].message
    assert message.content == "A cat."
    assert message.refusal == "No more."
    look, note = message.tool_calls or []
    assert look.type == "function"
    assert look.function.arguments == '{"at": 1}'
    assert note.type == "custom"
    assert note.custom.input == "free text"
    _, asked = last_request(upstream)
    assert asked["instructions"] == "Be brief."
    assert asked["input"] == [{"type": "message", "role": "user", "content": "hi"}]
    assert asked["store"] is False
