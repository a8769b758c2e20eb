"""Amazon's own SDK takes the simulator for the real thing."""

import contextlib
import json
from typing import Any

import boto3  # type: ignore[import-untyped]
import pytest
from botocore.config import Config  # type: ignore[import-untyped]
from botocore.exceptions import ClientError, EventStreamError  # type: ignore[import-untyped]

USER: Any = [{"role": "user", "content": [{"text": "hello there"}]}]
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS = {
    "toolConfig": {
        "tools": [
            {"toolSpec": {"name": name, "description": name, "inputSchema": {"json": SCHEMA}}}
            for name in ("weather", "clock")
        ]
    }
}


@pytest.fixture
def client(port: int) -> Any:
    return boto3.client(
        "bedrock-runtime",
        region_name="us-east-1",
        endpoint_url=f"http://127.0.0.1:{port}",
        aws_access_key_id="AKIATEST",
        aws_secret_access_key="secret",
        config=Config(retries={"total_max_attempts": 1}),
    )


def _ask(client: Any, model: str, **fields: Any) -> Any:
    return client.converse(modelId=model, **{"messages": USER, **fields})


def _stream(client: Any, model: str, **fields: Any) -> dict[str, Any]:
    """What the events add up to."""
    blocks: dict[int, dict[str, Any]] = {}
    said: dict[str, Any] = {}
    stream = client.converse_stream(modelId=model, **{"messages": USER, **fields})["stream"]
    with contextlib.closing(stream):
        events = list(stream)
    for event in events:
        for name, inner in event.items():
            if name == "contentBlockStart":
                blocks[inner["contentBlockIndex"]] = {"toolUse": {**inner["start"]["toolUse"], "input": ""}}
            elif name == "contentBlockDelta":
                _add_delta(blocks.setdefault(inner["contentBlockIndex"], {}), inner["delta"])
            elif name in ("messageStop", "metadata"):
                said |= inner
    for block in blocks.values():
        if "toolUse" in block:
            block["toolUse"]["input"] = json.loads(block["toolUse"]["input"])
    return {**said, "content": [blocks[place] for place in sorted(blocks)]}


def _add_delta(block: dict[str, Any], delta: dict[str, Any]) -> None:
    if "text" in delta:
        block["text"] = block.get("text", "") + delta["text"]
    elif "toolUse" in delta:
        block["toolUse"]["input"] += delta["toolUse"]["input"]
    else:
        held = block.setdefault("reasoningContent", {"reasoningText": {"text": ""}})["reasoningText"]
        held["text"] += delta["reasoningContent"].get("text", "")
        held |= {key: value for key, value in delta["reasoningContent"].items() if key == "signature"}
        if "redactedContent" in delta["reasoningContent"]:
            block["reasoningContent"] = delta["reasoningContent"]


@pytest.mark.parametrize(
    ("model", "fields"),
    [
        ("sim/tokens@12", {}),
        ("sim/tokens@12+think@5", {}),
        (
            "sim/words",
            {"additionalModelRequestFields": {"thinking": {"type": "enabled", "budget_tokens": 1024}}},
        ),
        ("sim/tools", TOOLS),
        ("sim/tools@3+think", TOOLS),
        ("sim/refuse", {}),
        ("sim/redact", {}),
        ("sim/words", {"inferenceConfig": {"maxTokens": 5}}),
        ("sim/cached@2", {}),
    ],
)
def test_a_stream_adds_up_to_the_plain_answer(client: Any, model: str, fields: dict[str, Any]) -> None:
    plain, streamed = _ask(client, model, **fields), _stream(client, model, **fields)
    assert streamed["content"] == plain["output"]["message"]["content"]
    assert streamed["stopReason"] == plain["stopReason"]
    assert streamed["usage"] == plain["usage"]


def test_reasons_to_stop_are_the_dialects(client: Any) -> None:
    assert _ask(client, "sim/echo")["stopReason"] == "end_turn"
    assert _ask(client, "sim/words", inferenceConfig={"maxTokens": 2})["stopReason"] == "max_tokens"
    assert _ask(client, "sim/tools", **TOOLS)["stopReason"] == "tool_use"
    assert (
        _ask(client, "sim/echo", inferenceConfig={"stopSequences": ["there"]})["stopReason"]
        == "stop_sequence"
    )
    assert _ask(client, "sim/refuse")["stopReason"] == "content_filtered"


