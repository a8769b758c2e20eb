"""Counting, embeddings, rankings and lists of models: every SDK that has them before every wire that has them."""

from typing import Any

import anthropic
import cohere
import openai
import pytest
from google import genai
from google.genai import types

from tests.harness import Gateway, Simulator
from tests.sdk.talks.anthropic_talk import AnthropicTalk
from tests.sdk.talks.cohere_talk import CohereTalk
from tests.sdk.talks.google_talk import GoogleTalk
from tests.sdk.talks.openai_talks import ChatTalk
from tests.sdk.talks.talk import describe_tools
from tests.sdk.wires import COUNTING, EMBEDDING, RANKING

TEXTS = ["a b", "c"]
MODEL = "sim/words"


@pytest.fixture(scope="module")
def by_openai(gateway: Gateway, api_key: str) -> Any:
    with ChatTalk.connect(gateway.url, api_key) as client:
        yield client


@pytest.fixture(scope="module")
def by_anthropic(gateway: Gateway, api_key: str) -> Any:
    with AnthropicTalk.connect(gateway.url, api_key) as client:
        yield client


@pytest.fixture(scope="module")
def by_google(gateway: Gateway, api_key: str) -> Any:
    with GoogleTalk.connect(gateway.url, api_key) as client:
        yield client


@pytest.fixture(scope="module")
def by_cohere(gateway: Gateway, api_key: str) -> Any:
    client = CohereTalk.connect(gateway.url, api_key)
    yield client
    CohereTalk.disconnect(client)


# --- counting


@pytest.mark.parametrize("wire", COUNTING)
def test_a_prompt_is_counted_as_it_is_charged(
    by_anthropic: anthropic.Anthropic, by_google: genai.Client, wire: str
) -> None:
    tools: Any = [{"name": name, "input_schema": schema} for name, schema in describe_tools()]
    asked: Any = {"model": f"{wire}/{MODEL}", "system": "Be brief.", "tools": tools}
    asked["messages"] = [{"role": "user", "content": "Hello there."}]
    counted = by_anthropic.messages.count_tokens(**asked).input_tokens
    assert counted == by_anthropic.messages.create(max_tokens=9, **asked).usage.input_tokens > 16
    short = by_google.models.count_tokens(model=f"{wire}/{MODEL}", contents="Hello there.")
    said = by_google.models.generate_content(model=f"{wire}/{MODEL}", contents="Hello there.")
    assert said.usage_metadata and short.total_tokens == said.usage_metadata.prompt_token_count == 3


# --- embeddings


@pytest.fixture(scope="module")
def vectors(simulator: Simulator) -> list[list[float]]:
    """What the simulator says without a gateway."""
    with openai.OpenAI(api_key="anything", base_url=f"{simulator.url}/v1") as client:
        return [
            row.embedding for row in client.embeddings.create(model=MODEL, input=TEXTS, dimensions=64).data
        ]


@pytest.mark.parametrize("wire", EMBEDDING)
def test_vectors_are_the_same_from_every_provider_to_every_client(
    by_openai: openai.OpenAI,
    by_google: genai.Client,
    by_cohere: cohere.ClientV2,
    vectors: list[list[float]],
    wire: str,
) -> None:
    model = f"{wire}/{MODEL}"
    packed = by_openai.embeddings.create(model=model, input=TEXTS, dimensions=64)
    assert [row.embedding for row in packed.data] == [pytest.approx(one) for one in vectors]
    plain = by_openai.embeddings.create(model=model, input="a b", dimensions=64, encoding_format="float")
    assert plain.data[0].embedding == pytest.approx(vectors[0])
    config = types.EmbedContentConfig(output_dimensionality=64)
    rows = by_google.models.embed_content(model=model, contents=TEXTS, config=config).embeddings or ()
    assert [row.values for row in rows] == [pytest.approx(one) for one in vectors]
    told = by_cohere.embed(
        model=model,
        texts=TEXTS,
        input_type="search_document",
        embedding_types=["float"],
        output_dimension=64,
    )
    assert told.embeddings.float_ == [pytest.approx(one) for one in vectors]


# --- rankings


@pytest.mark.parametrize("wire", RANKING)
def test_documents_are_ranked(by_cohere: cohere.ClientV2, wire: str) -> None:
    documents = ["cold rain", "warm sun today", "the sun"]
    told = by_cohere.rerank(model=f"{wire}/{MODEL}", query="warm sun", documents=documents, top_n=2)
    assert len(told.results) == 2 and told.results[0].index == 1
    assert told.results[0].relevance_score > told.results[1].relevance_score


# --- models


def test_every_client_lists_the_models_and_finds_one(
    by_openai: openai.OpenAI, by_anthropic: anthropic.Anthropic, by_google: genai.Client
) -> None:
    wanted = "story-teller"
    assert wanted in {model.id for model in by_openai.models.list()}
    assert by_openai.models.retrieve(wanted).id == wanted
    assert wanted in {model.id for model in by_anthropic.models.list()}
    assert by_anthropic.models.retrieve(wanted).id == wanted
    assert f"models/{wanted}" in {model.name for model in by_google.models.list()}
    assert by_google.models.get(model=wanted).name == f"models/{wanted}"
    with pytest.raises(anthropic.NotFoundError):
        by_anthropic.models.retrieve("storyteller")
    with pytest.raises(genai.errors.ClientError, match="storyteller"):
        by_google.models.get(model="storyteller")
