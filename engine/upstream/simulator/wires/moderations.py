"""OpenAI's moderations: every input has its categories and scores; the name `refuse` makes all of them violent."""

from collections.abc import Mapping
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
from engine.upstream.simulator.errors import write_error
from engine.upstream.simulator.names import Script
from engine.upstream.simulator.reading import read_model, refuse_type, require
from engine.upstream.simulator.text import count_words, mix
from engine.upstream.simulator.wires.prompt import dump

CATEGORIES = (
    "harassment", "harassment/threatening", "hate", "hate/threatening", "illicit", "illicit/violent", "self-harm",
    "self-harm/intent", "self-harm/instructions", "sexual", "sexual/minors", "violence", "violence/graphic",
)  # fmt: skip


def read(body: Mapping[str, Any]) -> Ask:
    """Validate a request: a text, texts, or the parts of one message."""
    given = require(body, "input")
    if not isinstance(given, str | list) or not given:
        raise refuse_type("input", "one of a string or array", given)
    parts = [given] if isinstance(given, str) else given
    if isinstance(parts[0], dict):
        turns = [_read_parts(parts)]
    elif all(isinstance(part, str) for part in parts):
        turns = [Turn("input", part, count_words(part)) for part in parts]
    else:
        raise refuse_type("input", "an array of strings", given)
    return Ask(read_model(body), [[turn] for turn in turns], digest=digest_turns(turns, 0))


def _read_parts(parts: list[Any]) -> Turn:
    turn = Turn("input", "", 0)
    for place, part in enumerate(parts):
        if part.get("type") == "text":
            turn.text += part.get("text", "")
            turn.counted += count_words(part.get("text", ""))
        elif part.get("type") == "image_url":
            turn.extra, turn.counted = mix(dump(part), turn.extra), turn.counted + TOKENS_PER_IMAGE
        else:
            raise Refused(400, f"Invalid value: '{part.get('type')}'. Supported values are: 'text' and 'image_url'.",
                          param=f"input[{place}].type", code="invalid_value")  # fmt: skip
    return turn


def write(ask: Ask, script: Script, ticket: Ticket) -> Written:
    flagged = "refuse" in script.parts
    counts = Counts(sum(turns[0].counted for turns in ask.conversations), 0)
    results = [_write_result(turns[0], flagged) for turns in ask.conversations]
    told = {"id": f"modr-{ticket.number}", "model": ask.model, "results": results}
    return Written(counts, 0, partial(orjson.dumps, told), no_events)


def _write_result(turn: Turn, flagged: bool) -> dict[str, Any]:
    found = {name: flagged and name == "violence" for name in CATEGORIES}
    scores = {name: 0.98 if bad else (mix(name + turn.text) % 1000) / 1e6 for name, bad in found.items()}
    kinds = ["text", "image"] if turn.extra else ["text"]
    return {
        "flagged": flagged,
        "categories": found,
        "category_scores": scores,
        "category_applied_input_types": dict.fromkeys(CATEGORIES, kinds),
    }


WIRE = Wire(read, write, write_error)
