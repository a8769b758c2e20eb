"""The billing tables (tables/README.md): their cases, and whole answers around the usage blocks, plain and streamed."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from engine.wire.eventstream import write_eventstream_frame

TABLES = Path(__file__).parent / "tables"
LINE = re.compile(r"([\d,]+) (\w+) x ([\d.]+)( / 1M)? = ([\d.]+)")
WIRES = {"anthropic": "anthropic-messages", "google-gemini": "gemini", "aws-bedrock": "bedrock-converse"}
MILLION = Decimal(1_000_000)


@dataclass(frozen=True)
class Line:
    """One line of a sum."""

    text: str
    count: int
    meter: str
    rate: Decimal
    amount: Decimal


@dataclass(frozen=True)
class Case:
    name: str
    provider: str
    wire: str
    price: Mapping[str, Any]
    said: Mapping[str, Any]

    @property
    def cost(self) -> Decimal:
        return Decimal(self.said["cost"])

    @property
    def lines(self) -> list[Line]:
        return [read_line(text) for text in self.said["sum"].strip().splitlines()]


def read_line(text: str) -> Line:
    found = LINE.fullmatch(text.strip())
    assert found is not None, f"no line of a sum: {text}"
    rate = Decimal(found[3]) / (MILLION if found[4] else 1)
    return Line(text, int(found[1].replace(",", "")), found[2], rate, Decimal(found[5]))


def read_tables() -> Iterator[Case]:
    for path in sorted(TABLES.glob("*.yaml")):
        table = YAML(typ="safe", pure=True).load(path.read_text())
        wire = table.get("wire") or WIRES.get(table["provider"], "openai-chat")
        for said in table["cases"]:
            yield Case(f"{path.stem}: {said['case']}", table["provider"], wire, table["price"], said)


def write_plain(case: Case) -> bytes:
    """The whole answer of a call that was not streamed."""
    return json.dumps(PLAIN[case.wire](case.said)).encode()


def write_stream(case: Case) -> bytes:
    """All bytes of a streamed answer."""
    return STREAMED[case.wire](case.said)


def _chat(said: Mapping[str, Any]) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": "hello"}, "finish_reason": "stop"}
    doc = {
        "id": "1",
        "object": "chat.completion",
        "created": 1,
        "model": "name-2026-03-05",
        "choices": [choice],
    }
    tier = {"service_tier": said["tier"]} if "tier" in said else {}
    return {**doc, **tier, "usage": said["usage"]}


def _stream_chat(said: Mapping[str, Any]) -> bytes:
    def chunk(choices: list[Any], **more: Any) -> dict[str, Any]:
        doc = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "name-2026-03-05"}
        tier = {"service_tier": said["tier"]} if "tier" in said else {}
        return {**doc, **tier, "choices": choices, **more}

    words = [
        {"index": 0, "delta": {"role": "assistant", "content": text}, "finish_reason": None}
        for text in ("hel", "lo")
    ]
    finish: dict[str, Any] = {"index": 0, "delta": {}, "finish_reason": "stop"}
    last = {"x_groq": {"id": "r", "usage": said["usage"]}} if said.get("own_place") else {}
    docs = [chunk([word]) for word in words] + [chunk([finish], **last)]
    if not last:
        docs.append(chunk([], usage=said["usage"]))
    return _write_events(docs) + b"data: [DONE]\n\n"


def _response(said: Mapping[str, Any]) -> dict[str, Any]:
    text = {"type": "output_text", "text": "hello", "annotations": []}
    item = {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": [text]}
    doc = {
        "id": "resp_1",
        "object": "response",
        "created_at": 1,
        "status": "completed",
        "model": "m",
        "output": [item],
    }
    return {**doc, "service_tier": said.get("tier"), **said.get("more", {}), "usage": said["usage"]}


def _stream_response(said: Mapping[str, Any]) -> bytes:
    whole = _response(said)
    begun = {
        **whole,
        "status": "in_progress",
        "output": [],
        "usage": None,
        "service_tier": "auto",
        "tool_usage": None,
    }
    item = {**whole["output"][0], "status": "in_progress", "content": []}
    where = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    docs: list[dict[str, Any]] = [
        {"type": "response.created", "response": begun},
        {"type": "response.output_item.added", "output_index": 0, "item": item},
        {"type": "response.output_text.delta", **where, "delta": "hello"},
        {"type": "response.output_text.done", **where, "text": "hello"},
        {"type": "response.output_item.done", "output_index": 0, "item": whole["output"][0]},
        {"type": "response.completed", "response": whole},
    ]
    return _write_events([{**doc, "sequence_number": number} for number, doc in enumerate(docs)], "type")


def _message(said: Mapping[str, Any]) -> dict[str, Any]:
    doc = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m-20260101"}
    return {
        **doc,
        "content": [{"type": "text", "text": "hello"}],
        "stop_reason": "end_turn",
        "usage": said["usage"],
    }


def _stream_message(said: Mapping[str, Any]) -> bytes:
    """The beginning says what was read; the end says the sums again, and how much was written."""
    usage = said["usage"]
    begun = {**_message(said), "content": [], "stop_reason": None, "usage": {**usage, "output_tokens": 1}}
    begun["usage"].pop("server_tool_use", None)
    ended = {name: value for name, value in usage.items() if name not in ("cache_creation", "service_tier")}
    return _write_events(
        [
            {"type": "message_start", "message": begun},
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "hello"}},
            {"type": "content_block_stop", "index": 0},
            {
                "type": "message_delta",
                "delta": {"stop_reason": "end_turn", "stop_sequence": None},
                "usage": ended,
            },
            {"type": "message_stop"},
        ],
        "type",
    )


def _content(said: Mapping[str, Any]) -> dict[str, Any]:
    candidate = {
        "content": {"role": "model", "parts": [{"text": "hello"}]},
        "finishReason": "STOP",
        "index": 0,
    }
    if "grounding" in said:
        candidate["groundingMetadata"] = said["grounding"]
    return {
        "candidates": [candidate],
        "usageMetadata": said["usage"],
        "modelVersion": "m-001",
        "responseId": "1",
    }


def _stream_content(said: Mapping[str, Any]) -> bytes:
    """Each chunk counts anew; the last one counts all."""
    usage, last = said["usage"], _content(said)
    first: dict[str, Any] = {
        "promptTokenCount": usage["promptTokenCount"],
        "totalTokenCount": usage["promptTokenCount"],
    }
    begun = {"candidates": [{"content": {"role": "model", "parts": [{"text": "hel"}]}, "index": 0}]}
    last["candidates"][0]["content"]["parts"] = [{"text": "lo"}]
    return _write_events(
        [{**begun, "usageMetadata": first, "modelVersion": "m-001", "responseId": "1"}, last]
    )


def _converse(said: Mapping[str, Any]) -> dict[str, Any]:
    message = {"role": "assistant", "content": [{"text": "hello"}]}
    tier = {"serviceTier": {"type": said["tier"]}} if "tier" in said else {}
    doc = {"output": {"message": message}, "stopReason": "end_turn", "metrics": {"latencyMs": 1}}
    return {**doc, **tier, "usage": said["usage"]}


def _stream_converse(said: Mapping[str, Any]) -> bytes:
    tier = {"serviceTier": {"type": said["tier"]}} if "tier" in said else {}
    events: list[tuple[str, dict[str, Any]]] = [
        ("messageStart", {"role": "assistant"}),
        ("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": "hello"}}),
        ("contentBlockStop", {"contentBlockIndex": 0}),
        ("messageStop", {"stopReason": "end_turn"}),
        ("metadata", {"usage": said["usage"], "metrics": {"latencyMs": 1}, **tier}),
    ]
    return b"".join(write_eventstream_frame(doc, name) for name, doc in events)


def _write_events(docs: list[dict[str, Any]], name: str = "") -> bytes:
    heads = (f"event: {doc[name]}\n" if name else "" for doc in docs)
    return "".join(
        f"{head}data: {json.dumps(doc)}\n\n" for head, doc in zip(heads, docs, strict=True)
    ).encode()


PLAIN: Mapping[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    "openai-chat": _chat,
    "openai-responses": _response,
    "anthropic-messages": _message,
    "gemini": _content,
    "bedrock-converse": _converse,
}
STREAMED: Mapping[str, Callable[[Mapping[str, Any]], bytes]] = {
    "openai-chat": _stream_chat,
    "openai-responses": _stream_response,
    "anthropic-messages": _stream_message,
    "gemini": _stream_content,
    "bedrock-converse": _stream_converse,
}
