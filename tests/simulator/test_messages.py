"""Anthropic's own SDK takes the simulator for the real thing."""

from collections.abc import AsyncIterator
from typing import Any

import anthropic
import pytest
from anthropic import BadRequestError

from tests.simulator.launch import fetch, listen_to, make_request

USER: Any = [{"role": "user", "content": "hello there"}]
TOOLS: Any = [
    {
        "name": name,
        "description": name,
        "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    }
    for name in ("weather", "clock")
]
THINKING: Any = {"type": "enabled", "budget_tokens": 1024}


@pytest.fixture
async def client(port: int) -> AsyncIterator[anthropic.AsyncAnthropic]:
    url = f"http://127.0.0.1:{port}"
    async with anthropic.AsyncAnthropic(api_key="sk-ant-1234", base_url=url, max_retries=0) as made:
        yield made


async def _ask(client: anthropic.AsyncAnthropic, model: str, **fields: Any) -> Any:
    asked = {"max_tokens": 4096, "messages": USER, **fields}
    return await client.messages.create(model=model, **asked)


async def _stream(client: anthropic.AsyncAnthropic, model: str, **fields: Any) -> Any:
    asked = {"max_tokens": 4096, "messages": USER, **fields}
    async with client.messages.stream(model=model, **asked) as stream:
        return await stream.get_final_message()


@pytest.mark.parametrize(
    ("model", "fields"),
    [
        ("sim/tokens@12", {}),
        ("sim/tokens@12+think@5", {}),
        ("sim/words", {"thinking": THINKING}),
        ("sim/tools", {"tools": TOOLS}),
        ("sim/tools@3+think", {"tools": TOOLS}),
        ("sim/refuse", {}),
        ("sim/redact", {}),
        ("sim/words", {"max_tokens": 5}),
        ("sim/json", {}),
        ("sim/echo", {"stop_sequences": ["there"]}),
        ("sim/cached@2", {}),
    ],
)
async def test_a_stream_adds_up_to_the_plain_answer(
    client: anthropic.AsyncAnthropic, model: str, fields: dict[str, Any]
) -> None:
    plain, streamed = await _ask(client, model, **fields), await _stream(client, model, **fields)
    assert [block.model_dump(exclude_none=True) for block in streamed.content] == [
        block.model_dump(exclude_none=True) for block in plain.content
    ]
    assert (streamed.stop_reason, streamed.stop_sequence) == (plain.stop_reason, plain.stop_sequence)
    assert streamed.usage.output_tokens == plain.usage.output_tokens
    assert streamed.usage.input_tokens == plain.usage.input_tokens


async def test_reasons_to_stop_are_the_dialects(client: anthropic.AsyncAnthropic) -> None:
    assert (await _ask(client, "sim/echo")).stop_reason == "end_turn"
    assert (await _ask(client, "sim/words", max_tokens=3)).stop_reason == "max_tokens"
    assert (await _ask(client, "sim/tools", tools=TOOLS)).stop_reason == "tool_use"
    refused = await _ask(client, "sim/refuse")
    assert (refused.stop_reason, refused.content) == ("refusal", [])
    stopped = await _ask(client, "sim/echo", stop_sequences=["there"])
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", "there")


async def _go_on(client: anthropic.AsyncAnthropic, content: list[Any], **fields: Any) -> Any:
    results = [
        {"type": "tool_result", "tool_use_id": block["id"], "content": "rain"}
        for block in content
        if block["type"] == "tool_use"
    ]
    messages = [*USER, {"role": "assistant", "content": content}, {"role": "user", "content": results}]
    return await _ask(client, "sim/tools+think", tools=TOOLS, messages=messages, **fields)


async def test_thinking_comes_back_as_it_was_or_is_refused(client: anthropic.AsyncAnthropic) -> None:
    answer = await _ask(client, "sim/tools+think", tools=TOOLS, thinking=THINKING)
    blocks = [block.model_dump(exclude_none=True) for block in answer.content]
    assert [block["type"] for block in blocks] == ["thinking", "tool_use", "tool_use"]
    assert (await _go_on(client, blocks, thinking=THINKING)).stop_reason == "end_turn"
    for broken in ({**blocks[0], "signature": "c2ltdWxhdGVk"}, {**blocks[0], "thinking": "other"}):
        with pytest.raises(BadRequestError, match="Invalid `signature`"):
            await _go_on(client, [broken, *blocks[1:]])
    with pytest.raises(BadRequestError, match="Expected `thinking`"):
        await _go_on(client, blocks[1:], thinking=THINKING)
    off: Any = {"type": "disabled"}
    assert (await _go_on(client, blocks[1:], thinking=off)).stop_reason == "end_turn"


async def test_sealed_thinking_comes_back_as_it_was_or_is_refused(client: anthropic.AsyncAnthropic) -> None:
    answer = await _ask(client, "sim/tools+redact", tools=TOOLS)
    blocks = [block.model_dump(exclude_none=True) for block in answer.content]
    assert blocks[0]["type"] == "redacted_thinking"
    assert (await _go_on(client, blocks, thinking=THINKING)).stop_reason == "end_turn"
    with pytest.raises(BadRequestError, match="Invalid `data`"):
        await _go_on(client, [{**blocks[0], "data": "Zm9yZWlnbg=="}, *blocks[1:]])


async def test_a_call_without_its_result_is_refused(client: anthropic.AsyncAnthropic) -> None:
    answer = await _ask(client, "sim/tools", tools=TOOLS)
    blocks = [block.model_dump(exclude_none=True) for block in answer.content]
    with pytest.raises(BadRequestError, match="without `tool_result`"):
        await _ask(client, "sim/echo", messages=[*USER, {"role": "assistant", "content": blocks}, *USER])


async def test_the_cache_is_written_first_and_read_again(client: anthropic.AsyncAnthropic) -> None:
    system: Any = [{"type": "text", "text": "a b c d e", "cache_control": {"type": "ephemeral", "ttl": "1h"}}]
    first, again = [(await _ask(client, "sim/echo", system=system)).usage for _ in range(2)]
    assert (first.input_tokens, first.cache_creation_input_tokens, first.cache_read_input_tokens) == (3, 6, 0)
    assert first.cache_creation.ephemeral_1h_input_tokens == 6
    assert (again.input_tokens, again.cache_creation_input_tokens, again.cache_read_input_tokens) == (3, 0, 6)


async def test_tokens_are_counted_as_they_are_charged(client: anthropic.AsyncAnthropic) -> None:
    image: Any = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}}
    messages: Any = [{"role": "user", "content": [{"type": "text", "text": "one two"}, image]}]
    counted = await client.messages.count_tokens(model="sim/echo", messages=messages)
    assert (
        counted.input_tokens == (await _ask(client, "sim/echo", messages=messages)).usage.input_tokens == 88
    )


