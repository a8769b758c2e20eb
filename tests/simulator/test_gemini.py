"""Google's own SDK takes the simulator for the real thing."""

import json
from typing import Any

import pytest
from google import genai
from google.genai import errors, types
from google.oauth2.credentials import Credentials

from tests.simulator.launch import listen_to, make_request

SCHEMA = {"type": "OBJECT", "properties": {"city": {"type": "STRING"}}, "required": ["city"]}
DECLARED: list[Any] = [
    {"name": name, "description": name, "parameters": SCHEMA} for name in ("weather", "clock")
]
TOOLS: dict[str, Any] = {
    "tools": [{"function_declarations": DECLARED}],
    "automatic_function_calling": {"disable": True},
}


@pytest.fixture
def client(port: int) -> genai.Client:
    options = types.HttpOptions(base_url=f"http://127.0.0.1:{port}", timeout=10_000)
    return genai.Client(api_key="AIza-test", http_options=options)


def _ask(client: genai.Client, model: str, contents: Any = "hello there", **config: Any) -> Any:
    made: Any = config or None
    return client.models.generate_content(model=model, contents=contents, config=made)


def _stream(client: genai.Client, model: str, **config: Any) -> list[Any]:
    made: Any = config or None
    return list(client.models.generate_content_stream(model=model, contents="hello there", config=made))


def _parts(answers: list[Any]) -> list[Any]:
    candidates = [candidate for answer in answers for candidate in answer.candidates or ()]
    return [part for one in candidates if one.content for part in one.content.parts or ()]


def _join(answers: list[Any], *, thought: bool) -> str:
    return "".join(part.text for part in _parts(answers) if part.text and bool(part.thought) is thought)


@pytest.mark.parametrize(
    ("model", "config"),
    [
        ("sim/tokens@12", {}),
        ("sim/tokens@12+think@5", {}),
        ("sim/words", {"thinking_config": {"include_thoughts": True}}),
        ("sim/tools", TOOLS),
        ("sim/tools@3+think", TOOLS),
        ("sim/refuse", {}),
        ("sim/words", {"max_output_tokens": 5}),
        ("sim/words", {"response_mime_type": "application/json", "response_schema": SCHEMA}),
    ],
)
def test_a_stream_adds_up_to_the_plain_answer(
    client: genai.Client, model: str, config: dict[str, Any]
) -> None:
    plain, streamed = _ask(client, model, **config), _stream(client, model, **config)
    for thought in (True, False):
        assert _join(streamed, thought=thought) == _join([plain], thought=thought)
    assert [
        (part.function_call, part.thought_signature) for part in _parts(streamed) if part.function_call
    ] == [(part.function_call, part.thought_signature) for part in _parts([plain]) if part.function_call]
    assert streamed[-1].candidates[0].finish_reason == plain.candidates[0].finish_reason
    assert streamed[-1].usage_metadata == plain.usage_metadata


def test_what_ends_an_answer_is_told_as_google_tells_it(client: genai.Client) -> None:
    assert _ask(client, "sim/tools", **TOOLS).candidates[0].finish_reason == "STOP"
    assert _ask(client, "sim/words", max_output_tokens=2).candidates[0].finish_reason == "MAX_TOKENS"
    refused = _ask(client, "sim/refuse").candidates[0]
    assert (refused.finish_reason, refused.content) == ("SAFETY", None)


def test_thoughts_are_counted_beside_the_answer(client: genai.Client) -> None:
    usage = _ask(client, "sim/tokens@7+think@4+cached@2").usage_metadata
    assert (usage.candidates_token_count, usage.thoughts_token_count) == (7, 4)
    assert (usage.prompt_token_count, usage.cached_content_token_count) == (3, 2)
    assert usage.total_token_count == 14


