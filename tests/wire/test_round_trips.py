"""Canonical -> a format's request -> canonical keeps everything that the format can say; so do answers."""

from base64 import b64encode
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.wire.streams import fold, unfold
from tests.wire.formats_at_hand import WILLING, load_format, read_stream, write_stream

CHAT, MESSAGES = load_format("openai-chat"), load_format("anthropic-messages")

# Blank text, and white space at the end of what an answer is to go on from, are left out where dialects refuse them.
WORDS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=8).filter(
    lambda words: words == words.rstrip()
)
NAMES = st.from_regex(r"[a-z][a-z_]{1,8}", fullmatch=True)
IDS = st.from_regex(r"[a-zA-Z0-9_-]{3,12}", fullmatch=True)
ARGUMENTS = st.dictionaries(NAMES, st.integers(-9, 9) | WORDS, max_size=2).map(
    lambda value: orjson.dumps(value).decode()
)
BASE64 = st.binary(max_size=6).map(lambda raw: b64encode(raw).decode()).filter(bool)
MARKS = st.fixed_dictionaries({}, optional={"cache": st.just({"type": "ephemeral"})})


def both(
    first: st.SearchStrategy[dict[str, Any]], second: st.SearchStrategy[dict[str, Any]]
) -> st.SearchStrategy[dict[str, Any]]:
    return st.builds(lambda a, b: {**a, **b}, first, second)


TEXT = both(st.fixed_dictionaries({"type": st.just("text"), "text": WORDS}), MARKS)
IMAGE = st.one_of(
    st.fixed_dictionaries({"type": st.just("image"), "url": st.just("https://images.example/1.png")}),
    st.fixed_dictionaries(
        {"type": st.just("image"), "media_type": st.sampled_from(["image/png", "image/jpeg"]), "data": BASE64}
    ),
)
CALL = st.fixed_dictionaries({"type": st.just("tool_call"), "id": IDS, "name": NAMES, "arguments": ARGUMENTS})
SIGNED = st.fixed_dictionaries({"type": st.just("reasoning"), "text": WORDS, "signature": IDS})
RESULT = st.fixed_dictionaries(
    {
        "type": st.just("tool_result"),
        "id": IDS,
        "parts": st.lists(
            st.fixed_dictionaries({"type": st.just("text"), "text": WORDS}), min_size=1, max_size=2
        ),
    }
)