async def test_a_schema_is_obeyed(client: anthropic.AsyncAnthropic) -> None:
    schema = {"type": "object", "properties": {"n": {"const": 4}}, "required": ["n"]}
    asked = {"format": {"type": "json_schema", "schema": schema}}
    assert (await _ask(client, "sim/words", extra_body={"output_config": asked})).content[0].text == '{"n":4}'


@pytest.mark.parametrize(
    ("model", "kind"),
    [("sim/429", anthropic.RateLimitError), ("sim/529", anthropic.InternalServerError),
     ("nope", anthropic.NotFoundError), ("sim/context-length", BadRequestError)],
)  # fmt: skip
async def test_faults_are_the_sdks_own_errors(
    client: anthropic.AsyncAnthropic, model: str, kind: type[anthropic.APIStatusError]
) -> None:
    with pytest.raises(kind) as caught:
        await _ask(client, model)
    assert isinstance(caught.value.body, dict) and caught.value.body["type"] == "error"


async def test_an_error_amid_a_stream_is_an_error_event(client: anthropic.AsyncAnthropic) -> None:
    with pytest.raises(anthropic.APIStatusError, match="had an error"):
        await _stream(client, "sim/error-in-stream@3")


async def test_vertex_names_the_model_in_the_path(port: int) -> None:
    client = anthropic.AsyncAnthropicVertex(
        region="here", project_id="p", access_token="t", base_url=f"http://127.0.0.1:{port}/v1", max_retries=0
    )
    async with client:
        asked: Any = {"model": "sim/tokens@4", "max_tokens": 9, "messages": USER}
        plain = await client.messages.create(**asked)
        async with client.messages.stream(**asked) as stream:
            said: Any = await stream.get_final_message()
        assert said.content[0].text == plain.content[0].text
        counted = await client.messages.count_tokens(model="sim/echo", messages=USER)
        assert counted.input_tokens == 3
    assert fetch(port, "/_sim/calls")["calls"][0]["model"] == "sim/tokens@4"


def _events(port: int, model: str) -> list[Any]:
    body = {"model": model, "stream": True, "max_tokens": 50, "messages": USER}
    return listen_to(port, make_request(body, "/v1/messages")).events


def test_the_ways_of_being_broken_are_the_wires_own(port: int) -> None:
    twice = _events(port, "sim/start-twice+tokens@2")
    assert [event["type"] for event in twice][:2] == ["message_start", "message_start"]
    blind = _events(port, "sim/no-index+tokens@2")
    assert not any("index" in event for event in blind)
    assert _events(port, "sim/no-done+tokens@2")[-1]["type"] == "message_delta"
    raw = listen_to(
        port,
        make_request(
            {
                "model": "sim/bare-error@1+tokens@9+charset",
                "stream": True,
                "max_tokens": 50,
                "messages": USER,
            },
            "/v1/messages",
        ),
    )
    assert b'\n\n{"type":"error"' in raw.chunks
    assert b"text/event-stream; charset=iso-8859-1" in raw.head
