"""OpenAI's Responses, written: items that are added, filled and done, each event numbered; the whole at the end."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import orjson

from engine.upstream.simulator.compose import compose_choices, count_tokens
from engine.upstream.simulator.dialog import (
    FINISH,
    START,
    TOKEN,
    Ask,
    Choice,
    Counts,
    Event,
    Refused,
    Ticket,
    Wire,
    Written,
)
from engine.upstream.simulator.errors import write_error
from engine.upstream.simulator.names import Script
from engine.upstream.simulator.signing import sign
from engine.upstream.simulator.wires.messages import frame
from engine.upstream.simulator.wires.responses_read import ISSUER, read

Item = dict[str, Any]
_ECHOED: tuple[tuple[str, Any], ...] = (
    ("instructions", None), ("max_output_tokens", None), ("parallel_tool_calls", True), ("previous_response_id", None),
    ("store", True), ("temperature", 1.0), ("tool_choice", "auto"), ("tools", []), ("top_p", 1.0),
    ("truncation", "disabled"), ("metadata", {}), ("text", {"format": {"type": "text"}}),
    ("reasoning", {"effort": None, "summary": None}), ("user", None), ("service_tier", "default"),
)  # fmt: skip


def write(ask: Ask, script: Script, ticket: Ticket) -> Written:
    choice = compose_choices(ask, script)[0]
    counts = count_tokens(ask, script, [choice])
    items = _write_items(ask, choice, ticket)
    begun = _begin_response(ask, ticket)
    ended = _end_response(begun, choice, items, None if "no-usage" in script.parts else _write_usage(counts))
    return Written(
        counts,
        counts.completion,
        plain=partial(orjson.dumps, ended),
        events=partial(_write_events, choice, begun, items, ended),
        first_call=(
            len(choice.reasoning) + len(choice.text),
            len(choice.calls[0].fragments) if choice.calls else 0,
        ),
    )


def _begin_response(ask: Ask, ticket: Ticket) -> Item:
    return {
        "id": f"resp_{ticket.number}",
        "object": "response",
        "created_at": ticket.created,
        "status": "in_progress",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "model": ask.model,
        "output": [],
        **{name: default if ask.raw.get(name) is None else ask.raw[name] for name, default in _ECHOED},
        "usage": None,
    }


def _end_response(begun: Item, choice: Choice, items: list[Item], usage: Item | None) -> Item:
    cut = choice.finish == "length"
    return {
        **begun,
        "status": "incomplete" if cut else "completed",
        "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
        "output": items,
        "usage": usage,
    }


def _write_usage(counts: Counts) -> Item:
    return {
        "input_tokens": counts.prompt,
        "input_tokens_details": {"cached_tokens": counts.cached, "cache_write_tokens": counts.written},
        "output_tokens": counts.completion,
        "output_tokens_details": {"reasoning_tokens": counts.reasoning},
        "total_tokens": counts.prompt + counts.completion,
    }


def _write_items(ask: Ask, choice: Choice, ticket: Ticket) -> list[Item]:
    items: list[Item] = []
    cut = "incomplete" if choice.finish == "length" else "completed"
    if choice.reasoning:
        summary = [{"type": "summary_text", "text": "".join(choice.reasoning)}]
        items.append({"id": f"rs_{ticket.number}", "type": "reasoning", "summary": summary})
        if "reasoning.encrypted_content" in (ask.raw.get("include") or ()) or ask.raw.get("store") is False:
            items[-1]["encrypted_content"] = sign(ISSUER, "reasoning")
    if choice.text or not choice.calls:
        items.append({"id": f"msg_{ticket.number}", "type": "message", "status": cut, "role": "assistant",
                      "content": [_write_part(choice, "".join(choice.text))]})  # fmt: skip
    for number, call in enumerate(choice.calls):
        items.append({"id": f"fc_{ticket.number}{number:02d}", "type": "function_call", "status": "completed",
                      "arguments": call.arguments, "call_id": call.id, "name": call.name})  # fmt: skip
    return items


def _write_part(choice: Choice, text: str) -> Item:
    if choice.refused:
        return {"type": "refusal", "refusal": text}
    return {"type": "output_text", "annotations": [], "logprobs": [], "text": text}


def _write_events(choice: Choice, begun: Item, items: list[Item], ended: Item) -> Iterator[Event]:
    """Events get their number as they are written; a type always comes first."""
    number = 0
    for kind, name, fields in _list_events(choice, begun, items, ended):
        yield kind, orjson.dumps({"type": f"response.{name}", "sequence_number": number, **fields})
        number += 1


Named = tuple[str, str, Item]


def _list_events(choice: Choice, begun: Item, items: list[Item], ended: Item) -> Iterator[Named]:
    yield START, "created", {"response": begun}
    yield START, "in_progress", {"response": begun}
    calls = iter(choice.calls)
    for place, item in enumerate(items):
        where: Item = {"item_id": item["id"], "output_index": place}
        empty: Item
        match item["type"]:
            case "reasoning":
                inner, empty = _list_reasoning(choice, item, where), {"summary": []}
            case "message":
                inner, empty = _list_text(choice, item, where), {"content": [], "status": "in_progress"}
            case _:
                inner = _list_arguments(next(calls).fragments, item, where)
                empty = {"arguments": "", "status": "in_progress"}
        kind = TOKEN if "arguments" in empty else START
        yield kind, "output_item.added", {"output_index": place, "item": {**item, **empty}}
        yield from inner
        yield START, "output_item.done", {"output_index": place, "item": item}
    yield FINISH, str(ended["status"]), {"response": ended}


def _list_reasoning(choice: Choice, item: Item, where: Item) -> Iterator[Named]:
    at, part = {**where, "summary_index": 0}, item["summary"][0]
    yield START, "reasoning_summary_part.added", {**at, "part": {**part, "text": ""}}
    for token in choice.reasoning:
        yield TOKEN, "reasoning_summary_text.delta", {**at, "delta": token}
    yield START, "reasoning_summary_text.done", {**at, "text": part["text"]}
    yield START, "reasoning_summary_part.done", {**at, "part": part}


def _list_text(choice: Choice, item: Item, where: Item) -> Iterator[Named]:
    at, part, held = (
        {**where, "content_index": 0},
        item["content"][0],
        "refusal" if choice.refused else "text",
    )
    name = "refusal" if choice.refused else "output_text"
    more: Item = {} if choice.refused else {"logprobs": []}
    yield START, "content_part.added", {**at, "part": {**part, held: ""}}
    for token in choice.text:
        yield TOKEN, f"{name}.delta", {**at, "delta": token, **more}
    yield START, f"{name}.done", {**at, held: part[held], **more}
    yield START, "content_part.done", {**at, "part": part}


def _list_arguments(fragments: list[str], item: Item, where: Item) -> Iterator[Named]:
    for fragment in fragments:
        yield TOKEN, "function_call_arguments.delta", {**where, "delta": fragment}
    done = {"arguments": item["arguments"], "name": item["name"]}
    yield START, "function_call_arguments.done", {**where, **done}


def write_stream_error(refused: Refused) -> bytes:
    """As the servers send it: an error object inside an event of type `error`."""
    error = {"type": refused.type, "code": refused.code, "message": refused.message, "param": refused.param}
    return orjson.dumps({"type": "error", "sequence_number": 2, "error": error})


_KEEPALIVE = b'event: keepalive\ndata: {"type":"keepalive","sequence_number":3}\n\n'
WIRE = Wire(read, write, write_error, write_stream_error=write_stream_error, frame=frame, comment=_KEEPALIVE)
