"""Every recorded exchange as the upstream of every client: its own dialect gets the bytes, others the same answer.

A stream comes whole, byte by byte (where events meet and at both ends, for the long ones), and with two events in one
read. The recordings stay outside of this repository; without them these tests are skipped.
"""

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import orjson
import pytest
from ruamel.yaml import YAML

from engine.wire.answers import SameWireAnswer, SameWireStream
from engine.wire.streams import fold
from engine.wire.translation import TranslatedStream
from tests.wire.formats_at_hand import ROOT, load_format, read_stream
from tests.wire.pairs.answers_read import tell_answer
from tests.wire.pairs.asked import DIALECTS, ask
from tests.wire.pairs.streams_read import join_stream
from tests.wire.pairs.told import answer_plainly, translate

RECORDED = ROOT.parent / "shared" / "transcripts" / "cassettes"
OF_PATHS = {
    "/chat/completions": "openai-chat",
    "/responses": "openai-responses",
    "/messages": "anthropic-messages",
    ":rawPredict": "anthropic-messages",
    ":streamRawPredict": "anthropic-messages",
    ":generateContent": "gemini",
    ":streamGenerateContent": "gemini",
}
FINISHES = {
    "stop": "stop",
    "tool_calls": "calls",
    "length": "length",
    "content_filter": "filter",
    "pause": "stop",
}
EDGE = 300
"""So many bytes of both ends of a stream come one at a time."""

pytestmark = pytest.mark.skipif(not RECORDED.is_dir(), reason="the recordings are not here")


def find_dialect(url: str) -> str | None:
    path = url.partition("?")[0]
    return next((name for end, name in OF_PATHS.items() if path.endswith(end)), None)


@lru_cache(maxsize=2)
def read_exchanges(path: Path) -> list[tuple[str, bytes]]:
    """The dialect and the body of each good answer. (Those of `invoke` have no dialect of their own.)"""
    said = YAML(typ="safe").load(path.read_text())["interactions"]
    named = ((find_dialect(one["request"]["url"]), one["response"]) for one in said)
    return [(name, one["body"].encode()) for name, one in named if name is not None and one["code"] == 200]


def is_stream(raw: bytes) -> bool:
    return raw.lstrip().startswith((b"event:", b"data:", b":"))


def cut(raw: bytes) -> Iterator[list[bytes]]:
    """The ways in which a stream may come."""
    yield [raw]
    frames = [frame + b"\n\n" for frame in raw.split(b"\n\n")]
    frames[-1] = frames[-1][:-2]
    yield [b"".join(frames[place : place + 2]) for place in range(0, len(frames), 2)]
    middle = raw[EDGE:-EDGE] if len(raw) > 2 * EDGE else b""
    ends = (raw[:EDGE], raw[-EDGE:]) if middle else (raw, b"")
    one_by_one = [[bytes([byte]) for byte in end] for end in ends]
    steps = [middle[place : place + 89] for place in range(0, len(middle), 89)]
    yield [*one_by_one[0], *steps, *one_by_one[1]]


def read_pieces(reader: Any, pieces: list[bytes]) -> bytes:
    out = b""
    for piece in pieces:
        if not reader.ended:
            out += reader.feed(piece)
    out += b"" if reader.ended else reader.close()
    assert reader.ended and reader.failure is None
    assert reader.damaged == 0
    return out + reader.tail


RECORDINGS = [
    pytest.param(path, id=str(path.relative_to(RECORDED))) for path in sorted(RECORDED.glob("**/*.yaml"))
]


@pytest.mark.parametrize("path", RECORDINGS)
def test_a_client_of_the_provider_s_dialect_gets_its_bytes(path: Path) -> None:
    for name, raw in read_exchanges(path):
        form = load_format(name)
        if not is_stream(raw):
            answer = SameWireAnswer(form)
            assert read_pieces(answer, [raw]) == raw
            continue
        assert form.look is not None
        for pieces in cut(raw):
            reader = SameWireStream(form, form.look, hide_usage=False)
            assert read_pieces(reader, pieces) == raw


def expect(name: str, raw: bytes) -> dict[str, Any]:
    form = load_format(name)
    events = read_stream(form, [raw]) if is_stream(raw) else form.read_reply(orjson.loads(raw), "seed")
    answer = fold(events)
    assert "failed" not in answer
    calls = [part for part in answer["parts"] if part["type"] == "tool_call"]
    said = {
        "text": "".join(part["text"] for part in answer["parts"] if part["type"] == "text"),
        "calls": [(call["name"], orjson.loads(call["arguments"])) for call in calls],
        "finish": FINISHES[answer["finish"]["reason"]],
    }
    if answer["usage"]:
        said |= {"prompt tokens": answer["usage"]["prompt"], "answer tokens": answer["usage"]["completion"]}
    return {key: value for key, value in said.items() if value}


@pytest.mark.parametrize("path", RECORDINGS)
def test_clients_of_other_dialects_get_the_same_answer(path: Path) -> None:
    for name, raw in read_exchanges(path):
        said = expect(name, raw)
        for surface in DIALECTS:
            if surface == name:
                continue
            streamed = is_stream(raw)
            asked = translate(surface, name, ask(surface, "text", stream=streamed), stream=streamed)
            if streamed:
                reader = asked.reader(b"text/event-stream")
                assert isinstance(reader, TranslatedStream)
                doc = join_stream(surface, read_pieces(reader, [raw]))
            else:
                doc = answer_plainly(asked, orjson.loads(raw))
            told = tell_answer(surface, doc)
            assert {key: told.get(key) for key in said} == said


@pytest.mark.parametrize("path", RECORDINGS[::4])
def test_a_translated_stream_is_the_same_however_it_comes(path: Path) -> None:
    for name, raw in read_exchanges(path):
        if is_stream(raw):
            surface = "openai-chat" if name != "openai-chat" else "anthropic-messages"
            asked = translate(surface, name, ask(surface, "text", stream=True), stream=True)
            outs = {read_pieces(asked.reader(b"text/event-stream"), pieces) for pieces in cut(raw)}
            assert len(outs) == 1
