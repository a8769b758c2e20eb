"""Cohere's own SDK takes the simulator for the real thing."""

from collections.abc import Iterator
from typing import Any

import cohere
import httpx
import pytest
from cohere.core.api_error import ApiError

USER: Any = [{"role": "user", "content": "hello there"}]
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS: Any = {
    "tools": [
        {"type": "function", "function": {"name": name, "description": name, "parameters": SCHEMA}}
        for name in ("weather", "clock")
    ]
}


@pytest.fixture
def client(port: int) -> Iterator[cohere.ClientV2]:
    with httpx.Client(timeout=10) as carrier:
        yield cohere.ClientV2(api_key="co-test", base_url=f"http://127.0.0.1:{port}", httpx_client=carrier)


def _add_up(events: list[Any]) -> tuple[str, str, list[tuple[str, str, str]]]:
    """Thinking, text and calls of a stream."""
    thinking, text = "", ""
    calls: dict[int, list[str]] = {}
    for event in events:
        if event.type == "content-delta":
            text += event.delta.message.content.text or ""
            thinking += getattr(event.delta.message.content, "thinking", None) or ""
        elif event.type == "tool-call-start":
            call = event.delta.message.tool_calls
            calls[event.index] = [call.id, call.function.name, ""]
        elif event.type == "tool-call-delta":
            calls[event.index][2] += event.delta.message.tool_calls.function.arguments
    return thinking, text, [(call[0], call[1], call[2]) for call in calls.values()]


def _read_plain(answer: Any) -> tuple[str, str, list[tuple[str, str, str]]]:
    content, calls = answer.message.content or [], answer.message.tool_calls or []
    return (
        "".join(part.thinking for part in content if part.type == "thinking"),
        "".join(part.text for part in content if part.type == "text"),
        [(call.id, call.function.name, call.function.arguments) for call in calls],
    )


@pytest.mark.parametrize(
    ("model", "fields"),
    [
        ("sim/tokens@12", {}),
        ("sim/tokens@12+think@5", {}),
        ("sim/words", {"thinking": {"type": "enabled"}}),
        ("sim/tools", TOOLS),
        ("sim/tools@3+think", TOOLS),
        ("sim/refuse", {}),
        ("sim/words", {"max_tokens": 5}),
        ("sim/words", {"response_format": {"type": "json_object", "json_schema": SCHEMA}}),
    ],
)
def test_a_stream_adds_up_to_the_plain_answer(client: cohere.ClientV2, model: str, fields: Any) -> None:
    plain: Any = client.chat(model=model, messages=USER, **fields)
    events: list[Any] = list(client.chat_stream(model=model, messages=USER, **fields))
    assert _add_up(events) == _read_plain(plain)
    assert events[-1].delta.finish_reason == plain.finish_reason
    assert events[-1].delta.usage == plain.usage


def test_the_hidden_preamble_is_counted_and_not_billed(client: cohere.ClientV2) -> None:
    usage: Any = client.chat(model="sim/tokens@7", messages=USER).usage
    assert (usage.billed_units.input_tokens, usage.billed_units.output_tokens) == (3, 7)
    assert usage.tokens.input_tokens == 503


def test_results_of_calls_are_taken(client: cohere.ClientV2) -> None:
    called: Any = client.chat(model="sim/tools", messages=USER, **TOOLS)
    results: Any = [
        {"role": "tool", "tool_call_id": call.id, "content": "rain"} for call in called.message.tool_calls
    ]
    asked: Any = {"role": "assistant", "tool_calls": called.message.tool_calls}
    assert (
        client.chat(model="sim/tools", messages=[*USER, asked, *results], **TOOLS).finish_reason == "COMPLETE"
    )
    with pytest.raises(ApiError, match="no tool call found"):
        client.chat(model="sim/tools", messages=[*USER, *results], **TOOLS)


def test_errors_are_flat(client: cohere.ClientV2) -> None:
    with pytest.raises(ApiError) as caught:
        client.chat(model="sim/429", messages=USER, request_options={"max_retries": 0})
    assert (caught.value.status_code, list(caught.value.body)) == (429, ["message"])


def test_an_error_amid_a_stream_ends_it(client: cohere.ClientV2) -> None:
    events: list[Any] = list(client.chat_stream(model="sim/error-in-stream@2", messages=USER))
    assert events[-1].delta.finish_reason == "ERROR"
