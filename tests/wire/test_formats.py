"""Formats: what is refused and where, requests and answers between dialects, bad requests, speed."""

import time
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import InvalidRequest
from engine.secret import Secret
from engine.wire.canonical import Failed, Finished
from engine.wire.expressions import TemplateFailed
from engine.wire.formats import FormatRefused, compile_format
from engine.wire.streams import fold
from engine.wire.templates import merge_trees
from tests.wire.formats_at_hand import WILLING, load_format, load_tree, read_stream, write_stream

CHAT, MESSAGES, GEMINI = (load_format(name) for name in ("openai-chat", "anthropic-messages", "gemini"))

IMAGE = "data:image/png;base64,iVBORw0KGgo="
REQUEST: dict[str, Any] = {
    "model": "m",
    "max_completion_tokens": 100,
    "temperature": 0.5,
    "stop": "END",
    "messages": [
        {"role": "system", "content": "Be brief."},
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
            "tool_calls": [
                {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": '{"at": 1}'}},
                {"id": "call_2", "type": "function", "function": {"name": "wait", "arguments": ""}},
            ],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "a cat"},
        {"role": "tool", "tool_call_id": "call_2", "content": [{"type": "text", "text": "waited"}]},
    ],
    "tools": [
        {
            "type": "function",
            "function": {
                "name": "look",
                "parameters": {"type": "object", "properties": {"at": {"type": "integer"}}},
            },
        },
        {"type": "function", "function": {"name": "wait", "description": "Waits."}},
    ],
    "tool_choice": {"type": "function", "function": {"name": "look"}},
    "parallel_tool_calls": False,
    "frequency_penalty": 0.1,
    "x_unknown": 1,
}


def test_a_chat_request_is_written_for_a_dialect_of_typed_blocks() -> None:
    assert MESSAGES.write_request(CHAT.read_request(REQUEST), {"model": "up", "traits": MESSAGES.traits}) == {
        "model": "up",
        "max_tokens": 100,
        "system": "Be brief.",
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "Look."},
                    {
                        "type": "image",
                        "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="},
                    },
                ],
            },
            {
                "role": "assistant",
                "content": [
                    {"type": "tool_use", "id": "call_1", "name": "look", "input": {"at": 1}},
                    {"type": "tool_use", "id": "call_2", "name": "wait", "input": {}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "call_1", "content": "a cat"},
                    {"type": "tool_result", "tool_use_id": "call_2", "content": "waited"},
                ],
            },
        ],
        "stop_sequences": ["END"],
        "temperature": 0.5,
        "tools": [
            {"name": "look", "input_schema": {"type": "object", "properties": {"at": {"type": "integer"}}}},
            {"name": "wait", "description": "Waits.", "input_schema": {"type": "object", "properties": {}}},
        ],
        "tool_choice": {"type": "tool", "name": "look", "disable_parallel_tool_use": True},
    }


def test_a_messages_request_is_written_for_chat_completions() -> None:
    body = {
        "model": "m",
        "max_tokens": 50,
        "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
        "messages": [
            {"role": "user", "content": "Look."},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "hm", "signature": "sig"},
                    {"type": "text", "text": "I look."},
                    {"type": "tool_use", "id": "t1", "name": "look", "input": {"at": 1}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "Well?"},
                    {
                        "type": "tool_result",
                        "tool_use_id": "t1",
                        "is_error": True,
                        "content": [
                            {"type": "text", "text": "broken"},
                            {"type": "image", "source": {"type": "url", "url": "http://i/1"}},
                        ],
                    },
                ],
            },
        ],
        "tools": [{"name": "look", "input_schema": {"type": "object"}}],
        "tool_choice": {"type": "any"},
        "thinking": {"type": "enabled", "budget_tokens": 5000},
        "metadata": {"user_id": "u"},
    }
    chat = MESSAGES.read_request(body)
    assert CHAT.write_request(chat, {"model": "up"}) == {
        "model": "up",
        "messages": [
            {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
            {"role": "user", "content": "Look."},
            {
                "role": "assistant",
                "content": "I look.",
                "tool_calls": [
                    {"id": "t1", "type": "function", "function": {"name": "look", "arguments": '{"at":1}'}}
                ],
            },
            {"role": "tool", "tool_call_id": "t1", "content": "Error: broken"},
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://i/1"}}]},
            {"role": "user", "content": "Well?"},
        ],
        "max_completion_tokens": 50,
        "tools": [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}],
        "tool_choice": "required",
        "reasoning_effort": "medium",
        "user": "u",
    }
    back = MESSAGES.write_request(chat, {"model": "m"})
    assert back["messages"][1] == body["messages"][1]  # type: ignore[index]
    assert back["thinking"] == body["thinking"] and back["system"] == body["system"]


