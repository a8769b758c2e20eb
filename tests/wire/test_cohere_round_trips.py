"""Canonical -> Cohere's chat -> canonical keeps everything that it can say; so do answers, plain and streamed."""

from typing import Any

import orjson
from hypothesis import given
from hypothesis import strategies as st

from engine.wire.streams import fold, unfold
from tests.wire.formats_at_hand import load_format, read_stream, write_stream
from tests.wire.test_round_trips import CALL, IMAGE, NAMES, WORDS, both, turn

COHERE = load_format("cohere")

TEXT = st.fixed_dictionaries({"type": st.just("text"), "text": WORDS})
THOUGHT = st.fixed_dictionaries({"type": st.just("reasoning"), "text": WORDS})
DOCUMENT = st.fixed_dictionaries({"type": st.just("document"), "text": WORDS})
RESULT = st.fixed_dictionaries(
    {"type": st.just("tool_result"), "id": NAMES, "parts": st.lists(TEXT, min_size=1, max_size=1)}
)
SPOKEN = st.builds(lambda thoughts, text: [*thoughts, text], st.lists(THOUGHT, max_size=1), TEXT)
CALLING = st.builds(
    lambda plan, calls: [*plan, *calls], st.lists(TEXT, max_size=1), st.lists(CALL, min_size=1)
)
TURNS = st.builds(
    lambda opening, documents, question, rest: [
        *opening,
        {"role": "user", "parts": [*documents, *question]},
        *rest,
    ],
    st.lists(turn("system", st.lists(TEXT, min_size=1, max_size=2)), max_size=1),
    st.lists(DOCUMENT, max_size=2),
    st.lists(TEXT | IMAGE, min_size=1, max_size=3),
    st.lists(
        turn("assistant", SPOKEN | CALLING)
        | turn("user", st.lists(TEXT | IMAGE, min_size=1, max_size=3))
        | turn("tool", st.lists(RESULT, min_size=1, max_size=1)),
        max_size=4,
    ),
)
TOOLS = st.lists(
    both(
        st.fixed_dictionaries(
            {"type": st.just("function"), "name": NAMES, "parameters": st.just({"type": "object"})}
        ),
        st.fixed_dictionaries({}, optional={"description": WORDS}),
    ),
    min_size=1,
    max_size=2,
)
CHATS = st.fixed_dictionaries(
    {"model": st.just("up"), "turns": TURNS},
    optional={
        "stream": st.booleans(),
        "max_output": st.integers(1, 9999),
        "temperature": st.sampled_from([0, 0.5, 1]),
        "top_p": st.sampled_from([0, 0.5, 1]),
        "top_k": st.integers(1, 99),
        "seed": st.integers(0, 99),
        "frequency_penalty": st.sampled_from([0, 0.3, 1]),
        "presence_penalty": st.sampled_from([0, 0.3, 1]),
        "stop": st.lists(WORDS, min_size=1, max_size=5),
        "logprobs": st.booleans(),
        "tools": TOOLS,
        "tool_choice": st.sampled_from([{"mode": "required"}, {"mode": "none"}]),
        "response_format": st.sampled_from(
            [{"type": "text"}, {"type": "json_object"}, {"type": "json_schema", "schema": {"type": "object"}}]
        ),
        "reasoning": st.sampled_from([{"enabled": False}, {"enabled": True}, {"enabled": True, "budget": 9}]),
    },
).map(lambda chat: {k: v for k, v in chat.items() if k != "tool_choice" or "tools" in chat})


@given(CHATS)
def test_every_request_is_kept(chat: dict[str, Any]) -> None:
    assert COHERE.find_loss(chat) == []
    body = orjson.loads(orjson.dumps(COHERE.write_request(chat, {"model": "up", "traits": COHERE.traits})))
    back = COHERE.read_request(body)
    assert {k: v for k, v in back.items() if k not in ("dialect", "extra")} == chat
    assert "extra" not in back


CITED = st.builds(
    lambda text, url: {
        "type": "text",
        "text": text,
        "citations": [
            {
                "start": 0,
                "end": 1,
                "text": text[:1],
                "url": url,
                "title": "T",
                "sources": [{"type": "document", "id": "d", "document": {"url": url, "title": "T"}}],
            }
        ],
    },
    WORDS,
    st.just("https://pages.example/1"),
)


@given(
    st.lists(THOUGHT, max_size=1),
    st.lists(TEXT | CITED, max_size=2),
    st.lists(CALL, max_size=2, unique_by=lambda call: call["id"]),
    st.sampled_from(["stop", "length"]),
)
def test_every_answer_is_kept_plain_and_streamed(
    thoughts: list[Any], texts: list[Any], calls: list[Any], finish: str
) -> None:
    events = unfold({"id": "a", "parts": [*thoughts, *texts, *calls], "finish": finish})
    answer = fold(events)
    assert fold(COHERE.read_reply(COHERE.write_reply(events, {"id": "a"})))["parts"] == answer["parts"]
    streamed = fold(read_stream(COHERE, [write_stream(COHERE, events)]))
    assert (streamed["parts"], streamed["finish"]) == (answer["parts"], answer["finish"])
