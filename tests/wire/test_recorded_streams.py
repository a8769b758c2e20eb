"""Recorded streams, byte for byte: passed on the same wire, read in pieces of any size, told in another dialect.

The recordings stay outside of this repository; without them these tests are skipped.
"""

from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

import orjson
import pytest
from ruamel.yaml import YAML

from engine.wire.answers import SameWireAnswer, SameWireStream
from engine.wire.canonical import Failed
from engine.wire.formats import Format
from engine.wire.streams import fold
from tests.wire.formats_at_hand import ROOT, WILLING, load_format, read_stream, write_stream

RECORDED = ROOT.parent / "shared" / "transcripts" / "cassettes"
DIALECTS = {
    "TestOpenAIResponses*": "openai-responses",
    "TestAzureResponses*": "openai-responses",
    "TestOpenAIWebSearch": "openai-responses",
}

pytestmark = pytest.mark.skipif(not RECORDED.is_dir(), reason="the recordings are not here")


def find_cassettes() -> list[Any]:
    return [
        pytest.param(path, name, id=str(path.relative_to(RECORDED)))
        for pattern, name in DIALECTS.items()
        for path in sorted(RECORDED.glob(f"{pattern}/**/*.yaml"))
    ]


@lru_cache(maxsize=2)
def read_exchanges(path: Path) -> list[tuple[dict[str, Any], bytes]]:
    """The requests and answers of a cassette that ended well."""
    said = YAML(typ="safe").load(path.read_text())["interactions"]
    return [
        (orjson.loads(one["request"]["body"]), one["response"]["body"].encode())
        for one in said
        if one["response"]["code"] == 200
    ]


def is_stream(raw: bytes) -> bool:
    return raw.startswith((b"event:", b"data:"))


def pass_on(form: Format, pieces: Iterable[bytes]) -> tuple[bytes, SameWireStream]:
    """What a client of the same dialect gets of these reads."""
    assert form.look is not None
    reader, out = SameWireStream(form, form.look, hide_usage=False), b""
    for piece in pieces:
        out += reader.feed(piece)
    out += b"" if reader.ended else reader.close()
    assert reader.ended
    assert reader.damaged == 0
    return out + reader.tail, reader


def cut(raw: bytes, size: int) -> list[bytes]:
    return [raw[start : start + size] for start in range(0, len(raw), size)]


def tell(answer: dict[str, Any]) -> Any:
    parts = answer["parts"]
    return (
        "".join(part["text"] for part in parts if part["type"] == "text"),
        "".join(part["text"] for part in parts if part["type"] == "reasoning"),
        [(p["id"], p["name"], orjson.loads(p["arguments"])) for p in parts if p["type"] == "tool_call"],
        answer["finish"]["reason"],
        answer["usage"] and (answer["usage"]["prompt"], answer["usage"]["completion"]),
    )


@pytest.mark.parametrize(("path", "name"), find_cassettes())
def test_a_recorded_answer_passes_byte_for_byte_on_its_own_wire(path: Path, name: str) -> None:
    form = load_format(name)
    for _, raw in read_exchanges(path):
        if not is_stream(raw):
            answer = SameWireAnswer(form)
            answer.feed(raw)
            answer.close()
            assert answer.tail == raw
            assert answer.usage == form.read_usage(orjson.loads(raw))
            continue
        read = fold(read_stream(form, [raw]))
        for size in (1, 700, len(raw)):
            passed, reader = pass_on(form, cut(raw, size))
            assert passed == raw
            assert "".join(reader.texts) == tell(read)[0]
            assert reader.usage is not None
            assert (reader.usage.prompt, reader.usage.completion) == tell(read)[4]


@pytest.mark.parametrize(("path", "name"), find_cassettes())
def test_a_recorded_stream_is_read_the_same_however_it_is_cut(path: Path, name: str) -> None:
    form = load_format(name)
    for _, raw in read_exchanges(path):
        if is_stream(raw):
            whole = read_stream(form, [raw])
            assert not [event for event in whole if isinstance(event, Failed)]
            assert read_stream(form, cut(raw, 1)) == whole
            assert read_stream(form, cut(raw, 997)) == whole


@pytest.mark.parametrize(("path", "name"), find_cassettes())
def test_a_recorded_exchange_is_told_the_same_by_way_of_chat_completions(path: Path, name: str) -> None:
    form, chat = load_format(name), load_format("openai-chat")
    for request, raw in read_exchanges(path):
        events = read_stream(form, [raw]) if is_stream(raw) else form.read_reply(orjson.loads(raw))
        told = tell(fold(events))
        by_stream = fold(read_stream(chat, [write_stream(chat, events)]))
        by_answer = fold(chat.read_reply(orjson.loads(orjson.dumps(chat.write_reply(events, {"id": "x"})))))
        assert tell(by_stream) == tell(by_answer) == told
        back = fold(read_stream(form, [write_stream(form, events, request=request)]))
        assert tell(back) == told
        asked = form.read_request(request)
        target = {**WILLING, "traits": {**form.traits, "sampling": True}}
        again = form.read_request(orjson.loads(orjson.dumps(form.write_request(asked, target))))
        assert again["turns"] == asked["turns"]
        assert again.get("tools") == asked.get("tools")
