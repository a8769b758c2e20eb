"""Streams of each dialect, joined as its clients join them: the plain answer that a stream amounts to.

Whatever a strict client would stumble over fails an assertion here: a block never begun, two open at a time, an
index out of order, a stream without its end.
"""

import struct
import zlib
from json import loads
from typing import Any


def join_stream(dialect: str, raw: bytes) -> dict[str, Any]:
    events = _split_messages(raw) if dialect == "bedrock-converse" else _split_sse(dialect, raw)
    doc: dict[str, Any] = _JOINERS[dialect](events)
    return doc


def _split_sse(dialect: str, raw: bytes) -> list[Any]:
    frames = [frame.decode().split("\n") for frame in raw.split(b"\n\n") if frame]
    events = []
    for number, lines in enumerate(frames):
        if dialect == "openai-chat" and number == len(frames) - 1:
            assert lines == ["data: [DONE]"]
            continue
        event = loads(lines[-1].removeprefix("data: "))
        assert lines[:-1] == ([] if dialect in ("openai-chat", "gemini") else [f"event: {event['type']}"])
        events.append(event)
    return events


def _split_messages(raw: bytes) -> list[Any]:
    events, place = [], 0
    while place < len(raw):
        total, size, check = struct.unpack_from(">III", raw, place)
        assert zlib.crc32(raw[place : place + 8]) == check
        assert (
            zlib.crc32(raw[place : place + total - 4]) == struct.unpack_from(">I", raw, place + total - 4)[0]
        )
        headers, name = raw[place + 12 : place + 12 + size], None
        while headers:
            key, rest = headers[1 : 1 + headers[0]], headers[2 + headers[0] :]
            (length,) = struct.unpack_from(">H", rest)
            name = rest[2 : 2 + length].decode() if key == b":event-type" else name
            headers = rest[2 + length :]
        assert name is not None
        events.append({name: loads(raw[place + 12 + size : place + total - 4])})
        place += total
    return events


def _join_chat(events: list[Any]) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": ""}
    calls: list[Any] = []
    finish, usage = None, None
    assert len({event["id"] for event in events}) == 1
    assert events[0]["choices"][0]["delta"]["role"] == "assistant"
    for event in events:
        assert event["object"] == "chat.completion.chunk" and usage is None
        usage = event.get("usage")
        for choice in event["choices"]:
            assert choice["index"] == 0 and finish is None
            delta, finish = choice["delta"], choice["finish_reason"]
            for key in ("content", "reasoning_content"):
                if delta.get(key):
                    message[key] = message.get(key, "") + delta[key]
            for call in delta.get("tool_calls") or ():
                if "id" in call:
                    assert call["index"] == len(calls)
                    calls.append({**call, "function": dict(call["function"])})
                else:
                    calls[call["index"]]["function"]["arguments"] += call["function"]["arguments"]
    assert finish is not None
    message |= (
        {"tool_calls": [{k: v for k, v in call.items() if k != "index"} for call in calls]} if calls else {}
    )
    head = {key: events[0][key] for key in ("id", "created", "model")}
    choice = {"index": 0, "message": message, "finish_reason": finish}
    return {**head, "object": "chat.completion", "choices": [choice], "usage": usage}


def _join_responses(events: list[Any]) -> dict[str, Any]:
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert events[0]["type"] == "response.created"
    items: list[Any] = []
    texts: dict[int, str] = {}
    open_item = None
    for event in events:
        kind = event["type"]
        if kind == "response.output_item.added":
            assert open_item is None and event["output_index"] == len(items)
            open_item = event["output_index"]
        elif kind.endswith(".delta"):
            assert event["output_index"] == open_item
            texts[open_item] = texts.get(open_item, "") + event["delta"]
        elif kind == "response.output_item.done":
            assert event["output_index"] == open_item
            item = event["item"]
            items.append(item)
            parts = item.get("content") or item.get("summary") or [{"text": item.get("arguments", "")}]
            assert texts.get(open_item, "") == "".join(part["text"] for part in parts)
            open_item = None
    last = events[-1]
    assert (
        last["type"] in ("response.completed", "response.incomplete") and last["response"]["output"] == items
    )
    doc: dict[str, Any] = last["response"]
    return doc


def _join_messages(events: list[Any]) -> dict[str, Any]:
    assert [event["type"] for event in events[-2:]] == ["message_delta", "message_stop"]
    doc: dict[str, Any] = {**events[0]["message"], "content": []}
    assert events[0]["type"] == "message_start"
    open_block, pieces = None, ""
    for event in events[1:-1]:
        kind = event["type"]
        if kind == "content_block_start":
            assert open_block is None and event["index"] == len(doc["content"])
            open_block, pieces = event["content_block"], ""
        elif kind == "content_block_delta":
            assert open_block is not None and event["index"] == len(doc["content"])
            delta = event["delta"]
            field = {"text_delta": "text", "thinking_delta": "thinking", "signature_delta": "signature"}.get(
                delta["type"]
            )
            if field:
                open_block[field] += delta[field]
            elif delta["type"] == "citations_delta":
                open_block["citations"] = [*open_block.get("citations", []), delta["citation"]]
            else:
                pieces += delta["partial_json"]
        elif kind == "content_block_stop":
            if open_block["type"] == "tool_use":
                open_block["input"] = loads(pieces)
            doc["content"].append(open_block)
            open_block = None
        elif kind == "message_delta":
            assert open_block is None
            doc |= event["delta"]
            doc["usage"] = {**doc["usage"], **event["usage"]}
    return doc


