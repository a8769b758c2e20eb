"""Embeddings of any client's dialect at any provider's: inputs, purposes, encodings, usage."""

from typing import Any

import pytest

from engine.errors import InvalidRequest
from engine.wire.formats import Format
from engine.wire.usage import Usage
from tests.wire.formats_at_hand import load_format

OPENAI, COHERE, VOYAGE, JINA, OLLAMA = (
    load_format(f"{name}-embeddings") for name in ("openai", "cohere", "voyage", "jina", "ollama")
)
IMAGE = "data:image/png;base64,aGk="
HALVES = "AAAAPwAAgD8="  # 0.5 and 1.0


def write(form: Format, surface: Format, body: dict[str, Any], **traits: Any) -> dict[str, Any]:
    target = {"model": "up", "traits": {**form.traits, **traits}}
    return form.write_request(surface.read_request({"model": "m", **body}), target)


ASKED = {"input": ["a", "b"], "dimensions": 2, "encoding_format": "base64", "input_type": "query"}


@pytest.mark.parametrize(
    ("form", "sent"),
    [
        (
            COHERE,
            {
                "texts": ["a", "b"],
                "input_type": "search_query",
                "embedding_types": ["base64"],
                "output_dimension": 2,
            },
        ),
        (
            VOYAGE,
            {"input": ["a", "b"], "input_type": "query", "output_dimension": 2, "encoding_format": "base64"},
        ),
        (
            JINA,
            {"input": ["a", "b"], "task": "retrieval.query", "dimensions": 2, "embedding_type": "base64"},
        ),
        (OLLAMA, {"input": ["a", "b"], "dimensions": 2}),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_a_common_request_is_written_in_the_words_of_each(form: Format, sent: dict[str, Any]) -> None:
    assert write(form, OPENAI, ASKED) == {"model": "up", **sent}


def test_a_purpose_that_the_wire_demands_has_a_default_and_a_trait() -> None:
    assert write(COHERE, OPENAI, {"input": "a"})["input_type"] == "search_document"
    assert write(COHERE, OPENAI, {"input": "a"}, input_type="query")["input_type"] == "search_query"


def test_a_purpose_reaches_servers_that_know_passages_only_where_the_trait_says_so() -> None:
    body = {"texts": ["a"], "input_type": "search_document"}
    assert write(OPENAI, COHERE, body, input_types=True) == {
        "model": "up",
        "input": "a",
        "input_type": "passage",
    }
    assert write(OPENAI, COHERE, body) == {"model": "up", "input": "a"}


@pytest.mark.parametrize("tokens", [[1, 2], [[1, 2], [3]]], ids=["one", "several"])
def test_token_ids_stay_token_ids_or_are_lost(tokens: Any) -> None:
    assert write(OPENAI, OPENAI, {"input": tokens}) == {"model": "up", "input": tokens}
    assert COHERE.find_loss(OPENAI.read_request({"model": "m", "input": tokens})) == ["token_inputs"]


def test_images_are_inputs_where_the_wire_has_them() -> None:
    body = {"images": [IMAGE], "input_type": "image", "embedding_types": ["float"]}
    assert write(JINA, COHERE, body)["input"] == [{"image": "aGk="}]
    assert write(COHERE, COHERE, body)["inputs"] == [
        {"content": [{"type": "image_url", "image_url": {"url": IMAGE}}]}
    ]


@pytest.mark.parametrize("types", ["float", [["float"]], [{"type": "float"}]])
def test_encodings_that_are_no_words_are_refused(types: Any) -> None:
    body = {"model": "m", "texts": ["a"], "input_type": "search_query", "embedding_types": types}
    with pytest.raises(InvalidRequest) as refused:
        COHERE.read_request(body)
    assert "embedding_types" in str(refused.value)


ANSWERS = [
    (
        OPENAI,
        {
            "object": "list",
            "model": "up",
            "data": [{"object": "embedding", "index": 0, "embedding": [0.5, 1.0]}],
            "usage": {"prompt_tokens": 3, "total_tokens": 3},
        },
    ),
    (
        COHERE,
        {
            "id": "e",
            "embeddings": {"float": [[0.5, 1.0]]},
            "meta": {"billed_units": {"input_tokens": 3}},
        },
    ),
    (VOYAGE, {"model": "up", "data": [{"index": 0, "embedding": HALVES}], "usage": {"total_tokens": 3}}),
    (JINA, {"model": "up", "data": [{"index": 0, "embedding": [0.5, 1.0]}], "usage": {"total_tokens": 3}}),
    (OLLAMA, {"model": "up", "embeddings": [[0.5, 1.0]], "prompt_eval_count": 3}),
]


@pytest.mark.parametrize(("form", "answer"), ANSWERS, ids=lambda value: getattr(value, "name", ""))
@pytest.mark.parametrize(("encoding", "vector"), [("float", [0.5, 1.0]), ("base64", HALVES)])
def test_an_answer_comes_in_the_encoding_that_was_asked_for(
    form: Format, answer: dict[str, Any], encoding: str, vector: Any
) -> None:
    events = form.read_reply(answer)
    asked = {"id": "x", "model": "m", "chat": {"encoding": encoding, "inputs": ["a"]}}
    assert form.read_usage(answer) == Usage(input=3)
    assert OPENAI.write_reply(events, asked)["data"] == [
        {"object": "embedding", "index": 0, "embedding": vector}
    ]
    written = COHERE.write_reply(events, asked)
    assert (written["embeddings"], written["texts"]) == ({encoding: [vector]}, ["a"])
    assert written["meta"]["billed_units"]["input_tokens"] == 3


def test_images_that_are_billed_are_a_unit() -> None:
    usage = COHERE.read_usage({"meta": {"billed_units": {"images": 2, "image_tokens": 500}}})
    assert usage is not None and (usage.input, usage.units) == (500, {"images": 2})
