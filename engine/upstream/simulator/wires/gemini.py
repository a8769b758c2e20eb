"""Google's generateContent, written: every event is a whole response whose parts are deltas; calls come whole."""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import orjson

from engine.upstream.simulator.compose import compose_choices, count_tokens, interleave
from engine.upstream.simulator.dialog import (
    FINISH,
    JSON,
    TOKEN,
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
from engine.upstream.simulator.wires.gemini_read import ISSUER, read, read_contents, read_opening
from engine.upstream.simulator.wires.prompt import Prompt

_STATUS = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "ABORTED",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
_FINISH = {"stop": "STOP", "length": "MAX_TOKENS", "tool_calls": "STOP", "refusal": "SAFETY"}
_SAFETY = [{"category": "HARM_CATEGORY_DANGEROUS_CONTENT", "probability": "HIGH", "blocked": True}]


def write(ask: Ask, script: Script, ticket: Ticket) -> Written:
    choices = compose_choices(ask, script)
    counts = count_tokens(ask, script, choices)
    usage = {} if "no-usage" in script.parts else {"usageMetadata": _write_usage(counts)}
    tail = {**usage, "modelVersion": ask.model, "responseId": f"sim-{ticket.number}"}
    return Written(
        counts,
        counts.completion,
        plain=partial(_write_plain, ask, choices, tail),
        events=partial(_write_events, ask, choices, tail),
    )


def _write_usage(counts: Counts) -> dict[str, Any]:
    usage: dict[str, Any] = {
        "promptTokenCount": counts.prompt,
        "candidatesTokenCount": counts.completion - counts.reasoning,
        "totalTokenCount": counts.prompt + counts.completion,
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": counts.prompt}],
    }
    if counts.reasoning:
        usage["thoughtsTokenCount"] = counts.reasoning
    if counts.cached:
        usage["cachedContentTokenCount"] = counts.cached
        usage["cacheTokensDetails"] = [{"modality": "TEXT", "tokenCount": counts.cached}]
    return usage


def _write_calls(ask: Ask, choice: Choice) -> list[dict[str, Any]]:
    """Calls as parts; the first one of an answer that was thought about carries the signature."""
    parts: list[dict[str, Any]] = []
    for call in choice.calls:
        called = {"name": call.name, "args": orjson.loads(call.arguments)}
        parts.append({"functionCall": called if ask.raw else {"id": call.id, **called}})
    if parts and choice.reasoning:
        parts[0]["thoughtSignature"] = sign(ISSUER, choice.calls[0].name)
    return parts


def _write_candidate(choice: Choice, parts: list[dict[str, Any]], *, last: bool) -> dict[str, Any]:
    candidate: dict[str, Any] = {"content": {"parts": parts, "role": "model"}, "index": choice.index}
    if last:
        candidate["finishReason"] = _FINISH[choice.finish]
    if last and choice.refused:
        candidate["safetyRatings"] = _SAFETY
    if not parts:
        del candidate["content"]["parts"]
    if choice.refused:
        del candidate["content"]
    return candidate


def _write_parts(ask: Ask, choice: Choice) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = []
    if choice.reasoning:
        parts.append({"text": "".join(choice.reasoning), "thought": True})
    if choice.text:
        parts.append({"text": "".join(choice.text)})
    if choice.reasoning and choice.text:
        parts[-1]["thoughtSignature"] = sign(ISSUER, "text")
    return parts + _write_calls(ask, choice)


def _write_plain(ask: Ask, choices: list[Choice], tail: Mapping[str, Any]) -> bytes:
    candidates = [_write_candidate(choice, _write_parts(ask, choice), last=True) for choice in choices]
    return orjson.dumps({"candidates": candidates, **tail})


def _write_events(ask: Ask, choices: list[Choice], tail: Mapping[str, Any]) -> Iterator[Event]:
    def chunk(choice: Choice, parts: list[dict[str, Any]], *, last: bool = False) -> bytes:
        return orjson.dumps({"candidates": [_write_candidate(choice, parts, last=last)], **tail})

    for choice in choices:
        for token in choice.reasoning:
            yield TOKEN, chunk(choice, [{"text": token, "thought": True}])
    for choice, place in interleave(choices):
        if not choice.refused:
            yield TOKEN, chunk(choice, [{"text": choice.text[place]}])
    for choice in choices:
        for part in _write_calls(ask, choice):
            yield TOKEN, chunk(choice, [part])
    for choice in choices:
        ended: dict[str, Any] = {"text": ""}
        if choice.reasoning and choice.text:
            ended["thoughtSignature"] = sign(ISSUER, "text")
        yield FINISH, chunk(choice, [ended], last=True)


def write_error(refused: Refused) -> bytes:
    return orjson.dumps({"error": _write_error(refused)})


def _write_error(refused: Refused) -> dict[str, Any]:
    status, code = _STATUS.get(refused.status, "UNKNOWN"), refused.status
    error: dict[str, Any] = {"code": code, "message": refused.message, "status": status}
    if code == 401:
        # A key that is not known is told as a bad argument.
        error = {"code": 400, "message": "API key not valid. Please pass a valid API key.",
                 "status": "INVALID_ARGUMENT", "details": [{"@type": "type.googleapis.com/google.rpc.ErrorInfo",
                 "reason": "API_KEY_INVALID", "domain": "googleapis.com"}]}  # fmt: skip
    if refused.retry_after_s:
        retry = {
            "@type": "type.googleapis.com/google.rpc.RetryInfo",
            "retryDelay": f"{refused.retry_after_s:g}s",
        }
        error["details"] = [retry]
    return error


def write_listed_error(refused: Refused) -> bytes:
    """What is a list when it is well is a list when it is not."""
    return b"[%b]" % write_error(refused)


def frame_item(payload: bytes, _line: bytes, first: bool) -> bytes:
    """An item of one JSON array that goes on until the stream ends."""
    return payload if payload == _CLOSE else (b"[" if first else b",\r\n") + payload


def read_count(body: Mapping[str, Any]) -> Ask:
    """Count what would be asked, told as contents or as a whole request."""
    held, prompt = body.get("generateContentRequest") or body, Prompt()
    read_opening(held, prompt)
    read_contents(held, prompt)
    name = body["model"].removeprefix("models/")
    return Ask(name, [prompt.turns], tools=prompt.tools, digest=prompt.digest())


def write_count(ask: Ask, script: Script, ticket: Ticket) -> Written:
    counts = count_tokens(ask, script, [])
    told = {
        "totalTokens": counts.prompt,
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": counts.prompt}],
    }
    return Written(counts, 0, partial(orjson.dumps, told), no_events)


_CLOSE = b"]"
_BLANK = b'{"candidates":[],"usageMetadata":{"promptTokenCount":0,"totalTokenCount":0}}'
_KEYS_ARE_ARGUMENTS = {401: 400}
EVENTS = Wire(read, write, write_error, statuses=_KEYS_ARE_ARGUMENTS, blank=_BLANK, comment=b"")
ARRAY = Wire(
    read,
    write,
    write_listed_error,
    write_stream_error=write_error,
    statuses=_KEYS_ARE_ARGUMENTS,
    frame=frame_item,
    done=_CLOSE,
    media=JSON,
    comment=b"",
    blank=_BLANK,
)
COUNTING = Wire(read_count, write_count, write_error)
