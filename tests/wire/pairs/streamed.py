"""The streams of the answers in answered.py: the same, piece by piece."""

import struct
import zlib
from json import dumps
from typing import Any

from tests.wire.pairs.answered import (
    CALLS,
    CHAT_USAGE,
    COHERE_USAGE,
    CONVERSE_USAGE,
    GEMINI_USAGE,
    MESSAGES_USAGE,
    PROOF,
    TEXT,
    THOUGHT,
    WORDS,
    answer_messages,
    answer_responses,
    write_parts,
)


def stream(dialect: str, *, calls: bool) -> list[bytes]:
    """The frames of the same answer as a stream."""
    frames = [write_event(dialect, event) for event in list_events(dialect, calls=calls)]
    return [*frames, b"data: [DONE]\n\n"] if dialect == "openai-chat" else frames


def list_events(dialect: str, *, calls: bool) -> list[Any]:
    events: list[Any] = _STREAMS[dialect](calls)
    return events


def write_event(dialect: str, event: Any) -> bytes:
    """The frame of an event, in the framing of the dialect."""
    if dialect == "bedrock-converse":
        return write_message(event)
    name = f"event: {event['type']}\n" if "type" in event and dialect not in ("openai-chat", "gemini") else ""
    return f"{name}data: {dumps(event)}\n\n".encode()


def write_message(event: dict[str, Any], *, exception: bool = False) -> bytes:
    """A message of the binary framing."""
    ((name, payload),) = event.items()
    headers = b"".join(
        bytes([len(key)]) + key + b"\x07" + struct.pack(">H", len(value)) + value
        for key, value in (
            (b":message-type", b"exception" if exception else b"event"),
            (b":exception-type" if exception else b":event-type", name.encode()),
            (b":content-type", b"application/json"),
        )
    )
    body = dumps(payload).encode()
    start = struct.pack(">II", len(headers) + len(body) + 16, len(headers))
    start += struct.pack(">I", zlib.crc32(start))
    whole = start + headers + body
    return whole + struct.pack(">I", zlib.crc32(whole))


def _stream_chat(calls: bool) -> list[Any]:
    deltas: list[Any] = [{"role": "assistant", "content": ""}, {"reasoning_content": THOUGHT}]
    deltas += [{"content": word} for word in WORDS]
    for number, (i, n, a) in enumerate(CALLS if calls else ()):
        begun = {"index": number, "id": i, "type": "function", "function": {"name": n, "arguments": ""}}
        pieces = [{"index": number, "function": {"arguments": piece}} for piece in (a[:7], a[7:])]
        deltas += [{"tool_calls": [call]} for call in (begun, *pieces)]
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1700000000, "model": "up-1"}
    chunks = [{**head, "choices": [{"index": 0, "delta": d, "finish_reason": None}]} for d in deltas]
    end = {"index": 0, "delta": {}, "finish_reason": "tool_calls" if calls else "stop"}
    return [*chunks, {**head, "choices": [end]}, {**head, "choices": [], "usage": CHAT_USAGE}]


def _stream_responses(calls: bool) -> list[Any]:
    whole = answer_responses(calls)
    begun = {**whole, "status": "in_progress", "output": [], "usage": None}
    events: list[Any] = [
        {"type": "response.created", "response": begun},
        {"type": "response.in_progress", "response": begun},
    ]
    for number, item in enumerate(whole["output"]):
        at = {"item_id": item["id"], "output_index": number}
        empty = (
            {"summary": []}
            if item["type"] == "reasoning"
            else {"content": []}
            if item["type"] == "message"
            else {"arguments": ""}
        )
        events.append(
            {"type": "response.output_item.added", "output_index": number, "item": {**item, **empty}}
        )
        if item["type"] == "reasoning":
            at["summary_index"] = 0
            events += [
                {
                    "type": "response.reasoning_summary_part.added",
                    **at,
                    "part": {"type": "summary_text", "text": ""},
                },
                {"type": "response.reasoning_summary_text.delta", **at, "delta": THOUGHT},
                {"type": "response.reasoning_summary_text.done", **at, "text": THOUGHT},
                {"type": "response.reasoning_summary_part.done", **at, "part": item["summary"][0]},
            ]
        elif item["type"] == "message":
            at["content_index"] = 0
            part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
            events.append({"type": "response.content_part.added", **at, "part": part})
            events += [
                {"type": "response.output_text.delta", **at, "delta": word, "logprobs": []} for word in WORDS
            ]
            events.append({"type": "response.output_text.done", **at, "text": TEXT, "logprobs": []})
            events.append({"type": "response.content_part.done", **at, "part": item["content"][0]})
        else:
            said = item["arguments"]
            events += [
                {"type": "response.function_call_arguments.delta", **at, "delta": p}
                for p in (said[:7], said[7:])
            ]
            events.append({"type": "response.function_call_arguments.done", **at, "arguments": said})
        events.append({"type": "response.output_item.done", "output_index": number, "item": item})
    events.append({"type": "response.completed", "response": whole})
    return [{**event, "sequence_number": number} for number, event in enumerate(events)]