def test_results_of_calls_are_named_for_a_dialect_without_ids() -> None:
    target = {"model": "up", "traits": {**GEMINI.traits, "call_ids": False}}
    body = GEMINI.write_request(CHAT.read_request(REQUEST), target)
    assert body["contents"][2]["parts"] == [
        {"functionResponse": {"name": "look", "response": {"output": "a cat"}}},
        {"functionResponse": {"name": "wait", "response": {"output": "waited"}}},
    ]
    assert body["toolConfig"] == {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["look"]}}


ANSWER: dict[str, Any] = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude",
    "stop_reason": "tool_use",
    "stop_sequence": None,
    "content": [
        {"type": "thinking", "thinking": "hm", "signature": "sig"},
        {
            "type": "text",
            "text": "I look.",
            "citations": [
                {"type": "web_search_result_location", "url": "http://a", "title": "A", "cited_text": "c"}
            ],
        },
        {"type": "tool_use", "id": "t1", "name": "look", "input": {"at": 1}},
        {"type": "tool_use", "id": "t2", "name": "wait", "input": {}},
    ],
    "usage": {
        "input_tokens": 10,
        "cache_read_input_tokens": 4,
        "cache_creation_input_tokens": 0,
        "output_tokens": 7,
    },
}


def test_a_messages_answer_is_written_as_a_chat_completion() -> None:
    reply = CHAT.write_reply(MESSAGES.read_reply(ANSWER), {"id": "x", "created": 7, "model": "named"})
    assert reply == {
        "id": "msg_1",
        "object": "chat.completion",
        "created": 7,
        "model": "claude",
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": "I look.",
                    "refusal": None,
                    "reasoning_content": "hm",
                    "thinking_blocks": [{"type": "thinking", "thinking": "hm", "signature": "sig"}],
                    "annotations": [
                        {
                            "type": "url_citation",
                            "url_citation": {
                                "url": "http://a",
                                "title": "A",
                                "start_index": 0,
                                "end_index": 7,
                            },
                        }
                    ],
                    "tool_calls": [
                        {
                            "id": "t1",
                            "type": "function",
                            "function": {"name": "look", "arguments": '{"at":1}'},
                        },
                        {"id": "t2", "type": "function", "function": {"name": "wait", "arguments": "{}"}},
                    ],
                },
                "logprobs": None,
                "finish_reason": "tool_calls",
            }
        ],
        "usage": {
            "prompt_tokens": 14,
            "completion_tokens": 7,
            "total_tokens": 21,
            "prompt_tokens_details": {"cached_tokens": 4, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
        },
    }


@pytest.mark.parametrize("surface", [CHAT, MESSAGES, GEMINI], ids=lambda form: form.name)
def test_a_plain_answer_and_its_stream_say_the_same_in_every_dialect(surface: Any) -> None:
    events = MESSAGES.read_reply(ANSWER)
    plain = fold(surface.read_reply(surface.write_reply(events, {"id": "x", "created": 1})))
    streamed = fold(read_stream(surface, [write_stream(surface, events)]))
    for answer in (plain, streamed):
        told = [(p["type"], p.get("text") or orjson.loads(p["arguments"])) for p in answer["parts"]]
        assert told == [("reasoning", "hm"), ("text", "I look."), ("tool_call", {"at": 1}), ("tool_call", {})]
        assert answer["finish"]["reason"] == "tool_calls"
        assert (answer["usage"]["prompt"], answer["usage"]["completion"]) == (14, 7)


def test_signatures_come_back_to_their_issuer_through_chat_completions() -> None:
    message = CHAT.write_reply(MESSAGES.read_reply(ANSWER), {"id": "x"})["choices"][0]["message"]
    chat = CHAT.read_request({"model": "m", "messages": [{"role": "user", "content": "q"}, message]})
    written = MESSAGES.write_request(chat, {"model": "up"})["messages"][1]["content"]
    assert written == [{k: v for k, v in block.items() if k != "citations"} for block in ANSWER["content"]]


def test_what_a_format_cannot_say_is_told() -> None:
    chat = CHAT.read_request(
        {
            **REQUEST,
            "seed": 1,
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "input_audio", "input_audio": {"data": "AA", "format": "wav"}}],
                }
            ],
        }
    )
    assert MESSAGES.find_loss(chat) == [
        "extra/x_unknown",
        "frequency_penalty",
        "seed",
        "turns/*/parts/*/audio",
    ]
    assert CHAT.find_loss(chat) == []


