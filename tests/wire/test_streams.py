"""The block machine, readers and writers: grammar of the events, repairs, one open block, several choices."""

from typing import Any

import orjson
import pytest

from engine.errors import ProviderError
from engine.wire.canonical import (
    BlockAdded,
    BlockEnded,
    BlockStarted,
    Event,
    Failed,
    Finished,
    Started,
    UsageReported,
)
from engine.wire.streams import fold, unfold
from engine.wire.usage import Usage
from tests.wire.formats_at_hand import load_format, split_events, write_stream

CHAT = load_format("openai-chat")
MESSAGES = load_format("anthropic-messages")


def chunk(choice: int = 0, finish: str | None = None, **delta: Any) -> dict[str, Any]:
    return {
        "id": "c1",
        "model": "m",
        "created": 5,
        "choices": [{"index": choice, "delta": delta, "finish_reason": finish}],
    }


def call(
    index: int | None, name: str | None = None, arguments: str = "", id: str | None = None
) -> dict[str, Any]:
    delta: dict[str, Any] = {"function": {"arguments": arguments}}
    delta |= {"index": index} if index is not None else {}
    delta |= {"id": id, "type": "function"} if id is not None else {}
    delta["function"] |= {"name": name} if name is not None else {}
    return {"tool_calls": [delta]}


def read(*docs: dict[str, Any], done: bool = False) -> list[Event]:
    reader = CHAT.new_stream_reader("seed")
    events = [event for doc in docs for event in reader.feed(doc)]
    return events + reader.close(done=done)


def parts(events: list[Event]) -> list[dict[str, Any]]:
    check_grammar(events)
    found: list[dict[str, Any]] = fold(events)["parts"]
    return found


def check_grammar(events: list[Event]) -> None:
    """Started first; blocks begin in order, are added to while open and end once; nothing of a finished choice."""
    opened: dict[tuple[int, int], str] = {}
    ended: set[tuple[int, int]] = set()
    finished: set[int] = set()
    assert isinstance(events[0], Started | Failed)
    for event in events[1:]:
        if isinstance(event, BlockStarted | BlockAdded | BlockEnded):
            key = (event.choice, event.index)
            assert event.choice not in finished
            if isinstance(event, BlockStarted):
                assert event.index == len([k for k in opened if k[0] == event.choice]) and key not in opened
                assert event.nth == len(
                    [k for k, kind in opened.items() if k[0] == event.choice and kind == event.kind]
                )
                opened[key] = event.kind
            else:
                assert opened[key] == event.kind and key not in ended
            if isinstance(event, BlockEnded):
                ended.add(key)
        elif isinstance(event, Finished):
            assert event.choice not in finished
            assert all(key in ended for key in opened if key[0] == event.choice)
            finished.add(event.choice)


