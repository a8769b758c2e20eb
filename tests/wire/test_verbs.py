"""Named verbs: data URLs, ids, schemas, turns for dialects that want them otherwise."""

from typing import Any

import pytest

from engine.wire import verbs
from engine.wire.call_ids import fit_id, restore_id
from engine.wire.schemas import close_objects, inline_references, prune_schema
from engine.wire.turns import (
    answer_open_calls,
    fill_call_ids,
    find_call_names,
    has_unsigned_calls,
    join_for_two_roles,
    leave_out_blanks,
    take_opening,
    trim_last_words,
)


@pytest.mark.parametrize(
    ("url", "media_type", "data"),
    [
        ("data:image/png;base64,QUJD", "image/png", "QUJD"),
        ("data:text/plain;charset=utf-8;base64,QUJD", "text/plain", "QUJD"),
        ("data:text/plain,ABC", "text/plain", "QUJD"),
        ("data:;base64,QUJD", None, "QUJD"),
        ("https://x/1.png", None, None),
        (None, None, None),
    ],
)
def test_a_data_url_has_a_media_type_and_data(url: Any, media_type: str | None, data: str | None) -> None:
    assert (verbs.media_type_of(url), verbs.data_of(url)) == (media_type, data)


def test_an_id_that_fits_is_kept_and_another_stands_for_it_each_time_alike() -> None:
    assert fit_id("call_1") == "call_1"
    fitted = fit_id("call:1/ü", 20)
    assert fitted == fit_id("call:1/ü", 20) != fit_id("call:2/ü", 20)
    assert len(fitted) <= 20 and fitted.replace("_", "a").isalnum()
    assert len(fit_id("x" * 100, 9, "", "a-zA-Z0-9")) == 9


@pytest.mark.parametrize(
    "identity", ["functions.look:0", "a b", "ü", "call:" + "1" * 40, ".", "fit_", "\ud800"]
)
def test_an_id_that_was_fitted_is_what_it_was_when_it_comes_back(identity: str) -> None:
    fitted = fit_id(identity)
    assert 0 < len(fitted) <= 64 and fitted.replace("_", "").replace("-", "").isalnum()
    assert restore_id(fitted) == identity


@pytest.mark.parametrize("identity", ["toolu_01", "fit_", "fit_!", "fit_Zm9v", "fit_Zm9", "fit_x", None, 3])
def test_an_id_that_nobody_fitted_stays_as_it_is(identity: Any) -> None:
    assert restore_id(identity) == identity


def test_pruning_takes_keywords_and_leaves_properties_of_that_name() -> None:
    schema = {
        "$schema": "x",
        "type": "object",
        "properties": {
            "$schema": {"type": "string", "default": 1},
            "list": {"items": {"default": 2, "type": "null"}},
        },
        "anyOf": [{"default": 3}],
        "enum": ["default"],
    }
    assert prune_schema(schema, "$schema", "default") == {
        "type": "object",
        "properties": {"$schema": {"type": "string"}, "list": {"items": {"type": "null"}}},
        "anyOf": [{}],
        "enum": ["default"],
    }
    assert "$schema" in schema


def test_references_are_inlined_and_one_to_itself_ends() -> None:
    schema = {
        "properties": {"a": {"$ref": "#/$defs/A", "description": "d"}, "node": {"$ref": "#/$defs/Node"}},
        "$defs": {
            "A": {"type": "string"},
            "Node": {"type": "object", "properties": {"next": {"$ref": "#/$defs/Node"}}},
        },
    }
    assert inline_references(schema) == {
        "properties": {
            "a": {"type": "string", "description": "d"},
            "node": {"type": "object", "properties": {"next": {"type": "object"}}},
        }
    }


def text(role: str, *texts: str) -> dict[str, Any]:
    return {"role": role, "parts": [{"type": "text", "text": text} for text in texts]}


def test_a_closed_schema_takes_no_other_keys_at_any_depth() -> None:
    inner = {"type": "object", "properties": {"type": {"type": "string"}}}
    schema = {
        "properties": {"a": inner},
        "items": {"anyOf": [inner, {"type": "null"}]},
        "additionalProperties": {},
    }
    closed = {**inner, "additionalProperties": False}
    assert close_objects(schema) == {
        "properties": {"a": closed},
        "items": {"anyOf": [closed, {"type": "null"}]},
        "additionalProperties": False,
    }
    assert inner.keys() == {"type", "properties"}


def test_two_roles_join_neighbours_and_put_results_first() -> None:
    result = {"type": "tool_result", "id": "a", "parts": []}
    turns = [
        text("system", "s"),
        text("user", "u"),
        text("assistant", "x"),
        text("system", "late"),
        text("user", "v"),
    ]
    turns += [{"role": "tool", "parts": [result]}, {"role": "assistant", "parts": []}]
    assert [part["text"] for part in take_opening(turns)] == ["s"]
    assert join_for_two_roles(turns) == [
        text("user", "u"),
        text("assistant", "x"),
        {"role": "user", "parts": [result, *text("user", "late", "v")["parts"]]},
    ]
    assert take_opening([text("user", "u")]) is None and join_for_two_roles(None) == []


