"""The `openai-embeddings` wire: unit vectors that follow from the text alone."""

import array
import base64
import math
import random
from collections.abc import Mapping
from functools import lru_cache, partial
from typing import Any

import orjson

from engine.upstream.simulator import errors
from engine.upstream.simulator.completions import read_inputs
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
from engine.upstream.simulator.names import Script
from engine.upstream.simulator.reading import read_model, read_whole
from engine.upstream.simulator.text import mix

DEFAULT_DIMENSIONS = 1536


def read(body: Mapping[str, Any]) -> Ask:
    """Validate an embeddings request."""
    model = read_model(body)
    encoding = body.get("encoding_format") or "float"
    if encoding not in ("float", "base64"):
        message = f"Invalid value: '{encoding}'. Supported values are: 'float' and 'base64'."
        raise Refused(400, message, param="encoding_format", code="invalid_value")
    dimensions = read_whole(body, "dimensions", 1, 8192) or read_whole(body, "output_dimension", 1, 8192)
    dimensions = dimensions or DEFAULT_DIMENSIONS
    turns = [[Turn("input", text, counted)] for text, counted in read_inputs(body, "input")]
    digest = digest_turns([conversation[0] for conversation in turns], 0)
    return Ask(model, turns, raw=(encoding, dimensions), digest=digest)


def write(ask: Ask, script: Script, ticket: Ticket) -> Written:
    counts = Counts(prompt=sum(turns[0].counted for turns in ask.conversations), completion=0)
    return Written(counts, 0, plain=partial(_write_plain, ask, script, counts), events=no_events)


def _write_plain(ask: Ask, script: Script, counts: Counts) -> bytes:
    encoding, dimensions = ask.raw
    rows = []
    for index, turns in enumerate(ask.conversations):
        vector = make_vector(turns[0].text, dimensions)
        shown = base64.b64encode(vector.tobytes()).decode() if encoding == "base64" else vector.tolist()
        rows.append({"object": "embedding", "index": index, "embedding": shown})
    reply: dict[str, Any] = {"object": "list", "data": rows, "model": ask.model}
    if "no-usage" not in script.parts:
        reply["usage"] = {"prompt_tokens": counts.prompt, "total_tokens": counts.prompt}
    return orjson.dumps(reply)


@lru_cache(maxsize=256)
def make_vector(text: str, dimensions: int) -> "array.array[float]":
    """32-bit floats of length 1 together."""
    draw = random.Random(mix(text)).random
    raw = [draw() - 0.5 for _ in range(dimensions)]
    length = math.sqrt(sum(one * one for one in raw)) or 1.0
    return array.array("f", [one / length for one in raw])


WIRE = Wire(read, write, errors.write_error)
