"""Providers that break the grammar of their wire: what is certain is repaired, the rest is a failure of theirs."""

from copy import deepcopy
from json import dumps
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import UpstreamFailure
from engine.wire.answers import SameWireStream
from tests.wire.formats_at_hand import load_format
from tests.wire.pairs.answered import TEXT, answer
from tests.wire.pairs.answers_read import tell_answer
from tests.wire.pairs.asked import DIALECTS, ask
from tests.wire.pairs.failed import REFUSALS
from tests.wire.pairs.streamed import list_events, stream, write_event
from tests.wire.pairs.streams_read import join_stream
from tests.wire.pairs.told import answer_in_pieces, translate

ODD = st.sampled_from([None, True, -1, 10**30, 1.5, "", "x", [], [None], {}, {"x": 1}, "\ud83d"])


def pick_surface(provider: str) -> str:
    return "openai-chat" if provider != "openai-chat" else "anthropic-messages"


def open_reader(provider: str, surface: str | None = None, *, streamed: bool = True) -> Any:
    surface = surface or pick_surface(provider)
    asked = translate(surface, provider, ask(surface, "text", stream=streamed), stream=streamed)
    return asked.reader(b"text/event-stream" if streamed else b"application/json")


def list_places(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of everything inside a document."""
    pairs = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [place for key, value in pairs for place in ((*path, key), *list_places(value, (*path, key)))]


def put(node: Any, path: tuple[Any, ...], value: Any, *, drop: bool = False) -> Any:
    """A copy of a document with another value at a place, or with nothing there."""
    copy = deepcopy(node)
    inner = copy
    for key in path[:-1]:
        inner = inner[key]
    if drop:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return copy


def spoil(data: st.DataObject, doc: Any) -> Any:
    path = data.draw(st.sampled_from(list_places(doc)))
    return put(doc, path, data.draw(ODD), drop=data.draw(st.booleans()))


def dump_odd(provider: str, event: Any) -> bytes:
    """The frame of an event that may hold what no serialiser would write."""
    try:
        return write_event(provider, event)
    except (AttributeError, TypeError, ValueError):
        return b""


def spoil_stream(data: st.DataObject, provider: str) -> bytes:
    events = list_events(provider, calls=data.draw(st.booleans()))
    frames = [write_event(provider, event) for event in events]
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(frames) - 1))
        way = data.draw(st.sampled_from(["value", "drop", "twice", "swap", "cut", "bytes", "error"]))
        if way == "value":
            frames[place] = dump_odd(provider, spoil(data, events[min(place, len(events) - 1)]))
        elif way == "drop":
            frames[place] = b""
        elif way == "twice":
            frames[place] *= 2
        elif way == "swap":
            other = data.draw(st.integers(0, len(frames) - 1))
            frames[place], frames[other] = frames[other], frames[place]
        elif way == "cut":
            frames[place] = frames[place][: data.draw(st.integers(0, max(len(frames[place]) - 1, 0)))]
        elif way == "bytes":
            frames[place] += data.draw(st.binary(max_size=5))
        else:
            frames[place] += orjson.dumps(REFUSALS[provider])
    return b"".join(frames)


@pytest.mark.parametrize("provider", DIALECTS)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_spoilt_stream_is_told_or_fails_and_nothing_else(provider: str, data: st.DataObject) -> None:
    raw = spoil_stream(data, provider)
    surface = data.draw(st.sampled_from([name for name in DIALECTS if name != provider]))
    reader = open_reader(provider, surface)
    size = data.draw(st.sampled_from([len(raw) + 1, 50, 7]))
    try:
        for place in range(0, len(raw), size):
            if not reader.ended and reader.failure is None:
                assert isinstance(reader.feed(raw[place : place + size]), bytes)
        if not reader.ended and reader.failure is None:
            assert isinstance(reader.close(), bytes)
    except UpstreamFailure as failure:
        assert failure.kind


@pytest.mark.parametrize("provider", [name for name in DIALECTS if load_format(name).look is not None])
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_spoilt_stream_passes_or_fails_on_its_own_wire(provider: str, data: st.DataObject) -> None:
    form, raw = load_format(provider), spoil_stream(data, provider)
    assert form.look is not None
    reader, out = SameWireStream(form, form.look, hide_usage=data.draw(st.booleans())), b""
    try:
        for place in range(0, len(raw), 50):
            if not reader.ended and reader.failure is None:
                out += reader.feed(raw[place : place + 50])
    except UpstreamFailure as failure:
        assert failure.kind and out == b""
        return
    try:
        assert reader.ended or reader.failure or isinstance(reader.close(), bytes)
    except UpstreamFailure as failure:
        assert failure.kind


@pytest.mark.parametrize("provider", DIALECTS)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_spoilt_answer_is_told_or_fails_and_nothing_else(provider: str, data: st.DataObject) -> None:
    doc = answer(provider, calls=data.draw(st.booleans()))
    for _ in range(data.draw(st.integers(1, 2))):
        doc = spoil(data, doc)
    surface = data.draw(st.sampled_from([name for name in DIALECTS if name != provider]))
    reader = open_reader(provider, surface, streamed=data.draw(st.booleans()))
    try:
        reader.feed(dumps(doc).encode())
        reader.close()
        assert reader.tail or reader.failure
    except UpstreamFailure as failure:
        assert failure.kind


def read_text(provider: str, raw: bytes) -> str:
    surface = pick_surface(provider)
    asked = translate(surface, provider, ask(surface, "text", stream=True), stream=True)
    return str(tell_answer(surface, join_stream(surface, answer_in_pieces(asked, raw)))["text"])


@pytest.mark.parametrize("provider", [name for name in DIALECTS if name not in ("openai-chat", "gemini")])
def test_a_start_told_twice_is_told_once(provider: str) -> None:
    frames = stream(provider, calls=False)
    assert read_text(provider, b"".join([frames[0], *frames])) == TEXT


@pytest.mark.parametrize("provider", DIALECTS)
def test_events_that_nobody_knows_are_passed_over(provider: str) -> None:
    frames = stream(provider, calls=False)
    unknown: dict[str, Any] = {  # of wires whose events have no type
        "openai-chat": {"choices": [], "news": 1},
        "gemini": {"news": 1},
        "bedrock-converse": {"newsFlash": {"x": 1}},
    }
    event = unknown.get(provider, {"type": "news.flash", "x": 1})
    assert read_text(provider, b"".join([frames[0], write_event(provider, event), *frames[1:]])) == TEXT


@pytest.mark.parametrize("provider", DIALECTS)
def test_a_plain_error_in_a_good_answer_fails_before_anything_is_sent(provider: str) -> None:
    for streamed in (False, True):
        reader = open_reader(provider, streamed=False) if not streamed else None
        surface = pick_surface(provider)
        if reader is None:
            asked = translate(surface, provider, ask(surface, "text", stream=True), stream=True)
            reader = asked.reader(b"application/json")
        reader.feed(orjson.dumps(REFUSALS[provider]))
        with pytest.raises(UpstreamFailure):
            reader.close()


@pytest.mark.parametrize("provider", DIALECTS)
def test_a_stream_without_its_end_is_no_answer(provider: str) -> None:
    frames = stream(provider, calls=False)
    reader = open_reader(provider)
    half = len(frames) // 2
    reader.feed(b"".join(frames[:half]) + frames[half][: len(frames[half]) // 2])
    reader.close()
    assert reader.failure is not None and reader.failure.kind == "broken_stream"
    silent = open_reader(provider)
    with pytest.raises(UpstreamFailure):
        silent.feed(frames[0][:10])
        silent.close()


@pytest.mark.parametrize("provider", DIALECTS)
def test_an_answer_of_nothing_is_a_failure(provider: str) -> None:
    empty: dict[str, Any] = {
        "openai-chat": {"choices": []},
        "gemini": {"candidates": []},
        "cohere": {"message": "no"},
    }
    nothing = dumps(empty.get(provider, {"error": {"message": "no"}})).encode()
    for raw in (b"", b"null", b"[]", b"<html>", b"\xff\xfe{", nothing):
        reader = open_reader(provider, streamed=False)
        with pytest.raises(UpstreamFailure):
            reader.feed(raw)
            reader.close()


@pytest.mark.parametrize("provider", DIALECTS)
def test_counts_beyond_any_sense_are_not_charged(provider: str) -> None:
    doc = answer(provider, calls=False)
    counts = [
        place for place in list_places(doc) if "okenCount" in str(place[-1]) or "okens" in str(place[-1])
    ]
    for place in counts:
        value = doc
        for key in place:
            value = value[key]
        if not isinstance(value, int):
            continue
        for odd in (10**30, -5, "many", None):
            reader = open_reader(provider, streamed=False)
            reader.feed(dumps(put(doc, place, odd)).encode())
            reader.close()
            assert reader.usage is None or reader.usage.prompt < 10**6 > reader.usage.completion
