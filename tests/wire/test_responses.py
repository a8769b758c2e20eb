"""The Responses wire: golden requests and streams, what the official client makes of them, odd upstream streams."""

import json
from typing import Any

import orjson
import pytest
from openai import omit
from openai.lib.streaming.responses._responses import ResponseStreamState
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from engine.errors import InvalidRequest
from engine.wire.canonical import Event, Failed, UsageReported
from engine.wire.streams import fold, unfold
from engine.wire.usage import Usage
from tests.wire.formats_at_hand import ROOT, load_format, read_stream, split_events, write_stream

RESPONSES, CHAT = load_format("openai-responses"), load_format("openai-chat")
GOLDEN = ROOT / "tests" / "wire" / "golden" / "openai-responses"
EVENTS: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)

ANSWER: dict[str, Any] = {
    "id": "up-1",
    "model": "m",
    "created": 1700000000,
    "parts": [
        {"type": "reasoning", "text": "I think.", "signature": "sealed"},
        {
            "type": "text",
            "text": "A cat.",
            "citations": [{"url": "https://cats.example", "title": "Cats", "start": 0, "end": 6}],
        },
        {"type": "tool_call", "id": "call_1", "name": "look", "arguments": '{"at": 1}'},
        {"type": "tool_call", "id": "call_2", "name": "note", "arguments": "free text", "custom": True},
        {"type": "refusal", "text": "No more."},
    ],
    "finish": "tool_calls",
}
USAGE = Usage(input=10, cached_input=5, cache_write=2, output=7, reasoning=3)
REQUEST = {"instructions": "Be brief.", "metadata": {"a": "b"}}


def read_golden(name: str) -> Any:
    return json.loads((GOLDEN / name).read_text())


def target(**traits: Any) -> dict[str, Any]:
    return {"model": "up", "traits": {**RESPONSES.traits, **traits}}


def accumulate(docs: list[Any]) -> list[Any]:
    """What the official client's own accumulator gives out, each event checked against its types before."""
    state = ResponseStreamState(input_tools=omit, text_format=omit)
    return [given for doc in docs for given in state.handle_event(EVENTS.validate_python(doc))]


def read_documents(*documents: dict[str, Any]) -> list[Event]:
    reader = RESPONSES.new_stream_reader("seed")
    events = [event for document in documents for event in reader.feed(document)]
    assert reader.damaged == 0
    return [*events, *reader.close()]


def created() -> dict[str, Any]:
    return {"type": "response.created", "response": {"id": "resp_1", "model": "m", "created_at": 5.0}}


def completed() -> dict[str, Any]:
    return {"type": "response.completed", "response": {"id": "resp_1", "status": "completed", "output": []}}


# --- requests


def test_a_request_is_read_whole() -> None:
    assert RESPONSES.read_request(read_golden("request.json")) == read_golden("chat.json")


def test_a_chat_is_written_whole() -> None:
    assert RESPONSES.write_request(read_golden("chat.json"), target()) == read_golden("sent.json")


def test_nothing_of_its_own_requests_is_lost() -> None:
    assert RESPONSES.find_loss(read_golden("chat.json")) == []


def test_calls_and_their_results_stay_together_for_chat_completions() -> None:
    written = CHAT.write_request(read_golden("chat.json"), {"model": "up", "traits": CHAT.traits})
    roles = [message["role"] for message in written["messages"][:8]]
    assert roles == ["system", "developer", "user", "assistant", "tool", "tool", "tool", "user"]
    assert [call["id"] for call in written["messages"][3]["tool_calls"]] == ["call_1", "call_2", "call_3"]


def test_a_turn_that_no_other_dialect_understands_is_left_out() -> None:
    body = {
        "model": "m",
        "input": [{"role": "user", "content": "a"}, {"type": "item_reference", "id": "ws_1"}],
    }
    chat = RESPONSES.read_request(body)
    written = CHAT.write_request(chat, {"model": "up", "traits": CHAT.traits})
    assert written["messages"] == [{"role": "user", "content": "a"}]
    assert CHAT.find_loss(chat) == ["turns/*/parts/*/native"]
    assert RESPONSES.write_request(chat, target())["input"][1] == {"type": "item_reference", "id": "ws_1"}


