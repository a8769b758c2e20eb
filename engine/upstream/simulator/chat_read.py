"""The `openai-chat` wire, read: refused with the words of the real servers."""

from collections.abc import Mapping
from typing import Any

import orjson

from engine.upstream.simulator.dialog import (
    Ask,
    Refused,
    Tool,
    Turn,
    count_turn,
    digest_turns,
)
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