def test_keys_without_a_word_go_to_the_same_dialect_only() -> None:
    chat = CHAT.read_request(REQUEST)
    assert chat["extra"] == {"x_unknown": 1}
    assert CHAT.write_request(chat, WILLING)["x_unknown"] == 1
    assert "x_unknown" not in MESSAGES.write_request(chat, WILLING)


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"model": None}, "model"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [1]}, "messages[0]"),
        ({"messages": [{"content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}, {"role": "king", "content": "x"}]}, "messages[1].role"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"temperature": "hot"}, "temperature"),
        ({"n": True}, "n"),
        ({"stream_options": []}, "stream_options"),
        ({"tools": {}}, "tools"),
    ],
)
def test_a_request_against_its_dialect_names_the_field(change: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        CHAT.read_request({**REQUEST, **change})
    assert refused.value.param == param


def test_a_request_with_odd_insides_is_refused_and_never_breaks() -> None:
    body = {"model": "m", "messages": [{"role": "assistant", "content": None, "tool_calls": 5}]}
    with pytest.raises(InvalidRequest):
        CHAT.read_request(body)
    new = {"model": "m", "messages": [{"role": "user", "content": [{"type": "new"}]}]}
    assert CHAT.read_request(new)["turns"][0]["role"] == "user"


@pytest.mark.parametrize(
    "doc",
    [
        None,
        [],
        "text",
        {},
        {"choices": []},
        {"choices": [{}]},
        {"choices": [{"message": None}]},
        {"choices": "x"},
        {"choices": [{"message": {"content": 5, "tool_calls": [7]}}]},
    ],
)
def test_an_answer_against_its_grammar_is_a_failure_or_an_empty_answer(doc: Any) -> None:
    assert isinstance(CHAT.read_reply(doc)[-1], Failed | Finished)


def test_an_error_in_an_answer_of_status_200_is_a_failure() -> None:
    (failed,) = CHAT.read_reply({"error": {"message": "no", "code": "context_length_exceeded"}})
    assert isinstance(failed, Failed) and failed.kind == "context_length_exceeded"


def test_a_secret_never_reaches_a_request() -> None:
    with pytest.raises(TemplateFailed):
        CHAT.write_request(CHAT.read_request(REQUEST), {"model": "m", "options": {"key": Secret("hush")}})


def test_errors_are_written_in_the_dialect() -> None:
    facts = {
        "status": 429,
        "message": "slow",
        "type": "rate_limit_error",
        "code": "rate_limit_exceeded",
        "request_id": "r",
    }
    assert MESSAGES.write_error(facts) == {
        "type": "error",
        "error": {"type": "rate_limit_error", "message": "slow"},
        "request_id": "r",
    }
    assert CHAT.write_error(facts)["error"]["param"] is None


def test_the_other_operations_read_and_write() -> None:
    completions, embeddings = load_format("openai-completions"), load_format("openai-embeddings")
    body = {"model": "m", "prompt": "Once", "max_tokens": 5, "stop": ["."], "logprobs": 2, "echo": True}
    chat = completions.read_request(body)
    assert completions.write_request(chat, {"model": "m"}) == body
    assert CHAT.write_request(chat, {"model": "m"})["messages"] == [{"role": "user", "content": "Once"}]
    doc = {
        "id": "c",
        "object": "text_completion",
        "created": 1,
        "model": "m",
        "choices": [
            {"index": 0, "text": "a", "logprobs": {"tokens": ["a"]}, "finish_reason": "length"},
            {"index": 1, "text": "b", "logprobs": None, "finish_reason": "stop"},
        ],
    }
    assert completions.write_reply(completions.read_reply(doc), {}) == doc
    for inputs in ("text", ["a", "b"], [[1, 2], [3]]):
        chat = embeddings.read_request({"model": "m", "input": inputs, "dimensions": 3})
        assert embeddings.write_request(chat, {"model": "m"}) == {
            "model": "m",
            "input": inputs,
            "dimensions": 3,
        }
    assert embeddings.write_request(embeddings.read_request({"model": "m", "input": [1, 2]}), {"model": "m"})[
        "input"
    ] == [1, 2]
    vectors = {
        "object": "list",
        "model": "m",
        "data": [
            {"object": "embedding", "index": 0, "embedding": [0.1, 0.2]},
            {"object": "embedding", "index": 1, "embedding": "AAAA"},
        ],
        "usage": {"prompt_tokens": 3, "total_tokens": 3},
    }
    assert embeddings.write_reply(embeddings.read_reply(vectors), {}) == vectors


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"operation": "dance"}, ("operation",)),
        ({"framing": "pigeon"}, ("framing",)),
        ({"media": {"image": ["smoke"]}}, ("media", "image")),
        ({"requests": {}}, ("requests",)),
        ({"usage": {"counts": {"promt": "$.x"}}}, ("usage", "counts", "promt")),
        ({"usage": {"from": "$.["}}, ("usage", "from")),
        ({"errors": {"kinds": {"429": {"message": "("}}}}, ("errors", "kinds", "429", "message")),
        ({"errors": {"kinds": {"429": {"texts": "x"}}}}, ("errors", "kinds", "429", "texts")),
        ({"request": {"model": "{{ chta.model }}"}}, ("request", "model")),
        ({"request": {"model": "{{ chat.model | mapped('nope') }}"}}, ("request", "model")),
        ({"stream": {"on": {"any": [{"text": "{{ f.x }}"}]}}}, ("stream", "on", "any", 0, "text")),
        ({"write_stream": {"rows": {}}}, ("write_stream", "rows")),
        ({"write_stream": {"end": {"x": "{{ e.x }}"}}}, ("write_stream", "end", "x")),
        ({"accepts": {"n": "numbr"}}, ("accepts", "n")),
        ({"tables": {"reason": [1]}}, ("tables", "reason")),
        ({"look": {"usage": 5}}, ("look",)),
        ({"siblings": []}, ("siblings",)),
        ({"done": 5}, ("done",)),
    ],
)
def test_a_problem_of_a_format_has_its_path(change: dict[str, Any], path: tuple[Any, ...]) -> None:
    tree = {key: value for key, value in load_tree("openai-chat").items() if key not in change}
    with pytest.raises(FormatRefused) as refused:
        compile_format({**tree, **change})
    assert path in [where for where, _ in refused.value.problems]


