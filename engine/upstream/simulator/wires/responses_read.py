"""OpenAI's Responses, read. What comes back is checked as the real server does.

Encrypted reasoning must be what was handed out, a reasoning item needs the item that it led to, and the output of a
call needs the call. Nothing is stored: an answer before, or an item by its id alone, is not found.
"""

from collections.abc import Mapping
from typing import Any

from engine.upstream.simulator.dialog import Ask, Refused, Tool
from engine.upstream.simulator.reading import (
    read_flag,
    read_model,
    read_number,
    read_whole,
    refuse_type,
    require,
)
from engine.upstream.simulator.signing import is_ours
from engine.upstream.simulator.wires.prompt import Prompt

ISSUER = "openai"
_MANY = 1 << 31
_TEXTS = ("input_text", "output_text", "text", "summary_text", "refusal")
_FILES = ("input_image", "input_file", "input_audio")
Body = Mapping[str, Any]


def read(body: Body) -> Ask:
    """Validate a request."""
    model, stream, prompt = read_model(body), read_flag(body, "stream"), Prompt()
    if body.get("previous_response_id"):
        gone = f"Previous response with id '{body['previous_response_id']}' not found."
        raise Refused(400, gone, param="previous_response_id", code="previous_response_not_found")
    read_number(body, "temperature", 0, 2)
    for number, tool in enumerate(body.get("tools") or ()):
        _read_tool(tool, number, prompt)
    if isinstance(body.get("instructions"), str):
        prompt.open("system")
        prompt.add_text(body["instructions"])
    _read_input(require(body, "input"), prompt)
    reasoning = body.get("reasoning") or {}
    return Ask(
        model,
        [prompt.turns],
        stream=stream,
        limit=read_whole(body, "max_output_tokens", 1, _MANY),
        tools=prompt.tools,
        tool_choice=_read_choice(body.get("tool_choice")),
        parallel=read_flag(body, "parallel_tool_calls", True),
        schema=_read_schema(body),
        thinks=bool(reasoning.get("summary")) and reasoning.get("effort") != "none",
        raw=dict(body),
        digest=prompt.digest(),
    )


def _read_tool(tool: Any, number: int, prompt: Prompt) -> None:
    if not isinstance(tool, dict):
        raise refuse_type(f"tools[{number}]", "an object", tool)
    if tool.get("type") != "function":
        return
    if not isinstance(tool.get("name"), str):
        where = f"tools[{number}].name"
        raise Refused(
            400, f"Missing required parameter: '{where}'.", param=where, code="missing_required_parameter"
        )
    prompt.offer(Tool(tool["name"], tool.get("parameters")))


def _read_choice(choice: Any) -> str | None:
    return choice.get("name") if isinstance(choice, dict) else choice if isinstance(choice, str) else None


def _read_schema(body: Body) -> Any:
    wanted = (body.get("text") or {}).get("format") or {}
    if wanted.get("type") == "json_schema":
        if not isinstance(wanted.get("name"), str):
            raise Refused(400, "Missing required parameter: 'text.format.name'.", param="text.format.name",
                          code="missing_required_parameter")  # fmt: skip
        return wanted.get("schema") or {}
    return {} if wanted.get("type") == "json_object" else None


def _read_input(given: Any, prompt: Prompt) -> None:
    if isinstance(given, str):
        prompt.open("user")
        prompt.add_text(given)
        return
    if not isinstance(given, list):
        raise refuse_type("input", "one of a string or array of input items", given)
    calls: set[str] = set()
    for number, item in enumerate(given):
        if not isinstance(item, dict):
            raise refuse_type(f"input[{number}]", "an object", item)
        _read_item(item, prompt, calls, f"input[{number}]")
        if item.get("type") == "reasoning":
            _check_following(item, given[number + 1 :])


def _check_following(item: Body, rest: list[Any]) -> None:
    following = rest[0] if rest else {}
    said = following.get("role") == "assistant" or following.get("type") in ("function_call", "reasoning")
    if not said:
        raise Refused(400, f"Item '{item.get('id')}' of type 'reasoning' was provided without its required following "
                      "item.", param="input")  # fmt: skip


def _read_item(item: Body, prompt: Prompt, calls: set[str], where: str) -> None:
    match item.get("type", "message"):
        case "message":
            _read_message(item, prompt, where)
        case "reasoning":
            _check_reasoning(item)
        case "function_call":
            calls.add(str(item.get("call_id")))
            prompt.open("assistant")
            prompt.add_call(str(item.get("name")), str(item.get("arguments")))
        case "function_call_output":
            if item.get("call_id") not in calls:
                raise Refused(400, f"No tool call found for function call output with call_id {item.get('call_id')}.",
                              param="input")  # fmt: skip
            prompt.open("tool")
            _read_content(item.get("output"), prompt, f"{where}.output")
            prompt.add_result("", str(item["call_id"]))
        case "item_reference":
            raise Refused(404, f"Item with id '{item.get('id')}' not found. Items are not persisted when `store` is "
                          "set to false.", param="input")  # fmt: skip
        case kind:
            if not str(kind).endswith(("_call", "_call_output")):
                raise Refused(400, f"Invalid value: '{kind}'. Supported values are: 'message', 'reasoning', "
                              "'function_call' and 'function_call_output'.", param=f"{where}.type",
                              code="invalid_value")  # fmt: skip


def _check_reasoning(item: Body) -> None:
    sealed = item.get("encrypted_content")
    if sealed is None:
        raise Refused(404, f"Item with id '{item.get('id')}' not found. Items are not persisted when `store` is set "
                      "to false. Try again with `store` set to true, or remove this item from your input.",
                      param="input")  # fmt: skip
    if not is_ours(ISSUER, "reasoning", sealed):
        raise Refused(400, f"The encrypted content for item {item.get('id')} could not be verified. Reason: Encrypted "
                      "content could not be decrypted or parsed.", code="invalid_encrypted_content")  # fmt: skip


def _read_message(item: Body, prompt: Prompt, where: str) -> None:
    role = item.get("role")
    if role not in ("user", "assistant", "system", "developer"):
        raise Refused(400, f"Invalid value: '{role}'. Supported values are: 'assistant', 'system', 'developer', and "
                      "'user'.", param=f"{where}.role", code="invalid_value")  # fmt: skip
    prompt.open(role)
    _read_content(item.get("content"), prompt, f"{where}.content", role)


def _read_content(content: Any, prompt: Prompt, where: str, role: str = "") -> None:
    if isinstance(content, str):
        prompt.add_text(content)
        return
    if not isinstance(content, list):
        raise refuse_type(where, "one of a string or array", content)
    for number, part in enumerate(content):
        kind = part.get("type")
        if kind in _FILES:
            prompt.add_other(part)
        elif kind in _TEXTS and kind != (
            "input_text" if role == "assistant" else "output_text" if role else ""
        ):
            prompt.add_text(part.get("text") or part.get("refusal") or "")
        else:
            told = "'output_text' and 'refusal'" if role == "assistant" else "'input_text' and 'input_image'"
            raise Refused(400, f"Invalid value: '{kind}'. Supported values are: {told}.",
                          param=f"{where}[{number}]", code="invalid_value")  # fmt: skip