def test_unmarked_blocks_are_opened_and_closed() -> None:
    events = read(
        chunk(role="assistant", content=""),
        chunk(reasoning_content="hm"),
        chunk(content="Hel"),
        chunk(content="lo"),
        chunk(finish="stop"),
        {"id": "c1", "choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}},
    )
    assert events == [
        Started("c1", "m", 5),
        BlockStarted(0, 0, 0, "reasoning", {"type": "reasoning"}),
        BlockAdded(0, 0, 0, "reasoning", "text", "hm"),
        BlockEnded(0, 0, 0, "reasoning", {"type": "reasoning", "text": "hm"}),
        BlockStarted(0, 1, 0, "text", {"type": "text"}),
        BlockAdded(0, 1, 0, "text", "text", "Hel"),
        BlockAdded(0, 1, 0, "text", "text", "lo"),
        BlockEnded(0, 1, 0, "text", {"type": "text", "text": "Hello"}),
        Finished(0, "stop"),
        UsageReported(Usage(input=3, output=2)),
    ]


def test_an_empty_first_chunk_does_not_start_the_answer() -> None:
    events = read(
        {"id": "", "model": "", "choices": [], "prompt_filter_results": []},
        chunk(content="x"),
        chunk(finish="stop"),
    )
    assert events[0] == Started("c1", "m", 5)


def test_who_answers_may_be_said_late_but_not_twice() -> None:
    unnamed = {key: value for key, value in chunk(content="a").items() if key != "id"}
    named = chunk(content="b") | {"service_tier": "flex"}
    late = read({**unnamed, "choices": []}, named, chunk(content="c") | {"id": "other"}, chunk(finish="stop"))
    assert [event for event in late if isinstance(event, Started)] == [
        Started("c1", "m", 5, {"service_tier": "flex"})
    ]


def test_calls_that_follow_each_other_end_when_the_next_begins() -> None:
    events = read(
        chunk(**call(0, "f", id="a")),
        chunk(**call(0, arguments='{"x":')),
        chunk(**call(0, arguments="1}")),
        chunk(**call(1, "g", id="b")),
        chunk(**call(1, arguments="{}")),
        chunk(finish="tool_calls"),
    )
    kinds = [(event.type, event.index) for event in events if isinstance(event, BlockStarted | BlockEnded)]
    assert kinds == [("block_started", 0), ("block_ended", 0), ("block_started", 1), ("block_ended", 1)]
    assert [part["arguments"] for part in parts(events)] == ['{"x":1}', "{}"]


def test_interleaved_arguments_stay_apart() -> None:
    events = read(
        chunk(**call(0, "f", id="a")),
        chunk(**call(1, "g", id="b")),
        chunk(**call(0, arguments='{"x":')),
        chunk(**call(1, arguments='{"y":')),
        chunk(**call(0, arguments="1}")),
        chunk(**call(1, arguments="2}")),
        chunk(finish="tool_calls"),
    )
    assert [(p["id"], p["arguments"]) for p in parts(events)] == [("a", '{"x":1}'), ("b", '{"y":2}')]


def test_a_dialect_with_one_open_block_gets_interleaved_calls_one_after_another() -> None:
    events = read(
        chunk(content="I call"),
        chunk(**call(0, "f", id="a")),
        chunk(**call(1, "g", id="b")),
        chunk(**call(1, arguments='{"y":')),
        chunk(**call(0, arguments='{"x":1}')),
        chunk(**call(1, arguments="2}")),
        chunk(finish="tool_calls"),
    )
    docs = split_events(write_stream(MESSAGES, events))
    assert [(d["type"], d["index"]) for d in docs if d["type"].startswith("content_block_st")] == [
        (f"content_block_{what}", index) for index in range(3) for what in ("start", "stop")
    ]
    given = {1: "", 2: ""}
    for doc in docs:
        if doc["type"] == "content_block_delta" and doc["index"] > 0:
            given[doc["index"]] += doc["delta"]["partial_json"]
    assert given == {1: '{"x":1}', 2: '{"y":2}'}


@pytest.mark.parametrize(
    "docs",
    [
        [call(0, "f", "{}", "a"), call(0, "g", "{}", "b")],  # every call numbered 0
        [call(None, "f", "{}", "a"), call(None, "g", "{}", "b")],  # no numbers at all
        [
            call(0, "f", '{"a":', "a"),
            call(0, None, "1}", ""),
            call(1, "g", "", "b"),
            call(1, "", "{}"),
        ],  # id "", name ""
    ],
)
def test_calls_without_proper_numbers_are_told_apart_by_their_ids(docs: list[dict[str, Any]]) -> None:
    found = parts(read(*(chunk(**doc) for doc in docs), chunk(finish="tool_calls")))
    assert [(part["id"], part["name"]) for part in found] == [("a", "f"), ("b", "g")]


def test_a_call_without_arguments_gets_an_empty_object_and_one_without_an_id_gets_one() -> None:
    events = read(chunk(**call(0, "f")), chunk(finish="stop"))
    (part,) = parts(events)
    assert part["arguments"] == "{}" and part["id"].startswith("call_")
    assert fold(events)["finish"] == {"reason": "tool_calls"}  # although the provider said stop
    again = fold(read(chunk(**call(0, "f")), chunk(finish="stop")))["parts"][0]["id"]
    assert again == part["id"]


def test_a_name_that_comes_late_holds_the_call_back() -> None:
    events = read(chunk(**call(0, None, "{", "a")), chunk(**call(0, "f", "}")), chunk(finish="tool_calls"))
    (started,) = [event for event in events if isinstance(event, BlockStarted)]
    assert started.block == {"type": "tool_call", "id": "a", "name": "f"}
    assert parts(events) == [{"type": "tool_call", "id": "a", "name": "f", "arguments": "{}"}]


def test_several_choices_are_kept_apart() -> None:
    events = read(
        chunk(0, content="a"),
        chunk(1, content="b"),
        chunk(0, content="a"),
        chunk(1, finish="length"),
        chunk(0, finish="stop"),
    )
    check_grammar(events)
    assert [(c["parts"][0]["text"], c["finish"]["reason"]) for c in fold(events)["choices"]] == [
        ("aa", "stop"),
        ("b", "length"),
    ]


def test_a_delta_with_its_finish_is_taken_first() -> None:
    events = read(chunk(content="all", finish="stop"))
    assert parts(events) == [{"type": "text", "text": "all"}]
    assert isinstance(events[-1], Finished)


def test_a_stream_that_just_stops_is_broken_and_one_with_an_end_mark_is_whole() -> None:
    assert isinstance(read(chunk(content="half"))[-1], Failed)
    assert isinstance(read()[-1], Failed)
    assert read(chunk(content="whole"), done=True)[-1] == Finished(0, "stop")
    assert isinstance(read(chunk(content="x"), chunk(finish="stop"))[-1], Finished)


def test_an_error_inside_the_stream_ends_it() -> None:
    reader = CHAT.new_stream_reader()
    reader.feed(chunk(content="a"))
    events = reader.feed({"error": {"message": "Overloaded", "type": "overloaded_error", "code": None}})
    assert events == [Failed(ProviderError("Overloaded", "overloaded_error"), 502, "503")]
    assert reader.done and reader.feed(chunk(content="b")) == [] and reader.close() == []


def test_a_finish_that_means_failure_is_one() -> None:
    (*_, last) = read(chunk(content="a"), chunk(finish="error"))
    assert isinstance(last, Failed)


@pytest.mark.parametrize(
    "doc",
    [
        [],
        "text",
        5,
        None,
        [1],
        {"choices": "no"},
        {"choices": [7]},
        {"choices": [{"delta": 5}]},
        {"choices": [{"delta": {"content": 5, "tool_calls": {"a": 1}}}]},
        {"id": {}, "choices": {}},
    ],
)
def test_documents_against_the_grammar_never_raise(doc: Any) -> None:
    reader = CHAT.new_stream_reader()
    reader.feed(doc)
    events = [*reader.feed(chunk(content="ok")), *reader.feed(chunk(finish="stop")), *reader.close()]
    assert fold(events)["parts"][-1]["text"] == "ok"


def test_a_whole_answer_in_place_of_a_stream_is_read() -> None:
    reader = MESSAGES.new_stream_reader()
    doc = {
        "id": "m1",
        "type": "message",
        "model": "m",
        "content": [{"type": "text", "text": "hi"}],
        "stop_reason": "end_turn",
        "usage": {"input_tokens": 1, "output_tokens": 2},
    }
    answer = fold([*reader.feed(doc), *reader.close()])
    assert answer["parts"] == [{"type": "text", "text": "hi"}] and answer["usage"]["completion"] == 2


def test_usage_that_comes_in_pieces_is_joined_and_the_last_value_counts() -> None:
    reader = MESSAGES.new_stream_reader()
    reader.feed(
        {
            "type": "message_start",
            "message": {
                "id": "m",
                "model": "m",
                "usage": {"input_tokens": 43, "cache_read_input_tokens": 7, "output_tokens": 1},
            },
        }
    )
    events = reader.feed(
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn"},
            "usage": {"input_tokens": 61, "output_tokens": 9},
        }
    )
    assert events[-1] == UsageReported(Usage(input=61, cached_input=7, output=9))