def _go_on(client: genai.Client, parts: list[Any]) -> Any:
    results = [
        types.Part.from_function_response(name=part.function_call.name, response={"output": "rain"})
        for part in parts
        if part.function_call
    ]
    contents = [
        types.Content(role="user", parts=[types.Part(text="hello there")]),
        types.Content(role="model", parts=parts),
        types.Content(role="user", parts=results),
    ]
    return _ask(client, "sim/tools+think", contents, **TOOLS)


def test_thought_signatures_come_back_as_they_were_or_are_refused(client: genai.Client) -> None:
    parts = _parts([_ask(client, "sim/tools+think", **TOOLS)])
    calls = [part for part in parts if part.function_call]
    assert [bool(call.thought_signature) for call in calls] == [True, False]
    assert _go_on(client, parts).candidates[0].finish_reason == "STOP"
    sentinel = calls[0].model_copy(update={"thought_signature": b"skip_thought_signature_validator"})
    assert _go_on(client, [sentinel, calls[1]]).text
    for signature, said in ((b"foreign", "not valid"), (None, "missing a thought_signature")):
        broken = calls[0].model_copy(update={"thought_signature": signature})
        with pytest.raises(errors.ClientError, match=said):
            _go_on(client, [broken, calls[1]])


def test_as_many_responses_as_calls_must_come(client: genai.Client) -> None:
    call = types.Part.from_function_call(name="weather", args={})
    contents = [
        types.Content(role="model", parts=[call]),
        types.Content(role="user", parts=[types.Part(text="?")]),
    ]
    with pytest.raises(errors.ClientError, match="number of function response parts"):
        _ask(client, "sim/echo", contents)


def test_tokens_are_counted_and_contents_embedded(client: genai.Client) -> None:
    assert client.models.count_tokens(model="sim/echo", contents="one two three").total_tokens == 4
    made: Any = client.models.embed_content(
        model="sim/echo", contents=["one", "two"], config={"output_dimensionality": 3}
    )
    assert [len(one.values) for one in made.embeddings] == [3, 3]


def test_errors_have_googles_status(client: genai.Client) -> None:
    for model, code, status in (
        ("sim/429@3s", 429, "RESOURCE_EXHAUSTED"),
        ("sim/503", 503, "UNAVAILABLE"),
        ("nope", 404, "NOT_FOUND"),
        ("sim/401", 400, "INVALID_ARGUMENT"),
    ):
        with pytest.raises(errors.APIError) as caught:
            _ask(client, model)
        assert (caught.value.code, caught.value.status) == (code, status)


def test_an_error_amid_a_stream_is_raised(client: genai.Client) -> None:
    with pytest.raises(errors.APIError):
        _stream(client, "sim/error-in-stream@3")


def test_vertex_knows_no_ids_of_calls(port: int) -> None:
    vertex = genai.Client(
        vertexai=True,
        project="p",
        location="here",
        credentials=Credentials("token"),  # type: ignore[no-untyped-call]
        http_options=types.HttpOptions(base_url=f"http://127.0.0.1:{port}"),
    )
    model = "publishers/google/models/sim/tools"
    calls = _parts([_ask(vertex, model, **TOOLS)])
    assert [(call.function_call.name, call.function_call.id) for call in calls] == [
        ("weather", None),
        ("clock", None),
    ]
    assert len(_parts(_stream(vertex, model, **TOOLS))) == 3


def test_without_alt_sse_a_stream_is_one_json_array(port: int) -> None:
    body = {"contents": [{"parts": [{"text": "hello there"}]}]}
    path = "/v1beta/models/sim/tokens@4{}:streamGenerateContent"
    whole = listen_to(port, make_request(body, path.format("")))
    assert b"content-type: application/json" in whole.head
    assert len(json.loads(whole.chunks)) == 5
    broken = listen_to(port, make_request(body, path.format("+error-in-stream@2")))
    assert "error" in json.loads(broken.chunks)[-1]
    refused = listen_to(port, make_request(body, path.format("+429")))
    assert json.loads(refused.body)[0]["error"]["code"] == 429
