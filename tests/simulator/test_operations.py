"""Embeddings, rerank and moderations of all who have them, each by its SDK where there is one."""

import json
from typing import Any

import cohere
import httpx
import openai

from tests.simulator.launch import listen_to, make_request


def _post(port: int, path: str, **body: Any) -> Any:
    return json.loads(listen_to(port, make_request({"model": "sim/echo", **body}, path)).body)


def test_cohere_embeds_and_ranks(port: int) -> None:
    with httpx.Client() as carrier:
        client = cohere.ClientV2(api_key="k", base_url=f"http://127.0.0.1:{port}", httpx_client=carrier)
        made: Any = client.embed(
            model="sim/echo", texts=["one", "two three"], input_type="search_query", output_dimension=256,
            embedding_types=["float", "int8"],
        )  # fmt: skip
        assert [len(vector) for vector in made.embeddings.float_] == [256, 256]
        assert all(isinstance(value, int) for value in made.embeddings.int8[0])
        assert made.meta.billed_units.input_tokens == 3
        ranked: Any = client.rerank(
            model="sim/echo", query="red fox", documents=["a dog", "the red fox"], top_n=1
        )
    assert [row.index for row in ranked.results] == [1]
    assert ranked.meta.billed_units.search_units == 1


def test_an_input_type_is_required(port: int) -> None:
    assert "input_type" in _post(port, "/v2/embed", texts=["x"])["message"]


def test_rerank_has_the_shape_of_its_house(port: int) -> None:
    asked: Any = {
        "query": "red fox",
        "documents": ["a dog", {"text": "the red fox"}],
        "return_documents": True,
    }
    jina = _post(port, "/v1/rerank", **asked)
    assert [row["document"] for row in jina["results"]] == [{"text": "the red fox"}, {"text": "a dog"}]
    assert jina["usage"] == {"total_tokens": 7}
    voyage = _post(port, "/voyage/v1/rerank", **asked, top_k=1)
    assert [row["document"] for row in voyage["data"]] == ["the red fox"]
    assert _post(port, "/v1/rerank", query="", documents=["x"])["detail"].endswith("must not be empty")


def test_lists_of_embeddings_count_all_tokens(port: int) -> None:
    made = _post(
        port, "/jina/v1/embeddings", input=[{"text": "one two"}, {"image": "https://x/y.png"}], dimensions=2
    )
    assert [len(row["embedding"]) for row in made["data"]] == [2, 2]
    assert made["usage"] == {"total_tokens": 87}


async def test_moderations_flag_when_they_are_told_to(port: int) -> None:
    url = f"http://127.0.0.1:{port}/v1"
    async with openai.AsyncOpenAI(api_key="k", base_url=url, max_retries=0) as client:
        calm = await client.moderations.create(model="sim/echo", input=["one", "two"])
        assert [result.flagged for result in calm.results] == [False, False]
        parts: Any = [
            {"type": "text", "text": "x"},
            {"type": "image_url", "image_url": {"url": "https://x/y"}},
        ]
        bad = await client.moderations.create(model="sim/refuse", input=parts)
    assert [result.flagged for result in bad.results] == [True]
    assert bad.results[0].categories.violence and bad.results[0].category_scores.violence > 0.9
