"""Requests against the grammar of their dialect: the client is told which field, and never of an error of ours."""

from json import dumps
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import InvalidRequest
from tests.wire.formats_at_hand import load_format
from tests.wire.pairs.asked import CASES, DIALECTS, ask
from tests.wire.pairs.told import translate
from tests.wire.test_bad_answers import spoil

# fmt: off
WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("openai-chat", {"messages": "hi"}, "messages"),
    ("openai-chat", {"messages": []}, "messages"),
    ("openai-chat", {"messages": [{"role": "robot", "content": "hi"}]}, "messages[0].role"),
    ("openai-chat", {"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
    (
        "openai-chat",
        {"messages": [{"role": "user", "content": [{"type": "text", "text": 5}]}]},
        "messages[0].content[0].text",
    ),
    ("openai-chat", {"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name"),
    ("openai-chat", {"temperature": "hot"}, "temperature"),
    ("openai-chat", {"tools": {}}, "tools"),
    ("openai-responses", {"input": 5}, "input"),
    ("openai-responses", {"input": ["hi"]}, "input[0]"),
    ("openai-responses", {"input": [{"role": "robot", "content": "hi"}]}, "input[0].role"),
    ("openai-responses", {"max_output_tokens": 0}, "max_output_tokens"),
    ("openai-responses", {"tools": [{"name": "f"}]}, "tools[0].type"),
    ("anthropic-messages", {"max_tokens": None}, "max_tokens"),
    ("anthropic-messages", {"messages": [{"role": "tool", "content": "hi"}]}, "messages[0].role"),
    (
        "anthropic-messages",
        {"messages": [{"role": "user", "content": [{"text": "hi"}]}]},
        "messages[0].content[0].type",
    ),
    ("anthropic-messages", {"tool_choice": {"type": "some"}}, "tool_choice.type"),
    ("gemini", {"contents": []}, "contents"),
    ("gemini", {"contents": [{"parts": "hi"}]}, "contents[0].parts"),
    (
        "gemini",
        {"contents": [{"parts": [{"functionCall": {"args": {}}}]}]},
        "contents[0].parts[0].functionCall.name",
    ),
    ("gemini", {"generationConfig": {"topK": "many"}}, "generationConfig.topK"),
    ("bedrock-converse", {"messages": [{"role": "user", "content": "hi"}]}, "messages[0].content"),
    ("bedrock-converse", {"messages": [{"role": "user"}]}, "messages[0].content"),
    ("bedrock-converse", {"inferenceConfig": {"maxTokens": "1"}}, "inferenceConfig.maxTokens"),
    ("bedrock-converse", {"toolConfig": {}}, "toolConfig.tools"),
    ("cohere", {"messages": "hi"}, "messages"),
    ("cohere", {"messages": [{"role": "developer", "content": "hi"}]}, "messages[0].role"),
    ("cohere", {"tool_choice": "auto"}, "tool_choice"),
    ("cohere", {"p": "0.5"}, "p"),
]
# fmt: on


@pytest.mark.parametrize(
    ("dialect", "change", "field"), WRONG, ids=lambda value: value if isinstance(value, str) else ""
)
def test_the_field_that_is_wrong_is_named(dialect: str, change: dict[str, Any], field: str) -> None:
    form = load_format(dialect)
    with pytest.raises(InvalidRequest) as refused:
        form.read_request({**ask(dialect, "text"), **change})
    assert refused.value.param == field
    written = form.write_error({"status": 400, "message": refused.value.message, "param": field})
    assert refused.value.message in dumps(written, ensure_ascii=False).replace('\\"', '"')


@pytest.mark.parametrize("surface", DIALECTS)
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_a_spoilt_request_is_carried_or_refused_and_nothing_else(surface: str, data: st.DataObject) -> None:
    body = ask(surface, data.draw(st.sampled_from(CASES)))
    for _ in range(data.draw(st.integers(1, 2))):
        body = spoil(data, body)
    provider = data.draw(st.sampled_from([name for name in DIALECTS if name != surface]))
    try:
        assert translate(surface, provider, body).render({})
    except InvalidRequest as refused:
        assert refused.message
