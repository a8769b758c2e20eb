"""The official Python SDK's Responses, in front of a provider that only knows chat completions."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import openai
import pytest
from pydantic import BaseModel

from tests.gateway.test_routing import create_key
from tests.harness import Gateway

Saw = Callable[..., dict[str, Any]]
WEATHER: Any = {
    "type": "function",
    "name": "weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    "strict": False,
}
CLOCK: Any = {"type": "function", "name": "clock", "parameters": {"type": "object", "properties": {}}}


@pytest.fixture
def client(gateway: Gateway, api_key: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(api_key=api_key, base_url=f"{gateway.url}/v1", max_retries=0) as made:
        yield made


def compare(response: Any) -> dict[str, Any]:
    """A response without what differs from call to call, and without what parsing adds."""
    told: dict[str, Any] = json.loads(response.model_dump_json(exclude_none=True))
    for name in ("id", "created_at"):
        told.pop(name)
    for item in told["output"]:
        item.pop("id")
        item.pop("parsed_arguments", None)
        for part in item.get("content", ()):
            part.pop("parsed", None)
    return told


def test_a_plain_answer_has_text_and_usage(client: openai.OpenAI) -> None:
    response = client.responses.create(model="teller", input="hello there", instructions="Be brief.")
    assert len(response.output_text.split()) == 12
    assert response.status == "completed"
    assert response.instructions == "Be brief."
    assert response.usage is not None
    assert response.usage.total_tokens == response.usage.input_tokens + response.usage.output_tokens > 12


@pytest.mark.parametrize(
    "asked",
    [
        {"model": "up/sim/echo", "input": "hello there"},
        {"model": "up/sim/reasoning@5", "input": "hello there"},
        {"model": "up/sim/tools", "input": "hello there", "tools": [WEATHER, CLOCK]},
        {"model": "up/sim/words@40", "input": "hello there", "max_output_tokens": 16},
    ],
    ids=["text", "reasoning", "two tools", "too long"],
)
def test_the_accumulated_stream_is_the_plain_answer(client: openai.OpenAI, asked: Any) -> None:
    plain = client.responses.create(**asked)
    seen: list[str] = []
    with client.responses.stream(**asked) as stream:
        for event in stream:
            seen.append(event.type)
            last = event
    assert seen[:2] == ["response.created", "response.in_progress"]
    assert seen[-1] in ("response.completed", "response.incomplete")
    assert compare(last.response) == compare(plain)  # type: ignore[union-attr]


def test_tools_over_three_turns(client: openai.OpenAI) -> None:
    said: Any = [{"role": "user", "content": "How is it in Rome, and how late?"}]
    first = client.responses.create(model="up/sim/tools", input=said, tools=[WEATHER, CLOCK])
    calls = [item for item in first.output if item.type == "function_call"]
    assert [call.name for call in calls] == ["weather", "clock"]
    said += [item.model_dump(exclude_none=True) for item in first.output]
    said += [{"type": "function_call_output", "call_id": call.call_id, "output": "fine"} for call in calls]
    second = client.responses.create(model="up/sim/tools", input=said, tools=[WEATHER, CLOCK])
    assert second.output_text
    said += [item.model_dump(exclude_none=True) for item in second.output]
    third = client.responses.create(
        model="up/sim/echo", input=[*said, {"role": "user", "content": "Thank you."}]
    )
    assert third.output_text == "Thank you."


def test_a_schema_is_obeyed_and_parsed(client: openai.OpenAI) -> None:
    class Place(BaseModel):
        city: str
        country: str

    parsed = client.responses.parse(model="up/sim/words", input="Where is it?", text_format=Place)
    assert isinstance(parsed.output_parsed, Place)


def test_an_error_has_its_status_and_its_place(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.create(model="teller", input="hi", background=True)
    assert (refused.value.param, refused.value.code) == ("background", "unsupported_parameter")


def test_a_failure_inside_a_stream_reaches_the_caller(client: openai.OpenAI) -> None:
    with pytest.raises(openai.APIError) as failed:
        for _ in client.responses.create(model="up/sim/error-in-stream@3", input="hi", stream=True):
            pass
    assert failed.value.message


# --- what is kept


def test_a_conversation_goes_on_from_a_kept_answer(client: openai.OpenAI, saw: Saw) -> None:
    model = "up/sim/echo+words@9"
    first = client.responses.create(model="up/sim/echo", input="My name is Ada.", store=True)
    second = client.responses.create(model="up/sim/echo", input="And I am 36.", previous_response_id=first.id)
    assert second.previous_response_id == first.id
    with client.responses.stream(
        model=model, input="Who am I?", instructions="Be kind.", previous_response_id=second.id
    ) as stream:
        third = stream.get_final_response()
    assert third.previous_response_id == second.id
    body = saw(model.removeprefix("up/"), "body")["body"]
    told = json.loads(body) if isinstance(body, str) else body
    assert [(message["role"], message["content"]) for message in told["messages"]] == [
        ("system", "Be kind."),
        ("user", "My name is Ada."),
        ("assistant", "My name is Ada."),
        ("user", "And I am 36."),
        ("assistant", "And I am 36."),
        ("user", "Who am I?"),
    ]


def test_items_of_kept_answers_may_be_named_by_their_ids(
    client: openai.OpenAI, gateway: Gateway, saw: Saw
) -> None:
    asked: Any = {"role": "user", "content": "How is it in Rome?"}
    first = client.responses.create(model="up/sim/tools", input=[asked], tools=[WEATHER])
    (call,) = first.output
    assert call.type == "function_call" and call.id is not None
    named: Any = [
        asked,
        {"type": "item_reference", "id": call.id},
        {"type": "function_call_output", "call_id": call.call_id, "output": "fine"},
    ]
    model = "up/sim/tools+words@8"
    second = client.responses.create(model=model, input=named, tools=[WEATHER])
    sent = saw(model.removeprefix("up/"), "body")["body"]
    messages = (json.loads(sent) if isinstance(sent, str) else sent)["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant", "tool"]
    assert messages[1]["tool_calls"][0]["function"]["arguments"] == call.arguments
    other = openai.OpenAI(api_key=create_key(gateway), base_url=f"{gateway.url}/v1", max_retries=0)
    with other, pytest.raises(openai.BadRequestError) as stranger:
        other.responses.create(model=model, input=named)
    assert (stranger.value.code, stranger.value.param) == ("previous_response_not_found", "input")
    going: Any = {"model": "up/sim/echo", "previous_response_id": second.id, "input": "Thank you."}
    assert client.responses.create(**going).output_text == "Thank you."
    named[1]["id"] = f"{call.id}7"
    with pytest.raises(openai.BadRequestError, match="no item"):
        client.responses.create(model=model, input=named)


def test_a_kept_answer_is_shown_listed_and_deleted(client: openai.OpenAI) -> None:
    made = client.responses.create(model="up/sim/echo", input="Keep this.")
    assert compare(client.responses.retrieve(made.id)) == compare(made)
    items = client.responses.input_items.list(made.id, order="asc").data
    assert [item.content[0].text for item in items] == ["Keep this."]  # type: ignore[union-attr]
    client.responses.delete(made.id)
    with pytest.raises(openai.NotFoundError) as missing:
        client.responses.retrieve(made.id)
    assert missing.value.code == "response_not_found"
    with pytest.raises(openai.BadRequestError) as unknown:
        client.responses.create(model="up/sim/echo", input="And?", previous_response_id=made.id)
    assert (unknown.value.code, unknown.value.param) == (
        "previous_response_not_found",
        "previous_response_id",
    )


def test_an_answer_that_is_not_to_be_kept_is_not(client: openai.OpenAI) -> None:
    made = client.responses.create(model="up/sim/echo", input="Forget this.", store=False)
    assert made.store is False
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(made.id)


def test_the_answer_of_another_key_is_not_found(gateway: Gateway, client: openai.OpenAI) -> None:
    made = client.responses.create(model="up/sim/echo", input="Mine.")
    other = openai.OpenAI(api_key=create_key(gateway), base_url=f"{gateway.url}/v1", max_retries=0)
    with pytest.raises(openai.NotFoundError):
        other.responses.retrieve(made.id)
    with pytest.raises(openai.NotFoundError):
        other.responses.delete(made.id)
    assert client.responses.retrieve(made.id).id == made.id


def test_other_methods_and_parts_are_told_apart(gateway: Gateway, api_key: str) -> None:
    headers = {"authorization": f"Bearer {api_key}", "content-type": "application/json"}
    with httpx.Client(base_url=gateway.url, headers=headers) as plain:
        assert plain.put("/v1/responses/resp_1").status_code == 405
        assert plain.get("/v1/responses/resp_1/nothing").status_code == 404
        assert plain.get("/v1/responses/resp_1/input_items?limit=0").status_code == 400
        assert plain.get("/v1/responses").status_code == 405
