"""Cohere's chat of the second version: events by type, calls as objects with an index of their own, flat errors."""

from collections.abc import Iterator, Mapping
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
    Tool,
    Wire,
    Written,
)
from engine.upstream.simulator.names import Script
from engine.upstream.simulator.wires.messages import frame
from engine.upstream.simulator.wires.prompt import (
    Prompt,
    take_list,
    take_model,
    take_object,
    take_whole,
)

_STOPS = {"stop": "COMPLETE", "length": "MAX_TOKENS", "tool_calls": "TOOL_CALL", "refusal": "COMPLETE"}
PREAMBLE_TOKENS = 500
"""What the servers put before every prompt: counted among the tokens, but not billed."""
Body = Mapping[str, Any]


def read(body: Body) -> Ask:
    """Validate a request."""
    prompt, wanted = Prompt(), body.get("response_format") or {}
    model = take_model(body)
    for number, tool in enumerate(take_list(body, "tools")):
        function = take_object(
            take_object(tool, f"tools[{number}]").get("function"), f"tools[{number}].function"
        )
        prompt.offer(Tool(str(function.get("name")), function.get("parameters")))
    if wanted and prompt.tools:
        raise Refused(400, "response_format is not supported with tools")
    choice = body.get("tool_choice")
    if choice not in (None, "REQUIRED", "NONE"):
        raise Refused(400, "invalid request: tool_choice must be one of REQUIRED, NONE")
    _read_messages(body, prompt)
    seed = take_whole(body, "seed") or 0
    return Ask(
        model,
        [prompt.turns],
        stream=bool(body.get("stream")),
        limit=take_whole(body, "max_tokens"),
        stops=tuple(take_list(body, "stop_sequences")),
        seed=seed,
        tools=prompt.tools,
        tool_choice=choice and choice.lower(),
        schema=(wanted.get("json_schema") or {}) if wanted.get("type") == "json_object" else None,
        thinks=(body.get("thinking") or {}).get("type") == "enabled",
        digest=prompt.digest(seed),
    )


def _read_messages(body: Body, prompt: Prompt) -> None:
    messages = take_list(body, "messages")
    if not messages:
        raise Refused(400, "invalid request: at least one message is required")
    calls: set[str] = set()
    for number, message in enumerate(messages):
        role = message.get("role")
        if role not in ("system", "user", "assistant", "tool"):
            raise Refused(
                400, f"invalid request: messages[{number}].role must be one of system, user, assistant, tool"
            )
        prompt.open(role)
        for call in message.get("tool_calls") or ():
            calls.add(call.get("id"))
            function = call.get("function") or {}
            prompt.add_call(str(function.get("name")), str(function.get("arguments")))
        if role == "tool" and message.get("tool_call_id") not in calls:
            raise Refused(
                400, f"invalid request: no tool call found for tool_call_id {message.get('tool_call_id')}"
            )
        _read_content(message.get("content"), prompt)
        if role == "tool":
            prompt.add_result("", message["tool_call_id"])


def _read_content(content: Any, prompt: Prompt) -> None:
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content or []
    for part in parts:
        if part.get("type") == "text":
            prompt.add_text(part.get("text", ""))
        elif part.get("type") in ("image_url", "document"):
            prompt.add_other(part)
        elif part.get("type") != "thinking":
            raise Refused(400, f"invalid request: content type {part.get('type')} is not supported")


def write(ask: Ask, script: Script, ticket: Ticket) -> Written:
    choice = compose_choices(ask, script)[0]
    counts = count_tokens(ask, script, [choice])
    ended: dict[str, Any] = {"finish_reason": "STOP_SEQUENCE" if choice.stopped_by else _STOPS[choice.finish]}
    if "no-usage" not in script.parts:
        ended["usage"] = _write_usage(counts)
    return Written(
        counts,
        counts.completion,
        plain=partial(_write_plain, ticket, choice, ended),
        events=partial(_write_events, ticket, choice, ended),
        first_call=(
            len(choice.reasoning) + len(choice.text),
            len(choice.calls[0].fragments) if choice.calls else 0,
        ),
    )


def _write_usage(counts: Counts) -> dict[str, Any]:
    return {
        "billed_units": {"input_tokens": counts.prompt, "output_tokens": counts.completion},
        "tokens": {"input_tokens": counts.prompt + PREAMBLE_TOKENS, "output_tokens": counts.completion},
        "cached_tokens": counts.cached,
    }


def _write_plain(ticket: Ticket, choice: Choice, ended: Mapping[str, Any]) -> bytes:
    message: dict[str, Any] = {"role": "assistant"}
    content = [
        {"type": kind, held: "".join(tokens)}
        for kind, held, tokens in (("thinking", "thinking", choice.reasoning), ("text", "text", choice.text))
        if tokens
    ]
    if content:
        message["content"] = content
    if choice.calls:
        message["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in choice.calls
        ]
    return orjson.dumps({"id": ticket.number, "message": message, **ended})


def _write_events(ticket: Ticket, choice: Choice, ended: Mapping[str, Any]) -> Iterator[Event]:
    started = {"role": "assistant", "content": [], "tool_plan": "", "tool_calls": [], "citations": []}
    yield START, _event("message-start", id=ticket.number, delta={"message": started})
    index = 0
    for kind, tokens in (("thinking", choice.reasoning), ("text", choice.text)):
        if not tokens:
            continue
        yield START, _event("content-start", index, {"content": {"type": kind, kind: ""}})
        for token in tokens:
            yield TOKEN, _event("content-delta", index, {"content": {kind: token}})
        yield START, _event("content-end", index)
        index += 1
    for place, call in enumerate(choice.calls):
        opened = {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": ""}}
        yield TOKEN, _event("tool-call-start", place, {"tool_calls": opened})
        for fragment in call.fragments:
            yield (
                TOKEN,
                _event("tool-call-delta", place, {"tool_calls": {"function": {"arguments": fragment}}}),
            )
        yield START, _event("tool-call-end", place)
    yield FINISH, _event("message-end", delta=dict(ended))


def _event(kind: str, index: int | None = None, message: Any = None, **fields: Any) -> bytes:
    event: dict[str, Any] = {"type": kind, **fields}
    if index is not None:
        event["index"] = index
    if message is not None:
        event["delta"] = {"message": message}
    return orjson.dumps(event)


def write_error(refused: Refused) -> bytes:
    return orjson.dumps({"message": refused.message})


def write_stream_error(refused: Refused) -> bytes:
    """An answer that went wrong ends as every answer does, with its reason."""
    return _event("message-end", delta={"finish_reason": "ERROR", "error": refused.message})


WIRE = Wire(read, write, write_error, write_stream_error=write_stream_error, frame=frame, comment=b"")