def test_a_plain_answer_unfolds_into_its_stream_and_folds_back() -> None:
    answer = {
        "id": "x",
        "model": "m",
        "created": 1,
        "parts": [
            {"type": "reasoning", "text": "think", "signature": "sig"},
            {"type": "text", "text": "", "citations": [{"url": "u"}]},
            {"type": "tool_call", "id": "a", "name": "f", "arguments": '{"x":1}'},
        ],
        "finish": "tool_calls",
    }
    events = unfold(answer)
    check_grammar(events)
    folded = fold(events)
    assert folded["parts"] == answer["parts"] and folded["finish"] == {"reason": "tool_calls"}


def test_kinds_without_a_word_are_left_out_and_the_places_closed_up() -> None:
    events = unfold(
        {
            "id": "x",
            "model": "m",
            "finish": "stop",
            "parts": [
                {"type": "audio", "data": "AA"},
                {"type": "refusal", "text": "no"},
                {"type": "text", "text": "but"},
            ],
        }
    )
    docs = split_events(write_stream(MESSAGES, events))
    starts = [(d["index"], d["content_block"]["type"]) for d in docs if d["type"] == "content_block_start"]
    assert starts == [(0, "text"), (1, "text")]


def test_a_failure_is_written_in_band_and_nothing_after_it() -> None:
    writer = CHAT.new_stream_writer({"id": "x"})
    failed = Failed(ProviderError("gone", "upstream_error", "upstream_error"))
    raw = writer.write([Started("x", "m"), failed, Finished(0, "stop")])
    assert split_events(raw)[-1] == {
        "error": {"message": "gone", "type": "upstream_error", "param": None, "code": "upstream_error"}
    }
    assert writer.close() == b"" and b'finish_reason":"stop' not in raw


def test_the_end_of_a_chat_stream_has_usage_only_when_it_was_asked_for() -> None:
    events = read(
        chunk(content="a"),
        chunk(finish="stop"),
        {"id": "c1", "choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}},
    )
    asked, silent = write_stream(CHAT, events), write_stream(CHAT, events, usage_asked=False)
    assert asked.endswith(b"data: [DONE]\n\n") and silent.endswith(b"data: [DONE]\n\n")
    assert split_events(asked)[-1]["choices"] == [] and split_events(asked)[-1]["usage"]["total_tokens"] == 5
    assert split_events(silent)[-1]["choices"][0]["finish_reason"] == "stop"


def test_a_messages_stream_without_content_still_has_a_block() -> None:
    docs = split_events(write_stream(MESSAGES, unfold({"id": "x", "parts": [], "finish": "content_filter"})))
    assert [doc["type"] for doc in docs] == [
        "message_start",
        "content_block_start",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert docs[-2]["delta"]["stop_reason"] == "refusal"


def test_every_messages_event_is_named_beside_its_data() -> None:
    raw = write_stream(MESSAGES, read(chunk(content="a"), chunk(finish="stop")))
    for block in raw.strip().split(b"\n\n"):
        name, data = block.split(b"\n")
        assert name.removeprefix(b"event: ").decode() == orjson.loads(data.removeprefix(b"data: "))["type"]
