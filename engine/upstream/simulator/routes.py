"""Which wire is spoken at which path. A path may stand behind any prefix, so that every base URL can be played."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from engine.upstream.simulator import chat, completions, embeddings
from engine.upstream.simulator.dialog import Wire
from engine.upstream.simulator.jobs import Job
from engine.upstream.simulator.wires import (
    audio,
    cohere,
    converse,
    gemini,
    gemini_embeddings,
    images,
    messages,
    moderations,
    ollama,
    queues,
    ranking,
    responses,
)

CHAT = chat.WIRE


@dataclass(frozen=True, slots=True)
class Route:
    """One wire at a place. `fields` stand in the path and are put into the body before it is read."""

    wire: Wire
    fields: Mapping[str, Any] = field(default_factory=dict)


def _at(pattern: str, wire: Wire, query: str = "", **fields: Any) -> tuple[re.Pattern[str], str, Route]:
    """`{model}` is what the model's name may be, slashes included; `query` must stand in the query."""
    return re.compile(f"{pattern.replace('{model}', '(?P<model>.+)')}$"), query, Route(wire, fields)


_COUNT_TOKENS = r"/models/count-tokens(?:@\d+)?:rawPredict"
_PUBLISHED = "/publishers/[^/]+/models/{model}"

ROUTES = (
    _at(f"{_PUBLISHED}:generateContent", gemini.EVENTS, vertex=True),
    _at(f"{_PUBLISHED}:streamGenerateContent", gemini.EVENTS, "alt=sse", stream=True, vertex=True),
    _at(f"{_PUBLISHED}:streamGenerateContent", gemini.ARRAY, stream=True, vertex=True),
    _at("/models/{model}:generateContent", gemini.EVENTS),
    _at("/models/{model}:streamGenerateContent", gemini.EVENTS, "alt=sse", stream=True),
    _at("/models/{model}:streamGenerateContent", gemini.ARRAY, stream=True),
    _at("/models/{model}:countTokens", gemini.COUNTING),
    _at("/models/{model}:embedContent", gemini_embeddings.ONE),
    _at("/models/{model}:batchEmbedContents", gemini_embeddings.BATCH),
    _at("/models/{model}:predict", gemini_embeddings.INSTANCES),
    _at("/responses", responses.WIRE),
    _at("/model/{model}/converse", converse.WIRE),
    _at("/model/{model}/converse-stream", converse.WIRE, stream=True),
    _at("/model/{model}/invoke", converse.INVOKED),
    _at("/model/{model}/invoke-with-response-stream", converse.INVOKED, stream=True),
    _at("/v2/chat", cohere.WIRE),
    _at("/api/chat", ollama.WIRE),
    _at("/api/embed", ollama.EMBEDDING),
    _at("/messages", messages.WIRE),
    _at("/messages/count_tokens", messages.COUNTING),
    _at(_COUNT_TOKENS, messages.COUNTING),
    _at("/models/{model}:rawPredict", messages.WIRE, stream=False),
    _at("/models/{model}:streamRawPredict", messages.WIRE, stream=True),
    _at("/chat/completions", CHAT),
    _at("/completions", completions.WIRE),
    _at("/v2/embed", ranking.COHERE_EMBED),
    _at("/v2/rerank", ranking.COHERE_RERANK),
    _at("/(?:voyage|jina)/v1/embeddings", ranking.LIST_EMBED),
    _at("/voyage/v1/rerank", ranking.VOYAGE_RERANK),
    _at("/rerank", ranking.JINA_RERANK),
    _at("/images/generations", images.WIRE),
    _at("/images/edits", images.EDITS),
    _at("/audio/speech", audio.SPEECH),
    _at("/audio/(?:transcriptions|translations)", audio.TRANSCRIPTS),
    _at("/queue/{model}", queues.FAL_QUEUE),
    _at("/fal/{model}", queues.FAL),
    _at("/models/{model}/predictions", queues.REPLICATE),
    _at("/predictions", queues.REPLICATE),
    _at("/moderations", moderations.WIRE),
    _at("/embeddings", embeddings.WIRE),
)


_LOOKS = (
    (re.compile("/queue/.+/requests/(?P<id>[^/]+)(?P<what>/status|/cancel|)$"), queues.show_fal),
    (re.compile("/predictions/(?P<id>[^/]+)(?P<what>/cancel|)$"), queues.show_replicate),
)


Look = tuple[str, str, Callable[[Job, str, str], tuple[int, dict[str, Any]]]]


def find_look(path: str) -> Look | None:
    """The work that a path looks at, what of it, and how that is shown."""
    for pattern, show in _LOOKS:
        found = pattern.search(path)
        if found is not None:
            return found["id"], found["what"], show
    return None


def find_route(path: str, query: str) -> Route | None:
    """The first that matches the end of the path; None when nothing is spoken there."""
    for pattern, asked, route in ROUTES:
        found = pattern.search(path) if asked in query else None
        if found is not None:
            in_path = {name: unquote(value) for name, value in found.groupdict().items()}
            return Route(route.wire, {**route.fields, **in_path})
    return None
