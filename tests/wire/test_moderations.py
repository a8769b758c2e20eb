"""Is a text acceptable? One dialect of clients, two of providers."""

from typing import Any

import pytest

from tests.wire.formats_at_hand import load_format

OPENAI, MISTRAL = load_format("openai-moderations"), load_format("mistral-moderations")
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}}


@pytest.mark.parametrize(
    "said",
    ["a", ["a", "b"], [{"type": "text", "text": "a"}, IMAGE]],
    ids=["text", "texts", "parts"],
)
def test_a_request_comes_back_as_it_was(said: Any) -> None:
    body = {"model": "m", "input": said}
    assert OPENAI.write_request(OPENAI.read_request(body), {"model": "m", "traits": {}}) == body


def test_texts_reach_a_provider_of_another_shape() -> None:
    chat = OPENAI.read_request({"model": "m", "input": "a"})
    assert MISTRAL.write_request(chat, {"model": "up", "traits": {}}) == {"model": "up", "input": ["a"]}


@pytest.mark.parametrize("bad", [True, False])
def test_an_input_is_flagged_when_one_of_its_categories_is(bad: bool) -> None:
    rows = {"violence": bad, "pii": False}
    doc = {"id": "m", "model": "up", "results": [{"categories": rows, "category_scores": {"violence": 0.5}}]}
    written = OPENAI.write_reply(MISTRAL.read_reply(doc), {"id": "x"})
    assert written == {
        "id": "m",
        "model": "up",
        "results": [{"flagged": bad, "categories": rows, "category_scores": {"violence": 0.5}}],
    }
    assert OPENAI.write_reply(OPENAI.read_reply(written), {}) == written
