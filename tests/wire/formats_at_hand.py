"""The formats that tests use: those that ship, and test formats of other shapes under tests/wire/formats."""

from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import orjson
from ruamel.yaml import YAML

from engine.wire.canonical import Event
from engine.wire.formats import Format, compile_format, merge_trees

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "providers.d" / "_formats"
OTHERS = Path(__file__).parent / "formats"

# What the templates may ask of a target, all switched on.
WILLING: Mapping[str, Any] = {
    "model": "up",
    "limits": {"output": 1000},
    "traits": {
        "replays_reasoning": True,
        "replays_signatures": True,
        "cache_marks": True,
        "call_signatures": True,
        "more_sampling": True,
        "thinking": "both",
        "efforts": ["low", "medium", "high", "xhigh", "max"],
        "sampling": True,
        "sampling_together": True,
        "json_schema": True,
        "strict_tools": True,
        "issuer": "anthropic",
    },
}


@lru_cache
def load_tree(name: str) -> Any:
    """The plain tree of a format, over what it extends; shared, so tests lay changes over a copy."""
    path = SHIPPED / f"{name}.yaml"
    tree = YAML(typ="safe").load((path if path.exists() else OTHERS / f"{name}.yaml").read_text())
    base = tree.pop("extends", None)
    return tree if base is None else merge_trees(load_tree(base), tree)


@lru_cache
def load_format(name: str) -> Format:
    return compile_format(load_tree(name))


def read_stream(form: Format, pieces: Iterable[bytes]) -> list[Event]:
    """The events of a stream's bytes, as the corridor reads them."""
    splitter, reader = form.new_splitter(), form.new_stream_reader("seed")
    events: list[Event] = []
    done = False
    frames = [frame for piece in pieces for frame in splitter.feed(piece)]
    for frame in [*frames, *splitter.close()]:
        if frame.data is None:
            continue
        if frame.data == form.done:
            done = True
        else:
            events += reader.feed(orjson.loads(frame.data), frame.event)
    events += reader.close(done=done)
    assert reader.damaged == 0
    return events


def write_stream(form: Format, events: Iterable[Event], **asked: Any) -> bytes:
    writer = form.new_stream_writer({"id": "answer-1", "created": 1700000000, "usage_asked": True, **asked})
    return b"".join([*(writer.write([event]) for event in events), writer.close()])


def split_events(raw: bytes) -> list[Any]:
    """The documents of an SSE stream, `[DONE]` left out."""
    lines = [line.removeprefix(b"data: ") for line in raw.split(b"\n") if line.startswith(b"data: ")]
    return [orjson.loads(line) for line in lines if line != b"[DONE]"]
