"""The `openai-chat` wire: chat completions read and written as the real servers do, streamed and not."""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import orjson

from engine.upstream.simulator import errors
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
    Refused,
    Ticket,
    Tool,
    Turn,
    Wire,
    Written,
    count_turn,
    digest_turns,
)
from engine.upstream.simulator.names import Script
from engine.upstream.simulator.reading import (
    check_sampling,
    read_flag,
    read_model,
    read_number,
    read_stops,
    read_usage_flag,
    read_whole,
    refuse_type,
    require,
)
from engine.upstream.simulator.text import mix

ROLES = ("system", "developer", "user", "assistant", "tool", "function")
FINGERPRINT = "fp_simulator1"
_MANY = 1 << 31


def read(body: Mapping[str, Any]) -> Ask:
    """Validate a chat completion request."""
    model, stream = read_model(body), read_flag(body, "stream")
    turns = _read_turns(body)
    check_sampling(body)
    n = read_whole(body, "n", 1, 128)
    limit = read_whole(body, "max_completion_tokens", 1, _MANY)
    top = read_whole(body, "top_logprobs", 0, 20)
    seed = int(read_number(body, "seed", -_MANY * _MANY, _MANY * _MANY) or 0)
    return Ask(
        model,
        [turns],
        stream=stream,
        usage_asked=read_usage_flag(body, stream),
        n=n or 1,
        limit=limit or read_whole(body, "max_tokens", 1, _MANY),
        stops=read_stops(body),
        seed=seed,
        tools=_read_tools(body),
        tool_choice=_read_tool_choice(body.get("tool_choice")),
        parallel=read_flag(body, "parallel_tool_calls", True),
        schema=_read_schema(body.get("response_format")),
        logprobs=(top or 0) if read_flag(body, "logprobs") else None,
        digest=digest_turns(turns, seed),
    )


def _read_turns(body: Mapping[str, Any]) -> list[Turn]:
    messages = require(body, "messages")
    if not isinstance(messages, list):
        raise refuse_type("messages", "an array of objects", messages)
    if not messages:
        message = (
            "Invalid 'messages': empty array. Expected an array with minimum length 1, "
            "but got an empty array instead."
        )
        raise Refused(400, message, param="messages", code="empty_array")
    return [_read_turn(message, f"messages[{number}]") for number, message in enumerate(messages)]


def _read_turn(message: Any, where: str) -> Turn:
    if not isinstance(message, dict):
        raise refuse_type(where, "an object", message)
    role = message.get("role")
    if role not in ROLES:
        if role is None:
            raise Refused(400, f"Missing required parameter: '{where}.role'.", param=f"{where}.role",
                          code="missing_required_parameter")  # fmt: skip
        names = ", ".join(f"'{one}'" for one in ROLES)
        raise Refused(400, f"Invalid value: '{role}'. Supported values are: {names}.", param=f"{where}.role",
                      code="invalid_value")  # fmt: skip
    content = message.get("content")
    if isinstance(content, str) and len(message) == 2:
        return Turn(role, content, count_turn(content))
    return _read_rich_turn(message, content, where)


def _read_rich_turn(message: dict[str, Any], content: Any, where: str) -> Turn:
    calls = message.get("tool_calls")
    if content is None and not (message["role"] == "assistant"):
        message_text = f"Invalid value for 'content': expected a string, got null. ({where}.content)"
        raise Refused(400, message_text, param=f"{where}.content")
    text, images, extra = _read_content(content, f"{where}.content")
    counted = count_turn(text, images)
    if calls:
        if not isinstance(calls, list):
            raise refuse_type(f"{where}.tool_calls", "an array of objects", calls)
        dumped = orjson.dumps(calls).decode()
        extra, counted = mix(dumped, extra), counted + len(dumped.split()) + len(calls)
    if "tool_call_id" in message:
        extra = mix(str(message["tool_call_id"]), extra)
    return Turn(message["role"], text, counted, extra, calls_tools=bool(calls))


def _read_content(content: Any, where: str) -> tuple[str, int, int]:
    """The text of the parts, how many are not text, and a digest of those."""
    if content is None or isinstance(content, str):
        return content or "", 0, 0
    if not isinstance(content, list):
        raise refuse_type(where, "one of a string or array of objects", content)
    texts, others, extra = [], 0, 0
    for number, part in enumerate(content):
        if not isinstance(part, dict):
            raise refuse_type(f"{where}[{number}]", "an object", part)
        if part.get("type") in ("text", "refusal"):
            text = part.get(part["type"])
            if not isinstance(text, str):
                raise refuse_type(f"{where}[{number}].{part['type']}", "a string", text)
            texts.append(text)
        elif part.get("type") in ("image_url", "input_audio", "file"):
            others, extra = others + 1, mix(orjson.dumps(part).decode(), extra)
        else:
            message = (
                f"Invalid value: '{part.get('type')}'. Supported values are: 'text', 'image_url', "
                "'input_audio', 'refusal', and 'file'."
            )
            raise Refused(400, message, param=f"{where}[{number}].type", code="invalid_value")
    return "".join(texts), others, extra


def _read_tools(body: Mapping[str, Any]) -> list[Tool]:
    tools = body.get("tools")
    if tools is None:
        return []
    if not isinstance(tools, list):
        raise refuse_type("tools", "an array of objects", tools)
    read_tools = []
    for number, tool in enumerate(tools):
        function = tool.get("function") if isinstance(tool, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            where = f"tools[{number}].function.name"
            raise Refused(400, f"Missing required parameter: '{where}'.", param=where,
                          code="missing_required_parameter")  # fmt: skip
        read_tools.append(Tool(function["name"], function.get("parameters")))
    return read_tools


def _read_tool_choice(choice: Any) -> str | None:
    if isinstance(choice, dict):
        function = choice.get("function")
        return function.get("name") if isinstance(function, dict) else None
    return choice if isinstance(choice, str) else None


def _read_schema(wanted: Any) -> Any:
    """The schema of `response_format`; {} for any object; None when text is wanted."""
    if wanted is None:
        return None
    if not isinstance(wanted, dict):
        raise refuse_type("response_format", "an object", wanted)
    if wanted.get("type") == "json_schema":
        held = wanted.get("json_schema")
        if not isinstance(held, dict) or not isinstance(held.get("name"), str):
            where = "response_format.json_schema.name"
            raise Refused(400, f"Missing required parameter: '{where}'.", param=where,
                          code="missing_required_parameter")  # fmt: skip
        return held.get("schema") or {}
    return {} if wanted.get("type") == "json_object" else None


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
