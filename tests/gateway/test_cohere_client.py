"""Cohere's official client before providers of its own wire and of another one."""

import json
from collections.abc import Iterator
from typing import Any

import cohere
import httpx
import pytest

from tests.gateway.replay import JSON, Replay, Script, replaying
from tests.gateway.test_other_operations import POLICY, PROVIDER
from tests.harness import ADMIN_KEY, Gateway, running, write_files
from tests.wire.test_cohere import CALLS, STREAM

USER: Any = [{"role": "user", "content": "How warm?"}]
TOOLS: Any = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]
USAGE = {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}


def chunk(choice: dict[str, Any], **more: Any) -> bytes:
    body = {"id": "c", "object": "chat.completion.chunk", "choices": [{"index": 0, **choice}], **more}
    return b"data: " + json.dumps(body).encode() + b"\n\n"


def call(index: int, name: str, arguments: str) -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return {"index": index, "id": f"{name}_1", "type": "function", "function": function}


TOLD = (
    chunk({"delta": {"role": "assistant", "content": ""}})
    + chunk({"delta": {"reasoning_content": "hm"}})
    + chunk({"delta": {"content": "I look"}})
    + chunk({"delta": {"content": " twice."}})
    + chunk({"delta": {"tool_calls": [call(0, "look", '{"at":')]}})
    + chunk({"delta": {"tool_calls": [{"index": 0, "function": {"arguments": "1}"}}]}})
    + chunk({"delta": {"tool_calls": [call(1, "wait", "")]}})
    + chunk({"delta": {}, "finish_reason": "tool_calls"}, usage=USAGE)
    + b"data: [DONE]\n\n"
)
SAID = {
    "role": "assistant",
    "content": "I look twice.",
    "reasoning_content": "hm",
    "tool_calls": [
        {"id": "look_1", "type": "function", "function": {"name": "look", "arguments": '{"at":1}'}},
        {"id": "wait_1", "type": "function", "function": {"name": "wait", "arguments": "{}"}},
    ],
}


@pytest.fixture(scope="module")
def upstream() -> Iterator[Replay]:
    with replaying() as replay:
        yield replay