def _join_gemini(events: list[Any]) -> dict[str, Any]:
    parts: list[Any] = []
    for event in events:
        (candidate,) = event["candidates"]
        assert candidate["index"] == 0
        for part in candidate["content"]["parts"]:
            same = (
                parts
                and set(parts[-1]) - {"thoughtSignature"} == set(part) - {"thoughtSignature"}
                and "text" in part
            )
            if same:
                parts[-1] = {**parts[-1], **part, "text": parts[-1]["text"] + part["text"]}
            elif part.get("text") != "" or "thoughtSignature" in part:
                parts.append(dict(part))
    assert all("finishReason" not in event["candidates"][0] for event in events[:-1])
    candidate = {**events[-1]["candidates"][0], "content": {"role": "model", "parts": parts}}
    return {**events[-1], "candidates": [candidate]}


def _join_converse(events: list[Any]) -> dict[str, Any]:
    assert events[0] == {"messageStart": {"role": "assistant"}} and list(events[-1]) == ["metadata"]
    blocks: list[Any] = []
    block: dict[str, Any] = {}
    for event in events[1:-2]:
        ((kind, said),) = event.items()
        assert said["contentBlockIndex"] == len(blocks)
        if kind == "contentBlockStart":
            block = {"toolUse": {**said["start"]["toolUse"], "input": ""}}
        elif kind == "contentBlockStop":
            if "toolUse" in block:
                block["toolUse"]["input"] = loads(block["toolUse"]["input"])
            blocks.append(block)
            block = {}
        elif "text" in said["delta"]:
            block["text"] = block.get("text", "") + said["delta"]["text"]
        elif "citation" in said["delta"]:
            assert set(said["delta"]["citation"]) <= {"title", "sourceContent", "location"}
        elif "toolUse" in said["delta"]:
            block["toolUse"]["input"] += said["delta"]["toolUse"]["input"]
        else:
            thought = block.setdefault("reasoningContent", {"reasoningText": {"text": ""}})["reasoningText"]
            for key, value in said["delta"]["reasoningContent"].items():
                thought[key] = thought.get(key, "") + value
    stop, metadata = events[-2]["messageStop"], events[-1]["metadata"]
    message = {"role": "assistant", "content": blocks}
    return {"output": {"message": message}, "stopReason": stop["stopReason"], **metadata}


def _join_cohere(events: list[Any]) -> dict[str, Any]:
    assert events[0]["type"] == "message-start" and events[-1]["type"] == "message-end"
    content: list[Any] = []
    calls: list[Any] = []
    plan, open_block = "", None
    for event in events[1:-1]:
        kind, said = event["type"], (event.get("delta") or {}).get("message")
        if kind == "content-start":
            assert open_block is None and event["index"] == len(content)
            content.append(said["content"])
            open_block = kind
        elif kind == "content-delta":
            assert open_block == "content-start" and event["index"] == len(content) - 1
            ((key, piece),) = said["content"].items()
            content[-1][key] += piece
        elif kind == "tool-plan-delta":
            plan += said["tool_plan"]
        elif kind == "tool-call-start":
            assert open_block is None and event["index"] == len(calls)
            calls.append(said["tool_calls"])
            open_block = kind
        elif kind == "tool-call-delta":
            calls[event["index"]]["function"]["arguments"] += said["tool_calls"]["function"]["arguments"]
        elif kind == "citation-start":
            assert open_block == "content-start" and said["citations"]["content_index"] == len(content) - 1
        elif kind != "citation-end":
            assert kind in ("content-end", "tool-call-end") and open_block is not None
            open_block = None
    message: dict[str, Any] = {"role": "assistant"}
    message |= {"tool_plan": plan} if plan else {}
    message |= {"content": content} if content else {}
    message |= {"tool_calls": calls} if calls else {}
    end = events[-1]["delta"]
    return {
        "id": events[0]["id"],
        "message": message,
        "finish_reason": end["finish_reason"],
        "usage": end["usage"],
    }


_JOINERS = {
    "openai-chat": _join_chat,
    "openai-responses": _join_responses,
    "anthropic-messages": _join_messages,
    "gemini": _join_gemini,
    "bedrock-converse": _join_converse,
    "cohere": _join_cohere,
}
