"""Ollama's own chat: one JSON object a line, whole calls with objects for arguments, options in a box."""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import orjson

from engine.upstream.simulator.compose import compose_choices, count_tokens
from engine.upstream.simulator.dialog import (
    FINISH,
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
    digest_turns,
    no_events,
)
from engine.upstream.simulator.embeddings import make_vector
from engine.upstream.simulator.names import Script
from engine.upstream.simulator.text import count_words
from engine.upstream.simulator.wires.prompt import Prompt, take_list, take_object, take_whole

DEFAULT_DIMENSIONS = 768
CREATED = "2024-02-29T12:00:00Z"
Body = Mapping[str, Any]


def _read_model(body: Body) -> str:
    if not isinstance(body.get("model"), str) or not body["model"]:
        raise Refused(400, "model is required")
    return str(body["model"])


def read(body: Body) -> Ask:
    """Validate a request; it streams unless told otherwise."""
    model, prompt, options = _read_model(body), Prompt(), body.get("options") or {}
    for number, tool in enumerate(take_list(body, "tools")):
        function = take_object(take_object(tool, f"tools[{number}]").get("function"), "function")
        prompt.offer(Tool(str(function.get("name")), function.get("parameters")))
    for number, message in enumerate(take_list(body, "messages")):
        _read_message(take_object(message, f"messages[{number}]"), prompt)
    stop, wanted = options.get("stop") or [], body.get("format")
    seed = take_whole(options, "seed") or 0
    return Ask(
        model,
        [prompt.turns],
        stream=body.get("stream") is not False,
        limit=take_whole(options, "num_predict") if options.get("num_predict", -1) > 0 else None,
        stops=(stop,) if isinstance(stop, str) else tuple(stop),
        seed=seed,
        tools=prompt.tools,
        schema={} if wanted == "json" else wanted or None,
        thinks=bool(body.get("think")),
        digest=prompt.digest(seed),
    )


def _read_message(message: Body, prompt: Prompt) -> None:
    role, content = message.get("role"), message.get("content", "")
    if role not in ("system", "user", "assistant", "tool"):
        raise Refused(400, 'invalid role: must be one of ["system", "user", "assistant", "tool"]')
    if not isinstance(content, str):
        raise Refused(400, "json: cannot unmarshal array into Go struct field ChatRequest.messages.content of type "
                      "string")  # fmt: skip
    prompt.open(role)
    prompt.add_text(content)
    for image in message.get("images") or ():
        if image.startswith(("data:", "http")):
            raise Refused(400, "illegal base64 data at input byte 4")
        prompt.add_other(image)
    for call in message.get("tool_calls") or ():
        function = call.get("function") or {}
        if not isinstance(function.get("arguments"), dict):
            raise Refused(400, "json: cannot unmarshal string into Go struct field ChatRequest.messages.tool_calls."
                          "function.arguments of type api.ToolCallFunctionArguments")  # fmt: skip
        prompt.add_call(str(function.get("name")), function["arguments"])


def write(ask: Ask, script: Script, ticket: Ticket) -> Written:
    choice = compose_choices(ask, script)[0]
    counts = count_tokens(ask, script, [choice])
    ended = _write_end(choice, {} if "no-usage" in script.parts else _write_usage(counts))
    return Written(
        counts,
        counts.completion,
        plain=partial(_write_plain, ask, choice, ended),
        events=partial(_write_events, ask, choice, ended),
    )


def _write_usage(counts: Counts) -> dict[str, Any]:
    return {
        "prompt_eval_count": counts.prompt,
        "prompt_eval_duration": 1000,
        "eval_count": counts.completion,
        "eval_duration": 1000 * counts.completion + 1,
    }


def _write_end(choice: Choice, usage: Mapping[str, Any]) -> dict[str, Any]:
    reason = "length" if choice.finish == "length" else "stop"
    return {"done_reason": reason, "done": True, "total_duration": 5000, "load_duration": 1000, **usage}


def _write_line(ask: Ask, message: Mapping[str, Any], ended: Mapping[str, Any]) -> bytes:
    said = {"role": "assistant", "content": "", **message}
    return orjson.dumps({"model": ask.model, "created_at": CREATED, "message": said, **ended})


def _write_calls(choice: Choice) -> list[dict[str, Any]]:
    return [
        {"function": {"name": call.name, "arguments": orjson.loads(call.arguments)}} for call in choice.calls
    ]


def _write_plain(ask: Ask, choice: Choice, ended: Mapping[str, Any]) -> bytes:
    message: dict[str, Any] = {"content": "".join(choice.text)}
    if choice.reasoning:
        message["thinking"] = "".join(choice.reasoning)
    if choice.calls:
        message["tool_calls"] = _write_calls(choice)
    return _write_line(ask, message, ended)


def _write_events(ask: Ask, choice: Choice, ended: Mapping[str, Any]) -> Iterator[Event]:
    going = {"done": False}
    for token in choice.reasoning:
        yield TOKEN, _write_line(ask, {"thinking": token}, going)
    for token in choice.text:
        yield TOKEN, _write_line(ask, {"content": token}, going)
    for call in _write_calls(choice):
        yield TOKEN, _write_line(ask, {"tool_calls": [call]}, going)
    yield FINISH, _write_line(ask, {}, ended)


def write_error(refused: Refused) -> bytes:
    return orjson.dumps({"error": refused.message})


def frame_line(payload: bytes, line: bytes, _first: bool) -> bytes:
    return payload + line


def read_embed(body: Body) -> Ask:
    given = body.get("input")
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise Refused(400, "invalid input type")
    prompt = Prompt()
    for text in texts:
        prompt.open("input")
        prompt.add_text(text)
    size = take_whole(body, "dimensions") or DEFAULT_DIMENSIONS
    conversations = [[turn] for turn in prompt.turns]
    return Ask(_read_model(body), conversations, raw=size, digest=digest_turns(prompt.turns, 0))


def write_embed(ask: Ask, script: Script, ticket: Ticket) -> Written:
    texts = [turns[0].text for turns in ask.conversations]
    counts = Counts(sum(map(count_words, texts)), 0)
    told: dict[str, Any] = {
        "model": ask.model,
        "embeddings": [make_vector(text, ask.raw).tolist() for text in texts],
        "total_duration": 5000,
        "load_duration": 1000,
    }
    if "no-usage" not in script.parts:
        told["prompt_eval_count"] = counts.prompt
    return Written(counts, 0, partial(orjson.dumps, told), no_events)


WIRE = Wire(read, write, write_error, frame=frame_line, media=b"application/x-ndjson", comment=b"")
EMBEDDING = Wire(read_embed, write_embed, write_error)
