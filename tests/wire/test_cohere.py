"""Chat v2 of documents, tool plans and citations: read and written in both directions."""

from typing import Any

import orjson
import pytest

from engine.errors import InvalidRequest
from engine.wire.canonical import Failed
from engine.wire.streams import fold, unfold
from tests.wire.formats_at_hand import load_format, read_stream, split_events, write_stream

COHERE, CHAT = load_format("cohere"), load_format("openai-chat")
TARGET = {"model": "up", "traits": COHERE.traits}

REQUEST: dict[str, Any] = {
    "model": "m",
    "messages": [
        {"role": "system", "content": "Be brief."},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "How warm?"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk=", "detail": "low"}},
            ],
        },
        {
            "role": "assistant",
            "tool_plan": "I will look.",
            "tool_calls": [
                {"id": "look_1", "type": "function", "function": {"name": "look", "arguments": '{"at":1}'}}
            ],
        },
        {
            "role": "tool",
            "tool_call_id": "look_1",
            "content": [{"type": "document", "document": {"id": "d9", "data": {"degrees": 20}}}],
        },
        {"role": "user", "content": "Sure?"},
    ],
    "documents": ["plain", {"id": "d1", "data": {"title": "Almanac", "text": "It is warm."}}],
    "tools": [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}],
    "strict_tools": True,
    "tool_choice": "REQUIRED",
    "citation_options": {"mode": "FAST"},
    "safety_mode": "STRICT",
    "response_format": {"type": "json_object", "json_schema": {"type": "object"}},
    "thinking": {"type": "enabled", "token_budget": 500},
    "max_tokens": 9,
    "stop_sequences": ["END"],
    "temperature": 0.5,
    "p": 0.5,
    "k": 3,
    "seed": 7,
    "logprobs": True,
}


def test_a_request_comes_back_as_it_was() -> None:
    assert COHERE.write_request(COHERE.read_request(REQUEST), {**TARGET, "model": "m"}) == REQUEST


def test_documents_and_plans_reach_a_dialect_that_has_neither() -> None:
    written = CHAT.write_request(COHERE.read_request(REQUEST), {"model": "up"})
    assert written["messages"][1]["content"][:2] == [
        {"type": "text", "text": "plain"},
        {"type": "text", "text": "It is warm."},
    ]
    assert written["messages"][2]["content"] == "I will look."
    assert written["messages"][3]["content"] == '{"degrees":20}'
    assert written["response_format"]["type"] == "json_schema"
    assert {"extra/citation_options", "extra/safety_mode"} <= {*CHAT.find_loss(COHERE.read_request(REQUEST))}


def test_a_document_between_the_words_becomes_a_document_of_the_request() -> None:
    parts = [
        {"type": "document", "title": "T", "text": "words"},
        {"type": "document", "media_type": "text/plain", "data": "aGk="},
        {"type": "text", "text": "Well?"},
    ]
    body = COHERE.write_request({"model": "m", "turns": [{"role": "user", "parts": parts}]}, TARGET)
    assert body["documents"] == [{"data": {"title": "T", "text": "words"}}, {"data": {"text": "hi"}}]
    assert body["messages"] == [{"role": "user", "content": "Well?"}]


def test_a_document_that_is_no_text_is_lost() -> None:
    parts = [
        {"type": "document", "media_type": "application/pdf", "data": "aGk="},
        {"type": "document", "text": "words"},
    ]
    chat = {"model": "m", "turns": [{"role": "user", "parts": parts}]}
    assert COHERE.find_loss(chat) == ["turns/*/parts/*/document/data"]


@pytest.mark.parametrize(
    ("choice", "names", "wire"),
    [
        ({"mode": "auto"}, ["a", "b"], None),
        ({"mode": "none"}, ["a", "b"], "NONE"),
        ({"mode": "required"}, ["a", "b"], "REQUIRED"),
        ({"mode": "tool", "name": "b"}, ["b"], "REQUIRED"),
        ({"mode": "allowed", "names": ["a"]}, ["a"], None),
        ({"mode": "allowed", "names": ["a"], "force": True}, ["a"], "REQUIRED"),
    ],
)
def test_a_tool_that_must_be_called_is_the_only_one(choice: Any, names: list[str], wire: Any) -> None:
    tools = [{"type": "function", "name": "a"}, {"type": "function", "name": "b"}]
    body = COHERE.write_request({"model": "m", "turns": [], "tools": tools, "tool_choice": choice}, TARGET)
    assert [tool["function"]["name"] for tool in body["tools"]] == names
    assert body.get("tool_choice") == wire


