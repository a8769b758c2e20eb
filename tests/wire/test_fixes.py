"""Declared changes of a request: what becomes of its keys and messages, and that nothing else is touched."""

from typing import Any

import pytest

from engine.wire.fixes import ParamFixes, When
from engine.wire.messages import MessageFixes
from engine.wire.splice import DROPPED, edit_members

HI = {"role": "user", "content": "hi"}


def fix(fixes: ParamFixes, body: dict[str, Any], model: str = "m") -> dict[str, Any]:
    """The body as it is sent."""
    merged = {**body, **fixes.edits(body, model)}
    return {name: value for name, value in merged.items() if value is not DROPPED}


def fix_messages(fixes: MessageFixes, *messages: dict[str, Any]) -> Any:
    return fix(ParamFixes(messages=fixes), {"messages": list(messages)})["messages"]


def test_words_are_replaced_and_null_leaves_the_key_out() -> None:
    fixes = ParamFixes(replace={"tool_choice": {"required": "any", "none": None}})
    assert fix(fixes, {"tool_choice": "required"}) == {"tool_choice": "any"}
    assert fix(fixes, {"tool_choice": "none"}) == {}
    assert fix(fixes, {"tool_choice": {"type": "function"}}) == {"tool_choice": {"type": "function"}}
    assert fix(fixes, {}) == {}


@pytest.mark.parametrize(
    ("when", "body", "fits"),
    [
        (When(models=("qwen-3*",)), {}, True),
        (When(models=("llama*", "*-32b")), {}, True),
        (When(models=("llama*",)), {}, False),
        (When(said={"tools": None}), {"tools": []}, True),
        (When(said={"tools": None}), {"tools": None}, False),
        (When(said={"tool_choice": ("none", "auto")}), {"tool_choice": "auto"}, True),
        (When(said={"tool_choice": ("none",)}), {"tool_choice": "auto"}, False),
        (When(said={"format.type": ("json",)}), {"format": {"type": "json"}}, True),
        (When(said={"format.type": ("json",)}), {"format": "json"}, False),
        (When(said={"n": (1,)}), {"n": True}, False),
        (When(unsaid={"reasoning": None}), {}, True),
        (When(unsaid={"reasoning": None}), {"reasoning": {}}, False),
        (When(models=("qwen*",), unsaid={"effort": ("none",)}), {"effort": "none"}, False),
    ],
)
def test_a_rule_is_for_the_requests_that_its_condition_fits(
    when: When, body: dict[str, Any], fits: bool
) -> None:
    assert when.fits(body, "qwen-3-32b") is fits


def test_rules_go_over_what_always_holds_in_their_order() -> None:
    fixes = ParamFixes(
        rename={"max_completion_tokens": "max_tokens"},
        default={"top_p": 1},
        rules=(
            (When(models=("r*",)), ParamFixes(rename={"max_tokens": "limit"}, drop=frozenset(["top_p"]))),
            (When(said={"max_completion_tokens": None}), ParamFixes(force={"store": False})),
        ),
    )
    assert fix(fixes, {"max_completion_tokens": 5}, "r1") == {"limit": 5, "store": False}
    assert fix(fixes, {"max_completion_tokens": 5}) == {"max_tokens": 5, "store": False, "top_p": 1}


def test_roles_and_keys_of_messages_are_renamed_and_dropped() -> None:
    fixes = MessageFixes(
        roles={"developer": "system"}, drop=frozenset(["name"]), rename={"reasoning_content": "reasoning"}
    )
    sent = fix_messages(
        fixes,
        {"role": "developer", "content": "be brief", "name": "d"},
        {"role": "assistant", "content": "x", "reasoning_content": "y"},
    )
    assert sent == [
        {"role": "system", "content": "be brief"},
        {"role": "assistant", "content": "x", "reasoning": "y"},
    ]


def test_a_role_gets_the_keys_that_its_messages_must_have() -> None:
    fixes = MessageFixes(default={"assistant": {"reasoning_content": " "}})
    assert fix_messages(fixes, HI, {"role": "assistant", "content": "x"}) == [
        HI,
        {"role": "assistant", "content": "x", "reasoning_content": " "},
    ]
    kept = {"role": "assistant", "content": "x", "reasoning_content": "y"}
    assert fix_messages(fixes, kept) == [kept]


