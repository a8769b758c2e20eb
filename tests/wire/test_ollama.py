"""A native local wire: one object in each line, calls without ids, counts in the last object."""

from typing import Any

import orjson
import pytest

from engine.wire.canonical import Failed
from engine.wire.streams import fold
from tests.wire.formats_at_hand import load_format, read_stream

OLLAMA, CHAT = load_format("ollama"), load_format("openai-chat")
HELLO = [{"role": "user", "content": "hi"}]
IMAGE = "data:image/png;base64,aGk="


def write(body: dict[str, Any], **traits: Any) -> dict[str, Any]:
    target = {"model": "up", "traits": {**OLLAMA.traits, **traits}, "limits": {"context": 8192}}
    return OLLAMA.write_request(CHAT.read_request({"model": "m", "messages": HELLO, **body}), target)


def test_a_chat_is_written_with_objects_for_arguments_and_bare_images() -> None:
    body = {
        "messages": [
            {"role": "developer", "content": "Be brief."},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "Look."},
                    {"type": "image_url", "image_url": {"url": IMAGE}},
                ],
            },
            {
                "role": "assistant",
                "content": None,
                "reasoning_content": "hm",
                "tool_calls": [
                    {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"at":1}'}}
                ],
            },
            {"role": "tool", "tool_call_id": "c1", "content": "a cat"},
        ],
        "tools": [{"type": "function", "function": {"name": "look"}}],
        "max_tokens": 9,
        "stop": "END",
        "temperature": 0.5,
        "repetition_penalty": 1.1,
    }
    assert write(body) == {
        "model": "up",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Look.", "images": ["aGk="]},
            {
                "role": "assistant",
                "content": "",
                "thinking": "hm",
                "tool_calls": [{"id": "c1", "function": {"name": "look", "arguments": {"at": 1}}}],
            },
            {"role": "tool", "tool_name": "look", "tool_call_id": "c1", "content": "a cat"},
        ],
        "stream": False,
        "tools": [
            {
                "type": "function",
                "function": {"name": "look", "parameters": {"type": "object", "properties": {}}},
            }
        ],
        "options": {
            "num_ctx": 8192,
            "num_predict": 9,
            "temperature": 0.5,
            "stop": ["END"],
            "repeat_penalty": 1.1,
        },
    }


@pytest.mark.parametrize(
    ("asked", "levels", "think"),
    [
        ({"reasoning_effort": "low"}, False, True),
        ({"reasoning_effort": "low"}, True, "low"),
        ({"reasoning_effort": "xhigh"}, True, "high"),
        ({"reasoning_effort": "none"}, True, False),
        ({"reasoning": {"max_tokens": 5000}}, True, "medium"),
        ({"reasoning": {"enabled": True}}, True, True),
        ({}, True, None),
    ],
)
def test_an_effort_is_a_switch_or_a_level(asked: Any, levels: bool, think: Any) -> None:
    assert write(asked, think_levels=levels).get("think") == think


@pytest.mark.parametrize(
    ("wanted", "form"),
    [
        ({"type": "json_object"}, "json"),
        (
            {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "array"}}},
            {"type": "array"},
        ),
        ({"type": "text"}, None),
    ],
)
def test_an_answers_form_is_json_or_a_schema(wanted: Any, form: Any) -> None:
    assert write({"response_format": wanted}).get("format") == form


def test_what_would_have_to_be_fetched_is_lost() -> None:
    urls = [
        {"type": "image_url", "image_url": {"url": url}} for url in (IMAGE, "https://images.example/1.png")
    ]
    told = {"model": "m", "messages": [{"role": "user", "content": urls}]}
    assert OLLAMA.find_loss(CHAT.read_request(told)) == ["turns/*/parts/*/image/url"]
    given: Any = {"model": "m", "messages": [{"role": "user", "content": urls[:1]}]}
    assert OLLAMA.find_loss(CHAT.read_request(given)) == []


def test_tools_that_must_not_be_called_are_left_out() -> None:
    tools = [{"type": "function", "function": {"name": "look"}}]
    assert "tools" not in write({"tools": tools, "tool_choice": "none"})


LINES = (
    {"model": "llama", "message": {"role": "assistant", "content": "", "thinking": "Oh"}, "done": False},
    {"model": "llama", "message": {"role": "assistant", "content": "I "}, "done": False},
    {"model": "llama", "message": {"role": "assistant", "content": "look."}, "done": False},
    {
        "model": "llama",
        "message": {
            "role": "assistant",
            "content": "",
            "tool_calls": [
                {"function": {"name": "look", "arguments": {"at": 1}}},
                {"function": {"name": "wait", "arguments": {}}},
            ],
        },
        "done": False,
    },
    {
        "model": "llama",
        "message": {"role": "assistant", "content": ""},
        "done_reason": "stop",
        "done": True,
        "prompt_eval_count": 169,
        "eval_count": 15,
    },
)
STREAM = b"".join(orjson.dumps(line) + b"\n" for line in LINES)


def test_a_stream_of_lines_is_read_and_calls_get_ids() -> None:
    answer = fold(read_stream(OLLAMA, [STREAM]))
    calls = [part for part in answer["parts"] if part["type"] == "tool_call"]
    assert [(p["type"], p.get("text")) for p in answer["parts"][:2]] == [
        ("reasoning", "Oh"),
        ("text", "I look."),
    ]
    assert [(call["name"], call["arguments"]) for call in calls] == [("look", '{"at":1}'), ("wait", "{}")]
    assert len({call["id"] for call in calls}) == 2 and all(call["id"] for call in calls)
    assert answer["finish"]["reason"] == "tool_calls"
    assert (answer["usage"]["input"], answer["usage"]["output"]) == (169, 15)


def test_byte_by_byte_a_stream_says_the_same() -> None:
    whole = read_stream(OLLAMA, [STREAM])
    assert read_stream(OLLAMA, [STREAM[i : i + 1] for i in range(len(STREAM))]) == whole


def test_a_plain_answer_says_what_its_stream_says() -> None:
    message = {"content": "I look.", "thinking": "Oh", "tool_calls": LINES[3]["message"]["tool_calls"]}  # type: ignore[index]
    plain = fold(OLLAMA.read_reply({**LINES[4], "message": message}, "seed"))
    streamed = fold(read_stream(OLLAMA, [STREAM]))
    assert plain == streamed


@pytest.mark.parametrize(
    ("last", "message"),
    [
        ({"error": "an error was encountered while running the model"}, "an error was encountered"),
        ({"message": {"content": ""}, "done": True, "done_reason": "load"}, "only loaded"),
    ],
)
def test_a_failure_behind_a_good_status_is_told(last: dict[str, Any], message: str) -> None:
    failed = read_stream(OLLAMA, [orjson.dumps(LINES[1]) + b"\n", orjson.dumps(last) + b"\n"])[-1]
    assert isinstance(failed, Failed) and message in failed.message


def test_a_stream_that_stops_without_an_end_is_broken() -> None:
    failed = read_stream(OLLAMA, [orjson.dumps(LINES[1]) + b"\n"])[-1]
    assert isinstance(failed, Failed) and failed.kind == "broken_stream"
