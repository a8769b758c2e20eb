"""What same-wire traffic is read for: the quick look and the complete one agree."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.wire.look import Look, Seen, compile_look, follow
from tests.wire.formats_at_hand import load_format


def look_of(name: str) -> Look:
    look = load_format(name).look
    assert look is not None
    return look


CHAT, TEXTS = look_of("openai-chat"), look_of("openai-completions")
texts = st.none() | st.text(max_size=3) | st.integers() | st.lists(st.text(max_size=2), max_size=1)
deltas: Any = st.fixed_dictionaries(
    {},
    optional={
        "role": st.just("assistant"),
        "content": texts,
        "reasoning_content": texts,
        "refusal": texts,
        "tool_calls": st.lists(st.just({"index": 0}), max_size=1),
    },
)
choices: Any = st.fixed_dictionaries(
    {},
    optional={
        "index": st.none() | st.integers(0, 2),
        "delta": deltas | st.none() | st.text(max_size=1),
        "text": texts,
        "finish_reason": st.none() | st.sampled_from(["stop", "length", "error"]),
        "logprobs": st.none() | st.just({"content": []}),
        "error": st.none() | st.just({"message": "m"}),
    },
)
docs: Any = st.fixed_dictionaries(
    {},
    optional={
        "choices": st.lists(choices, max_size=2) | st.none() | st.text(max_size=1),
        "usage": st.none() | st.just({"prompt_tokens": 1}),
        "error": st.none() | st.just({"message": "m"}),
    },
)


@given(docs, st.sampled_from([CHAT, TEXTS]))
def test_the_quick_look_says_what_the_complete_one_says(doc: dict[str, Any], look: Look) -> None:
    text = look.plain_text(doc)
    seen = look.read_event(doc)
    if text is not None:
        assert text and seen.text == text
        assert not (seen.finished or seen.error or seen.usage or seen.empty or seen.thought)


def test_most_events_need_only_the_quick_look() -> None:
    assert CHAT.plain_text({"choices": [{"index": 0, "delta": {"content": "a"}}]}) == "a"
    said = {
        "choices": [{"delta": {"role": "assistant", "content": "a"}, "finish_reason": None}],
        "usage": None,
    }
    assert CHAT.plain_text(said) == "a"
    assert TEXTS.plain_text({"choices": [{"text": "a", "logprobs": None}]}) == "a"


@pytest.mark.parametrize(
    "choice",
    [
        {"delta": {"content": ""}},
        {"delta": {"content": "a", "tool_calls": []}},
        {"delta": {"content": "a"}, "finish_reason": "stop"},
        {"delta": {"reasoning_content": "a"}},
        {"delta": None},
    ],
)
def test_what_is_more_than_text_goes_to_the_complete_look(choice: dict[str, Any]) -> None:
    assert CHAT.plain_text({"choices": [choice]}) is None


def test_a_complete_look_tells_kinds_finishes_and_usage() -> None:
    assert CHAT.read_event({"choices": [], "usage": {"prompt_tokens": 1}}) == Seen(
        empty=True, usage={"prompt_tokens": 1}
    )
    assert CHAT.read_event({"choices": [{"delta": {"tool_calls": [{}]}}]}).carries
    assert CHAT.read_event({"choices": [{"delta": {"reasoning": "hm"}}]}).thought
    both = {"choices": [{"index": 1, "finish_reason": "stop"}, {"index": None, "finish_reason": "length"}]}
    assert CHAT.read_event(both).finished == [1, 1]
    assert CHAT.read_event({"choices": [{"finish_reason": "error"}]}).error


def test_text_is_put_where_the_wire_keeps_it() -> None:
    chat: dict[str, Any] = {}
    CHAT.set_text(chat, "a")
    assert chat == {"delta": {"content": "a"}}
    plain: dict[str, Any] = {"text": "b"}
    TEXTS.set_text(plain, "a")
    assert plain == {"text": "a"}


def test_text_of_a_plain_answer_is_that_of_all_choices() -> None:
    assert CHAT.read_answer_text({"choices": [{"message": {"content": "a"}}, {"message": {}}]}) == "a"
    assert TEXTS.read_answer_text({"choices": [{"text": "a"}, {"text": "b"}]}) == "ab"
    assert CHAT.read_answer_text({"choices": None}) == ""


def test_following_stops_at_what_is_no_object() -> None:
    assert follow({"a": {"b": 1}}, ("a", "b")) == 1
    assert follow({"a": [1]}, ("a", "b")) is None
    assert follow(None, ("a",)) is None


def test_another_wire_only_names_other_places() -> None:
    look = compile_look({"choices": "$.parts", "text": "say.words", "finish": "why", "usage": "$.meta.count"})
    doc = {"parts": [{"say": {"words": "a"}, "why": "end"}], "meta": {"count": {"n": 1}}}
    seen = look.read_event(doc)
    assert (seen.text, seen.finished, seen.usage) == ("a", [0], {"n": 1})


@pytest.mark.parametrize(
    ("dialect", "request_", "choices"),
    [
        ("openai-chat", {"n": 3}, 3),
        ("openai-chat", {"n": "3"}, 1),
        ("openai-completions", {"n": 2, "prompt": ["a", "b"]}, 4),
        ("openai-completions", {"prompt": [1, 2, 3]}, 1),
        ("gemini", {"generationConfig": {"candidateCount": 2}}, 2),
        ("gemini", {"generation_config": {"candidate_count": 2}}, 2),
        ("gemini", {"n": 5}, 1),
        ("anthropic-messages", {"n": 5}, 1),
    ],
)
def test_a_request_says_in_its_dialect_how_many_choices_end_a_stream(
    dialect: str, request_: dict[str, Any], choices: int
) -> None:
    look = load_format(dialect).look
    assert look is not None and look.count_choices(request_) == choices