@pytest.mark.parametrize(
    ("reasoning", "thinking"),
    [
        ({"effort": "low"}, {"type": "enabled", "token_budget": 1024}),
        ({"effort": "none"}, {"type": "disabled"}),
        ({"enabled": False}, {"type": "disabled"}),
        ({"enabled": True}, {"type": "enabled"}),
        ({"budget": 77}, {"type": "enabled", "token_budget": 77}),
        ({}, None),
    ],
)
def test_efforts_and_budgets_become_thinking(reasoning: Any, thinking: Any) -> None:
    body = COHERE.write_request({"model": "m", "turns": [], "reasoning": reasoning}, TARGET)
    assert body.get("thinking") == thinking


STREAM = b"".join(
    b"event: " + event["type"].encode() + b"\ndata: " + orjson.dumps(event) + b"\n\n"
    for event in (
        {"id": "r1", "type": "message-start", "delta": {"message": {"role": "assistant", "content": []}}},
        {
            "type": "content-start",
            "index": 0,
            "delta": {"message": {"content": {"type": "thinking", "thinking": ""}}},
        },
        {"type": "content-delta", "index": 0, "delta": {"message": {"content": {"thinking": "hm"}}}},
        {"type": "content-end", "index": 0},
        {
            "type": "content-start",
            "index": 1,
            "delta": {"message": {"content": {"type": "text", "text": ""}}},
        },
        {"type": "content-delta", "index": 1, "delta": {"message": {"content": {"text": "It is "}}}},
        {
            "type": "content-delta",
            "index": 1,
            "delta": {"message": {"content": {"text": "warm."}}},
            "logprobs": {"text": "warm.", "token_ids": [4], "logprobs": [-0.5]},
        },
        {
            "type": "citation-start",
            "index": 0,
            "delta": {
                "message": {
                    "citations": {
                        "start": 6,
                        "end": 10,
                        "text": "warm",
                        "sources": [{"type": "document", "id": "d1", "document": {"title": "Almanac"}}],
                        "type": "TEXT_CONTENT",
                    }
                }
            },
        },
        {"type": "citation-end", "index": 0},
        {"type": "content-end", "index": 1},
        {
            "type": "message-end",
            "delta": {
                "finish_reason": "MAX_TOKENS",
                "usage": {
                    "billed_units": {"input_tokens": 119, "output_tokens": 44},
                    "tokens": {"input_tokens": 1549, "output_tokens": 95},
                    "cached_tokens": 1504,
                },
            },
        },
    )
)
CALLS = b"".join(
    b"data: " + orjson.dumps(event) + b"\n\n"
    for event in (
        {"id": "r2", "type": "message-start", "delta": {"message": {"role": "assistant"}}},
        {"type": "tool-plan-delta", "delta": {"message": {"tool_plan": "I will"}}},
        {"type": "tool-plan-delta", "delta": {"message": {"tool_plan": " look."}}},
        *(
            event
            for index, name, piece in ((0, "look", None), (1, "wait", '{"s":2}'))
            for event in (
                {
                    "type": "tool-call-start",
                    "index": index,
                    "delta": {
                        "message": {
                            "tool_calls": {
                                "id": f"{name}_1",
                                "type": "function",
                                "function": {"name": name, "arguments": ""},
                            }
                        }
                    },
                },
                *(
                    [
                        {
                            "type": "tool-call-delta",
                            "index": index,
                            "delta": {"message": {"tool_calls": {"function": {"arguments": piece}}}},
                        }
                    ]
                    if piece
                    else []
                ),
                {"type": "tool-call-end", "index": index},
            )
        ),
        {"type": "message-end", "delta": {"finish_reason": "TOOL_CALL"}},
    )
)
CITATION = {
    "start": 6,
    "end": 10,
    "text": "warm",
    "title": "Almanac",
    "sources": [{"type": "document", "id": "d1", "document": {"title": "Almanac"}}],
}


def test_a_stream_is_read_with_its_thoughts_citations_and_what_is_billed() -> None:
    answer = fold(read_stream(COHERE, [STREAM]))
    assert answer["parts"] == [
        {"type": "reasoning", "text": "hm"},
        {
            "type": "text",
            "text": "It is warm.",
            "citations": [CITATION],
            "logprobs": [{"token": "warm.", "logprob": -0.5, "token_ids": [4], "top_logprobs": []}],
        },
    ]
    assert (answer["id"], answer["finish"]["reason"]) == ("r1", "length")
    assert (answer["usage"]["input"], answer["usage"]["output"]) == (119, 44)


