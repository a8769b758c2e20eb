"""Google's embeddings: one content, several at once, and the shape in which Vertex predicts."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import orjson

from engine.upstream.simulator.dialog import (
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
from engine.upstream.simulator.text import count_words
from engine.upstream.simulator.wires.gemini import write_error
from engine.upstream.simulator.wires.prompt import take_list

DEFAULT_DIMENSIONS = 768
Body = Mapping[str, Any]


def _make_ask(body: Body, texts: list[str], dimensions: Any) -> Ask:
    turns = [Turn("input", text, count_words(text)) for text in texts]
    conversations = [[turn] for turn in turns]
    size = int(dimensions or DEFAULT_DIMENSIONS)
    return Ask(
        str(body["model"]).removeprefix("models/"), conversations, raw=size, digest=digest_turns(turns, 0)
    )


def _join_parts(content: Any) -> str:
    parts = content.get("parts") if isinstance(content, dict) else None
    if not parts:
        raise Refused(400, "* EmbedContentRequest.content: contents is not specified\n")
    return "".join(part.get("text", "") for part in parts)


def read_one(body: Body) -> Ask:
    return _make_ask(body, [_join_parts(body.get("content"))], body.get("outputDimensionality"))


def read_batch(body: Body) -> Ask:
    requests = take_list(body, "requests")
    if not requests:
        raise Refused(400, "* BatchEmbedContentsRequest.requests: requests is not specified\n")
    texts = [_join_parts(request.get("content")) for request in requests]
    return _make_ask(body, texts, requests[0].get("outputDimensionality"))


def read_instances(body: Body) -> Ask:
    instances = take_list(body, "instances")
    if not instances or any(not isinstance(one.get("content"), str) for one in instances):
        raise Refused(400, "instances: each must have a content")
    return _make_ask(
        body,
        [one["content"] for one in instances],
        (body.get("parameters") or {}).get("outputDimensionality"),
    )


def _write(
    show: Callable[[list[dict[str, Any]], Ask], Any], ask: Ask, script: Script, ticket: Ticket
) -> Written:
    counts = Counts(sum(turns[0].counted for turns in ask.conversations), 0)
    rows = [{"values": make_vector(turns[0].text, ask.raw).tolist()} for turns in ask.conversations]
    return Written(counts, 0, lambda: orjson.dumps(show(rows, ask)), no_events)


def _show_predictions(rows: list[dict[str, Any]], ask: Ask) -> Any:
    counted = [{"truncated": False, "token_count": turns[0].counted} for turns in ask.conversations]
    shown = [{"embeddings": {**row, "statistics": one}} for row, one in zip(rows, counted, strict=True)]
    return {"predictions": shown}


ONE = Wire(read_one, partial(_write, lambda rows, _: {"embedding": rows[0]}), write_error)
BATCH = Wire(read_batch, partial(_write, lambda rows, _: {"embeddings": rows}), write_error)
INSTANCES = Wire(read_instances, partial(_write, _show_predictions), write_error)
