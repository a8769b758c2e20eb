"""Canonical -> Gemini's request -> canonical keeps everything that the format can say."""

from typing import Any

import orjson
from hypothesis import given
from hypothesis import strategies as st

from tests.wire.formats_at_hand import load_format
from tests.wire.test_round_trips import ARGUMENTS, BASE64, IDS, NAMES, WORDS, forget_origin, turn

GEMINI = load_format("gemini")
TARGET = {"model": "up", "traits": {**GEMINI.traits, "thinking": "level", "labels": True}}

SIGNED = st.fixed_dictionaries({}, optional={"signature": st.just("c2ln")})
TEXT = st.builds(lambda text, signed: {"type": "text", "text": text, **signed}, WORDS, SIGNED)
MEDIA = st.one_of(
    st.fixed_dictionaries(
        {"type": st.just("image"), "media_type": st.sampled_from(["image/png", "image/webp"]), "data": BASE64}
    ),
    st.fixed_dictionaries(
        {
            "type": st.just("document"),
            "media_type": st.just("application/pdf"),
            "url": st.just("gs://a/b.pdf"),
        }
    ),
)
THOUGHT = st.fixed_dictionaries({"type": st.just("reasoning"), "text": WORDS, "signature": IDS})


@st.composite
def exchanges(draw: st.DrawFn) -> list[dict[str, Any]]:
    """A user's turn, an answer that may call tools, and a result for each call."""
    said = draw(turn("user", st.lists(TEXT | MEDIA, min_size=1, max_size=3)))
    names = draw(st.lists(IDS, max_size=2, unique=True))
    calls = [
        {"type": "tool_call", "id": name, "name": draw(NAMES), "arguments": draw(ARGUMENTS), **draw(SIGNED)}
        for name in names
    ]
    thoughts = draw(st.lists(THOUGHT, max_size=1))
    answer = {"role": "assistant", "parts": [*thoughts, draw(TEXT), *calls]}
    results = [
        {
            "type": "tool_result",
            "id": call["id"],
            "name": call["name"],
            "parts": [{"type": "text", "text": "so: " + draw(WORDS)}],
        }
        for call in calls
    ]
    return [said, answer, *([{"role": "tool", "parts": results}] if results else [])]


def join_exchanges(opening: list[Any], rounds: list[list[Any]], last: Any) -> list[Any]:
    """Results of tools and what the user says next stand in one turn on this wire, so the user stays silent there."""
    turns = list(opening)
    for steps in rounds:
        turns += steps[1:] if turns and turns[-1]["role"] == "tool" else steps
    return turns if turns and turns[-1]["role"] in ("assistant", "tool") else [*turns, last]


CHATS = st.fixed_dictionaries(
    {
        "model": st.just("up"),
        "turns": st.builds(
            join_exchanges,
            st.lists(turn("system", st.lists(TEXT, min_size=1, max_size=2)), max_size=1),
            st.lists(exchanges(), max_size=2),
            turn("user", st.lists(TEXT, min_size=1, max_size=1)),
        ),
    },
    optional={
        "max_output": st.integers(1, 9999),
        "temperature": st.sampled_from([0, 0.5, 1]),
        "top_p": st.sampled_from([0, 0.5, 1]),
        "top_k": st.integers(1, 99),
        "n": st.integers(1, 4),
        "seed": st.integers(0, 99),
        "stop": st.lists(WORDS, min_size=1, max_size=2),
        "frequency_penalty": st.sampled_from([0, 0.3]),
        "presence_penalty": st.sampled_from([0, 0.3]),
        "logprobs": st.booleans(),
        "top_logprobs": st.integers(0, 5),
        "tools": st.lists(
            st.fixed_dictionaries(
                {
                    "type": st.just("function"),
                    "name": NAMES,
                    "parameters": st.just({"type": "object", "properties": {"a_b": {"type": "string"}}}),
                },
                optional={"description": WORDS},
            ),
            min_size=1,
            max_size=2,
        ),
        "tool_choice": st.sampled_from(
            [
                {"mode": "auto"},
                {"mode": "none"},
                {"mode": "required"},
                {"mode": "tool", "name": "f"},
                {"mode": "allowed", "names": ["f", "g"], "force": True},
                {"mode": "allowed", "names": ["f"], "force": False},
            ]
        ),
        "response_format": st.sampled_from(
            [{"type": "json_object"}, {"type": "json_schema", "schema": {"type": "object", "title": "T"}}]
        ),
        "reasoning": st.sampled_from([{"effort": "low", "show": "auto"}, {"effort": "high", "show": "auto"}]),
        "modalities": st.just(["text", "image"]),
        "audio": st.just({"voice": "Kore"}),
        "metadata": st.just({"a": "b"}),
        "service_tier": st.sampled_from(["flex", "priority", "default"]),
    },
)


@given(CHATS)
def test_gemini_keeps_every_request(chat: dict[str, Any]) -> None:
    body = orjson.loads(orjson.dumps(GEMINI.write_request(chat, TARGET)))
    assert forget_origin(GEMINI.read_request(body, {"model": "up"})) == chat
