"""Embeddings and rerank as Cohere, Voyage and Jina speak them. What shares a path with another has its own prefix."""

import base64
import struct
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import orjson

from engine.upstream.simulator.dialog import (
    TOKENS_PER_IMAGE,
    Ask,
    Counts,
    Refused,
    Ticket,
    Turn,
    Wire,
    Written,
    digest_turns,
    no_events,
)
from engine.upstream.simulator.embeddings import make_vector
from engine.upstream.simulator.names import Script
from engine.upstream.simulator.text import count_words, mix
from engine.upstream.simulator.wires.cohere import write_error as write_flat_error
from engine.upstream.simulator.wires.prompt import dump, take_list, take_model, take_whole

DEFAULT_DIMENSIONS = 1024
_INPUT_TYPES = ("search_document", "search_query", "classification", "clustering", "image")
Body = Mapping[str, Any]
Document = Callable[[Ask, Counts, Script], dict[str, Any]]


def write_detail(refused: Refused) -> bytes:
    return orjson.dumps({"detail": refused.message})


def _make_ask(body: Body, given: list[Any], raw: Any) -> Ask:
    if not given:
        raise Refused(400, "invalid request: at least one text is required")
    turns = [_read_turn(one) for one in given]
    return Ask(take_model(body), [[turn] for turn in turns], raw=raw, digest=digest_turns(turns, 0))


def _read_turn(one: Any) -> Turn:
    """A text, or an object with a text; everything else counts as an image."""
    text = one.get("text") if isinstance(one, dict) else one
    if isinstance(text, str):
        return Turn("input", text, count_words(text))
    return Turn("input", dump(one), TOKENS_PER_IMAGE)


def _write(show: Document, ask: Ask, script: Script, ticket: Ticket) -> Written:
    counts = Counts(sum(turns[0].counted for turns in ask.conversations), 0)
    told = show(ask, counts, script)
    if "no-usage" in script.parts:
        told = {name: value for name, value in told.items() if name not in ("usage", "meta")}
    return Written(counts, 0, partial(orjson.dumps, {"id": ticket.number, **told}), no_events)


def _make_vectors(ask: Ask, size: int) -> list[list[float]]:
    return [make_vector(turns[0].text, size).tolist() for turns in ask.conversations]


def read_cohere_embed(body: Body) -> Ask:
    if body.get("input_type") not in _INPUT_TYPES:
        raise Refused(400, "invalid request: valid input_type must be provided with the provided model")
    inputs = [
        part.get("text") or part
        for one in take_list(body, "inputs")
        for part in one.get("content") or ()
    ]  # fmt: skip
    given = [*take_list(body, "texts"), *({"image": one} for one in take_list(body, "images")), *inputs]
    size = take_whole(body, "output_dimension") or DEFAULT_DIMENSIONS
    return _make_ask(body, given, (size, body.get("embedding_types") or ["float"]))


def _show_cohere_embed(ask: Ask, counts: Counts, _script: Script) -> dict[str, Any]:
    size, kinds = ask.raw
    vectors = _make_vectors(ask, size)
    shown = {kind: [_show_as(kind, one) for one in vectors] for kind in kinds}
    images = sum(turns[0].counted == TOKENS_PER_IMAGE for turns in ask.conversations)
    billed = {"input_tokens": counts.prompt, **({"images": images} if images else {})}
    texts = [turns[0].text for turns in ask.conversations]
    return {
        "embeddings": shown,
        "texts": texts,
        "meta": {"api_version": {"version": "2"}, "billed_units": billed},
    }


def _show_as(kind: str, vector: list[float]) -> list[float] | list[int] | str:
    if kind == "base64":
        return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
    return vector if kind == "float" else _quantize(vector)


def _quantize(vector: list[float]) -> list[int]:
    return [max(-128, min(127, round(value * 127))) for value in vector]


def read_list_embed(body: Body) -> Ask:
    given = body.get("input")
    size = take_whole(body, "dimensions") or take_whole(body, "output_dimension") or DEFAULT_DIMENSIONS
    return _make_ask(body, [given] if isinstance(given, str) else take_list(body, "input"), size)


def _show_list_embed(ask: Ask, counts: Counts, _script: Script) -> dict[str, Any]:
    rows = [
        {"object": "embedding", "index": place, "embedding": vector}
        for place, vector in enumerate(_make_vectors(ask, ask.raw))
    ]
    return {"object": "list", "model": ask.model, "data": rows, "usage": {"total_tokens": counts.prompt}}


def read_rerank(body: Body) -> Ask:
    """A query and documents; the first turn of all is the query."""
    query, documents = body.get("query"), take_list(body, "documents")
    if not query:
        raise Refused(400, "invalid request: query must not be empty")
    if not documents:
        raise Refused(400, "invalid request: list of documents must not be empty")
    top = take_whole(body, "top_n") or take_whole(body, "top_k") or len(documents)
    return _make_ask(body, [query, *documents], (top, bool(body.get("return_documents"))))


def _rank(ask: Ask) -> list[dict[str, Any]]:
    """The best first: words in common with the query; the rest follows from the text alone."""
    query, *documents = [turns[0].text for turns in ask.conversations]
    words, top, told = set(query.lower().split()), ask.raw[0], ask.raw[1]
    rows: list[dict[str, Any]] = []
    for index, text in enumerate(documents):
        common = len(words & set(text.lower().split())) / (len(words) or 1)
        row = {"index": index, "relevance_score": round(0.9 * common + (mix(text) % 1000) / 20000, 6)}
        rows.append({**row, "document": {"text": text}} if told else row)
    return sorted(rows, key=lambda row: -row["relevance_score"])[:top]


def _show_cohere_rerank(ask: Ask, counts: Counts, _script: Script) -> dict[str, Any]:
    units = (len(ask.conversations) + 98) // 100
    meta = {"api_version": {"version": "2"}, "billed_units": {"search_units": units}}
    return {"results": _rank(ask), "meta": meta}


def _show_jina_rerank(ask: Ask, counts: Counts, _script: Script) -> dict[str, Any]:
    return {"model": ask.model, "results": _rank(ask), "usage": {"total_tokens": counts.prompt}}


def _show_voyage_rerank(ask: Ask, counts: Counts, _script: Script) -> dict[str, Any]:
    rows = [{**row, "document": row["document"]["text"]} if "document" in row else row for row in _rank(ask)]
    return {"object": "list", "data": rows, "model": ask.model, "usage": {"total_tokens": counts.prompt}}


COHERE_EMBED = Wire(read_cohere_embed, partial(_write, _show_cohere_embed), write_flat_error)
LIST_EMBED = Wire(read_list_embed, partial(_write, _show_list_embed), write_detail)
COHERE_RERANK = Wire(read_rerank, partial(_write, _show_cohere_rerank), write_flat_error)
JINA_RERANK = Wire(read_rerank, partial(_write, _show_jina_rerank), write_detail)
VOYAGE_RERANK = Wire(read_rerank, partial(_write, _show_voyage_rerank), write_detail)
