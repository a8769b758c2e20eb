"""The `openai-chat` wire, written: chat completions as the real servers write them, streamed and not."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import orjson

from engine.upstream.simulator import errors
from engine.upstream.simulator.chat_read import read
from engine.upstream.simulator.compose import compose_choices, count_tokens, interleave
from engine.upstream.simulator.dialog import (
    FINISH,
    START,
    TOKEN,
    USAGE,
    Ask,
    Choice,
    Counts,
    Event,
    Ticket,
    Wire,
    Written,
)
from engine.upstream.simulator.names import Script
from engine.upstream.simulator.text import mix

FINGERPRINT = "fp_simulator1"


def write(ask: Ask, script: Script, ticket: Ticket) -> Written:
    """Compose the answer; it is put into bytes only in the way that is wanted."""
    choices = compose_choices(ask, script)
    counts = count_tokens(ask, script, choices)
    return Written(
        counts,
        counts.completion,
        plain=partial(_write_plain, ask, script, ticket, choices, counts),
        events=_Stream(ask, script, ticket, choices, counts).write_events,
        first_call=_find_first_call(choices),
    )


def _find_first_call(choices: list[Choice]) -> tuple[int, int]:
    before = sum(len(choice.reasoning) + len(choice.text) for choice in choices)
    called = (call for choice in choices for call in choice.calls)
    return before, next((len(call.fragments) for call in called), 0)


def write_counts(counts: Counts) -> dict[str, Any]:
    return {
        "prompt_tokens": counts.prompt,
        "completion_tokens": counts.completion,
        "total_tokens": counts.prompt + counts.completion,
        "prompt_tokens_details": {
            "cached_tokens": counts.cached,
            "cache_write_tokens": counts.written,
            "audio_tokens": 0,
        },
        "completion_tokens_details": {
            "reasoning_tokens": counts.reasoning,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def _write_plain(ask: Ask, script: Script, ticket: Ticket, choices: list[Choice], counts: Counts) -> bytes:
    reply: dict[str, Any] = {
        "id": f"chatcmpl-{ticket.number}",
        "object": "chat.completion",
        "created": ticket.created,
        "model": ask.model,
        "choices": [_write_choice(ask, choice) for choice in choices],
        "usage": write_counts(counts),
        "service_tier": "default",
        "system_fingerprint": FINGERPRINT,
    }
    if "no-usage" in script.parts:
        del reply["usage"]
    return orjson.dumps(reply)


def _write_choice(ask: Ask, choice: Choice) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": "".join(choice.text), "refusal": None}
    if choice.refused:
        message.update(content=None, refusal="".join(choice.text))
    if choice.reasoning:
        message["reasoning_content"] = "".join(choice.reasoning)
    if choice.calls:
        message["content"] = None
        message["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in choice.calls
        ]
    logprobs = None if ask.logprobs is None else _write_logprobs(choice.text, ask.logprobs)
    return {
        "index": choice.index,
        "message": message,
        "logprobs": logprobs,
        "finish_reason": end_with(choice),
    }


def end_with(choice: Choice) -> str:
    """The reason to finish: here a refusal is a plain stop."""
    return "stop" if choice.refused else choice.finish


def _write_logprobs(tokens: list[str], top: int) -> dict[str, Any]:
    return {"content": [_write_logprob(token, top) for token in tokens], "refusal": None}


def _write_logprob(token: str, top: int) -> dict[str, Any]:
    """A log probability that follows from the token alone; the alternatives are less likely, in order."""
    first = rate_token(token)
    ranked = [token, *(f"{token}{letter}" for letter in "abcdefghijklmnopqrstuvwxyz")][:top]
    return {
        "token": token,
        "logprob": first,
        "bytes": list(token.encode()),
        "top_logprobs": [
            {"token": one, "logprob": first - place, "bytes": list(one.encode())}
            for place, one in enumerate(ranked)
        ],
    }


def rate_token(token: str) -> float:
    return -0.001 - (mix(token) % 100) / 1000


class _Stream:
    """Writes the chunks of one answer. What is the same in all of them is put into bytes once."""

    def __init__(
        self, ask: Ask, script: Script, ticket: Ticket, choices: list[Choice], counts: Counts
    ) -> None:
        self._ask = ask
        self._choices = choices
        self._counts = counts
        parts = script.parts
        self._in_finish = "usage-in-finish" in parts
        asked = (ask.usage_asked or "usage-always" in parts) and "no-usage" not in parts
        self._usage_chunk = asked and not self._in_finish
        self._head = b'{"id":"chatcmpl-%b","object":"chat.completion.chunk","created":%d,"model":%b,' % (
            ticket.number.encode(), ticket.created, orjson.dumps(ask.model)
        )  # fmt: skip
        self._head += b'"service_tier":"default","system_fingerprint":"%b","choices":[' % FINGERPRINT.encode()
        self._tail = b'],"usage":null}' if self._usage_chunk else b"]}"

    def write_events(self) -> Iterator[Event]:
        for choice in self._choices:
            content = None if choice.calls else ""
            delta = {"role": "assistant", "content": content, "refusal": None}
            yield START, self._chunk(choice, delta)
        for choice in self._choices:
            for token in choice.reasoning:
                yield TOKEN, self._chunk(choice, {"reasoning_content": token})
        yield from self._write_text()
        for choice in self._choices:
            yield from self._write_calls(choice)
        for place, choice in enumerate(self._choices, 1):
            last = self._in_finish and place == len(self._choices)
            yield FINISH, self._chunk(choice, {}, finish=end_with(choice), with_usage=last)
        if self._usage_chunk:
            yield USAGE, self._head + b'],"usage":%b}' % orjson.dumps(write_counts(self._counts))

    def _write_text(self) -> Iterator[Event]:
        if self._ask.logprobs is not None:
            for choice, place in interleave(self._choices):
                token = choice.text[place]
                yield (
                    TOKEN,
                    self._chunk(
                        choice, {"content": token}, logprobs=_write_logprobs([token], self._ask.logprobs)
                    ),
                )
            return
        tail = b'},"logprobs":null,"finish_reason":null}' + self._tail
        heads = [
            self._head
            + b'{"index":%d,"delta":{"%b":' % (choice.index, b"refusal" if choice.refused else b"content")
            for choice in self._choices
        ]
        dump = orjson.dumps
        for choice, place in interleave(self._choices):
            yield TOKEN, heads[choice.index] + dump(choice.text[place]) + tail

    def _write_calls(self, choice: Choice) -> Iterator[Event]:
        for place, call in enumerate(choice.calls):
            opened = {"name": call.name, "arguments": ""}
            delta = {"index": place, "id": call.id, "type": "function", "function": opened}
            yield TOKEN, self._chunk(choice, {"tool_calls": [delta]})
            for fragment in call.fragments:
                piece = {"index": place, "function": {"arguments": fragment}}
                yield TOKEN, self._chunk(choice, {"tool_calls": [piece]})

    def _chunk(
        self,
        choice: Choice,
        delta: dict[str, Any],
        *,
        logprobs: Any = None,
        finish: str | None = None,
        with_usage: bool = False,
    ) -> bytes:
        held = {"index": choice.index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        tail = b'],"usage":%b}' % orjson.dumps(write_counts(self._counts)) if with_usage else self._tail
        return self._head + orjson.dumps(held) + tail


BLANK = b'{"id":"","object":"chat.completion.chunk","created":0,"model":"","choices":[]}'
WIRE = Wire(read, write, errors.write_error, done=b"[DONE]", blank=BLANK)
