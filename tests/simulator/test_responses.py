"""OpenAI's own SDK takes the simulator for the real thing, on its Responses."""

from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest

from tests.simulator.launch import listen_to, make_request

TOOLS: Any = [
    {
        "type": "function",
        "name": name,
        "strict": False,
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    }
    for name in ("weather", "clock")
]
SEALED: Any = {"store": False, "include": ["reasoning.encrypted_content"]}
SCHEMA: Any = {
    "type": "object",
    "properties": {"n": {"const": 4}},
    "required": ["n"],
    "additionalProperties": False,
}
FORMAT: Any = {"format": {"type": "json_schema", "name": "it", "schema": SCHEMA, "strict": True}}


@pytest.fixture
async def client(port: int) -> AsyncIterator[openai.AsyncOpenAI]:
    url = f"http://127.0.0.1:{port}/v1"
    async with openai.AsyncOpenAI(api_key="sk-test-1234", base_url=url, max_retries=0) as made:
        yield made


async def _ask(client: openai.AsyncOpenAI, model: str, given: Any = "hello there", **fields: Any) -> Any:
    return await client.responses.create(model=model, input=given, **fields)


async def _stream(client: openai.AsyncOpenAI, model: str, **fields: Any) -> list[Any]:
    async with client.responses.stream(model=model, input="hello there", **fields) as stream:
        return [event async for event in stream]


def _strip(items: Any) -> Any:
    unlike = {"id", "call_id", "parsed", "parsed_arguments"}
    shown = [item.model_dump(exclude_none=True, exclude=unlike) for item in items]
    for item in shown:
        for part in item.get("content") or ():
            part.pop("parsed", None)
    return shown


@pytest.mark.parametrize(
    ("model", "fields"),
    [
        ("sim/tokens@12", {}),
        ("sim/tokens@12+think@5", SEALED),
        ("sim/words", {"reasoning": {"effort": "low", "summary": "auto"}}),
        ("sim/tools", {"tools": TOOLS}),
        ("sim/tools@3+think", {"tools": TOOLS}),
        ("sim/refuse", {}),
        ("sim/words", {"max_output_tokens": 5}),
        ("sim/words", {"text": FORMAT}),
        ("sim/cached@2+cache-write@1", {}),
    ],
)
async def test_a_stream_adds_up_to_the_plain_answer(
    client: openai.AsyncOpenAI, model: str, fields: dict[str, Any]
) -> None:
    plain, events = await _ask(client, model, **fields), await _stream(client, model, **fields)
    assert [event.sequence_number for event in events if "sequence_number" in event.model_fields_set] == list(
        range(len(events))
    )
    final = events[-1].response
    assert _strip(final.output) == _strip(plain.output)
    assert (final.status, final.usage) == (plain.status, plain.usage)
    said = "".join(
        event.delta
        for event in events
        if event.type in ("response.output_text.delta", "response.refusal.delta")
    )
    assert said == (plain.output_text or "".join(
        part.refusal for item in plain.output if item.type == "message" for part in item.content))  # fmt: skip
    called: dict[int, str] = {}
    for event in events:
        if event.type == "response.function_call_arguments.delta":
            called[event.output_index] = called.get(event.output_index, "") + event.delta
    assert list(called.values()) == [item.arguments for item in plain.output if item.type == "function_call"]


async def test_usage_and_status_are_the_dialects(client: openai.AsyncOpenAI) -> None:
    answer = await _ask(client, "sim/words+think@3+cached@2", max_output_tokens=5)
    assert (answer.status, answer.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert (answer.usage.input_tokens, answer.usage.input_tokens_details.cached_tokens) == (3, 2)
    assert (answer.usage.output_tokens, answer.usage.output_tokens_details.reasoning_tokens) == (5, 3)
    assert (await _ask(client, "sim/words", text=FORMAT)).output_text == '{"n":4}'


async def test_sealed_reasoning_comes_back_as_it_was_or_is_refused(client: openai.AsyncOpenAI) -> None:
    answer = await _ask(client, "sim/tools+think", tools=TOOLS, **SEALED)
    items = [item.model_dump(exclude_none=True) for item in answer.output]
    results = [
        {"type": "function_call_output", "call_id": item["call_id"], "output": "rain"}
        for item in items
        if item["type"] == "function_call"
    ]
    user = {"role": "user", "content": "hello there"}
    done = await _ask(client, "sim/tools+think", [user, *items, *results], tools=TOOLS, **SEALED)
    assert done.output_text
    broken = [{**items[0], "encrypted_content": "Zm9yZWlnbg=="}, *items[1:]]
    for given, said in (
        ([user, *broken, *results], "could not be verified"),
        ([user, items[0], user], "without its required following item"),
        ([user, *results], "No tool call found"),
    ):
        with pytest.raises(openai.BadRequestError, match=said):
            await _ask(client, "sim/tools+think", given, tools=TOOLS, **SEALED)
    bare = {key: value for key, value in items[0].items() if key != "encrypted_content"}
    with pytest.raises(openai.NotFoundError, match="not found"):
        await _ask(client, "sim/tools+think", [user, bare, *items[1:], *results], tools=TOOLS, **SEALED)


async def test_what_an_assistant_said_is_output_text(client: openai.AsyncOpenAI) -> None:
    said: Any = [{"role": "assistant", "content": [{"type": "input_text", "text": "x"}]}]
    with pytest.raises(openai.BadRequestError, match="output_text"):
        await _ask(client, "sim/echo", said)


async def test_an_error_amid_a_stream_is_raised(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.APIError):
        await _stream(client, "sim/error-in-stream@3")


def test_the_ways_of_being_broken_are_the_wires_own(port: int) -> None:
    body = {"model": "sim/no-index+tokens@2", "stream": True, "input": "hello there"}
    events = listen_to(port, make_request(body, "/v1/responses")).events
    assert events and not any("output_index" in event for event in events)
    cut = listen_to(port, make_request({**body, "model": "sim/cut@1+tokens@3"}, "/v1/responses"))
    assert cut.ended == "fin" and b"response.completed" not in cut.body
