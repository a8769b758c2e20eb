"""Embeddings, rerank and moderations through the whole gateway: any shape at any provider, priced by unit."""

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.gateway.replay import JSON, Replay, Script, replaying
from tests.harness import ADMIN_KEY, Gateway, running, write_files

PROVIDER = """
provider: NAME
format: FORMAT
base_url: URL
auth: {bearer: key-of-NAME}
allow_private: true
passthrough: true
unknown_price: {input: "1", per_search: "0.002"}
"""
POLICY = """
policy: default
extends: default
retry: {max: 0}
breaker: {failures: 1000, min_requests: 1000}
"""
MODELS = """
models:
  order:
    price: {input: "1", per_search: "0.002"}
    targets: [{provider: searches, model: away}, {provider: searches, model: here}]
"""
FORMATS = {
    "searches": "cohere-rerank",
    "tokens": "voyage-rerank",
    "vectors": "cohere-embeddings",
    "verdicts": "mistral-moderations",
    "chats": "cohere",
}
RANKED = {
    "id": "r",
    "results": [{"index": 1, "relevance_score": 0.9}],
    "meta": {"billed_units": {"search_units": 1}},
}
QUESTION = {"query": "warm?", "documents": ["cold", "warm"], "return_documents": True}


@pytest.fixture(scope="module")
def upstream() -> Iterator[Replay]:
    with replaying() as replay:
        yield replay


@pytest.fixture(scope="module")
def gateway(upstream: Replay, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    files = {"policies.d/default.yaml": POLICY, "models.d/order.yaml": MODELS}
    for name, form in FORMATS.items():
        text = PROVIDER.replace("NAME", name).replace("FORMAT", form).replace("URL", upstream.url)
        files[f"providers.d/{name}.yaml"] = text
    started = Gateway(write_files(tmp_path_factory.mktemp("operations"), files))
    with running(started):
        yield started


@pytest.fixture(autouse=True)
def forget(upstream: Replay) -> None:
    upstream.requests.clear()


def script(body: dict[str, Any], status: int = 200) -> Script:
    return Script(json.dumps(body).encode(), JSON, status=status)


def test_a_rerank_is_answered_in_the_callers_shape_and_priced_by_search(
    upstream: Replay, gateway: Gateway
) -> None:
    upstream.scripts["one"] = script(RANKED)
    with gateway.client() as client:
        answer = client.post("/v1/rerank", json={"model": "searches/one", **QUESTION})
    assert answer.json()["results"] == [{"index": 1, "relevance_score": 0.9, "document": {"text": "warm"}}], (
        answer.text
    )
    ((head, body),) = upstream.requests
    assert head.startswith(b"POST /v2/rerank HTTP/1.1\r\n")
    assert json.loads(body) == {"model": "one", "query": "warm?", "documents": ["cold", "warm"]}
    record = gateway.find_record(answer.headers["x-request-id"])
    assert (record["surface"], record["tokens"]) == ("/v1/rerank", {"input": 0, "output": 0, "searches": 1})
    assert record["cost_usd"] == answer.headers["x-cost-usd"] == "0.002"


def test_a_rerank_fails_over_like_a_chat(upstream: Replay, gateway: Gateway) -> None:
    upstream.scripts["away"] = script({"message": "down"}, status=503)
    upstream.scripts["here"] = script(RANKED)
    with gateway.client() as client:
        answer = client.post("/v2/rerank", json={"model": "order", "query": "q", "documents": ["a", "b"]})
    assert answer.json() == RANKED and answer.headers["x-attempts"] == "2"
    assert gateway.find_record(answer.headers["x-request-id"])["cost_usd"] == "0.002"


def test_an_error_is_told_in_the_callers_shape(upstream: Replay, gateway: Gateway) -> None:
    upstream.scripts["one"] = script({"detail": "no such query"}, status=422)
    with gateway.client() as client:
        common = client.post("/v1/rerank", json={"model": "tokens/one", **QUESTION})
        other = client.post("/v2/rerank", json={"model": "tokens/one", "query": "q", "documents": ["a"]})
        empty = client.post("/v2/rerank", json={"model": "tokens/one", "query": "q", "documents": []})
    assert (common.status_code, other.status_code, empty.status_code) == (422, 422, 400)
    assert "no such query" in common.json()["error"]["message"]
    assert "no such query" in other.json()["message"] and set(other.json()) == {"id", "message"}
    assert "documents" in empty.json()["message"]


def test_the_official_client_gets_vectors_from_another_dialect(upstream: Replay, gateway: Gateway) -> None:
    upstream.scripts["one"] = script(
        {"id": "e", "embeddings": {"base64": ["AAAAPwAAgD8="]}, "meta": {"billed_units": {"input_tokens": 3}}}
    )
    with openai.OpenAI(api_key=ADMIN_KEY, base_url=f"{gateway.url}/v1", max_retries=0) as client:
        raw = client.embeddings.with_raw_response.create(model="vectors/one", input=["a"], dimensions=2)
    answer = raw.parse()
    assert answer.model == "one"
    assert answer.data[0].embedding == [0.5, 1.0] and answer.usage.prompt_tokens == 3
    ((_, body),) = upstream.requests
    assert json.loads(body)["embedding_types"] == ["base64"]
    assert gateway.find_record(raw.headers["x-request-id"])["tokens"] == {"input": 3, "output": 0}


def test_vectors_of_a_provider_that_counts_nothing_have_the_estimate(
    upstream: Replay, gateway: Gateway
) -> None:
    upstream.scripts["one"] = script({"id": "e", "embeddings": {"float": [[0.5, 1.0]]}})
    with openai.OpenAI(api_key=ADMIN_KEY, base_url=f"{gateway.url}/v1", max_retries=0) as client:
        raw = client.embeddings.with_raw_response.create(model="vectors/one", input=["four words of text"])
    usage, record = raw.parse().usage, gateway.find_record(raw.headers["x-request-id"])
    assert usage.prompt_tokens == usage.total_tokens == record["tokens"]["input"] > 1
    assert record["usage_source"] == "estimated"


def test_the_official_client_gets_a_verdict_from_another_dialect(upstream: Replay, gateway: Gateway) -> None:
    rows = {"violence_and_threats": True}
    upstream.scripts["one"] = script(
        {"id": "m", "results": [{"categories": rows, "category_scores": {"violence_and_threats": 0.9}}]}
    )
    with openai.OpenAI(api_key=ADMIN_KEY, base_url=f"{gateway.url}/v1", max_retries=0) as client:
        raw = client.moderations.with_raw_response.create(model="verdicts/one", input="a threat")
    assert raw.parse().results[0].flagged is True
    record = gateway.find_record(raw.headers["x-request-id"])
    assert (record["usage_source"], record["tokens"]["input"]) == ("estimated", 2)


def test_a_model_that_does_not_serve_the_operation_is_not_found(gateway: Gateway) -> None:
    with gateway.client() as client:
        answer = client.post("/v1/rerank", json={"model": "verdicts/one", **QUESTION})
    assert answer.status_code == 404 and "does not serve rerank" in answer.json()["detail"]
