"""Canonical -> Responses -> canonical keeps every request and every answer that the dialect can say."""

from typing import Any

import orjson
from hypothesis import given
from hypothesis import strategies as st

from engine.wire.streams import fold, unfold
from tests.wire.formats_at_hand import load_format, read_stream, write_stream
from tests.wire.test_round_trips import (
    CALL,
    COMMON,
    IMAGE,
    LOGPROBS,
    NAMES,
    PLAIN_TEXT,
    REFUSAL,
    RESULT,
    SIGNED,
    SYSTEM,
    TEXT,
    WORDS,
    choices,
    turn,
)

RESPONSES = load_format("openai-responses")
TARGET = {"model": "up", "traits": {**RESPONSES.traits, "cache_marks": True}}

ANSWERED = st.builds(
    lambda thoughts, texts, calls: [*thoughts, *texts, *calls],
    st.lists(SIGNED, max_size=1),
    st.lists(PLAIN_TEXT | REFUSAL, min_size=1, max_size=2),
    st.lists(CALL, max_size=2),
)
FUNCTION = st.fixed_dictionaries(
    {
        "type": st.just("function"),
        "name": NAMES,
        "parameters": st.just({"type": "object", "properties": {"items": {}}}),
        "strict": st.booleans(),
    },
    optional={"description": WORDS},
)
CHATS = st.fixed_dictionaries(
    {
        "model": st.just("up"),
        "turns": st.builds(
            lambda opening, pairs: [*opening, *(turn for pair in pairs for turn in pair)],
            st.lists(SYSTEM, max_size=2),
            st.lists(
                st.tuples(
                    turn("user", st.lists(TEXT | IMAGE, min_size=1, max_size=3))
                    | turn("tool", st.lists(RESULT, min_size=1, max_size=2)),
                    turn("assistant", ANSWERED),
                ),
                max_size=3,
            ),
        ),
    },
    optional={
        **{k: v for k, v in COMMON.items() if k not in ("stop", "top_k", "tools")},
        "tools": st.lists(FUNCTION, min_size=1, max_size=2),
        "logprobs": st.just(True),
        "top_logprobs": st.integers(0, 5),
        "parallel_tools": st.booleans(),
        "response_format": st.sampled_from(
            [
                {"type": "json_object"},
                {"type": "json_schema", "name": "x", "schema": {"type": "object"}, "strict": True},
            ]
        ),
        "reasoning": st.sampled_from([{"effort": "low"}, {"effort": "none"}, {"show": "detailed"}]),
        "verbosity": st.sampled_from(["low", "high"]),
        "include": st.just(["web_search_call.action.sources"]),
        "metadata": st.just({"a": "b"}),
        "service_tier": st.just("flex"),
        "cache_key": WORDS,
        "cache_retention": st.just("24h"),
        "safety_id": WORDS,
    },
)


def without_origin(chat: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in chat.items() if name not in ("dialect", "extra")}


@given(CHATS)
def test_responses_keep_every_request(chat: dict[str, Any]) -> None:
    body = orjson.loads(orjson.dumps(RESPONSES.write_request(chat, TARGET)))
    assert without_origin(RESPONSES.read_request(body)) == chat


@given(choices(SIGNED, PLAIN_TEXT | LOGPROBS, REFUSAL, CALL))
def test_responses_keep_every_answer(answer: dict[str, Any]) -> None:
    events = unfold(answer)
    asked = {"id": "x", "request": {}}
    plain = fold(RESPONSES.read_reply(orjson.loads(orjson.dumps(RESPONSES.write_reply(events, asked)))))
    streamed = fold(read_stream(RESPONSES, [write_stream(RESPONSES, events)]))
    for told in (plain, streamed):
        parts = [
            {name: value for name, value in part.items() if name != "id" or part["type"] == "tool_call"}
            for part in told["parts"]
        ]
        assert parts == answer["parts"]
        assert told["finish"]["reason"] == answer["finish"]