def break_somewhere(tree: Any, data: st.DataObject) -> Any:
    """The tree with one node, anywhere, replaced by something else."""
    if isinstance(tree, dict) and tree and data.draw(st.integers(0, 9)):
        key = data.draw(st.sampled_from(list(tree)))
        return {**tree, key: break_somewhere(tree[key], data)}
    if isinstance(tree, list) and tree and data.draw(st.integers(0, 9)):
        place = data.draw(st.integers(0, len(tree) - 1))
        return [*tree[:place], break_somewhere(tree[place], data), *tree[place + 1 :]]
    junk: list[Any] = [
        None,
        True,
        7,
        -1.5,
        "",
        "{{",
        "{{ x }}",
        "{% if %}",
        "$.[",
        "(",
        [],
        [1],
        {},
        {"$each": 1},
        {"$use": []},
        {1: 2},
    ]
    return data.draw(st.sampled_from(junk))


@settings(max_examples=150)
@given(
    st.data(), st.sampled_from(["openai-chat", "openai-embeddings", "anthropic-messages", "bedrock-converse"])
)
def test_a_broken_tree_is_refused_and_nothing_else(data: st.DataObject, name: str) -> None:
    try:
        form = compile_format(break_somewhere(load_tree(name), data))
    except FormatRefused as refused:
        assert refused.problems and all(isinstance(message, str) for _, message in refused.problems)
        return
    assert form.read_reply({"unheard": "of"}) if "reply" in form._templates else True


def test_one_overridden_leaf_changes_one_leaf() -> None:
    changed = compile_format(
        merge_trees(
            load_tree("openai-chat"),
            {"request": {"max_completion_tokens": None, "max_tokens": "{{ chat.max_output }}"}},
        )
    )
    chat = CHAT.read_request(REQUEST)
    body, other = CHAT.write_request(chat, WILLING), changed.write_request(chat, WILLING)
    assert other.pop("max_tokens") == body.pop("max_completion_tokens") == 100
    assert other == body


def test_shared_fragments_are_known_to_every_format() -> None:
    tree = {"format": "tiny", "operation": "chat", "request": {"messages": {"$use": "simple"}}}
    form = compile_format(tree, {"simple": {"$each": "t in chat.turns", "role": "{{ t.role }}"}})
    assert form.write_request({"model": "m", "turns": [{"role": "user", "parts": []}]}, {}) == {
        "messages": [{"role": "user"}]
    }
    with pytest.raises(NotImplementedError, match="tiny has no reply"):
        form.read_reply({})


def best_us(run: Callable[[], Any], times: int) -> float:
    best = 1.0
    for _ in range(7):
        began = time.process_time()
        for _ in range(times):
            run()
        best = min(best, (time.process_time() - began) / times)
    return best * 1e6


def test_translation_stays_within_its_budget() -> None:
    """Measured about 20, 50 and 9 µs; the bounds leave room for a busy machine."""
    chat = CHAT.read_request(REQUEST)
    events = MESSAGES.read_reply(ANSWER)
    assert best_us(lambda: MESSAGES.write_request(chat, WILLING), 100) < 150
    assert best_us(lambda: CHAT.read_request(REQUEST), 100) < 250
    assert best_us(lambda: CHAT.write_reply(events, {"id": "x"}), 100) < 150
    reader, writer = CHAT.new_stream_reader(), MESSAGES.new_stream_writer({"id": "x"})
    chunk = {
        "id": "c",
        "model": "m",
        "choices": [{"index": 0, "delta": {"content": "word"}, "finish_reason": None}],
    }
    writer.write(reader.feed(chunk))
    assert best_us(lambda: writer.write(reader.feed(chunk)), 300) < 60
