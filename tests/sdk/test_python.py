"""The official Python SDK takes the gateway for the real thing, in both of its flavours."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx
import openai
import pytest
from pydantic import BaseModel, Field

from tests.harness import Gateway

USER: Any = [{"role": "user", "content": "hello there"}]
Saw = Callable[..., dict[str, Any]]


@pytest.fixture
def client(gateway: Gateway, api_key: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(api_key=api_key, base_url=f"{gateway.url}/v1", max_retries=0) as made:
        yield made


@pytest.fixture
async def eager(gateway: Gateway, api_key: str) -> AsyncIterator[openai.AsyncOpenAI]:
    url = f"{gateway.url}/v1"
    async with openai.AsyncOpenAI(api_key=api_key, base_url=url, max_retries=0) as made:
        yield made


def tool(name: str, **properties: Any) -> Any:
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    return {"type": "function", "function": {"name": name, "parameters": schema}}


TOOLS = [tool("weather", city={"type": "string"}, days={"type": "integer", "minimum": 3}), tool("clock")]


def compare(completion: Any) -> dict[str, Any]:
    """A completion without what differs from call to call and what only a plain answer has."""
    told: dict[str, Any] = completion.model_dump(exclude_none=True)
    for name in ("id", "created", "object", "usage"):
        told.pop(name, None)
    for choice in told["choices"]:
        choice["message"].pop("parsed", None)
        for call in choice["message"].get("tool_calls", ()):
            call.pop("index", None)
            call["function"].pop("parsed_arguments", None)
    return told


# --- answers


def test_a_plain_answer_has_text_usage_and_the_contracts_headers(client: openai.OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(model="teller", messages=USER)
    answer = raw.parse()
    assert answer.choices[0].message.content is not None
    assert len(answer.choices[0].message.content.split()) == 12
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None and answer.usage.completion_tokens == 12
    headers = raw.headers
    assert headers["x-provider"] == "up" and headers["x-model"] == answer.model == "sim/tokens@12"
    assert headers["x-requested-model"] == "teller" and headers["x-attempts"] == "1"
    assert headers["x-cost-usd"] == "0.000027"
    assert headers["x-config-revision"] and raw.request_id == headers["x-request-id"]


def test_a_request_id_of_the_clients_own_comes_back(client: openai.OpenAI) -> None:
    for stream in (False, True):
        raw = client.chat.completions.with_raw_response.create(
            model="teller", messages=USER, stream=stream, extra_headers={"x-request-id": "mine-1"}
        )
        assert raw.headers["x-request-id"] == "mine-1"
        raw.http_response.read()


def test_a_stream_says_what_the_plain_answer_says(client: openai.OpenAI) -> None:
    plain = client.chat.completions.create(model="up/sim/words", messages=USER)
    chunks = list(client.chat.completions.create(model="up/sim/words", messages=USER, stream=True))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == plain.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant" and chunks[-1].choices[0].finish_reason == "stop"
    assert all(chunk.usage is None for chunk in chunks)


async def test_usage_is_the_last_chunk_when_it_is_asked_for(eager: openai.AsyncOpenAI) -> None:
    stream = await eager.chat.completions.create(
        model="up/sim/tokens@7+cached@2", messages=USER, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    usage = chunks[-1].usage
    assert chunks[-1].choices == [] and usage is not None and usage.prompt_tokens_details is not None
    assert (usage.prompt_tokens, usage.completion_tokens) == (3, 7)
    assert usage.prompt_tokens_details.cached_tokens == 2
    assert all(chunk.usage is None for chunk in chunks[:-1])


@pytest.mark.parametrize(
    "body",
    [
        {"model": "up/sim/tokens@20"},
        {"model": "up/sim/tools", "tools": TOOLS},
        {"model": "up/sim/tools", "tools": TOOLS, "n": 2},
        {"model": "up/sim/tokens@5", "n": 3},
        {"model": "up/sim/tokens@5", "logprobs": True, "top_logprobs": 2},
        {"model": "up/sim/reasoning@6+tokens@4"},
        {"model": "up/sim/tokens@9", "stop": [" the"]},
        {"model": "up/sim/json", "response_format": {"type": "json_object"}},
    ],
    ids=str,
)
async def test_the_sdks_own_accumulator_arrives_at_the_plain_answer(
    eager: openai.AsyncOpenAI, client: openai.OpenAI, body: dict[str, Any]
) -> None:
    plain = client.chat.completions.create(messages=USER, **body)
    async with eager.chat.completions.stream(messages=USER, **body) as stream:
        streamed = await stream.get_final_completion()
    assert compare(streamed) == compare(plain)
    with client.chat.completions.stream(messages=USER, **body) as waited:
        assert compare(waited.get_final_completion()) == compare(plain)


async def test_tools_are_called_side_by_side_and_their_results_are_understood(
    eager: openai.AsyncOpenAI,
) -> None:
    async with eager.chat.completions.stream(model="up/sim/tools", messages=USER, tools=TOOLS) as stream:
        arguments = [
            e.arguments_delta async for e in stream if e.type == "tool_calls.function.arguments.delta"
        ]
        message: Any = (await stream.get_final_completion()).choices[0].message
    assert [call.function.name for call in message.tool_calls] == ["weather", "clock"]
    assert "".join(arguments) == "".join(call.function.arguments for call in message.tool_calls)
    told: list[Any] = [
        {"role": "tool", "tool_call_id": call.id, "content": "sunny"} for call in message.tool_calls
    ]
    asked: Any = {"role": "assistant", "tool_calls": [call.model_dump() for call in message.tool_calls]}
    after = await eager.chat.completions.create(
        model="up/sim/tools", messages=[*USER, asked, *told], tools=TOOLS
    )
    assert after.choices[0].finish_reason == "stop" and after.choices[0].message.content


class Plan(BaseModel):
    steps: list[str] = Field(min_length=2, max_length=4)
    count: int = Field(ge=10, multiple_of=4)
    done: bool


def test_a_json_schema_is_parsed_plain_and_streamed(client: openai.OpenAI) -> None:
    plain = client.chat.completions.parse(model="up/sim/json", messages=USER, response_format=Plan)
    with client.chat.completions.stream(model="up/sim/json", messages=USER, response_format=Plan) as stream:
        streamed = stream.get_final_completion()
    found = plain.choices[0].message.parsed
    assert found is not None and found.count == 12 and streamed.choices[0].message.parsed == found


def test_image_parts_arrive_and_are_counted(client: openai.OpenAI, saw: Saw) -> None:
    url = "data:image/png;base64," + "QUJD" * 20_000
    parts: Any = [{"type": "text", "text": "what is this"}, {"type": "image_url", "image_url": {"url": url}}]
    answer = client.chat.completions.create(
        model="up/sim/words+tokens@3+crlf", messages=[{"role": "user", "content": parts}]
    )
    assert answer.usage is not None and answer.usage.prompt_tokens == 3 + 1 + 85
    assert saw("sim/words+tokens@3+crlf")["body_bytes"] > 80_000


async def test_completions_answer_and_stream(eager: openai.AsyncOpenAI) -> None:
    plain = await eager.completions.create(
        model="up/sim/tokens@5", prompt=["one", "two"], n=2, logprobs=1, echo=True
    )
    assert [choice.index for choice in plain.choices] == [0, 1, 2, 3]
    assert plain.usage is not None and plain.usage.completion_tokens == 20
    stream = await eager.completions.create(
        model="up/sim/tokens@5", prompt=["one", "two"], n=2, stream=True, echo=True, logprobs=1
    )
    joined = ["", "", "", ""]
    async for chunk in stream:
        for choice in chunk.choices:
            joined[choice.index] += choice.text
        assert chunk.usage is None
    assert joined == [choice.text for choice in plain.choices]


def test_embeddings_come_in_either_encoding_and_any_input(client: openai.OpenAI) -> None:
    packed = client.embeddings.create(model="up/sim/words", input=["a b", "c"], dimensions=64)
    assert [len(row.embedding) for row in packed.data] == [64, 64] and packed.usage.prompt_tokens == 3
    plain = client.embeddings.create(
        model="up/sim/words", input="a b", dimensions=64, encoding_format="float"
    )
    assert plain.data[0].embedding == pytest.approx(packed.data[0].embedding)
    raw = client.embeddings.with_raw_response.create(
        model="up/sim/words", input=[1, 2, 3], encoding_format="base64"
    )
    assert isinstance(raw.http_response.json()["data"][0]["embedding"], str)
    assert raw.headers["x-provider"] == "up" and raw.headers["x-cost-usd"] == "0"


def test_models_are_listed_and_retrieved(client: openai.OpenAI) -> None:
    names = {model.id for model in client.models.list()}
    assert "story-teller" in names
    assert client.models.retrieve("story-teller").object == "model"
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("storyteller")
    assert "story-teller" in caught.value.message


# --- errors


@pytest.mark.parametrize(
    ("model", "error", "status", "code"),
    [
        ("up/sim/400", openai.BadRequestError, 400, None),
        ("up/sim/context-length", openai.BadRequestError, 400, "context_length_exceeded"),
        ("up/sim/content-filter", openai.BadRequestError, 400, "content_filter"),
        ("storyteller", openai.NotFoundError, 404, "model_not_found"),
        ("nobody/model", openai.NotFoundError, 404, "model_not_found"),
        ("unpriced/sim/echo", openai.UnprocessableEntityError, 422, "model_pricing_missing"),
        ("limiting/sim/429@1s", openai.RateLimitError, 429, "provider_rate_limited"),
        ("refusing/sim/401", openai.InternalServerError, 502, "provider_authentication_error"),
        ("up/sim/500", openai.InternalServerError, 502, None),
        ("up/sim/503", openai.InternalServerError, 503, None),
        ("up/sim/reset", openai.InternalServerError, 502, None),
        ("up/sim/error-200", openai.InternalServerError, 502, None),
        ("down/anything", openai.InternalServerError, 502, None),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_refusals_are_the_sdks_own_errors(
    client: openai.OpenAI,
    model: str,
    error: type[openai.APIStatusError],
    status: int,
    code: str | None,
    stream: bool,
) -> None:
    if stream:
        model = model.replace("error-200", "json-error-in-200-stream").replace("refusing", "refusing-too")
    with pytest.raises(error) as caught:
        client.chat.completions.create(model=model, messages=USER, stream=stream)
    assert caught.value.status_code == status
    assert code is None or caught.value.code == code
    assert caught.value.message and caught.value.request_id
    if status in (429, 503):
        assert int(caught.value.response.headers["retry-after"]) >= 1


def test_an_unknown_model_is_told_near_names(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="story-teller"):
        client.chat.completions.create(model="story-tellr", messages=USER)


@pytest.mark.parametrize("key", ["gw_test_" + "x" * 43, "sk-wrong", "gw_test_short"])
def test_a_wrong_key_is_an_authentication_error(gateway: Gateway, key: str) -> None:
    with (
        openai.OpenAI(api_key=key, base_url=f"{gateway.url}/v1", max_retries=0) as stranger,
        pytest.raises(openai.AuthenticationError) as caught,
    ):
        stranger.chat.completions.create(model="teller", messages=USER)
    assert caught.value.code == "invalid_api_key" and key not in caught.value.message


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"messages": "hi"}, "messages"),
        ({"messages": []}, "messages"),
        ({"n": 0}, "n"),
        ({"temperature": "hot"}, "temperature"),
        ({"stream": "yes"}, "stream"),
        ({"temperature": 3}, "temperature"),
    ],
    ids=str,
)
def test_a_bad_request_names_the_parameter(client: openai.OpenAI, body: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        request = {"model": "up/sim/echo", "messages": USER, **body}
        client.post("/chat/completions", cast_to=object, body=request)
    assert caught.value.param == param


def test_an_error_within_a_stream_is_raised_after_what_came_before_it(client: openai.OpenAI) -> None:
    chunks = []
    with pytest.raises(openai.APIError) as caught:
        for chunk in client.chat.completions.create(
            model="up/sim/cut@20+tokens@30", messages=USER, stream=True
        ):
            chunks.append(chunk)
    assert len(chunks) >= 20 and "broke off" in caught.value.message and caught.value.code == "stream_broken"


def test_the_sdk_retries_what_the_gateway_says_is_worth_it(gateway: Gateway, api_key: str) -> None:
    url = f"{gateway.url}/v1"
    with openai.OpenAI(api_key=api_key, base_url=url, max_retries=1) as patient:
        answer = patient.chat.completions.create(model="up/sim/503-then-ok+tokens@3", messages=USER)
    assert answer.choices[0].finish_reason == "stop"


def test_a_gateway_that_is_not_there_is_a_connection_error() -> None:
    with (
        openai.OpenAI(api_key="k", base_url="http://127.0.0.1:9/v1", max_retries=0) as lost,
        pytest.raises(openai.APIConnectionError),
    ):
        lost.models.list()


# --- leaving: the upstream is let go within a quarter of a second

GONE_WITHIN_MS = 250


@pytest.mark.parametrize(
    ("model", "stream"),
    [("silent", False), ("silent+tokens@3", True), ("slow@30s", False), ("slow-first-token@30s", True)],
)
def test_a_client_that_times_out_frees_the_upstream(
    client: openai.OpenAI, saw: Saw, model: str, stream: bool
) -> None:
    began = time.time()
    with pytest.raises(openai.APITimeoutError):
        answer = client.with_options(timeout=0.4).chat.completions.create(
            model=f"up/sim/{model}", messages=USER, stream=stream
        )
        for _ in answer:
            pass
    left = time.time()
    call = saw(f"sim/{model}", "client_closed_after_ms")
    assert call["outcome"] == "client_closed"
    assert call["client_closed_after_ms"] < (left - began) * 1000 + GONE_WITHIN_MS


def test_a_closed_stream_frees_the_upstream(client: openai.OpenAI, saw: Saw) -> None:
    began = time.time()
    with client.chat.completions.create(
        model="up/sim/chunk-ms@20+tokens@5000", messages=USER, stream=True
    ) as stream:
        for _, _chunk in zip(range(5), stream, strict=False):
            pass
    left = time.time()
    call = saw("sim/chunk-ms@20+tokens@5000", "client_closed_after_ms")
    assert call["client_closed_after_ms"] < (left - began) * 1000 + GONE_WITHIN_MS
    assert call["tokens_sent"] < 100


@pytest.mark.parametrize("model", ["chunk-ms@21+tokens@5000", "silent+tokens@7", "slow@31s"])
async def test_a_cancelled_task_frees_the_upstream(eager: openai.AsyncOpenAI, saw: Saw, model: str) -> None:
    async def read() -> None:
        stream = await eager.chat.completions.create(model=f"up/sim/{model}", messages=USER, stream=True)
        async for _ in stream:
            pass

    began = time.time()
    task = asyncio.create_task(read())
    await asyncio.sleep(0.4)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    left = time.time()
    call = await asyncio.to_thread(saw, f"sim/{model}", "client_closed_after_ms")
    assert call["client_closed_after_ms"] < (left - began) * 1000 + GONE_WITHIN_MS


def test_an_abandoned_call_is_recorded_as_aborted(gateway: Gateway, client: openai.OpenAI) -> None:
    with client.chat.completions.create(
        model="up/sim/chunk-ms@22+tokens@5000",
        messages=USER,
        stream=True,
        extra_headers={"x-request-id": "left-early"},
    ) as stream:
        next(iter(stream))
    record = gateway.find_record("left-early")
    assert record["status"] == "aborted" and record["tokens"]["output"] >= 1


def test_no_call_is_left_open(gateway: Gateway) -> None:
    until = time.monotonic() + 5
    while time.monotonic() < until:
        lines = httpx.get(f"{gateway.url}/metrics").text.splitlines()
        open_calls = [line for line in lines if line.startswith("gatewayz_calls_in_progress")]
        if open_calls and all(float(line.split()[-1]) == 0 for line in open_calls):
            return
        time.sleep(0.05)
    raise AssertionError(open_calls)