@pytest.fixture(scope="module")
def gateway(upstream: Replay, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    files = {"policies.d/default.yaml": POLICY}
    for name, form in {
        "own": "cohere",
        "other": "openai-chat",
        "vectors": "openai-embeddings",
        "order": "voyage-rerank",
    }.items():
        text = PROVIDER.replace("NAME", name).replace("FORMAT", form).replace("URL", upstream.url)
        files[f"providers.d/{name}.yaml"] = text
    started = Gateway(write_files(tmp_path_factory.mktemp("cohere"), files))
    with running(started):
        yield started


@pytest.fixture
def client(gateway: Gateway) -> Iterator[cohere.ClientV2]:
    with httpx.Client(timeout=20) as transport:
        yield cohere.ClientV2(api_key=ADMIN_KEY, base_url=gateway.url, httpx_client=transport)


def accumulate(events: Any) -> dict[str, Any]:
    """What an application makes of the events of a stream."""
    content: dict[int, dict[str, Any]] = {}
    calls: dict[int, dict[str, Any]] = {}
    told: dict[str, Any] = {"citations": []}
    for event in events:
        message = (
            event.delta.message if getattr(event, "delta", None) and event.type != "message-end" else None
        )
        if event.type == "content-start":
            content[event.index] = {"type": message.content.type, "said": ""}
        elif event.type == "content-delta":
            content[event.index]["said"] += message.content.text or message.content.thinking or ""
        elif event.type == "tool-call-start":
            started = message.tool_calls
            calls[event.index] = {"id": started.id, "name": started.function.name, "arguments": ""}
        elif event.type == "tool-call-delta":
            calls[event.index]["arguments"] += message.tool_calls.function.arguments
        elif event.type == "citation-start":
            told["citations"].append((message.citations.start, message.citations.end, message.citations.text))
        elif event.type == "message-end":
            told |= {
                "finish": event.delta.finish_reason,
                "usage": event.delta.usage,
                "error": event.delta.error,
            }
    return {**told, "content": list(content.values()), "calls": list(calls.values())}


def flatten(answer: Any) -> dict[str, Any]:
    """A plain answer in the same words."""
    message = answer.message
    return {
        "finish": answer.finish_reason,
        "usage": answer.usage,
        "error": None,
        "citations": [(c.start, c.end, c.text) for c in message.citations or ()],
        "content": [
            {"type": part.type, "said": part.text if part.type == "text" else part.thinking}
            for part in message.content or ()
        ],
        "calls": [
            {"id": made.id, "name": made.function.name, "arguments": made.function.arguments}
            for made in message.tool_calls or ()
        ],
    }


def test_a_stream_of_another_wire_amounts_to_its_plain_answer(
    upstream: Replay, client: cohere.ClientV2
) -> None:
    upstream.scripts["one"] = Script(TOLD)
    streamed = accumulate(client.chat_stream(model="other/one", messages=USER, tools=TOOLS))
    choice = {"index": 0, "message": SAID, "finish_reason": "tool_calls"}
    whole = {"id": "c", "object": "chat.completion", "choices": [choice], "usage": USAGE}
    upstream.scripts["one"] = Script(json.dumps(whole).encode(), JSON)
    plain = flatten(client.chat(model="other/one", messages=USER, tools=TOOLS))
    assert streamed == plain
    assert plain["content"] == [{"type": "thinking", "said": "hm"}, {"type": "text", "said": "I look twice."}]
    assert [made["arguments"] for made in plain["calls"]] == ['{"at":1}', "{}"]
    assert plain["finish"] == "TOOL_CALL" and plain["usage"].tokens.input_tokens == 9


def test_results_of_tools_and_documents_go_on_to_another_wire(
    upstream: Replay, client: cohere.ClientV2
) -> None:
    choice = {"index": 0, "message": {"role": "assistant", "content": "20"}, "finish_reason": "stop"}
    upstream.scripts["one"] = Script(
        json.dumps({"id": "c", "choices": [choice], "usage": USAGE}).encode(), JSON
    )
    upstream.requests.clear()
    told: Any = [
        *USER,
        {"role": "assistant", "tool_plan": "I look.", "tool_calls": SAID["tool_calls"]},
        {"role": "tool", "tool_call_id": "look_1", "content": [{"type": "text", "text": "20"}]},
        {"role": "tool", "tool_call_id": "wait_1", "content": "waited"},
    ]
    answer = client.chat(model="other/one", messages=told, tools=TOOLS, documents=["Almanac"], max_tokens=9)
    assert flatten(answer)["content"] == [{"type": "text", "said": "20"}]
    ((_, body),) = upstream.requests
    messages = json.loads(body)["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant", "tool", "tool"]
    assert messages[0]["content"][0] == {"type": "text", "text": "Almanac"}
    assert messages[1]["content"] == "I look." and messages[3]["content"] == "waited"


@pytest.mark.parametrize("pieces", [None, 1])
@pytest.mark.parametrize("raw", [STREAM, CALLS], ids=["text", "calls"])
def test_a_stream_of_its_own_wire_reaches_the_client(
    raw: bytes, pieces: int | None, upstream: Replay, client: cohere.ClientV2
) -> None:
    upstream.scripts["one"] = Script(raw, pieces=pieces)
    told = accumulate(client.chat_stream(model="own/one", messages=USER))
    if raw is STREAM:
        assert told["content"][1] == {"type": "text", "said": "It is warm."}
        assert (told["citations"], told["finish"]) == ([(6, 10, "warm")], "MAX_TOKENS")
        assert told["usage"].billed_units.input_tokens == 119
    else:
        assert [made["name"] for made in told["calls"]] == ["look", "wait"]


@pytest.mark.parametrize("raw", [STREAM, CALLS], ids=["text", "calls"])
def test_on_its_own_wire_a_stream_is_passed_byte_for_byte(
    raw: bytes, upstream: Replay, gateway: Gateway
) -> None:
    upstream.scripts["one"] = Script(raw)
    with gateway.client() as http:
        answer = http.post("/v2/chat", json={"model": "own/one", "messages": USER, "stream": True})
    assert answer.content == raw
    tokens = gateway.find_record(answer.headers["x-request-id"])["tokens"]
    assert raw is CALLS or tokens == {"input": 119, "output": 44}


@pytest.mark.parametrize("pieces", [None, 30], ids=["at once", "bit by bit"])
def test_a_failure_that_its_own_wire_tells_at_the_end_is_a_failure(
    pieces: int | None, upstream: Replay, gateway: Gateway
) -> None:
    told = STREAM.replace(b'"MAX_TOKENS"', b'"ERROR","error":"too hot"')
    upstream.scripts["one"] = Script(told, pieces=pieces)
    with gateway.client() as http:
        answer = http.post("/v2/chat", json={"model": "own/one", "messages": USER, "stream": True})
    assert "too hot" in answer.text.rpartition("data: ")[2]
    assert answer.status_code == (200 if pieces else 502)
    assert gateway.find_record(answer.headers["x-request-id"])["status"] == "error"


def test_a_failure_inside_a_stream_ends_it_in_the_clients_words(
    upstream: Replay, client: cohere.ClientV2
) -> None:
    upstream.scripts["one"] = Script(TOLD[: TOLD.index(b" twice")])
    told = accumulate(client.chat_stream(model="other/one", messages=USER))
    assert (told["finish"], told["content"][1]["said"]) == ("ERROR", "I look") and told["error"]


def test_errors_are_the_clients_own_classes(upstream: Replay, client: cohere.ClientV2) -> None:
    upstream.scripts["one"] = Script(b'{"error": {"message": "no such thing"}}', JSON, status=400)
    with pytest.raises(cohere.BadRequestError) as refused:
        client.chat(model="other/one", messages=USER)
    assert "no such thing" in str(refused.value.body)
    with pytest.raises(cohere.NotFoundError):
        client.chat(model="nobody/one", messages=USER)


def test_vectors_of_another_wire_come_by_type(upstream: Replay, client: cohere.ClientV2) -> None:
    row = {"object": "embedding", "index": 0, "embedding": [0.5, 1.0]}
    upstream.scripts["one"] = Script(
        json.dumps(
            {"data": [row], "model": "one", "usage": {"prompt_tokens": 3, "total_tokens": 3}}
        ).encode(),
        JSON,
    )
    answer = client.embed(
        model="vectors/one", texts=["a"], input_type="search_query", embedding_types=["float"]
    )
    assert answer.embeddings.float_ == [[0.5, 1.0]] and answer.meta is not None
    assert answer.meta.billed_units is not None and answer.meta.billed_units.input_tokens == 3


def test_an_order_of_another_wire_comes_as_results(upstream: Replay, client: cohere.ClientV2) -> None:
    rows = [{"index": 1, "relevance_score": 0.9}, {"index": 0, "relevance_score": 0.1}]
    said = {"object": "list", "data": rows, "model": "one", "usage": {"total_tokens": 5}}
    upstream.scripts["one"] = Script(json.dumps(said).encode(), JSON)
    upstream.requests.clear()
    answer = client.rerank(model="order/one", query="warm?", documents=["cold", "warm"], top_n=2)
    assert [(row.index, row.relevance_score) for row in answer.results] == [(1, 0.9), (0, 0.1)]
    ((_, body),) = upstream.requests
    assert json.loads(body)["top_k"] == 2
