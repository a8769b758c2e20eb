"""A stream that a door cuts otherwise than its format writes it."""

import orjson
import pytest

from engine.wire.reframing import Reframing

STREAM = b': hi\n\ndata: {"a": 1}\n\ndata: {"b": "]"}\n\ndata: [DONE]\n\n'


def change(wanted: str, pieces: list[bytes], tail: bytes = b"") -> bytes:
    framing = Reframing("sse", wanted, b"[DONE]")
    return b"".join([*map(framing.feed, pieces), framing.close(tail)])


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_an_array_holds_every_event_and_nothing_else(size: int) -> None:
    pieces = [STREAM[start : start + size] for start in range(0, len(STREAM), size)]
    assert orjson.loads(change("json_array", pieces)) == [{"a": 1}, {"b": "]"}]


def test_a_stream_without_events_is_an_empty_array() -> None:
    assert change("json_array", [b": hi\n\n"]) == b"[]"


def test_the_tail_belongs_to_the_stream() -> None:
    assert orjson.loads(change("json_array", [], STREAM)) == [{"a": 1}, {"b": "]"}]
    assert change("ndjson", [], STREAM) == b'{"a": 1}\n{"b": "]"}\n'
