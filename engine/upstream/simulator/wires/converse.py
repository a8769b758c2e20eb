"""Amazon Bedrock's Converse, written as JSON and as an event stream; and Messages as `invoke` carries them.

An event's payload is held as `{"name":{...}}` until it is framed; the name of an exception begins with `!`.
"""

import base64
from collections.abc import Iterator
from functools import partial
from typing import Any

import orjson

from engine.upstream.simulator.compose import compose_choices, count_tokens
from engine.upstream.simulator.dialog import (
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
)
from engine.upstream.simulator.names import Script
from engine.upstream.simulator.signing import sign
from engine.upstream.simulator.wires import messages
from engine.upstream.simulator.wires.converse_read import ISSUER, read
from engine.upstream.simulator.wires.eventstream import MEDIA, write_event, write_exception

_TYPES = {
    400: "ValidationException",
    401: "UnrecognizedClientException",
    403: "AccessDeniedException",
    404: "ResourceNotFoundException",
    408: "ModelTimeoutException",
    429: "ThrottlingException",
    500: "InternalServerException",
    503: "ServiceUnavailableException",
}
_STOPS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "refusal": "content_filtered"}
Block = dict[str, Any]


def write(ask: Ask, script: Script, ticket: Ticket) -> Written:
    choice = compose_choices(ask, script)[0]
    counts = count_tokens(ask, script, [choice])
    return Written(
        counts,
        counts.completion,
        plain=partial(_write_plain, ask, choice, counts),
        events=partial(_write_events, ask, script, choice, counts),
        first_call=(
            len(choice.reasoning) + len(choice.text),
            len(choice.calls[0].fragments) if choice.calls else 0,
        ),
    )


def _write_usage(ask: Ask, counts: Counts) -> Block:
    usage: Block = {
        "inputTokens": counts.fresh,
        "outputTokens": counts.completion,
        "totalTokens": counts.prompt + counts.completion,
    }
    if ask.marks or counts.cached or counts.written:
        usage |= {"cacheReadInputTokens": counts.cached, "cacheWriteInputTokens": counts.written}
    if counts.written:
        ttl = "1h" if ask.marks and ask.marks[-1].hour else "5m"
        usage["cacheDetails"] = [{"inputTokens": counts.written, "ttl": ttl}]
    return usage


def _write_plain(ask: Ask, choice: Choice, counts: Counts) -> bytes:
    content: list[Block] = []
    if choice.redacted:
        content.append({"reasoningContent": {"redactedContent": sign(ISSUER, "redacted")}})
    elif choice.reasoning:
        text = "".join(choice.reasoning)
        content.append(
            {"reasoningContent": {"reasoningText": {"text": text, "signature": sign(ISSUER, text)}}}
        )
    if choice.text:
        content.append({"text": "".join(choice.text)})
    for call in choice.calls:
        used = {"toolUseId": _name_call(call.id), "name": call.name, "input": orjson.loads(call.arguments)}
        content.append({"toolUse": used})
    return orjson.dumps(
        {
            "output": {"message": {"role": "assistant", "content": content}},
            "stopReason": _stop(choice),
            "usage": _write_usage(ask, counts),
            "metrics": {"latencyMs": 5},
        }
    )


def _name_call(number: str) -> str:
    return f"tooluse_{number[5:]}"


def _stop(choice: Choice) -> str:
    return "stop_sequence" if choice.stopped_by else _STOPS[choice.finish]


def _write_events(ask: Ask, script: Script, choice: Choice, counts: Counts) -> Iterator[Event]:
    yield START, b'{"messageStart":{"role":"assistant"}}'
    index = 0
    if choice.reasoning:
        yield from _write_thoughts(choice)
        index += 1
    if choice.text:
        for token in choice.text:
            yield TOKEN, _write_delta(index, {"text": token})
        yield START, _stop_block(index)
        index += 1
    for call in choice.calls:
        opened = {"toolUse": {"toolUseId": _name_call(call.id), "name": call.name}}
        yield TOKEN, orjson.dumps({"contentBlockStart": {"contentBlockIndex": index, "start": opened}})
        for fragment in call.fragments:
            yield TOKEN, _write_delta(index, {"toolUse": {"input": fragment}})
        yield START, _stop_block(index)
        index += 1
    yield FINISH, orjson.dumps({"messageStop": {"stopReason": _stop(choice)}})
    if "no-usage" not in script.parts:
        metadata = {"usage": _write_usage(ask, counts), "metrics": {"latencyMs": 5}}
        yield USAGE, orjson.dumps({"metadata": metadata})


def _write_thoughts(choice: Choice) -> Iterator[Event]:
    if choice.redacted:
        yield START, _write_delta(0, {"reasoningContent": {"redactedContent": sign(ISSUER, "redacted")}})
    else:
        for token in choice.reasoning:
            yield TOKEN, _write_delta(0, {"reasoningContent": {"text": token}})
        signature = sign(ISSUER, "".join(choice.reasoning))
        yield START, _write_delta(0, {"reasoningContent": {"signature": signature}})
    yield START, _stop_block(0)


def _write_delta(index: int, delta: Block) -> bytes:
    return orjson.dumps({"contentBlockDelta": {"contentBlockIndex": index, "delta": delta}})


def _stop_block(index: int) -> bytes:
    return b'{"contentBlockStop":{"contentBlockIndex":%d}}' % index


def frame(payload: bytes, _line: bytes, _first: bool) -> bytes:
    """The inner object under the name that it was held by."""
    name = payload.split(b'"', 2)[1]
    inner = payload[len(name) + 4 : -1]
    if name.startswith(b"!"):
        return write_exception(name[1:].decode(), inner)
    return write_event(name.decode(), inner)


def frame_invoked(payload: bytes, _line: bytes, _first: bool) -> bytes:
    """A native event, wrapped; exceptions are the stream's own."""
    if payload.startswith(b'{"!'):
        return frame(payload, _line, _first)
    return write_event("chunk", orjson.dumps({"bytes": base64.b64encode(payload).decode()}))


def write_error(refused: Refused) -> bytes:
    message = refused.message
    if refused.code == "context_length_exceeded":
        message = "The model returned the following errors: Input is too long for requested model."
    return orjson.dumps({"message": message})


def write_error_head(refused: Refused) -> bytes:
    kind = _name_error(refused.status)
    return b"x-amzn-errortype: %b:http://internal.amazon.com/coral/com.amazon.bedrock/\r\n" % kind.encode()


def _name_error(status: int) -> str:
    return _TYPES.get(status, "InternalServerException" if status >= 500 else "ValidationException")


def write_stream_error(refused: Refused) -> bytes:
    name = _name_error(refused.status)
    return orjson.dumps({f"!{name[0].lower()}{name[1:]}": {"message": refused.message}})


WIRE = Wire(
    read,
    write,
    write_error,
    write_stream_error=write_stream_error,
    write_error_head=write_error_head,
    frame=frame,
    media=MEDIA,
    comment=b"",
)
INVOKED = Wire(
    messages.WIRE.read,
    messages.WIRE.write,
    write_error,
    write_stream_error=write_stream_error,
    write_error_head=write_error_head,
    frame=frame_invoked,
    media=MEDIA,
    comment=b"",
)
