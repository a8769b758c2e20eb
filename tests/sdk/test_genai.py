"""The official google-genai client takes the gateway for the real thing, whoever answers behind it."""

import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from google import genai
from google.genai import errors, types
from pydantic import BaseModel

from tests.harness import Gateway


@pytest.fixture
def client(gateway: Gateway, api_key: str) -> Iterator[genai.Client]:
    options = types.HttpOptions(base_url=gateway.url, retry_options=types.HttpRetryOptions(attempts=1))
    with genai.Client(api_key=api_key, vertexai=False, http_options=options) as made:
        yield made


def declare(name: str, **properties: Any) -> types.FunctionDeclaration:
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    return types.FunctionDeclaration(name=name, description=name, parameters_json_schema=schema)


TOOLS = types.Tool(
    function_declarations=[
        declare("weather", city={"type": "string"}),
        declare("clock", zone={"type": "string"}),
    ]
)
MANUAL = types.AutomaticFunctionCallingConfig(disable=True)


def join_text(chunks: list[types.GenerateContentResponse]) -> str:
    return "".join(chunk.text or "" for chunk in chunks)


def test_a_stream_amounts_to_the_plain_answer(client: genai.Client) -> None:
    plain = client.models.generate_content(model="up/sim/words", contents="hello there")
    chunks = list(client.models.generate_content_stream(model="up/sim/words", contents="hello there"))
    assert plain.text and join_text(chunks) == plain.text
    assert len(chunks) > 10
    assert plain.candidates and plain.candidates[0].finish_reason == types.FinishReason.STOP
    last = chunks[-1]
    assert last.candidates and last.candidates[0].finish_reason == types.FinishReason.STOP
    assert last.usage_metadata == plain.usage_metadata
    assert plain.usage_metadata and plain.usage_metadata.candidates_token_count == 60
    assert plain.response_id and plain.model_version


def test_thoughts_come_apart_from_the_text(client: genai.Client) -> None:
    config = types.GenerateContentConfig(
        thinking_config=types.ThinkingConfig(include_thoughts=True, thinking_budget=2000),
        max_output_tokens=50,
        stop_sequences=["zebra"],
    )
    model = "up/sim/reasoning@6+tokens@4"
    chunks = list(client.models.generate_content_stream(model=model, contents="think", config=config))
    parts = [
        p for chunk in chunks for c in chunk.candidates or () if c.content for p in c.content.parts or ()
    ]
    assert "".join(part.text or "" for part in parts if part.thought)
    assert join_text(chunks)
    usage = chunks[-1].usage_metadata
    assert usage and (usage.thoughts_token_count, usage.candidates_token_count) == (6, 4)


def test_tools_are_called_side_by_side_and_their_results_are_understood(client: genai.Client) -> None:
    config = types.GenerateContentConfig(tools=[TOOLS], automatic_function_calling=MANUAL)
    contents: list[Any] = [types.UserContent("what is it like in Rome?")]
    for stream in (False, True):
        if stream:
            chunks = list(
                client.models.generate_content_stream(model="up/sim/tools", contents=contents, config=config)
            )
            calls = [call for chunk in chunks for call in chunk.function_calls or ()]
        else:
            asked = client.models.generate_content(model="up/sim/tools", contents=contents, config=config)
            calls = asked.function_calls or []
        assert [call.name for call in calls] == ["weather", "clock"]
        assert all(call.id and call.args for call in calls)
    assert asked.candidates and asked.candidates[0].content
    results = [
        types.Part(
            function_response=types.FunctionResponse(id=c.id, name=c.name, response={"output": "fine"})
        )
        for c in calls
    ]
    contents += [asked.candidates[0].content, types.UserContent(results)]
    told = client.models.generate_content(model="up/sim/tools", contents=contents, config=config)
    assert told.text and not told.function_calls


