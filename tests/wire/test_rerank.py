"""Documents ordered by a query: any client's dialect at any provider's."""

from typing import Any

import pytest

from engine.errors import InvalidRequest
from engine.wire.formats import Format
from engine.wire.usage import Usage
from tests.wire.formats_at_hand import load_format

COHERE, COMMON, VOYAGE = (
    load_format("cohere-rerank"),
    load_format("jina-rerank"),
    load_format("voyage-rerank"),
)
BODY = {"model": "m", "query": "warm?", "documents": ["cold", {"text": "warm"}], "top_n": 1}


@pytest.mark.parametrize(
    ("form", "sent"),
    [
        (COHERE, {"documents": ["cold", "warm"], "top_n": 1}),
        (COMMON, {"documents": ["cold", {"text": "warm"}], "top_n": 1, "return_documents": True}),
        (VOYAGE, {"documents": ["cold", "warm"], "top_k": 1, "return_documents": True}),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_a_request_is_written_in_the_words_of_each(form: Format, sent: dict[str, Any]) -> None:
    chat = COMMON.read_request({**BODY, "return_documents": True})
    assert form.write_request(chat, {"model": "up", "traits": form.traits}) == {
        "model": "up",
        "query": "warm?",
        **sent,
    }


@pytest.mark.parametrize(
    ("form", "answer", "usage"),
    [
        (
            COHERE,
            {
                "id": "r",
                "results": [{"index": 1, "relevance_score": 0.9}, {"index": 0, "relevance_score": 0}],
                "meta": {"billed_units": {"search_units": 1}},
            },
            Usage(units={"searches": 1}),  # type: ignore[dict-item]
        ),
        (
            COMMON,
            {
                "model": "up",
                "results": [
                    {"index": 1, "relevance_score": 0.9, "document": {"text": "warm"}},
                    {"index": 0, "relevance_score": 0},
                ],
                "usage": {"total_tokens": 5},
            },
            Usage(input=5),
        ),
        (
            VOYAGE,
            {
                "object": "list",
                "data": [{"index": 1, "relevance_score": 0.9}, {"index": 0, "relevance_score": 0}],
                "usage": {"total_tokens": 5},
            },
            Usage(input=5),
        ),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_an_answer_keeps_order_scores_and_documents(form: Format, answer: Any, usage: Usage) -> None:
    events = form.read_reply(answer)
    asked = {"id": "x", "chat": {**COMMON.read_request(BODY), "return_documents": True}}
    assert form.read_usage(answer) == usage
    assert COMMON.write_reply(events, asked)["results"] == [
        {"index": 1, "relevance_score": 0.9, "document": {"text": "warm"}},
        {"index": 0, "relevance_score": 0, "document": {"text": "cold"}},
    ]
    assert COHERE.write_reply(events, asked)["results"] == [
        {"index": 1, "relevance_score": 0.9},
        {"index": 0, "relevance_score": 0},
    ]


@pytest.mark.parametrize(("change", "param"), [({"documents": []}, "documents"), ({"query": None}, "query")])
def test_a_request_without_what_is_to_be_ordered_is_refused(change: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        COMMON.read_request({**BODY, **change})
    assert refused.value.param == param