def test_a_chat_completion_becomes_items() -> None:
    chat = CHAT.read_request(
        {
            "model": "m",
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "Note it."},
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [
                        {"id": "c|1", "type": "custom", "custom": {"name": "note", "input": "x"}},
                    ],
                },
                {"role": "tool", "tool_call_id": "c|1", "content": "noted"},
            ],
            "reasoning_effort": "high",
            "stop": ["END"],
            "seed": 1,
        }
    )
    written = RESPONSES.write_request(chat, target())
    assert written["instructions"] == "Be brief."
    assert [item["type"] for item in written["input"]] == [
        "message",
        "custom_tool_call",
        "custom_tool_call_output",
    ]
    assert written["input"][1]["call_id"] == written["input"][2]["call_id"]
    assert written["reasoning"] == {"effort": "high"}
    assert written["include"] == ["reasoning.encrypted_content"]
    assert written["store"] is False
    assert RESPONSES.find_loss(chat) == ["seed", "stop"]


def test_thoughts_go_back_sealed_and_never_alone() -> None:
    turns = [
        {
            "role": "assistant",
            "parts": [
                {"type": "reasoning", "text": "a", "id": "rs_1"},
                {"type": "text", "text": "b"},
            ],
        },
        {"role": "assistant", "parts": [{"type": "reasoning", "text": "cut short", "signature": "s"}]},
    ]
    written = RESPONSES.write_request({"model": "m", "turns": turns}, target())
    assert [item["type"] for item in written["input"]] == ["message"]
    replayed = RESPONSES.write_request({"model": "m", "turns": turns[:1]}, target(replays_reasoning=True))
    assert replayed["input"][0]["content"] == [{"type": "reasoning_text", "text": "a"}]