def test_a_chat_of_the_sdk_keeps_its_history(client: genai.Client) -> None:
    chat = client.chats.create(
        model="up/sim/echo", config=types.GenerateContentConfig(system_instruction="brief")
    )
    assert chat.send_message("one").text == "one"
    assert "".join(chunk.text or "" for chunk in chat.send_message_stream("two")) == "two"
    assert chat.send_message("three").text == "three"
    said = [part.text for content in chat.get_history() for part in content.parts or () if part.text]
    assert said == ["one", "one", "two", "two", "three", "three"]


class Plan(BaseModel):
    title: str
    steps: list[str]


def test_an_answer_keeps_to_a_schema(client: genai.Client) -> None:
    config = types.GenerateContentConfig(response_mime_type="application/json", response_schema=Plan)
    answer = client.models.generate_content(model="up/sim/json", contents="plan", config=config)
    assert isinstance(answer.parsed, Plan)


def test_an_image_arrives_in_the_alphabet_of_other_dialects(client: genai.Client, saw: Any) -> None:
    image = types.Part.from_bytes(data=b"\xfb\xff\xbf" * 40_000, mime_type="image/png")
    model = "up/sim/words+tokens@2+usage-always"
    assert client.models.generate_content(model=model, contents=[image, "what is it?"]).text
    assert saw("sim/words+tokens@2+usage-always")["body_bytes"] > 150_000


def test_several_candidates_come_one_by_one(client: genai.Client) -> None:
    config = types.GenerateContentConfig(candidate_count=2)
    answer = client.models.generate_content(model="up/sim/tokens@5", contents="hi", config=config)
    assert [candidate.index or 0 for candidate in answer.candidates or ()] == [0, 1]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("model", "status", "said"),
    [
        ("up/sim/400", 400, "INVALID_ARGUMENT"),
        ("up/sim/context-length", 400, "INVALID_ARGUMENT"),
        ("nobody/knows-it", 404, "NOT_FOUND"),
        ("up/sim/500", 502, "UNAVAILABLE"),
    ],
)
def test_errors_are_those_of_the_dialect(
    client: genai.Client, model: str, status: int, said: str, stream: bool
) -> None:
    with pytest.raises(errors.APIError) as caught:
        if stream:
            list(client.models.generate_content_stream(model=model, contents="hi"))
        else:
            client.models.generate_content(model=model, contents="hi")
    assert (caught.value.code, caught.value.status) == (status, said)


def test_a_cut_stream_ends_in_an_error(client: genai.Client) -> None:
    with pytest.raises(errors.APIError):
        list(client.models.generate_content_stream(model="up/sim/cut@4+tokens@20", contents="hi"))


def test_embeddings_are_numbers_for_each_input(client: genai.Client) -> None:
    config = types.EmbedContentConfig(output_dimensionality=64)
    answer = client.models.embed_content(model="up/sim/words", contents=["a b", "c"], config=config)
    assert [len(row.values or ()) for row in answer.embeddings or ()] == [64, 64]


def test_without_server_sent_events_a_stream_is_one_json_list(gateway: Gateway, api_key: str) -> None:
    url = f"{gateway.url}/v1beta/models/up/sim/tokens@5:streamGenerateContent"
    answer = httpx.post(url, params={"key": api_key}, json={"contents": [{"parts": [{"text": "hi"}]}]})
    assert answer.headers["content-type"].startswith("application/json")
    chunks = answer.json()
    assert len(chunks) > 2 and all(types.GenerateContentResponse.model_validate(chunk) for chunk in chunks)


def test_a_wrong_key_and_a_wrong_field_are_told_in_the_dialect(gateway: Gateway, api_key: str) -> None:
    url = f"{gateway.url}/v1beta/models/up/sim/echo:generateContent"
    refused = httpx.post(url, headers={"x-goog-api-key": "no"}, json={"contents": [{"parts": []}]})
    assert refused.status_code == 401 and refused.json()["error"]["status"] == "UNAUTHENTICATED"
    wrong = httpx.post(url, headers={"x-goog-api-key": api_key}, json={"contents": [{"role": "nobody"}]})
    assert wrong.status_code == 400
    violation = wrong.json()["error"]["details"][0]["fieldViolations"][0]
    assert re.fullmatch(r"contents\[0\]\.role", violation["field"])
