"""Google's generateContent, read. What comes back is checked as the real server does.

In the turn that is going on the first function call of each answer must carry the thought signature it was given, and
there must be as many function responses as there were calls. Fields that do not exist are refused.
"""

from collections.abc import Mapping
from typing import Any

from engine.upstream.simulator.dialog import Ask, Refused, Tool
from engine.upstream.simulator.signing import is_ours
from engine.upstream.simulator.wires.prompt import Prompt, asks_to_think, take_list, take_object, take_whole

ISSUER = "google"
SKIPPED = ("skip_thought_signature_validator", "c2tpcF90aG91Z2h0X3NpZ25hdHVyZV92YWxpZGF0b3I=")
_MODES = {"NONE": "none", "ANY": "required"}
_FIELDS = frozenset(
    {"contents", "systemInstruction", "system_instruction", "tools", "toolConfig", "tool_config", "safetySettings",
     "safety_settings", "generationConfig", "generation_config", "cachedContent", "cached_content", "labels", "model",
     "stream", "vertex", "serviceTier", "store"}
)  # fmt: skip
_ALONE = ("inlineData", "fileData", "executableCode", "codeExecutionResult", "inline_data", "file_data")
Body = Mapping[str, Any]


def read(body: Body) -> Ask:
    """Validate a request; the model's name and whether it streams came with the path."""
    for name in body:
        if name not in _FIELDS:
            raise Refused(400, f'Invalid JSON payload received. Unknown name "{name}": Cannot find field.')
    prompt, config = Prompt(), _take(body, "generationConfig", "generation_config") or {}
    thinking = config.get("thinkingConfig") or {}
    thinks = bool(thinking.get("includeThoughts"))
    model = body["model"].removeprefix("models/")
    read_opening(body, prompt)
    read_contents(body, prompt, needs_signature=thinks or asks_to_think(model))
    wanted = (_take(body, "toolConfig", "tool_config") or {}).get("functionCallingConfig") or {}
    names = wanted.get("allowedFunctionNames") or []
    seed = take_whole(config, "seed") or 0
    return Ask(
        model,
        [prompt.turns],
        stream=bool(body.get("stream")),
        n=take_whole(config, "candidateCount") or 1,
        limit=take_whole(config, "maxOutputTokens"),
        stops=tuple(take_list(config, "stopSequences")),
        seed=seed,
        tools=[tool for tool in prompt.tools if not names or tool.name in names],
        tool_choice=_MODES.get(wanted.get("mode", "")),
        schema=_read_schema(config),
        thinks=thinks,
        raw=bool(body.get("vertex")),
        digest=prompt.digest(seed),
    )


def read_opening(body: Body, prompt: Prompt) -> None:
    """What stands before the conversation."""
    for number, tool in enumerate(take_list(body, "tools")):
        _read_tool(tool, number, prompt)
    if system := _take(body, "systemInstruction", "system_instruction"):
        prompt.open("system")
        for part in take_list(system, "parts"):
            prompt.add_text(part.get("text") or "")


def _take(body: Body, *names: str) -> Any:
    return next((body[name] for name in names if body.get(name) is not None), None)


def _read_tool(tool: Any, number: int, prompt: Prompt) -> None:
    declared = (
        _take(take_object(tool, f"tools[{number}]"), "functionDeclarations", "function_declarations") or []
    )
    for one in declared:
        if not isinstance(one.get("name"), str):
            raise Refused(400, f"GenerateContentRequest.tools[{number}].function_declarations[0].name: "
                          "Invalid function name.")  # fmt: skip
        schema = _take(one, "parametersJsonSchema", "parameters_json_schema", "parameters")
        prompt.offer(Tool(one["name"], lower_types(schema)))


def _read_schema(config: Body) -> Any:
    schema = _take(config, "responseJsonSchema", "responseSchema", "_responseJsonSchema")
    if config.get("responseMimeType") != "application/json":
        if schema is not None:
            raise Refused(400, "Response schema is only supported with mime type 'application/json'.")
        return None
    return lower_types(schema or {})


def lower_types(schema: Any) -> Any:
    """Google writes the types of a schema in capitals, too."""
    if isinstance(schema, list):
        return [lower_types(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        name: value.lower() if name == "type" and isinstance(value, str) else lower_types(value)
        for name, value in schema.items()
    }


def read_contents(body: Body, prompt: Prompt, *, needs_signature: bool = False) -> None:
    contents = take_list(body, "contents")
    if not contents:
        raise Refused(400, "* GenerateContentRequest.contents: contents is not specified\n")
    calls = 0
    contents = _join_pieces(contents)
    for number, content in enumerate(contents):
        if content.get("role", "user") not in ("user", "model", "function"):
            raise Refused(400, "Please use a valid role: user, model.")
        parts = take_list(content, "parts")
        _check_count(calls, parts)
        current = not any(_is_said(later) for later in contents[number + 1 :])
        if needs_signature and current:
            _check_presence(parts, number)
        prompt.open("assistant" if content.get("role") == "model" else "user")
        for part in parts:
            _read_part(part, prompt)
        calls = sum("functionCall" in part for part in parts)


def _join_pieces(contents: list[Any]) -> list[dict[str, Any]]:
    """What the model said is one turn, however many contents of a stream it comes back in."""
    joined: list[dict[str, Any]] = []
    for number, content in enumerate(contents):
        content = take_object(content, f"contents[{number}]")
        if joined and content.get("role") == joined[-1].get("role") == "model":
            parts = [*take_list(joined[-1], "parts"), *take_list(content, "parts")]
            joined[-1] = {**joined[-1], "parts": parts}
        else:
            joined.append(content)
    return joined


def _is_said(content: Any) -> bool:
    return content.get("role", "user") == "user" and not any(
        "functionResponse" in part for part in content.get("parts") or ()
    )


def _check_count(calls: int, parts: list[Any]) -> None:
    responses = sum("functionResponse" in part for part in parts)
    if calls != responses:
        raise Refused(400, "Please ensure that the number of function response parts is equal to the number of "
                      "function call parts of the function call turn.")  # fmt: skip


def _check_presence(parts: list[Any], number: int) -> None:
    first = next((part for part in parts if "functionCall" in part), None)
    if first is not None and not _take(first, "thoughtSignature", "thought_signature"):
        name = first["functionCall"].get("name")
        raise Refused(400, f"Function call is missing a thought_signature in functionCall parts. This is required for "
                      f"tools to work correctly. Additional data, function call `default_api:{name}`, position "
                      f"{number}.")  # fmt: skip


def _read_part(part: Any, prompt: Prompt) -> None:
    part = take_object(part, "parts")
    signature = _take(part, "thoughtSignature", "thought_signature")
    called = part.get("functionCall")
    if signature is not None and signature not in SKIPPED:
        said = called.get("name", "") if called else "text"
        if not is_ours(ISSUER, said, signature):
            raise Refused(400, "Thought signature is not valid.")
    if called is not None:
        prompt.add_call(str(called.get("name")), called.get("args") or {})
    elif "functionResponse" in part:
        response = part["functionResponse"]
        if not response.get("name"):
            raise Refused(
                400, "GenerateContentRequest.contents.parts.function_response.name: Name cannot be empty."
            )
        prompt.add_result(
            str(take_object(response.get("response"), "function_response.response")), response["name"]
        )
    elif "text" in part:
        if not part.get("thought"):
            prompt.add_text(part["text"])
    elif any(name in part for name in _ALONE):
        prompt.add_other(part)
    else:
        raise Refused(400, "Unable to submit request because it must have a text parameter or a data part.")
