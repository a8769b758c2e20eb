"""The grammars of the dialects, as shapes: what a provider takes and what a client's SDK reads.

A shape is a type, a literal, a set of literals, a tuple of shapes (any of them), a list `[shape]`, a mapping of keys (a
key that ends in `?` may be missing, no other key may be there) or `ANY`.
"""

from collections.abc import Mapping
from typing import Any

ANY = object()
NUMBER = (int, float)
SCHEMA = {"type": "object", "...": ANY}


def find_misfit(value: Any, shape: Any, path: str = "$") -> str | None:
    """Where a value is not of a shape; None when it is."""
    if shape is ANY:
        return None
    if isinstance(shape, tuple):
        misfits = [find_misfit(value, one, path) for one in shape]
        return None if None in misfits else max(map(str, misfits), key=len)
    if isinstance(shape, Mapping):
        return _find_misfit_in_object(value, shape, path)
    if isinstance(shape, list):
        if not isinstance(value, list):
            return f"{path}: a list is expected, not {value!r}"
        found = (find_misfit(item, shape[0], f"{path}[{n}]") for n, item in enumerate(value))
        return next((misfit for misfit in found if misfit), None)
    if isinstance(shape, type):
        fits = isinstance(value, shape) and not (isinstance(value, bool) and shape is not bool)
    else:
        fits = value in shape if isinstance(shape, frozenset) else value == shape
    return None if fits else f"{path}: {value!r} is not {shape!r}"


def _find_misfit_in_object(value: Any, shape: Mapping[str, Any], path: str) -> str | None:
    if not isinstance(value, dict):
        return f"{path}: an object is expected, not {value!r}"
    for key, inner in shape.items():
        name = key.rstrip("?")
        if name in value:
            misfit = find_misfit(value[name], inner, f"{path}.{name}")
            if misfit:
                return misfit
        elif not key.endswith("?") and key != "...":
            return f"{path}: {name} is missing"
    known = {key.rstrip("?") for key in shape}
    unknown = [key for key in value if key not in known and "..." not in shape]
    return f"{path}: no key {unknown[0]!r} is known" if unknown else None


def _any_of(*literals: Any) -> frozenset[Any]:
    return frozenset(literals)


# --- requests

_FUNCTION = {"name": str, "arguments": str}
_CHAT_CALL = {"id": str, "type": "function", "function": _FUNCTION}
_CHAT_TOOL = {
    "type": "function",
    "function": {"name": str, "description?": str, "parameters?": SCHEMA, "strict?": bool},
}
_IMAGE_URL = {"type": "image_url", "image_url": {"url": str, "detail?": str}}
_TEXT = {"type": "text", "text": str}