def turn(role: str, parts: st.SearchStrategy[list[dict[str, Any]]]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({"role": st.just(role), "parts": parts})


ASSISTANT = st.builds(
    lambda thoughts, texts, calls: [*thoughts, *texts, *calls],
    st.lists(SIGNED, max_size=1),
    st.lists(TEXT, min_size=1, max_size=2),
    st.lists(CALL, max_size=2),
)
SPOKEN = st.builds(
    lambda thoughts, texts: [*thoughts, *texts],
    st.lists(SIGNED, max_size=1),
    st.lists(TEXT, min_size=1, max_size=2),
)
CALLS = st.lists(CALL, min_size=1, max_size=2, unique_by=lambda call: call["id"])


def answer_calls(asked: dict[str, Any], calls: list[dict[str, Any]]) -> tuple[dict[str, Any], ...]:
    said = [{"type": "text", "text": "done"}]
    results = [{"type": "tool_result", "id": call["id"], "parts": said} for call in calls]
    return asked, {"role": "assistant", "parts": calls}, {"role": "tool", "parts": results}


SYSTEM = turn("system", st.lists(TEXT, min_size=1, max_size=2))
USER = turn("user", st.lists(TEXT | IMAGE, min_size=1, max_size=3))
TOOL = turn("tool", st.lists(RESULT, min_size=1, max_size=1))
FUNCTION = st.fixed_dictionaries(
    {
        "type": st.just("function"),
        "name": NAMES,
        "parameters": st.just({"type": "object", "properties": {"items": {}}}),
    },
    optional={"description": WORDS, "strict": st.booleans(), "cache": st.just({"type": "ephemeral"})},
)
COMMON: dict[str, st.SearchStrategy[Any]] = {
    "stream": st.booleans(),
    "max_output": st.integers(1, 9999),
    "temperature": st.sampled_from([0, 0.5, 1]),
    "top_p": st.sampled_from([0, 0.5, 1]),
    "top_k": st.integers(1, 99),
    "stop": st.lists(WORDS, min_size=1, max_size=2),
    "tools": st.lists(FUNCTION, min_size=1, max_size=2),
    "tool_choice": st.sampled_from(
        [{"mode": "auto"}, {"mode": "required"}, {"mode": "none"}, {"mode": "tool", "name": "f"}]
    ),
    "user": WORDS,
}
CHATS_OF_CHAT = st.fixed_dictionaries(
    {
        "model": st.just("up"),
        "turns": st.lists(SYSTEM | USER | turn("assistant", ASSISTANT) | TOOL, min_size=1, max_size=5),
    },
    optional={
        **COMMON,
        "n": st.integers(1, 4),
        "seed": st.integers(0, 99),
        "min_p": st.sampled_from([0, 0.1]),
        "frequency_penalty": st.sampled_from([0, 0.3]),
        "presence_penalty": st.sampled_from([0, 0.3]),
        "repetition_penalty": st.sampled_from([1, 1.1]),
        "logit_bias": st.just({"50256": -100}),
        "logprobs": st.booleans(),
        "top_logprobs": st.integers(0, 5),
        "parallel_tools": st.booleans(),
        "response_format": st.sampled_from(
            [
                {"type": "json_object"},
                {"type": "json_schema", "name": "x", "schema": {"type": "object"}, "strict": True},
            ]
        ),
        "reasoning": st.sampled_from([{"effort": "low"}, {"effort": "none"}]),
        "verbosity": st.sampled_from(["low", "high"]),
        "modalities": st.just(["text", "audio"]),
        "audio": st.just({"voice": "alloy", "format": "wav"}),
        "prediction": st.just({"type": "content", "content": "x"}),
        "web_search": st.just({"search_context_size": "low"}),
        "metadata": st.just({"a": "b"}),
        "service_tier": st.just("flex"),
        "store": st.booleans(),
        "cache_key": WORDS,
        "cache_retention": st.just("24h"),
        "safety_id": WORDS,
    },
)
CHATS_OF_MESSAGES = st.fixed_dictionaries(
    {
        "model": st.just("up"),
        "max_output": st.integers(1, 9999),
        "turns": st.builds(
            lambda opening, pairs: [*opening, *(turn for pair in pairs for turn in pair)],
            st.lists(SYSTEM, max_size=1),
            st.lists(
                st.tuples(USER, turn("assistant", SPOKEN)) | st.builds(answer_calls, USER, CALLS),
                min_size=1,
                max_size=3,
            ),
        ),
    },
    optional={
        **{k: v for k, v in COMMON.items() if k != "max_output"},
        "response_format": st.just({"type": "json_schema", "schema": {}}),
    },
).map(lambda chat: {k: v for k, v in chat.items() if k != "tool_choice" or "tools" in chat})


def forget_origin(chat: dict[str, Any]) -> dict[str, Any]:
    turns = [
        {**turn, "parts": [{k: v for k, v in part.items() if k != "issuer"} for part in turn["parts"]]}
        for turn in chat["turns"]
    ]
    return {**{k: v for k, v in chat.items() if k not in ("dialect", "extra")}, "turns": turns}


@given(CHATS_OF_CHAT)
def test_chat_completions_keep_every_request(chat: dict[str, Any]) -> None:
    body = orjson.loads(orjson.dumps(CHAT.write_request(chat, WILLING)))
    assert forget_origin(CHAT.read_request(body)) == chat


@given(CHATS_OF_MESSAGES)
def test_messages_keep_every_request(chat: dict[str, Any]) -> None:
    body = orjson.loads(
        orjson.dumps(MESSAGES.write_request({**chat, "dialect": "anthropic-messages"}, WILLING))
    )
    assert forget_origin(MESSAGES.read_request(body)) == chat


def choices(*parts: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    return st.builds(
        lambda blocks, reason: {
            "id": "id_1",
            "model": "m",
            "created": 5,
            "parts": blocks,
            "finish": "tool_calls" if any(p["type"] == "tool_call" for p in blocks) else reason,
        },
        st.tuples(
            *(
                st.lists(part, max_size=1 if number < len(parts) - 1 else 2)
                for number, part in enumerate(parts)
            )
        )
        .map(lambda groups: [part for group in groups for part in group])
        .filter(
            lambda blocks: (
                blocks and len({p["id"] for p in blocks if "id" in p}) == sum("id" in p for p in blocks)
            )
        ),
        st.sampled_from(["stop", "length", "content_filter"]),
    )


PLAIN_TEXT = st.fixed_dictionaries({"type": st.just("text"), "text": WORDS})
LOGPROBS = st.fixed_dictionaries(
    {"type": st.just("text"), "text": WORDS, "logprobs": st.just([{"token": "a", "logprob": -0.1}])}
)
REFUSAL = st.fixed_dictionaries({"type": st.just("refusal"), "text": WORDS})


@pytest.mark.parametrize(
    ("form", "answers"),
    [
        (CHAT, choices(SIGNED, PLAIN_TEXT | LOGPROBS, REFUSAL, CALL)),
        (MESSAGES, choices(SIGNED, PLAIN_TEXT, CALL)),
    ],
    ids=["openai-chat", "anthropic-messages"],
)
@given(data=st.data())
def test_answers_survive_plain_and_streamed(
    form: Any, answers: st.SearchStrategy[dict[str, Any]], data: st.DataObject
) -> None:
    answer = data.draw(answers)
    events = unfold(answer)
    plain = fold(form.read_reply(orjson.loads(orjson.dumps(form.write_reply(events, {"id": "x"})))))
    streamed = fold(read_stream(form, [write_stream(form, events)]))
    for told in (plain, streamed):
        assert [{k: v for k, v in part.items() if k != "issuer"} for part in told["parts"]] == answer["parts"]
        assert told["finish"]["reason"] == answer["finish"]