def _stream_messages(calls: bool) -> list[Any]:
    whole = answer_messages(calls)
    begun = {**whole, "content": [], "stop_reason": None, "usage": {**MESSAGES_USAGE, "output_tokens": 1}}
    deltas: list[Any] = [
        (
            {"type": "thinking", "thinking": "", "signature": ""},
            [
                {"type": "thinking_delta", "thinking": THOUGHT},
                {"type": "signature_delta", "signature": PROOF},
            ],
        ),
        ({"type": "text", "text": ""}, [{"type": "text_delta", "text": word} for word in WORDS]),
    ]
    for i, n, a in CALLS if calls else ():
        pieces = [{"type": "input_json_delta", "partial_json": piece} for piece in ("", a[:7], a[7:])]
        deltas.append(({"type": "tool_use", "id": i, "name": n, "input": {}}, pieces))
    events: list[Any] = [{"type": "message_start", "message": begun}, {"type": "ping"}]
    for index, (block, pieces) in enumerate(deltas):
        events.append({"type": "content_block_start", "index": index, "content_block": block})
        events += [{"type": "content_block_delta", "index": index, "delta": piece} for piece in pieces]
        events.append({"type": "content_block_stop", "index": index})
    end = {"stop_reason": whole["stop_reason"], "stop_sequence": None}
    return [
        *events,
        {"type": "message_delta", "delta": end, "usage": MESSAGES_USAGE},
        {"type": "message_stop"},
    ]


def _stream_gemini(calls: bool) -> list[Any]:
    parts = write_parts(calls, WORDS)
    chunks = []
    for number, part in enumerate(parts):
        candidate: dict[str, Any] = {"content": {"role": "model", "parts": [part]}, "index": 0}
        if number == len(parts) - 1:
            candidate["finishReason"] = "STOP"
        usage = {**GEMINI_USAGE, "candidatesTokenCount": 18 * (number + 1) // len(parts)}
        chunks.append(
            {
                "candidates": [candidate],
                "usageMetadata": usage,
                "modelVersion": "up-1",
                "responseId": "resp-g1",
            }
        )
    return chunks


def _stream_converse(calls: bool) -> list[Any]:
    deltas: list[Any] = [
        [{"reasoningContent": {"text": THOUGHT}}, {"reasoningContent": {"signature": PROOF}}],
        [{"text": word} for word in WORDS],
    ]
    deltas += [
        [{"toolUse": {"input": piece}} for piece in (a[:7], a[7:])] for _, _, a in (CALLS if calls else ())
    ]
    events: list[Any] = [{"messageStart": {"role": "assistant"}}]
    for index, pieces in enumerate(deltas):
        if index > 1:
            i, n, _ = CALLS[index - 2]
            events.append(
                {
                    "contentBlockStart": {
                        "start": {"toolUse": {"toolUseId": i, "name": n}},
                        "contentBlockIndex": index,
                    }
                }
            )
        events += [{"contentBlockDelta": {"delta": piece, "contentBlockIndex": index}} for piece in pieces]
        events.append({"contentBlockStop": {"contentBlockIndex": index}})
    events.append({"messageStop": {"stopReason": "tool_use" if calls else "end_turn"}})
    return [*events, {"metadata": {"usage": CONVERSE_USAGE, "metrics": {"latencyMs": 9}}}]


def _stream_cohere(calls: bool) -> list[Any]:
    def say(kind: str, index: int | None, **message: Any) -> dict[str, Any]:
        place = {} if index is None else {"index": index}
        return {"type": kind, **place, "delta": {"message": message}} if message else {"type": kind, **place}

    events = [
        {
            "id": "c-1",
            **say(
                "message-start", None, role="assistant", content=[], tool_plan="", tool_calls=[], citations=[]
            ),
        }
    ]
    events.append(say("content-start", 0, content={"type": "thinking", "thinking": ""}))
    events.append(say("content-delta", 0, content={"thinking": THOUGHT}))
    events.append(say("content-end", 0))
    if calls:
        events += [say("tool-plan-delta", None, tool_plan=word) for word in WORDS]
        for number, (i, n, a) in enumerate(CALLS):
            begun = {"id": i, "type": "function", "function": {"name": n, "arguments": ""}}
            events.append(say("tool-call-start", number, tool_calls=begun))
            events += [
                say("tool-call-delta", number, tool_calls={"function": {"arguments": piece}})
                for piece in (a[:7], a[7:])
            ]
            events.append(say("tool-call-end", number))
    else:
        events.append(say("content-start", 1, content={"type": "text", "text": ""}))
        events += [say("content-delta", 1, content={"text": word}) for word in WORDS]
        events.append(say("content-end", 1))
    end = {"finish_reason": "TOOL_CALL" if calls else "COMPLETE", "usage": COHERE_USAGE}
    return [*events, {"type": "message-end", "delta": end}]


_STREAMS = {
    "openai-chat": _stream_chat,
    "openai-responses": _stream_responses,
    "anthropic-messages": _stream_messages,
    "gemini": _stream_gemini,
    "bedrock-converse": _stream_converse,
    "cohere": _stream_cohere,
}