_CHAT = {
    "model": str,
    "messages": [
        (
            {"role": "system", "content": (str, [_TEXT])},
            {"role": "user", "content": (str, [(_TEXT, _IMAGE_URL)])},
            {"role": "assistant", "content": (str, None), "tool_calls?": [_CHAT_CALL]},
            {"role": "tool", "tool_call_id": str, "content": (str, [_TEXT])},
        )
    ],
    "stream?": bool,
    "stream_options?": {"include_usage": bool},
    "max_completion_tokens?": int,
    "temperature?": NUMBER,
    "stop?": [str],
    "tools?": [_CHAT_TOOL],
    "tool_choice?": _any_of("none", "auto", "required"),
    "response_format?": {
        "type": "json_schema",
        "json_schema": {"name": str, "schema": SCHEMA, "strict?": bool},
    },
    "reasoning_effort?": _any_of("none", "minimal", "low", "medium", "high", "xhigh"),
}
_SPOKEN = (
    {"type": "input_text", "text": str},
    {"type": "input_image", "image_url": str, "detail?": _any_of("auto", "low", "high")},
)
_RESPONSES = {
    "model": str,
    "instructions?": str,
    "input": [
        (
            {"type": "message", "role": _any_of("user", "system", "developer"), "content": (str, [_SPOKEN])},
            {"type": "function_call", "call_id": str, "name": str, "arguments": str},
            {"type": "function_call_output", "call_id": str, "output": str},
        )
    ],
    "stream?": bool,
    "store": bool,
    "include?": [_any_of("reasoning.encrypted_content")],
    "max_output_tokens?": int,
    "temperature?": NUMBER,
    "tools?": [{"type": "function", "name": str, "description?": str, "parameters": SCHEMA, "strict": bool}],
    "tool_choice?": _any_of("none", "auto", "required"),
    "text?": {"format": {"type": "json_schema", "name": str, "schema": SCHEMA, "strict?": bool}},
    "reasoning?": {"effort?": _any_of("none", "minimal", "low", "medium", "high", "xhigh"), "summary?": str},
}
_SOURCE = ({"type": "url", "url": str}, {"type": "base64", "media_type": str, "data": str})
_MESSAGES = {
    "model": str,
    "max_tokens": int,
    "system?": (str, [_TEXT]),
    "messages": [
        {
            "role": _any_of("user", "assistant"),
            "content": (
                str,
                [
                    (
                        _TEXT,
                        {"type": "image", "source": _SOURCE},
                        {"type": "tool_use", "id": str, "name": str, "input": dict},
                        {"type": "tool_result", "tool_use_id": str, "content": (str, [_TEXT])},
                    )
                ],
            ),
        }
    ],
    "stream?": bool,
    "temperature?": NUMBER,
    "stop_sequences?": [str],
    "tools?": [{"name": str, "description?": str, "input_schema": SCHEMA, "strict?": bool}],
    "tool_choice?": {"type": _any_of("auto", "any", "none")},
    "thinking?": {"type": "enabled", "budget_tokens": int, "display?": str},
    "output_config?": {"format": {"type": "json_schema", "schema": SCHEMA}},
}
_GEMINI_PART = (
    {"text": str},
    {"inlineData": {"mimeType": str, "data": str}},
    {"fileData": {"mimeType": str, "fileUri": str}},
    {"functionCall": {"id?": str, "name": str, "args": dict}, "thoughtSignature?": str},
    {"functionResponse": {"id?": str, "name": str, "response": dict}},
)
_GEMINI = {
    "systemInstruction?": {"parts": [{"text": str}]},
    "contents": [{"role": _any_of("user", "model"), "parts": [_GEMINI_PART]}],
    "tools?": [
        {"functionDeclarations": [{"name": str, "description?": str, "parametersJsonSchema": SCHEMA}]}
    ],
    "toolConfig?": {"functionCallingConfig": {"mode": _any_of("AUTO", "ANY", "NONE")}},
    "generationConfig?": {
        "maxOutputTokens?": int,
        "temperature?": NUMBER,
        "stopSequences?": [str],
        "responseMimeType?": "application/json",
        "responseJsonSchema?": SCHEMA,
        "thinkingConfig?": {"thinkingBudget": int, "includeThoughts?": bool},
    },
}
_CONVERSE = {
    "system?": [{"text": str}],
    "messages": [
        {
            "role": _any_of("user", "assistant"),
            "content": [
                (
                    {"text": str},
                    {
                        "image": {
                            "format": _any_of("png", "jpeg"),
                            "source": ({"bytes": str}, {"s3Location": {"uri": str}}),
                        }
                    },
                    {"toolUse": {"toolUseId": str, "name": str, "input": dict}},
                    {"toolResult": {"toolUseId": str, "content": [{"text": str}], "status?": str}},
                )
            ],
        }
    ],
    "inferenceConfig?": {"maxTokens?": int, "temperature?": NUMBER, "stopSequences?": [str]},
    "toolConfig?": {
        "tools": [
            {"toolSpec": {"name": str, "description?": str, "inputSchema": {"json": SCHEMA}, "strict?": bool}}
        ],
        "toolChoice?": ({"auto": {}}, {"any": {}}),
    },
    "outputConfig?": {
        "textFormat": {"type": "json_schema", "structure": {"jsonSchema": {"schema": str, "name?": str}}}
    },
    "additionalModelRequestFields?": {"thinking": {"type": "enabled", "budget_tokens": int}},
}
_COHERE = {
    "model": str,
    "messages": [
        (
            {"role": "system", "content": (str, [_TEXT])},
            {"role": "user", "content": (str, [(_TEXT, _IMAGE_URL)])},
            {"role": "assistant", "content?": str, "tool_plan?": str, "tool_calls?": [_CHAT_CALL]},
            {"role": "tool", "tool_call_id": str, "content": (str, [_TEXT])},
        )
    ],
    "stream?": bool,
    "max_tokens?": int,
    "temperature?": NUMBER,
    "stop_sequences?": [str],
    "tools?": [_CHAT_TOOL],
    "strict_tools?": bool,
    "tool_choice?": _any_of("REQUIRED", "NONE"),
    "response_format?": {"type": "json_object", "json_schema": SCHEMA},
    "thinking?": {"type": "enabled", "token_budget": int},
}
REQUESTS: Mapping[str, Any] = {
    "openai-chat": _CHAT,
    "openai-responses": _RESPONSES,
    "anthropic-messages": _MESSAGES,
    "gemini": _GEMINI,
    "bedrock-converse": _CONVERSE,
    "cohere": _COHERE,
}


def find_misplaced_turn(dialect: str, body: dict[str, Any]) -> str | None:
    """Providers with two roles want them in turns, the user first; results must follow their calls at once."""
    if dialect in ("anthropic-messages", "bedrock-converse", "gemini"):
        roles = [turn["role"] for turn in body.get("messages") or body["contents"]]
        if roles[0] != "user" or any(one == next_ for one, next_ in zip(roles, roles[1:], strict=False)):
            return f"the roles do not take turns: {roles}"
    calls, results = _list_calls(dialect, body)
    return None if calls == results else f"calls {calls} have results {results}"


def _list_calls(dialect: str, body: dict[str, Any]) -> tuple[list[str], list[str]]:
    """The ids of the calls and of the results, in order."""
    if dialect == "openai-responses":
        items = body["input"]
        calls = [item["call_id"] for item in items if item["type"] == "function_call"]
        return calls, [item["call_id"] for item in items if item["type"] == "function_call_output"]
    if dialect in ("openai-chat", "cohere"):
        said = body["messages"]
        calls = [call["id"] for message in said for call in message.get("tool_calls") or ()]
        return calls, [message["tool_call_id"] for message in said if message["role"] == "tool"]
    if dialect == "gemini":
        parts = [part for content in body["contents"] for part in content["parts"]]
        calls = [part["functionCall"]["id"] for part in parts if "functionCall" in part]
        return calls, [part["functionResponse"]["id"] for part in parts if "functionResponse" in part]
    contents = [message["content"] for message in body["messages"]]
    blocks = [block for content in contents if not isinstance(content, str) for block in content]
    if dialect == "anthropic-messages":
        calls = [block["id"] for block in blocks if block["type"] == "tool_use"]
        return calls, [block["tool_use_id"] for block in blocks if block["type"] == "tool_result"]
    calls = [block["toolUse"]["toolUseId"] for block in blocks if "toolUse" in block]
    return calls, [block["toolResult"]["toolUseId"] for block in blocks if "toolResult" in block]
