"""Anthropic's Messages, written: blocks that are opened and closed, signed thinking, usage of the cache; counting."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import orjson

from engine.upstream.simulator.compose import compose_choices, count_tokens
from engine.upstream.simulator.dialog import (
    END,
    FINISH,
    START,
    TOKEN,
    USAGE,
    Ask,
    Choice,
    Counts,
    Event,
    Refused,
    Ticket,
    Wire,
    Written,
    no_events,
)
from engine.upstream.simulator.names import Script
from engine.upstream.simulator.signing import sign
from engine.upstream.simulator.wires.messages_read import ISSUER, read, read_count

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_STOPS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "refusal": "refusal"}


def write(ask: Ask, script: Script, ticket: Ticket) -> Written:
    choice = compose_choices(ask, script)[0]
    counts = count_tokens(ask, script, [choice])
    return Written(
        counts,
        counts.completion,
        plain=partial(_write_plain, ask, ticket, choice, counts),
        events=partial(_write_events, ask, ticket, choice, counts),
        first_call=(
            len(choice.reasoning) + len(choice.text),
            len(choice.calls[0].fragments) if choice.calls else 0,
        ),
    )


def _write_usage(ask: Ask, counts: Counts) -> dict[str, Any]:
    hour = counts.written if ask.marks and ask.marks[-1].hour else 0
    return {
        "input_tokens": counts.fresh,
        "cache_creation_input_tokens": counts.written,
        "cache_read_input_tokens": counts.cached,
        "cache_creation": {
            "ephemeral_5m_input_tokens": counts.written - hour,
            "ephemeral_1h_input_tokens": hour,
        },
        "output_tokens": counts.completion,
        "service_tier": "standard",
    }


def _write_head(ask: Ask, ticket: Ticket) -> dict[str, Any]:
    return {
        "id": f"msg_{ticket.number}",
        "type": "message",
        "role": "assistant",
        "model": ask.model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
    }


def _write_blocks(choice: Choice) -> list[dict[str, Any]]:
    blocks: list[dict[str, Any]] = []
    if choice.redacted:
        blocks.append({"type": "redacted_thinking", "data": sign(ISSUER, "redacted")})
    elif choice.reasoning:
        thought = "".join(choice.reasoning)
        blocks.append({"type": "thinking", "thinking": thought, "signature": sign(ISSUER, thought)})
    if choice.text and not choice.refused:
        blocks.append({"type": "text", "text": "".join(choice.text)})
    for call in choice.calls:
        blocks.append(
            {"type": "tool_use", "id": f"toolu_{call.id[5:]}", "name": call.name,
             "input": orjson.loads(call.arguments)}
        )  # fmt: skip
    return blocks


def _write_stop(ask: Ask, choice: Choice) -> dict[str, Any]:
    """A stop sequence that ended the text is told; the text itself ends before it."""
    reason, sequence = _STOPS[choice.finish], None
    if choice.stopped_by:
        reason, sequence = "stop_sequence", choice.stopped_by
    stop: dict[str, Any] = {"stop_reason": reason, "stop_sequence": sequence}
    if choice.refused:
        stop["stop_details"] = {"type": "refusal", "category": None, "explanation": "".join(choice.text)}
    return stop


def _write_plain(ask: Ask, ticket: Ticket, choice: Choice, counts: Counts) -> bytes:
    message = {
        **_write_head(ask, ticket),
        "content": _write_blocks(choice),
        **_write_stop(ask, choice),
        "usage": _write_usage(ask, counts),
    }
    return orjson.dumps(message)


def _write_events(ask: Ask, ticket: Ticket, choice: Choice, counts: Counts) -> Iterator[Event]:
    usage = _write_usage(ask, counts)
    started = {**_write_head(ask, ticket), "usage": {**usage, "output_tokens": 1}}
    yield START, orjson.dumps({"type": "message_start", "message": started})
    yield USAGE, b'{"type":"ping"}'
    for index, block in enumerate(_write_blocks(choice)):
        yield from _write_block(index, block, choice)
    delta = _write_stop(ask, choice)
    yield FINISH, orjson.dumps({"type": "message_delta", "delta": delta, "usage": usage})
    yield END, b'{"type":"message_stop"}'


def _write_block(index: int, block: dict[str, Any], choice: Choice) -> Iterator[Event]:
    match block["type"]:
        case "thinking":
            opened: dict[str, Any] = {"type": "thinking", "thinking": "", "signature": ""}
            deltas = [{"type": "thinking_delta", "thinking": token} for token in choice.reasoning]
        case "text":
            opened = {"type": "text", "text": ""}
            deltas = [{"type": "text_delta", "text": token} for token in choice.text]
        case "redacted_thinking":
            opened, deltas = block, []
        case _:
            opened = {**block, "input": {}}
            call = choice.calls[index - len(_write_blocks(choice)) + len(choice.calls)]
            deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in call.fragments]
    kind = TOKEN if block["type"] == "tool_use" else START
    yield kind, orjson.dumps({"type": "content_block_start", "index": index, "content_block": opened})
    for delta in deltas:
        yield TOKEN, orjson.dumps({"type": "content_block_delta", "index": index, "delta": delta})
    if "signature" in block:
        signed = {"type": "signature_delta", "signature": block["signature"]}
        yield START, orjson.dumps({"type": "content_block_delta", "index": index, "delta": signed})
    yield START, b'{"type":"content_block_stop","index":%d}' % index


def frame(payload: bytes, line: bytes, _first: bool) -> bytes:
    """The event's name is its type, which every payload begins with."""
    name = payload.split(b'"', 4)[3] if payload.startswith(b'{"type":"') else b"message"
    return b"event: %b%bdata: %b%b" % (name, line, payload, line * 2)


def write_error(refused: Refused) -> bytes:
    kind = _TYPES.get(refused.status, "api_error" if refused.status >= 500 else "invalid_request_error")
    message = refused.message
    if refused.code == "context_length_exceeded":
        message = "prompt is too long: 9001 tokens > 8192 maximum"
    return orjson.dumps({"type": "error", "error": {"type": kind, "message": message}})


def write_count(ask: Ask, script: Script, ticket: Ticket) -> Written:
    """Only the prompt is counted; nothing is said."""
    counts = count_tokens(ask, script, [])
    return Written(counts, 0, partial(orjson.dumps, {"input_tokens": counts.prompt}), no_events)


_PING = b'event: ping\ndata: {"type":"ping"}\n\n'
WIRE = Wire(read, write, write_error, frame=frame, comment=_PING)
COUNTING = Wire(read_count, write_count, write_error)
