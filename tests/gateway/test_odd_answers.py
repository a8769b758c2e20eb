"""A provider may send any JSON in any place: that is its failure or nothing at all, and never a mistake of ours."""

import json
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.config.reload import Loader
from engine.config.settings import read_settings
from engine.errors import UpstreamFailure
from engine.wire.answers import SameWireAnswer, SameWireStream, fail_in_band
from engine.wire.formats import Format
from tests.homes import lend_parsed_files

KEYS = (
    *("choices", "delta", "content", "role", "finish_reason", "usage", "prompt_tokens", "completion_tokens"),
    *(
        "error",
        "index",
        "tool_calls",
        "function",
        "name",
        "arguments",
        "id",
        "model",
        "message",
        "code",
        "status",
    ),
    *(
        "refusal",
        "reasoning_content",
        "prompt_tokens_details",
        "cached_tokens",
        "type",
        "text",
        "logprobs",
        "audio",
    ),
)
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(("", "x", "stop", "error", "length", "429", "²", "9" * 5000, "\x00", "assistant")),
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(KEYS), inner, max_size=4)
    ),
    max_leaves=12,
)


@st.composite
def nearly_right(draw: st.DrawFn) -> Any:
    """A chunk as it should be, with anything in one to three of its places."""
    doc: Any = {
        "id": "a",
        "created": 1,
        "model": "m",
        "choices": [
            {"index": 0, "delta": {"content": "x"}, "message": {"content": "x"}, "finish_reason": None}
        ],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1},
    }
    for _ in range(draw(st.integers(1, 3))):
        place = doc
        while True:
            keys = range(len(place)) if isinstance(place, list) else [*place, *KEYS]
            if not keys:
                break
            key: Any = draw(st.sampled_from(list(keys)))
            inner = place[key] if isinstance(place, list) else place.get(key)
            if isinstance(inner, dict | list) and inner and draw(st.booleans()):
                place = inner
                continue
            place[key] = draw(VALUES)
            break
    return doc


DOCS = st.lists(st.one_of(nearly_right(), VALUES), min_size=1, max_size=3)


@pytest.fixture(scope="module")
def surfaces(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Format]:
    home = tmp_path_factory.mktemp("home")
    lend_parsed_files(home)
    return lambda operation: load_surfaces(home)[operation]


@lru_cache(maxsize=1)
def load_surfaces(home: Path) -> dict[str, Format]:
    loader = Loader(read_settings(home=home), {})
    return dict(loader.prepare(loader.read(), run_examples=False).surfaces)


@pytest.mark.parametrize("operation", ["chat", "completions"])
@settings(max_examples=300)
@given(docs=DOCS, hide_usage=st.booleans(), choices=st.integers(1, 2**62))
def test_any_events_may_come(
    surfaces: Callable[[str], Format], operation: str, docs: list[Any], hide_usage: bool, choices: int
) -> None:
    format = surfaces(operation)
    assert format.look is not None
    reader = SameWireStream(format, format.look, hide_usage=hide_usage, choices=choices)
    with suppress(UpstreamFailure):
        for doc in docs:
            reader.feed(b"data: " + json.dumps(doc).encode() + b"\n\n")
        reader.close()
    assert all(isinstance(text, str) for text in reader.texts)


@pytest.mark.parametrize("operation", ["chat", "completions", "embeddings"])
@settings(max_examples=200)
@given(docs=DOCS)
def test_any_answer_may_come(surfaces: Callable[[str], Format], operation: str, docs: list[Any]) -> None:
    reader = SameWireAnswer(surfaces(operation))
    with suppress(UpstreamFailure):
        reader.feed(json.dumps(docs[0]).encode())
        reader.close()
    assert all(isinstance(text, str) for text in reader.texts)
    assert reader.usage is None or min(reader.usage.as_record().values(), default=0) >= 0


@settings(max_examples=200)
@given(docs=DOCS, status=st.sampled_from((400, 401, 429, 500)))
def test_any_error_may_come(surfaces: Callable[[str], Format], docs: list[Any], status: int) -> None:
    format = surfaces("chat")
    facts = format.read_error(status, docs[0], "text")
    orjson.dumps([facts.message, facts.type, facts.code, facts.param])
    assert 400 <= (fail_in_band(format, docs[0]).status or 0) <= 599


@settings(max_examples=300)
@given(docs=DOCS)
def test_any_events_can_be_translated(surfaces: Callable[[str], Format], docs: list[Any]) -> None:
    format = surfaces("chat")
    reader = format.new_stream_reader("seed")
    writer = format.new_stream_writer({"id": "a", "created": 1, "usage_asked": True})
    for doc in docs:
        writer.write(reader.feed(doc, None))
    writer.write(reader.close(done=True))
    writer.close()
