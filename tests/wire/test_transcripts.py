"""Recorded exchanges with real providers, read, translated into every dialect at hand, and read back.

The recordings stay outside of this repository; without them these tests are skipped.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from engine.wire.call_ids import fit_id
from engine.wire.canonical import Event, Failed
from engine.wire.streams import Answer, fold
from tests.wire.formats_at_hand import ROOT, WILLING, load_format, read_stream, write_stream

RECORDED = ROOT.parent / "shared" / "transcripts" / "protocols"
DIALECTS = {
    "chat-completions": "openai-chat",
    "responses": "openai-responses",
    "baseten": "openai-chat",
    "anthropic": "anthropic-messages",
    "bedrock-anthropic": "anthropic-messages",
    "vertex-anthropic": "anthropic-messages",
    "google": "gemini",
    "bedrock": "bedrock-converse",
}
NO_ANSWER = ("NO_IMAGE", "OTHER")
SURFACES = ("openai-chat", "openai-responses", "anthropic-messages", "gemini")
TAKES_FREE_TEXT = ("openai-chat", "openai-responses")
ONE_CHOICE = ("anthropic-messages", "openai-responses")
NOT_RECORDED = ("multimodalRequest/responses/followup-response-streaming.json",)
"""Files among the recordings that no provider ever sent: their events have no names."""

pytestmark = pytest.mark.skipif(not RECORDED.is_dir(), reason="the recordings are not here")


def find_recordings(kind: str) -> list[Any]:
    paths = sorted(RECORDED.glob(f"*/*/*{kind}*.json"))
    named = ((path, DIALECTS.get(path.parent.name)) for path in paths)
    found = [(path, name, str(path.relative_to(RECORDED))) for path, name in named if name]
    return [pytest.param(path, name, id=case) for path, name, case in found if case not in NOT_RECORDED]


def read_recording(path: Path, name: str) -> list[Event]:
    form, doc = load_format(name), json.loads(path.read_bytes())
    if "streaming" not in path.name:
        return form.read_reply(doc)
    reader = form.new_stream_reader()
    events = [event for item in doc for event in reader.feed(item)] + reader.close()
    assert reader.damaged == 0
    return events


def read_arguments(call: dict[str, Any]) -> Any:
    """What a call is given; dialects that know objects alone have free text as the `input` of one."""
    return {"input": call["arguments"]} if call.get("custom") else orjson.loads(call["arguments"])


def tell(answer: Answer, choices: int | None = None) -> list[Any]:
    """What an answer says, without how the dialect cuts it into blocks."""
    return [
        (
            "".join(part.get("text", "") for part in choice["parts"] if part["type"] == "text"),
            "".join(part.get("text", "") for part in choice["parts"] if part["type"] == "reasoning"),
            [(p["name"], read_arguments(p)) for p in choice["parts"] if p["type"] == "tool_call"],
            choice["finish"]["reason"],
        )
        for choice in answer["choices"][:choices]
    ]


@pytest.mark.parametrize(("path", "name"), find_recordings("response"))
def test_a_recorded_answer_is_told_the_same_in_every_dialect(path: Path, name: str) -> None:
    events = read_recording(path, name)
    if any(isinstance(event, Failed) for event in events):
        assert any(f'"finishReason": "{reason}"' in path.read_text() for reason in NO_ANSWER)
        return
    answer = fold(events)
    custom = any(part.get("custom") for part in answer["parts"])  # only who has such tools can be called so
    for surface in TAKES_FREE_TEXT if custom else SURFACES:
        form = load_format(surface)
        choices = 1 if surface in ONE_CHOICE else None
        plain = fold(
            form.read_reply(orjson.loads(orjson.dumps(form.write_reply(events, {"id": "x", "created": 1}))))
        )
        streamed = fold(read_stream(form, [write_stream(form, events)]))
        assert tell(plain, choices) == tell(streamed, choices) == tell(answer, choices)
        if answer["usage"] is not None:
            for read in (plain, streamed):
                assert read["usage"]["prompt"] == answer["usage"]["prompt"]
                assert read["usage"]["completion"] == answer["usage"]["completion"]


@pytest.mark.parametrize(
    ("path", "name"), [p for p in find_recordings("response") if "simple" in p.id or "tool" in p.id]
)
def test_a_recorded_answer_survives_byte_by_byte(path: Path, name: str) -> None:
    events = read_recording(path, name)
    for surface in SURFACES:
        form = load_format(surface)
        raw = write_stream(form, events)
        assert read_stream(form, [bytes([byte]) for byte in raw]) == read_stream(form, [raw])


def spoken(chat: dict[str, Any]) -> Iterator[Any]:
    for turn in chat["turns"]:
        for part in turn["parts"]:
            if part["type"] == "tool_call":
                yield "call", fit_id(part["id"], 40, "call_", "!-~"), part["name"], read_arguments(part)
            elif part["type"] == "tool_result":
                yield (
                    "result",
                    fit_id(part["id"], 40, "call_", "!-~"),
                    [inner.get("text") for inner in part["parts"]],
                )
            elif part["type"] in ("text", "image"):
                yield part["type"], part.get("text"), part.get("url"), part.get("data")


@pytest.mark.parametrize(
    ("path", "name"), [p for p in find_recordings("request") if p.id.split("/")[1] != "bedrock"]
)
def test_a_recorded_request_keeps_its_conversation_in_every_dialect(path: Path, name: str) -> None:
    body = json.loads(path.read_bytes())
    chat = load_format(name).read_request({"model": "m", **body}, {"model": "m"})
    for target in ("openai-chat", "openai-responses", "anthropic-messages"):
        form = load_format(target)
        again = form.read_request(orjson.loads(orjson.dumps(form.write_request(chat, WILLING))))
        assert sorted(map(str, spoken(again))) == sorted(map(str, spoken(chat)))
        lost = form.find_loss(chat)
        for key in ("max_output", "temperature", "top_p", "stop", "tools"):
            if key in chat and not any(pointer.startswith(key) for pointer in lost):
                assert key in again, (key, lost)
    for target in ("gemini", "bedrock-converse"):
        assert orjson.dumps(load_format(target).write_request(chat, WILLING))