def test_calls_of_a_stream_are_read_apart_and_one_without_arguments_has_an_empty_object() -> None:
    answer = fold(read_stream(COHERE, [CALLS]))
    assert [(p["type"], p.get("text") or p.get("arguments")) for p in answer["parts"]] == [
        ("text", "I will look."),
        ("tool_call", "{}"),
        ("tool_call", '{"s":2}'),
    ]
    assert answer["finish"]["reason"] == "tool_calls"


@pytest.mark.parametrize("raw", [STREAM, CALLS], ids=["text", "calls"])
def test_byte_by_byte_a_stream_says_the_same(raw: bytes) -> None:
    whole = read_stream(COHERE, [raw])
    assert read_stream(COHERE, [raw[i : i + 1] for i in range(len(raw))]) == whole


@pytest.mark.parametrize("raw", [STREAM, CALLS], ids=["text", "calls"])
def test_a_written_answer_and_a_written_stream_say_what_was_read(raw: bytes) -> None:
    events = read_stream(COHERE, [raw])
    answer = fold(events)
    streamed = fold(read_stream(COHERE, [write_stream(COHERE, events)]))
    plain = fold(COHERE.read_reply(COHERE.write_reply(events, {"id": "x"})))
    assert streamed["parts"] == plain["parts"] == answer["parts"]
    assert streamed["finish"] == plain["finish"] == answer["finish"]
    assert streamed["usage"] == plain["usage"] == answer["usage"]


def test_a_stream_of_another_dialect_is_written_block_after_block() -> None:
    parts = [
        {"type": "reasoning", "text": "hm"},
        {"type": "tool_call", "id": "c1", "name": "look", "arguments": "{}"},
        {
            "type": "text",
            "text": "done",
            "citations": [{"url": "https://a", "title": "A", "start": 0, "end": 2}],
        },
    ]
    events = unfold({"id": "x", "parts": parts, "finish": "stop"})
    written = split_events(write_stream(COHERE, events))
    assert [event["type"] for event in written] == [
        *("message-start", "content-start", "content-delta", "content-end"),
        *("tool-call-start", "tool-call-delta", "tool-call-end"),
        *("content-start", "content-delta", "citation-start", "citation-end", "content-end"),
        "message-end",
    ]
    assert [event["index"] for event in written[1:-1]] == [0, 0, 0, 0, 0, 0, 1, 1, 0, 0, 1]
    citation = written[9]["delta"]["message"]["citations"]
    assert (citation["text"], citation["content_index"]) == ("do", 1)
    assert citation["sources"][0]["document"]["url"] == "https://a"


@pytest.mark.parametrize(
    ("end", "message"),
    [
        ({"type": "message-end", "delta": {"finish_reason": "ERROR", "error": "too hot"}}, "too hot"),
        ({"type": "error", "error": {"message": "overloaded"}}, "overloaded"),
        ({"message": "internal server error", "id": "e1"}, "internal server error"),
    ],
)
def test_a_failure_in_a_stream_is_told(end: dict[str, Any], message: str) -> None:
    failed = read_stream(
        COHERE, [STREAM[:300].rpartition(b"event: ")[0], b"data: " + orjson.dumps(end) + b"\n\n"]
    )[-1]
    assert isinstance(failed, Failed) and failed.message == message
    written = split_events(write_stream(COHERE, [failed]))
    assert written == [{"type": "message-end", "delta": {"error": message, "finish_reason": "ERROR"}}]


@pytest.mark.parametrize(
    ("status", "message", "kind"),
    [
        (400, "too many tokens: size limit exceeded by 12 tokens", "context_length_exceeded"),
        (429, "You are using a Trial key, which is limited to 20 API calls", "429"),
        (422, "model is required", "invalid_request"),
        (500, "internal", None),
    ],
)
def test_errors_are_flat(status: int, message: str, kind: str | None) -> None:
    error = COHERE.read_error(status, {"message": message, "id": "e1"}, "")
    assert (error.message, COHERE.kind_of_error(status, error)) == (message, kind)
    assert COHERE.write_error({"message": message, "request_id": "q"}) == {"id": "q", "message": message}


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"messages": None}, "messages"),
        ({"messages": [{"role": "developer", "content": "x"}]}, "messages[0].role"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"stop_sequences": "END"}, "stop_sequences"),
    ],
)
def test_a_request_that_the_dialect_forbids_names_the_field(change: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        COHERE.read_request({**REQUEST, **change})
    assert refused.value.param == param