def test_traits_say_what_a_provider_takes() -> None:
    chat = {
        "model": "m",
        "turns": [
            {"role": "user", "parts": [{"type": "text", "text": "a", "cache": {"ttl": "1h"}}]},
        ],
        "temperature": 0.5,
        "reasoning": {"budget": 9000},
    }
    plain = RESPONSES.write_request(chat, target())
    assert (plain["temperature"], plain["reasoning"]) == (0.5, {"effort": "medium"})
    bare = RESPONSES.write_request(
        chat, target(sampling=False, summary="auto", encrypted_reasoning=False, cache_marks=True)
    )
    assert "temperature" not in bare
    assert "include" not in bare
    assert bare["reasoning"] == {"effort": "medium", "summary": "auto"}
    assert bare["input"][0]["content"][0]["prompt_cache_breakpoint"] == {"mode": "explicit", "ttl": "12h"}
    able = {**target(), "capabilities": ["reasoning"]}
    assert RESPONSES.write_request({"model": "m", "turns": []}, able)["include"] == [
        "reasoning.encrypted_content"
    ]


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"background": True}, "background"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"input": 3}, "input"),
        ({"input": ["a"]}, "input[0]"),
        ({"input": [{"role": "clown", "content": "a"}]}, "input[0].role"),
        ({"input": [{"role": "user", "content": 3}]}, "input[0].content"),
        ({"tools": [{"name": "x"}]}, "tools[0].type"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"text": {"format": "json"}}, "text.format"),
    ],
)
def test_what_the_dialect_forbids_is_refused_with_its_place(change: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        RESPONSES.read_request({"model": "m", "input": "hi", **change})
    assert refused.value.param == param


def test_a_request_that_says_no_to_background_passes() -> None:
    assert RESPONSES.read_request({"model": "m", "input": "hi", "background": False})["turns"]


# --- answers


def test_a_stream_is_written_as_the_golden_one() -> None:
    events = [*unfold(ANSWER), UsageReported(USAGE)]
    assert write_stream(RESPONSES, events, request=REQUEST) == (GOLDEN / "stream.txt").read_bytes()


def test_the_official_client_ends_with_the_plain_answer() -> None:
    events = [*unfold(ANSWER), UsageReported(USAGE)]
    docs = split_events(write_stream(RESPONSES, events, request=REQUEST))
    asked = {"id": "answer-1", "created": 1700000000, "request": REQUEST}
    plain = orjson.loads(orjson.dumps(RESPONSES.write_reply(events, asked)))
    given = accumulate(docs)
    assert given[-1].type == "response.completed"
    assert docs[-1]["response"] == plain
    assert given[-1].response.output_text == "A cat."
    assert [item.type for item in Response.model_validate(plain).output] == [
        "reasoning",
        "message",
        "function_call",
        "custom_tool_call",
        "message",
    ]
    assert [doc["sequence_number"] for doc in docs] == list(range(len(docs)))
    assert plain["usage"] == {
        "input_tokens": 17,
        "input_tokens_details": {"cached_tokens": 5, "cache_write_tokens": 2},
        "output_tokens": 10,
        "output_tokens_details": {"reasoning_tokens": 3},
        "total_tokens": 27,
    }


def test_the_settings_of_the_request_are_told_again() -> None:
    asked = {"id": "1", "request": read_golden("request.json")}
    told = RESPONSES.write_reply(unfold(ANSWER), asked)
    for key in ("instructions", "tools", "tool_choice", "temperature", "metadata", "truncation", "user"):
        assert told[key] == asked["request"][key]
    assert told["text"] == asked["request"]["text"]
    assert told["parallel_tool_calls"] is False


@pytest.mark.parametrize(
    ("finish", "status", "details"),
    [
        ("stop", "completed", None),
        ("length", "incomplete", {"reason": "max_output_tokens"}),
        ("content_filter", "incomplete", {"reason": "content_filter"}),
    ],
)
def test_why_an_answer_ended_is_told(finish: str, status: str, details: Any) -> None:
    answer = {"id": "1", "model": "m", "parts": [{"type": "text", "text": "a"}], "finish": finish}
    docs = split_events(write_stream(RESPONSES, unfold(answer)))
    assert docs[-1]["type"] == f"response.{status}"
    assert (docs[-1]["response"]["status"], docs[-1]["response"]["incomplete_details"]) == (status, details)
    accumulate(docs)
    assert fold(read_stream(RESPONSES, [write_stream(RESPONSES, unfold(answer))]))["finish"] == {
        "reason": finish
    }


def test_a_failure_inside_a_stream_is_told_twice_and_read_once() -> None:
    reader = CHAT.new_stream_reader()
    events = [
        *reader.feed({"id": "1", "choices": [{"index": 0, "delta": {"content": "half"}}]}),
        *reader.feed({"error": {"message": "it broke", "code": "server_error"}}),
    ]
    raw = write_stream(RESPONSES, events)
    docs = split_events(raw)
    assert [doc["type"] for doc in docs[-2:]] == ["error", "response.failed"]
    assert docs[-2]["message"] == docs[-2]["error"]["message"] == "it broke"
    assert docs[-1]["response"]["error"] == {"code": "server_error", "message": "it broke"}
    EVENTS.validate_python(docs[-1])
    failed = read_stream(RESPONSES, [raw])[-1]
    assert isinstance(failed, Failed)
    assert failed.message == "it broke"


def test_a_block_of_another_issuer_leaves_no_gap() -> None:
    parts = [
        {"type": "native", "issuer": "stranger", "block": {"type": "x"}},
        {"type": "text", "text": "a"},
        {"type": "native", "issuer": "openai", "block": {"type": "web_search_call", "id": "ws_1"}},
    ]
    answer = {"id": "1", "model": "m", "parts": parts, "finish": "stop"}
    docs = split_events(write_stream(RESPONSES, unfold(answer)))
    assert [doc["output_index"] for doc in docs if doc["type"] == "response.output_item.added"] == [0, 1]
    assert [item["type"] for item in docs[-1]["response"]["output"]] == ["message", "web_search_call"]


def test_pictures_that_were_made_are_items() -> None:
    parts = [{"type": "image", "media_type": "image/png", "data": "aGk="}]
    answer = {"id": "1", "model": "m", "parts": parts, "finish": "stop"}
    docs = split_events(write_stream(RESPONSES, unfold(answer)))
    accumulate(docs)
    assert docs[-1]["response"]["output"][0]["result"] == "aGk="
    assert fold(RESPONSES.read_reply(docs[-1]["response"]))["parts"][0]["data"] == "aGk="


# --- upstream streams that are odd


def test_items_whose_ids_change_with_every_event_are_one_item() -> None:
    events = read_documents(
        created(),
        {
            "type": "response.output_item.added",
            "output_index": 0,
            "item": {"type": "function_call", "id": "a", "call_id": "c1", "name": "look", "arguments": ""},
        },
        {
            "type": "response.function_call_arguments.delta",
            "output_index": 0,
            "item_id": "b",
            "delta": "{}",
        },
        {
            "type": "response.output_item.done",
            "output_index": 0,
            "item": {"type": "function_call", "id": "d", "call_id": "c1", "name": "look", "arguments": "{}"},
        },
        completed(),
    )
    assert fold(events)["parts"] == [{"type": "tool_call", "id": "c1", "name": "look", "arguments": "{}"}]
    assert fold(events)["finish"] == {"reason": "tool_calls"}


def test_items_that_were_never_told_piece_by_piece_are_taken_whole() -> None:
    message = {
        "type": "message",
        "content": [{"type": "output_text", "text": "a"}, {"type": "refusal", "refusal": "b"}],
    }
    call = {"type": "custom_tool_call", "call_id": "c1", "name": "note", "input": "x"}
    events = read_documents(
        created(),
        {"type": "response.output_item.done", "output_index": 0, "item": message},
        {"type": "response.output_item.done", "output_index": 1, "item": call},
        completed(),
    )
    assert [(part["type"], part.get("text") or part.get("arguments")) for part in fold(events)["parts"]] == [
        ("text", "a"),
        ("refusal", "b"),
        ("tool_call", "x"),
    ]


def test_text_without_a_part_is_text_and_is_not_told_twice() -> None:
    text = {"type": "message", "content": [{"type": "output_text", "text": "ab"}]}
    events = read_documents(
        created(),
        {"type": "response.output_text.delta", "output_index": 0, "content_index": 0, "delta": "ab"},
        {"type": "response.output_text.done", "output_index": 0, "content_index": 0, "text": "ab"},
        {"type": "response.output_item.done", "output_index": 0, "item": text},
        {"type": "response.something.new", "output_index": 0},
        completed(),
    )
    assert fold(events)["parts"] == [{"type": "text", "text": "ab"}]


def test_the_seal_of_a_finished_thought_counts_and_its_summaries_are_kept_apart() -> None:
    item = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "early"}
    whole = [{"type": "summary_text", "text": "a"}, {"type": "summary_text", "text": "b"}]
    done = {**item, "encrypted_content": "late", "summary": whole}
    delta = {"type": "response.reasoning_summary_text.delta", "output_index": 0}
    events = read_documents(
        created(),
        {"type": "response.output_item.added", "output_index": 0, "item": item},
        {"type": "response.reasoning_summary_part.added", "output_index": 0, "summary_index": 0},
        {**delta, "summary_index": 0, "delta": "a"},
        {"type": "response.reasoning_summary_part.added", "output_index": 0, "summary_index": 1},
        {**delta, "summary_index": 1, "delta": "b"},
        {"type": "response.output_item.done", "output_index": 0, "item": done},
        completed(),
    )
    streamed = fold(events)["parts"]
    plain = fold(RESPONSES.read_reply({"id": "1", "model": "m", "status": "completed", "output": [done]}))
    assert streamed == plain["parts"]
    assert streamed[0]["signature"] == "late"
    assert streamed[0]["text"] == "a\n\nb"


@pytest.mark.parametrize(
    "event",
    [
        {"type": "error", "code": "insufficient_quota", "message": "no money", "param": None},
        {"type": "error", "error": {"code": "insufficient_quota", "message": "no money"}},
        {
            "type": "response.failed",
            "response": {
                "status": "failed",
                "error": {"code": "insufficient_quota", "message": "no money"},
            },
        },
    ],
    ids=["flat", "nested", "failed"],
)
def test_every_way_of_failing_is_a_failure_of_its_kind(event: dict[str, Any]) -> None:
    failed = read_documents(created(), event)[-1]
    assert isinstance(failed, Failed)
    assert (failed.message, failed.kind) == ("no money", "402")


def test_an_answer_that_goes_on_elsewhere_is_a_failure() -> None:
    reply = {"id": "1", "model": "m", "status": "queued", "output": []}
    failed = RESPONSES.read_reply(reply)[-1]
    assert isinstance(failed, Failed)
    assert failed.message == "the provider left the answer queued"
