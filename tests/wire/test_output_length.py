"""A request says how long its answer may be in its own dialect, and is made to say less without other changes."""

from typing import Any

import orjson
import pytest

from engine.call import Call
from engine.wire.doors import Door
from engine.wire.operations import WRITING
from engine.wire.output_length import limit_output, read_stated
from tests.policies.test_admission import make_call
from tests.wire.formats_at_hand import SHIPPED, load_format


def ask(format: str, request: dict[str, Any], body: bytes = b"") -> Call:
    call, spoken = make_call(), load_format(format)
    call.door, call.request = Door(spoken, spoken.client.serves[0]), request
    call.body = body or orjson.dumps(request)
    return call


@pytest.mark.parametrize(
    ("format", "request_body", "stated"),
    [
        ("openai-chat", {}, None),
        ("openai-chat", {"max_tokens": 90}, 90),
        ("openai-chat", {"max_tokens": 90, "max_completion_tokens": 20}, 90),
        ("openai-chat", {"max_tokens": 20, "max_completion_tokens": 90}, 90),
        ("openai-chat", {"max_tokens": None, "max_completion_tokens": 20}, 20),
        ("openai-chat", {"max_tokens": 0}, None),
        ("openai-chat", {"max_tokens": -1}, None),
        ("openai-chat", {"max_tokens": True}, None),
        ("openai-chat", {"max_tokens": "90"}, None),
        ("openai-completions", {"max_tokens": 16}, 16),
        ("openai-responses", {"max_output_tokens": 90, "max_tokens": 5}, 90),
        ("anthropic-messages", {"max_tokens": 9000}, 9000),
        ("cohere", {"max_tokens": 90}, 90),
        ("gemini", {"generationConfig": {"maxOutputTokens": 90}}, 90),
        ("gemini", {"generation_config": {"max_output_tokens": 90}}, 90),
        ("gemini", {"generationConfig": None, "generation_config": {"maxOutputTokens": 90}}, 90),
        ("gemini", {"generationConfig": [90]}, None),
        ("bedrock-converse", {"inferenceConfig": {"maxTokens": 90}}, 90),
    ],
)
def test_a_stated_length_is_the_longest_that_any_word_of_the_dialect_allows(
    format: str, request_body: dict[str, Any], stated: int | None
) -> None:
    assert read_stated(ask(format, request_body)) == stated


@pytest.mark.parametrize(
    ("format", "request_body", "limited"),
    [
        ("openai-chat", {}, {"max_completion_tokens": 50}),
        ("openai-chat", {"max_tokens": 90}, {"max_tokens": 50}),
        ("openai-chat", {"max_tokens": -1}, {"max_tokens": 50}),
        ("openai-chat", {"max_tokens": 0}, {"max_tokens": 50}),
        ("openai-chat", {"max_tokens": "90"}, {"max_tokens": 50}),
        (
            "openai-chat",
            {"max_tokens": 20, "max_completion_tokens": 90},
            {"max_tokens": 20, "max_completion_tokens": 50},
        ),
        ("openai-completions", {"max_tokens": 90}, {"max_tokens": 50}),
        ("anthropic-messages", {"max_tokens": 9000}, {"max_tokens": 50}),
        ("openai-responses", {}, {"max_output_tokens": 50}),
        ("cohere", {}, {"max_tokens": 50}),
        (
            "gemini",
            {"generationConfig": {"topK": 1}},
            {"generationConfig": {"topK": 1, "maxOutputTokens": 50}},
        ),
        (
            "gemini",
            {"generation_config": {"topK": 1}},
            {"generation_config": {"topK": 1, "max_output_tokens": 50}},
        ),
        ("gemini", {}, {"generationConfig": {"maxOutputTokens": 50}}),
        ("bedrock-converse", {}, {"inferenceConfig": {"maxTokens": 50}}),
        (
            "bedrock-converse",
            {"inferenceConfig": {"maxTokens": 90, "topP": 1}},
            {"inferenceConfig": {"maxTokens": 50, "topP": 1}},
        ),
    ],
)
def test_a_longer_or_unstated_length_is_bounded_in_the_callers_own_words(
    format: str, request_body: dict[str, Any], limited: dict[str, Any]
) -> None:
    call, before = ask(format, request_body), repr(request_body)
    call.chat = {"said": "before"}
    assert limit_output(call, 50)
    assert call.request == limited == orjson.loads(call.body)
    assert (call.as_asked, call.chat) == (request_body, None)
    assert repr(request_body) == before
    assert read_stated(call) == 50


@pytest.mark.parametrize(
    ("format", "request_body"),
    [
        ("openai-chat", {"max_tokens": 50}),
        ("openai-chat", {"max_tokens": 20}),
        ("openai-chat", {"max_tokens": 20, "max_completion_tokens": 50}),
        ("gemini", {"generation_config": {"maxOutputTokens": 1}}),
        ("openai-embeddings", {"input": "x"}),
    ],
)
def test_a_request_that_says_it_already_is_left_as_it_is(format: str, request_body: dict[str, Any]) -> None:
    call = ask(format, request_body)
    body = call.body
    assert not limit_output(call, 50)
    assert call.request is request_body and call.body is body and call.as_asked is None


def test_every_other_byte_of_the_body_stays() -> None:
    body = b'{ "messages": [1.10, "\\u00e4"],\n "max_tokens" : 9e1 , "x": {"max_tokens": 7} }'
    call = ask("openai-chat", orjson.loads(body), body)
    limit_output(call, 50)
    assert call.body == b'{ "messages": [1.10, "\\u00e4"],\n "max_tokens" : 50 , "x": {"max_tokens": 7} }'


def test_a_length_that_is_written_twice_cannot_smuggle_a_longer_one_past() -> None:
    body = b'{"max_tokens": 10, "max_tokens": 9000}'
    call = ask("openai-chat", orjson.loads(body), body)
    limit_output(call, 50)
    assert call.body == b'{"max_tokens":50}'


def test_every_dialect_in_which_answers_are_written_has_a_word_for_their_length() -> None:
    formats = [load_format(path.stem) for path in sorted(SHIPPED.glob("*.yaml"))]
    writing = [format for format in formats if format.client.serves and format.operation in WRITING]
    assert len(writing) >= 7
    assert [format.name for format in writing if not format.client.output_places] == []