def test_lists_of_texts_become_one_text_and_lists_with_images_stay() -> None:
    text, image = {"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "u"}}
    fixes = MessageFixes(flatten=frozenset(["user"]))
    assert fix_messages(fixes, {"role": "user", "content": [text, text]})[0]["content"] == "a\na"
    for content in ([text, image], [], "a", None, [None]):
        message = {"role": "user", "content": content}
        assert fix_messages(fixes, message) == [message]
    assert fix_messages(fixes, {"role": "system", "content": [text]})[0]["content"] == [text]


def test_ids_of_calls_and_of_their_results_become_the_same_letters_and_digits() -> None:
    call = {"id": "toolu_01-long", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    sent = fix_messages(
        MessageFixes(call_id_length=9),
        {"role": "assistant", "tool_calls": [call, {**call, "id": "abcDEF123"}]},
        {"role": "tool", "tool_call_id": "toolu_01-long", "content": "1"},
        {"role": "tool", "tool_call_id": "abcDEF123", "content": "2"},
    )
    new = sent[0]["tool_calls"][0]["id"]
    assert len(new) == 9 and new.isalnum() and sent[1]["tool_call_id"] == new
    assert sent[0]["tool_calls"][1]["id"] == sent[2]["tool_call_id"] == "abcDEF123"


def test_half_a_surrogate_pair_in_an_id_or_a_schema_does_no_harm() -> None:
    fixes = MessageFixes(call_id_length=9, tell_schema="{schema}")
    asked = {
        "messages": [{"role": "tool", "tool_call_id": "\ud800", "content": "a"}],
        "response_format": {"json_schema": {"schema": {"title": "\ud800"}}},
    }
    told, result = ParamFixes(messages=fixes).edits(asked)["messages"]
    assert "\ud800" in told["content"] and len(result["tool_call_id"]) == 9
    assert b"\\ud800" in edit_members(b"{}", {}, {"messages": [told, result]})


def test_neighbours_of_one_role_become_one_message() -> None:
    image = {"type": "image_url", "image_url": {"url": "u"}}
    tool = {"role": "tool", "tool_call_id": "c", "content": "1"}
    sent = fix_messages(
        MessageFixes(join=True), HI, HI, {"role": "user", "content": [image]}, tool, tool, {**HI, "name": "n"}
    )
    assert sent == [
        {"role": "user", "content": [{"type": "text", "text": "hi\n\nhi"}, image]},
        tool,
        tool,
        {**HI, "name": "n"},
    ]


@pytest.mark.parametrize(
    "messages",
    [
        *(
            None,
            "text",
            [1],
            [HI, None],
            [{}],
            [{"role": ["user"], "content": {}}],
            [{"role": {}, "content": [1]}] * 2,
        ),
        *(
            [{"role": "user", "content": {"a": 1}}] * 2,
            [{"role": "tool", "tool_call_id": 1, "tool_calls": [1, {}]}],
        ),
    ],
)
def test_messages_of_another_shape_are_left_to_the_provider(messages: Any) -> None:
    fixes = MessageFixes(
        roles={"human": "user"},
        default={"robot": {"a": 1}},
        flatten=frozenset(["user"]),
        call_id_length=9,
        join=True,
        tell_schema="{schema}",
    )
    asked = {"messages": messages, "response_format": {"json_schema": "none"}}
    edited = ParamFixes(messages=fixes).edits(asked).get("messages", messages)
    assert edited == messages


def test_a_conversation_that_needs_nothing_passes_byte_for_byte() -> None:
    body = b'{"messages": [ {"role":"user", "content":"hi"} ],"n":1.0}'
    fixes = ParamFixes(messages=MessageFixes(roles={"developer": "system"}, call_id_length=9, join=True))
    parsed = {"messages": [HI], "n": 1.0}
    assert edit_members(body, parsed, fixes.edits(parsed)) == body


def test_a_schema_is_told_in_words_where_it_cannot_be_sent() -> None:
    fixes = ParamFixes(
        force={"response_format": {"type": "json_object"}},
        messages=MessageFixes(tell_schema="Answer with JSON of this schema: {schema}"),
    )
    asked = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}}
    assert fix(fixes, {"messages": [HI], "response_format": asked}) == {
        "messages": [{"role": "system", "content": 'Answer with JSON of this schema: {"type":"object"}'}, HI],
        "response_format": {"type": "json_object"},
    }
    assert fix(fixes, {"messages": [HI], "response_format": {"type": "json_object"}})["messages"] == [HI]
