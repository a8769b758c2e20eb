"""What a request loses is told in the words of the client's own body."""

from typing import Any

import pytest

from tests.wire.formats_at_hand import load_format

SAID = {"contents": [{"parts": [{"text": "hi"}]}]}
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAE"


def lose(dialect: str, lost: list[str], body: dict[str, Any]) -> tuple[str, ...]:
    form = load_format(dialect)
    return form.point_at(lost, form.read_request({"model": "m", **body}, {"model": "m"}), body)


def say(*content: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "hi"}, {"role": "user", "content": list(content)}]}


@pytest.mark.parametrize(
    ("dialect", "lost", "body", "pointers"),
    [
        ("openai-chat", ["seed"], {**say(), "seed": 3}, ("/seed",)),
        ("openai-chat", ["max_output"], {**say(), "max_tokens": 3}, ("/max_tokens",)),
        ("openai-chat", ["max_output"], {**say(), "max_completion_tokens": 3}, ("/max_completion_tokens",)),
        ("openai-chat", ["reasoning"], {**say(), "reasoning_effort": "low"}, ("/reasoning_effort",)),
        ("openai-chat", ["extra/mine"], {**say(), "mine": 1}, ("/mine",)),
        ("anthropic-messages", ["stop"], {**say(), "max_tokens": 9, "stop_sequences": ["x"]}, ("/stop_sequences",)),
        (
            "anthropic-messages",
            ["reasoning"],
            {**say(), "max_tokens": 9, "thinking": {"type": "enabled", "budget_tokens": 1024}},
            ("/thinking/budget_tokens", "/thinking/type"),
        ),
        ("gemini", ["seed"], {**SAID, "generationConfig": {"seed": 3}}, ("/generationConfig/seed",)),
    ],
)  # fmt: skip
def test_a_key_is_told_as_the_client_wrote_it(
    dialect: str, lost: list[str], body: dict[str, Any], pointers: tuple[str, ...]
) -> None:
    assert lose(dialect, lost, body) == pointers


@pytest.mark.parametrize(
    ("dialect", "body", "pointer"),
    [
        (
            "openai-chat",
            say({"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}}),
            "/messages/*/content/*/image_url",
        ),
        (
            "anthropic-messages",
            {"max_tokens": 9, **say({"type": "image", "source": {"type": "base64", "data": PIXEL}})},
            "/messages/*/content/*/source",
        ),
        (
            "gemini",
            {"contents": [{"role": "user", "parts": [{"inlineData": {"mimeType": "image/png", "data": PIXEL}}]}]},
            "/contents/*/parts/*/inlineData",
        ),
    ],
)  # fmt: skip
def test_a_part_is_told_where_it_stands(dialect: str, body: dict[str, Any], pointer: str) -> None:
    assert lose(dialect, ["turns/*/parts/*/image"], body) == (pointer,)


def test_two_parts_of_one_kind_are_told_once() -> None:
    images = [
        {"type": "image_url", "image_url": {"url": f"https://x.example/{number}"}} for number in range(3)
    ]
    assert lose("openai-chat", ["turns/*/parts/*/image", "seed"], {**say(*images), "seed": 1}) == (
        "/messages/*/content/*/image_url",
        "/seed",
    )


def test_what_cannot_be_found_keeps_its_own_name() -> None:
    assert lose("openai-chat", ["seed", "turns/*/parts/*/video"], say()) == (
        "/seed",
        "/turns/*/parts/*/video",
    )


def test_what_a_dialect_does_not_take_is_left_out_and_told_by_its_own_source() -> None:
    said = say(
        {"type": "image_url", "image_url": {"url": "https://images.example/1.png"}},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}},
    )
    chat, target = (
        load_format("openai-chat").read_request({"model": "m", **said}),
        load_format("bedrock-converse"),
    )
    lost = target.find_loss(chat)
    assert lost == ["turns/*/parts/*/image/url"]
    assert lose("openai-chat", lost, said) == ("/messages/*/content/*/image_url",)
    sent = target.write_request(chat, {"model": "m", "traits": target.traits})
    assert [list(block) for message in sent["messages"] for block in message["content"]] == [
        ["text"],
        ["image"],
    ]


def test_a_picture_in_a_tool_s_result_is_left_out_and_the_result_stays() -> None:
    picture = {"type": "image", "source": {"type": "url", "url": "https://images.example/1.png"}}
    result = {
        "type": "tool_result",
        "tool_use_id": "c1",
        "content": [{"type": "text", "text": "see"}, picture],
    }
    call = {"type": "tool_use", "id": "c1", "name": "look", "input": {}}
    messages = [{"role": "assistant", "content": [call]}, {"role": "user", "content": [result]}]
    chat = load_format("anthropic-messages").read_request(
        {"model": "m", "max_tokens": 9, "messages": messages}
    )
    target = load_format("bedrock-converse")
    assert target.find_loss(chat) == ["turns/*/parts/*/image/url"]
    sent = target.write_request(chat, {"model": "m", "traits": target.traits})
    assert sent["messages"][-1]["content"] == [
        {"toolResult": {"toolUseId": "c1", "content": [{"text": "see"}]}}
    ]