def test_later_system_turns_wait_for_the_end_of_what_the_user_says() -> None:
    turns = [
        text("system", "s"),
        text("user", "u"),
        text("system", "a"),
        text("user", "v"),
        text("developer", "b"),
    ]
    spoken = [*turns, text("assistant", "x"), text("system", "c")]
    assert join_for_two_roles(spoken, True) == [
        text("user", "u", "v"),
        text("system", "a", "b"),
        text("assistant", "x"),
        text("user", "c"),
    ]


def test_blank_text_and_unsigned_reasoning_are_left_out() -> None:
    blank, unsigned = {"type": "text", "text": " \n"}, {"type": "reasoning", "text": "hm"}
    signed = [{**unsigned, "signature": "s"}, {"type": "text", "text": "", "signature": "s"}]
    turns = [{"role": "assistant", "parts": [blank, unsigned, *signed]}]
    assert leave_out_blanks(turns)[0]["parts"] == [unsigned, *signed]
    assert leave_out_blanks(turns, True)[0]["parts"] == signed


def test_every_call_that_the_conversation_went_on_after_has_a_result() -> None:
    calls = {"role": "assistant", "parts": [{"type": "tool_call", "id": name, "name": "f"} for name in "ab"]}
    answer = {"type": "tool_result", "id": "b", "parts": []}
    user = {"role": "user", "parts": [answer, {"type": "text", "text": "and?"}]}
    turns = answer_open_calls([calls, user, calls])
    assert [part.get("id") for part in turns[1]["parts"]] == ["b", "a", None]
    assert turns[1]["parts"][1]["error"] is True and turns[2] == calls
    assert answer_open_calls([calls]) == [calls]


def test_an_answer_to_be_continued_does_not_end_in_white_space() -> None:
    assert trim_last_words([text("user", "u "), text("assistant", "a", "b \n")])[1] == text(
        "assistant", "a", "b"
    )
    assert trim_last_words([text("user", "u "), text("assistant", " ")]) == [text("user", "u ")]
    assert trim_last_words([text("assistant", "a "), text("user", "u ")])[1] == text("user", "u ")


def test_calls_without_the_reasoning_that_led_to_them_are_noticed() -> None:
    call, thought = {"type": "tool_call", "id": "a"}, {"type": "reasoning", "text": "hm", "signature": "s"}
    asked = text("user", "u")
    assert has_unsigned_calls([asked, {"role": "assistant", "parts": [call]}, asked])
    assert not has_unsigned_calls([asked, {"role": "assistant", "parts": [thought, call]}, asked])
    assert not has_unsigned_calls([{"role": "assistant", "parts": [call]}, text("assistant", "x"), asked])
    assert not has_unsigned_calls([asked])


def test_calls_without_ids_get_some_and_results_answer_them_in_order() -> None:
    def call(name: str) -> dict[str, Any]:
        return {"type": "tool_call", "name": name}

    def result(name: str) -> dict[str, Any]:
        return {"type": "tool_result", "name": name}

    turns: list[dict[str, Any]] = [{"role": "assistant", "parts": [call("f"), call("f"), call("g")]},
             {"role": "tool", "parts": [result("g"), result("f"), result("f"), result("h")]}]  # fmt: skip
    fill_call_ids(turns)
    calls, results = ([part["id"] for part in turn["parts"]] for turn in turns)
    assert len(set(calls)) == 3 and results[:3] == [calls[2], calls[0], calls[1]] and results[3] not in calls


def test_items_are_cut_into_turns() -> None:
    table = {"call": "assistant", "result": "tool", "default": "assistant"}
    items = [
        {"role": "user"},
        {"role": "user"},
        {"type": "message", "role": "assistant"},
        {"type": "call"},
        {"type": "other"},
        {"type": "result"},
    ]
    runs = verbs.cut_into_runs(items, table, "assistant")
    assert [(run["role"], len(run["items"])) for run in runs] == [
        ("user", 1),
        ("user", 1),
        ("assistant", 3),
        ("tool", 1),
    ]


def test_results_are_named_after_their_calls() -> None:
    turns: list[dict[str, Any]] = [
        {"role": "assistant", "parts": [{"type": "tool_call", "id": "a", "name": "f"}]},
        {"role": "tool", "parts": [{"type": "tool_result", "id": "a", "parts": []}]},
    ]
    assert find_call_names(turns)[1]["parts"][0]["name"] == "f"
    assert "name" not in turns[1]["parts"][0]


@pytest.mark.parametrize(
    "verb", sorted(set(verbs.VERBS) - {"mapped", "banded", "renamed", "clamped", "runs"})
)
def test_every_verb_takes_nothing(verb: str) -> None:
    arguments = {"replaced": ("a", "b"), "default": (None,), "gather": ("x",), "pluck": ("x",), "where": ("x",),
                 "where_not": ("x",), "split": (",",)}  # fmt: skip
    verbs.VERBS[verb](None, *arguments.get(verb, ()))
