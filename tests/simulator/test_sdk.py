"""The official Python SDK takes the simulator for the real thing."""

import base64
import struct
from collections.abc import AsyncIterator
from enum import Enum
from typing import Any

import openai
import pytest
from pydantic import BaseModel, Field

USER: Any = [{"role": "user", "content": "hello there"}]


@pytest.fixture
async def client(port: int) -> AsyncIterator[openai.AsyncOpenAI]:
    url = f"http://127.0.0.1:{port}/v1"
    async with openai.AsyncOpenAI(api_key="sk-test-1234", base_url=url, max_retries=0) as made:
        yield made


async def test_a_plain_answer_has_the_text_and_the_true_usage(client: openai.AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(model="sim/tokens@12", messages=USER)
    text = answer.choices[0].message.content
    assert text is not None and len(text.split()) == 12
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (3, 12)
    assert answer.choices[0].finish_reason == "stop"
    assert answer.id.startswith("chatcmpl-")
    assert answer.model == "sim/tokens@12"


async def test_a_stream_says_what_the_plain_answer_says(client: openai.AsyncOpenAI) -> None:
    plain = await client.chat.completions.create(model="sim/words", messages=USER)
    stream = await client.chat.completions.create(model="sim/words", messages=USER, stream=True)
    chunks = [chunk async for chunk in stream]
    assert (
        "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == plain.choices[0].message.content
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert all(chunk.usage is None for chunk in chunks)


async def test_usage_comes_in_a_chunk_of_its_own_when_it_is_asked_for(client: openai.AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(
        model="sim/tokens@7+cached@2", messages=USER, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert chunks[-1].choices == []
    usage = chunks[-1].usage
    assert usage is not None and usage.prompt_tokens_details is not None
    assert (usage.prompt_tokens, usage.completion_tokens) == (3, 7)
    assert usage.prompt_tokens_details.cached_tokens == 2
    assert all(chunk.usage is None for chunk in chunks[:-1])


@pytest.mark.parametrize(
    ("model", "holders"), [("usage-always", [4]), ("usage-in-finish", [3]), ("no-usage", [])]
)
async def test_usage_can_come_unasked_elsewhere_or_not_at_all(
    client: openai.AsyncOpenAI, model: str, holders: list[int]
) -> None:
    stream = await client.chat.completions.create(model=f"sim/tokens@2+{model}", messages=USER, stream=True)
    chunks = [chunk async for chunk in stream]
    assert [place for place, chunk in enumerate(chunks) if chunk.usage is not None] == holders


async def test_echo_repeats_the_last_user_message(client: openai.AsyncOpenAI) -> None:
    said = "One  two\nthree  "
    messages = [*USER, {"role": "assistant", "content": "?"}, {"role": "user", "content": said}]
    stream = await client.chat.completions.create(model="sim/echo", messages=messages, stream=True)
    assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == said


async def test_limits_stops_and_seeds_are_obeyed(client: openai.AsyncOpenAI) -> None:
    create = client.chat.completions.create
    whole = (await create(model="sim/words", messages=USER)).choices[0].message.content or ""
    short = (await create(model="sim/words", messages=USER, max_completion_tokens=5)).choices[0]
    assert (short.message.content, short.finish_reason) == (" ".join(whole.split()[:5]), "length")
    word = whole.split()[3]
    stopped = (await create(model="sim/words", messages=USER, stop=[f" {word}"])).choices[0]
    assert stopped.message.content == whole[: whole.index(f" {word}")]
    assert stopped.finish_reason == "stop"
    seeded = [
        (await create(model="sim/words", messages=USER, seed=5)).choices[0].message.content for _ in "ab"
    ]
    assert seeded[0] == seeded[1] != whole


async def test_an_assistants_beginning_is_continued(client: openai.AsyncOpenAI) -> None:
    whole = (await client.chat.completions.create(model="sim/words", messages=USER)).choices[
        0
    ].message.content or ""
    for length in (0, 1, 7, len(whole) // 2, len(whole)):
        messages = [*USER, {"role": "assistant", "content": whole[:length]}]
        rest = await client.chat.completions.create(model="sim/chunk-ms@0+words", messages=messages)
        assert whole[:length] + (rest.choices[0].message.content or "") == whole
        assert rest.usage is not None
        assert rest.usage.prompt_tokens == 3 + 1 + len(whole[:length].split())
        assert rest.usage.completion_tokens == len(whole[length:].split())
    other = await client.chat.completions.create(model="sim/other-text", messages=USER)
    assert (other.choices[0].message.content or "")[0] != whole[0]
    with pytest.raises(openai.BadRequestError, match="prefill"):
        await client.chat.completions.create(model="sim/no-prefill", messages=messages)


def tool(name: str, **properties: object) -> Any:
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    return {"type": "function", "function": {"name": name, "parameters": schema}}


TOOLS = [tool("weather", city={"type": "string"}, days={"type": "integer", "minimum": 3}), tool("clock")]


async def test_tools_are_called_side_by_side_with_arguments_that_fit(client: openai.AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(model="sim/tools", messages=USER, tools=TOOLS)
    calls: Any = answer.choices[0].message.tool_calls
    assert answer.choices[0].finish_reason == "tool_calls"
    assert [call.function.name for call in calls] == ["weather", "clock"]
    async with client.chat.completions.stream(model="sim/tools", messages=USER, tools=TOOLS) as stream:
        final: Any = (await stream.get_final_completion()).choices[0].message
    assert [call.function.arguments for call in final.tool_calls] == [
        call.function.arguments for call in calls
    ]
    told: Any = {"role": "tool", "tool_call_id": calls[0].id, "content": "sunny"}
    asked: Any = {"role": "assistant", "tool_calls": [call.model_dump() for call in calls]}
    after = await client.chat.completions.create(
        model="sim/tools", messages=[*USER, asked, told], tools=TOOLS
    )
    assert after.choices[0].finish_reason == "stop" and after.choices[0].message.content


async def test_tool_choice_decides(client: openai.AsyncOpenAI) -> None:
    create = client.chat.completions.create
    forced = await create(
        model="sim/words", messages=USER, tools=TOOLS,
        tool_choice={"type": "function", "function": {"name": "clock"}},
    )  # fmt: skip
    called: Any = forced.choices[0].message.tool_calls
    assert [call.function.name for call in called] == ["clock"]
    barred = await create(model="sim/tools", messages=USER, tools=TOOLS, tool_choice="none")
    assert barred.choices[0].message.tool_calls is None
    single = await create(model="sim/tools", messages=USER, tools=TOOLS, parallel_tool_calls=False)
    assert len(single.choices[0].message.tool_calls or []) == 1


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Node(BaseModel):
    label: str = Field(min_length=3, max_length=9)
    weight: float = Field(gt=0.2, lt=0.9)
    colour: Colour
    children: list["Node"]
    parent: "Node | None"


class Plan(BaseModel):
    steps: list[str] = Field(min_length=2, max_length=4)
    count: int = Field(ge=10, multiple_of=4)
    root: Node
    done: bool


@pytest.mark.parametrize("model", ["sim/json", "sim/words"])
async def test_a_json_schema_is_satisfied(client: openai.AsyncOpenAI, model: str) -> None:
    answer = await client.chat.completions.parse(model=model, messages=USER, response_format=Plan)
    plan = answer.choices[0].message.parsed
    assert plan is not None and plan.count == 12 and len(plan.steps) >= 2


async def test_n_choices_differ_and_stream_side_by_side(client: openai.AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(model="sim/tokens@4", messages=USER, n=3)
    texts = [choice.message.content for choice in answer.choices]
    assert len(set(texts)) == 3
    joined = ["", "", ""]
    stream = await client.chat.completions.create(model="sim/tokens@4", messages=USER, n=3, stream=True)
    async for chunk in stream:
        joined[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert joined == texts


async def test_log_probabilities_cover_every_token(client: openai.AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(
        model="sim/tokens@4", messages=USER, logprobs=True, top_logprobs=2
    )
    held = answer.choices[0].logprobs
    assert held is not None and held.content is not None
    assert "".join(one.token for one in held.content) == answer.choices[0].message.content
    assert all(len(one.top_logprobs) == 2 and one.logprob < 0 for one in held.content)


async def test_reasoning_comes_first_and_is_counted(client: openai.AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(model="sim/reasoning@6+tokens@4", messages=USER)
    assert answer.usage is not None and answer.usage.completion_tokens_details is not None
    assert answer.usage.completion_tokens == 10
    assert answer.usage.completion_tokens_details.reasoning_tokens == 6
    reasoning = answer.choices[0].message.model_extra or {}
    assert len(reasoning["reasoning_content"].split()) == 6


async def test_image_parts_are_taken_and_counted(client: openai.AsyncOpenAI) -> None:
    parts: Any = [
        {"type": "text", "text": "what is this"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
    ]
    answer = await client.chat.completions.create(
        model="sim/words", messages=[{"role": "user", "content": parts}]
    )
    assert answer.usage is not None and answer.usage.prompt_tokens == 3 + 1 + 85


async def test_completions_answer_stream_and_echo(client: openai.AsyncOpenAI) -> None:
    plain = await client.completions.create(model="sim/tokens@5", prompt=["one", "two"], n=2, logprobs=1)
    assert [choice.index for choice in plain.choices] == [0, 1, 2, 3]
    assert plain.usage is not None
    assert (plain.usage.prompt_tokens, plain.usage.completion_tokens) == (2, 20)
    echoed = await client.completions.create(model="sim/tokens@5", prompt="one", echo=True)
    assert echoed.choices[0].text == "one" + plain.choices[0].text
    stream = await client.completions.create(
        model="sim/tokens@5", prompt="one", stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert "".join(choice.text for chunk in chunks for choice in chunk.choices) == plain.choices[0].text
    assert chunks[-1].usage is not None and chunks[-1].usage.completion_tokens == 5


async def test_embeddings_are_unit_vectors_in_either_encoding(client: openai.AsyncOpenAI, port: int) -> None:
    given = await client.embeddings.create(model="sim/words", input=["a b", "c"], dimensions=64)
    assert [len(row.embedding) for row in given.data] == [64, 64]
    assert sum(one * one for one in given.data[0].embedding) == pytest.approx(1, abs=1e-5)
    assert given.usage.prompt_tokens == 3
    plain = await client.embeddings.create(
        model="sim/words", input="a b", dimensions=64, encoding_format="float"
    )
    assert plain.data[0].embedding == pytest.approx(given.data[0].embedding)
    raw = await client.embeddings.with_raw_response.create(
        model="sim/words", input=[1, 2, 3], encoding_format="base64"
    )
    packed = base64.b64decode(raw.http_response.json()["data"][0]["embedding"])
    assert len(struct.unpack("<1536f", packed)) == 1536


async def test_models_are_listed_and_found(client: openai.AsyncOpenAI) -> None:
    names = [model.id async for model in client.models.list()]
    assert {"sim/echo", "sim/cut@40", "sim/429-then-ok"} <= set(names)
    assert (await client.models.retrieve("sim/cut@3+tokens@9")).id == "sim/cut@3+tokens@9"
    with pytest.raises(openai.NotFoundError):
        await client.models.retrieve("sim/nothing")


@pytest.mark.parametrize(
    ("model", "error"),
    [
        ("sim/400", openai.BadRequestError),
        ("sim/401", openai.AuthenticationError),
        ("sim/403", openai.PermissionDeniedError),
        ("sim/404", openai.NotFoundError),
        ("sim/409", openai.ConflictError),
        ("sim/422", openai.UnprocessableEntityError),
        ("sim/429", openai.RateLimitError),
        ("sim/500", openai.InternalServerError),
        ("sim/529", openai.InternalServerError),
        ("sim/reset", openai.APIConnectionError),
        ("sim/error-in-stream@2", openai.APIError),
        ("gpt-4o", openai.NotFoundError),
    ],
)
async def test_faults_are_the_sdks_own_errors(
    client: openai.AsyncOpenAI, model: str, error: type[openai.OpenAIError]
) -> None:
    with pytest.raises(error):
        stream = await client.chat.completions.create(model=model, messages=USER, stream=True)
        async for _ in stream:
            pass


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({}, None, None),
        ({"model": 5}, "model", "invalid_type"),
        ({"model": "sim/echo"}, "messages", "missing_required_parameter"),
        ({"model": "sim/echo", "messages": "hi"}, "messages", "invalid_type"),
        ({"model": "sim/echo", "messages": []}, "messages", "empty_array"),
        (
            {"model": "sim/echo", "messages": [{"role": "bot", "content": ""}]},
            "messages[0].role",
            "invalid_value",
        ),
        ({"model": "sim/echo", "messages": USER, "temperature": 3}, "temperature", "integer_above_max_value"),
        ({"model": "sim/echo", "messages": USER, "n": 1.5}, "n", "invalid_type"),
        ({"model": "sim/echo", "messages": USER, "stream": "yes"}, "stream", "invalid_type"),
        (
            {"model": "sim/echo", "messages": USER, "tools": [{}]},
            "tools[0].function.name",
            "missing_required_parameter",
        ),
    ],
)
async def test_a_bad_request_names_the_parameter(
    client: openai.AsyncOpenAI, body: dict[str, object], param: str | None, code: str | None
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await client.post("/chat/completions", cast_to=object, body=body)
    assert (caught.value.param, caught.value.code) == (param, code)
