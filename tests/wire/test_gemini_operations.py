"""Embeddings and token counts of the Gemini wire and of its address on Vertex."""

from typing import Any

import orjson
import pytest

from engine.wire.canonical import BlockEnded, UsageReported
from engine.wire.formats import Format
from engine.wire.streams import fold
from tests.wire.formats_at_hand import load_format

OPENAI = load_format("openai-embeddings")
BATCH, SINGLE, VERTEX = (
    load_format(name) for name in ("gemini-embeddings", "gemini-embed-content", "vertex-embeddings")
)
COUNT = load_format("gemini-count-tokens")
ASKED = {"model": "m", "input": ["a", "b"], "dimensions": 3}


def write(form: Format, chat: dict[str, Any], **traits: Any) -> Any:
    target = {"model": "up", "traits": {**form.traits, **traits}}
    return orjson.loads(orjson.dumps(form.write_request(chat, target)))


def test_each_input_is_a_request_of_its_own() -> None:
    def request(text: str) -> dict[str, Any]:
        return {"model": "models/up", "content": {"parts": [{"text": text}]}, "outputDimensionality": 3}

    assert write(BATCH, OPENAI.read_request(ASKED)) == {"requests": [request("a"), request("b")]}


def test_each_input_is_an_instance_on_vertex() -> None:
    chat = {**OPENAI.read_request(ASKED), "input_type": "query"}
    assert write(VERTEX, chat) == {
        "instances": [
            {"content": "a", "task_type": "RETRIEVAL_QUERY"},
            {"content": "b", "task_type": "RETRIEVAL_QUERY"},
        ],
        "parameters": {"outputDimensionality": 3},
    }


@pytest.mark.parametrize(
    ("form", "doc"),
    [
        (
            BATCH,
            {
                "embeddings": [{"values": [0.5, 1]}, {"values": [2, 3]}],
                "usageMetadata": {"promptTokenCount": 7},
            },
        ),
        (
            VERTEX,
            {
                "predictions": [
                    {
                        "embeddings": {
                            "values": [0.5, 1],
                            "statistics": {"token_count": 3, "truncated": False},
                        }
                    },
                    {"embeddings": {"values": [2, 3], "statistics": {"token_count": 4, "truncated": False}}},
                ],
            },
        ),
    ],
    ids=["batch", "vertex"],
)
def test_vectors_and_their_tokens_are_read(form: Format, doc: dict[str, Any]) -> None:
    events = form.read_reply(doc)
    vectors = [event.block["vector"] for event in events if isinstance(event, BlockEnded)]
    assert vectors == [[0.5, 1], [2, 3]]
    assert [event.usage.input for event in events if isinstance(event, UsageReported)] == [7]
    assert BATCH.write_reply(events, {"chat": OPENAI.read_request(ASKED)}) == {
        "embeddings": [{"values": [0.5, 1]}, {"values": [2, 3]}],
        "usageMetadata": {"promptTokenCount": 7},
    }


def test_a_clients_inputs_are_read_one_by_one_or_together() -> None:
    content = {"parts": [{"text": "a"}]}
    single = SINGLE.read_request({"content": content, "task_type": "CLUSTERING"}, {"model": "m"})
    batch = BATCH.read_request({"requests": [{"content": content, "taskType": "CLUSTERING"}]}, {"model": "m"})
    assert single["inputs"] == batch["inputs"] == ["a"]
    assert single["input_type"] == batch["input_type"] == "clustering"
    reply = SINGLE.read_reply({"embedding": {"values": [1, 2]}})
    assert SINGLE.write_reply(reply, {"chat": single})["embedding"] == {"values": [1, 2]}


REQUEST = {
    "contents": [{"role": "user", "parts": [{"text": "hi"}]}],
    "systemInstruction": {"parts": [{"text": "be brief"}]},
}


@pytest.mark.parametrize("body", [REQUEST, {"generateContentRequest": {"model": "models/m", **REQUEST}}])
def test_a_request_is_counted_whole_or_flat(body: dict[str, Any]) -> None:
    chat = COUNT.read_request(body, {"model": "m"})
    assert [turn["role"] for turn in chat["turns"]] == ["system", "user"]
    assert write(COUNT, chat) == {"generateContentRequest": {"model": "models/up", **REQUEST}}
    assert write(COUNT, chat, nested=False) == REQUEST


def test_a_count_is_a_prompts_tokens() -> None:
    events = COUNT.read_reply({"totalTokens": 12, "cachedContentTokenCount": 5})
    usage = fold(events)["usage"]
    assert (usage["prompt"], usage["cached_input"], usage["completion"]) == (12, 5, 0)
    assert COUNT.write_reply(events, {}) == {"totalTokens": 12, "cachedContentTokenCount": 5}