def test_the_cache_is_written_first_and_read_again(client: Any) -> None:
    system = [{"text": "a b c d e"}, {"cachePoint": {"type": "default"}}]
    first, again = (_ask(client, "sim/echo", system=system)["usage"] for _ in range(2))
    assert (first["inputTokens"], first["cacheWriteInputTokens"], first["cacheReadInputTokens"]) == (3, 6, 0)
    assert (again["inputTokens"], again["cacheWriteInputTokens"], again["cacheReadInputTokens"]) == (3, 0, 6)
    assert again["totalTokens"] == 11


def _go_on(client: Any, content: list[Any], **more: Any) -> Any:
    results = [
        {"toolResult": {"toolUseId": block["toolUse"]["toolUseId"], "content": [{"text": "rain"}]}}
        for block in content
        if "toolUse" in block
    ]
    messages = [*USER, {"role": "assistant", "content": content}, {"role": "user", "content": results}]
    return _ask(client, "sim/tools+think", **{**TOOLS, "messages": messages, **more})


def test_reasoning_comes_back_as_it_was_or_is_refused(client: Any) -> None:
    content = _ask(client, "sim/tools+think", **TOOLS)["output"]["message"]["content"]
    assert _go_on(client, content)["stopReason"] == "end_turn"
    sealed = _ask(client, "sim/tools+redact", **TOOLS)["output"]["message"]["content"]
    assert _go_on(client, sealed)["stopReason"] == "end_turn"
    with pytest.raises(ClientError, match="Invalid"):
        _go_on(client, [{"reasoningContent": {"redactedContent": b"foreign"}}, *sealed[1:]])
    text = content[0]["reasoningContent"]["reasoningText"]["text"]
    broken = {"reasoningContent": {"reasoningText": {"text": text, "signature": "foreign"}}}
    with pytest.raises(ClientError, match="Invalid `signature`"):
        _go_on(client, [broken, *content[1:]])


def test_a_conversation_that_is_not_in_order_is_refused(client: Any) -> None:
    with pytest.raises(ClientError, match="must alternate"):
        _ask(client, "sim/echo", messages=USER * 2)
    content = _ask(client, "sim/tools", **TOOLS)["output"]["message"]["content"]
    with pytest.raises(ClientError, match="Expected toolResult blocks"):
        _ask(client, "sim/tools", messages=[*USER, {"role": "assistant", "content": content}, *USER], **TOOLS)


@pytest.mark.parametrize(
    ("model", "name"),
    [("sim/429", "ThrottlingException"), ("sim/503", "ServiceUnavailableException"),
     ("sim/context-length", "ValidationException"), ("nope", "ResourceNotFoundException")],
)  # fmt: skip
def test_errors_are_exceptions_by_name(client: Any, model: str, name: str) -> None:
    with pytest.raises(ClientError) as caught:
        _ask(client, model)
    assert caught.value.response["Error"]["Code"] == name


def test_an_error_amid_a_stream_is_an_exception(client: Any) -> None:
    with pytest.raises(EventStreamError, match="had an error"):
        _stream(client, "sim/error-in-stream@3")


def test_messages_can_be_invoked(client: Any) -> None:
    body = json.dumps({"anthropic_version": "bedrock-2023-05-31", "max_tokens": 50, "messages": [
        {"role": "user", "content": "hello there"}]})  # fmt: skip
    plain = json.loads(client.invoke_model(modelId="sim/tokens@4", body=body)["body"].read())
    events = [
        json.loads(event["chunk"]["bytes"])
        for event in client.invoke_model_with_response_stream(modelId="sim/tokens@4", body=body)["body"]
    ]
    said = "".join(
        event["delta"].get("text", "") for event in events if event["type"] == "content_block_delta"
    )
    assert said == plain["content"][0]["text"]
    assert events[-1] == {"type": "message_stop"}
