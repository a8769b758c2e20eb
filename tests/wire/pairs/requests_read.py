"""What a request says, read from the body of each dialect: the same facts whichever dialect says them."""

from json import loads
from typing import Any

Facts = dict[str, Any]


def tell_request(dialect: str, body: dict[str, Any]) -> Facts:
    facts = _TELLERS[dialect](body)
    return {name: value for name, value in facts.items() if value not in (None, [], "")}


def _read_link(url: str) -> tuple[str, str]:
    return ("data", url.partition("base64,")[2]) if url.startswith("data:") else ("url", url)


def _texts(content: Any, *types: str) -> list[str]:
    if isinstance(content, str):
        return [content]
    return [part["text"] for part in content or () if part["type"] in types]


def _tell_messages_of_chat(body: dict[str, Any]) -> Facts:
    """What chat completions and Cohere's chat have in common."""
    said: dict[str, list[Any]] = {"system": [], "user": [], "images": [], "calls": [], "results": []}
    names: dict[str, str] = {}
    for message in body["messages"]:
        role, content = message["role"], message.get("content")
        if role in ("system", "user"):
            said[role] += _texts(content, "text")
        if role == "user" and isinstance(content, list):
            said["images"] += [_read_link(p["image_url"]["url"]) for p in content if p["type"] == "image_url"]
        for call in message.get("tool_calls") or ():
            names[call["id"]] = call["function"]["name"]
            said["calls"].append((names[call["id"]], loads(call["function"]["arguments"])))
        if role == "tool":
            said["results"].append((names[message["tool_call_id"]], "".join(_texts(content, "text"))))
    tools = [t["function"] for t in body.get("tools") or ()]
    return {**said, "tools": [(t["name"], t["description"], t["parameters"]) for t in tools]}


def _tell_chat(body: dict[str, Any]) -> Facts:
    wanted = body.get("response_format") or {}
    return {
        **_tell_messages_of_chat(body),
        "longest": body.get("max_completion_tokens"),
        "temperature": body.get("temperature"),
        "stop": body.get("stop"),
        "schema": (wanted.get("json_schema") or {}).get("schema"),
        "thinks": body.get("reasoning_effort", "none") != "none" or None,
    }


def _tell_cohere(body: dict[str, Any]) -> Facts:
    return {
        **_tell_messages_of_chat(body),
        "longest": body.get("max_tokens"),
        "temperature": body.get("temperature"),
        "stop": body.get("stop_sequences"),
        "schema": (body.get("response_format") or {}).get("json_schema"),
        "thinks": (body.get("thinking") or {}).get("type") == "enabled" or None,
    }


def _tell_responses(body: dict[str, Any]) -> Facts:
    said: dict[str, list[Any]] = {"system": [], "user": [], "images": [], "calls": [], "results": []}
    if body.get("instructions"):
        said["system"].append(body["instructions"])
    names: dict[str, str] = {}
    for item in body["input"]:
        kind = item.get("type", "message")
        if kind == "message":
            said[item["role"]] += _texts(item["content"], "input_text", "output_text")
            if isinstance(item["content"], list):
                images = [part for part in item["content"] if part["type"] == "input_image"]
                said["images"] += [_read_link(part["image_url"]) for part in images]
        elif kind == "function_call":
            names[item["call_id"]] = item["name"]
            said["calls"].append((item["name"], loads(item["arguments"])))
        else:
            said["results"].append((names[item["call_id"]], "".join(_texts(item["output"], "input_text"))))
    return {
        **said,
        "tools": [(t["name"], t["description"], t["parameters"]) for t in body.get("tools") or ()],
        "longest": body.get("max_output_tokens"),
        "temperature": body.get("temperature"),
        "schema": ((body.get("text") or {}).get("format") or {}).get("schema"),
        "thinks": (body.get("reasoning") or {}).get("effort", "none") != "none" or None,
    }


def _tell_messages(body: dict[str, Any]) -> Facts:
    said: dict[str, list[Any]] = {"user": [], "images": [], "calls": [], "results": []}
    names: dict[str, str] = {}
    for message in body["messages"]:
        content = message["content"]
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
        for block in blocks:
            if block["type"] == "text":
                said["user"].append(block["text"])
            elif block["type"] == "image":
                source = block["source"]
                said["images"].append(
                    (source["type"].replace("base64", "data"), source.get("data") or source["url"])
                )
            elif block["type"] == "tool_use":
                names[block["id"]] = block["name"]
                said["calls"].append((block["name"], block["input"]))
            else:
                text = "".join(_texts(block["content"], "text"))
                said["results"].append((names[block["tool_use_id"]], text))
    return {
        **said,
        "system": _texts(body.get("system"), "text"),
        "tools": [(t["name"], t["description"], t["input_schema"]) for t in body.get("tools") or ()],
        "longest": body["max_tokens"],
        "temperature": body.get("temperature"),
        "stop": body.get("stop_sequences"),
        "schema": ((body.get("output_config") or {}).get("format") or {}).get("schema"),
        "thinks": (body.get("thinking") or {}).get("type") in ("enabled", "adaptive") or None,
    }


def _tell_gemini(body: dict[str, Any]) -> Facts:
    config = body.get("generationConfig") or {}
    said: dict[str, list[Any]] = {"user": [], "images": [], "calls": [], "results": []}
    for part in [part for content in body["contents"] for part in content["parts"]]:
        if "text" in part:
            said["user"].append(part["text"])
        elif "inlineData" in part:
            said["images"].append(("data", part["inlineData"]["data"]))
        elif "fileData" in part:
            said["images"].append(("url", part["fileData"]["fileUri"]))
        elif "functionCall" in part:
            said["calls"].append((part["functionCall"]["name"], part["functionCall"]["args"]))
        else:
            result = part["functionResponse"]
            said["results"].append((result["name"], result["response"]["output"]))
    declared = [d for tool in body.get("tools") or () for d in tool["functionDeclarations"]]
    thinking = config.get("thinkingConfig") or {}
    return {
        **said,
        "system": [part["text"] for part in (body.get("systemInstruction") or {"parts": []})["parts"]],
        "tools": [(d["name"], d["description"], d["parametersJsonSchema"]) for d in declared],
        "longest": config.get("maxOutputTokens"),
        "temperature": config.get("temperature"),
        "stop": config.get("stopSequences"),
        "schema": config.get("responseJsonSchema"),
        "thinks": bool(thinking.get("thinkingBudget") or thinking.get("thinkingLevel")) or None,
    }


def _tell_converse(body: dict[str, Any]) -> Facts:
    config, fields = body.get("inferenceConfig") or {}, body.get("additionalModelRequestFields") or {}
    said: dict[str, list[Any]] = {"user": [], "images": [], "calls": [], "results": []}
    names: dict[str, str] = {}
    for block in [block for message in body["messages"] for block in message["content"]]:
        if "text" in block:
            said["user"].append(block["text"])
        elif "image" in block:
            source = block["image"]["source"]
            said["images"].append(
                ("data", source["bytes"]) if "bytes" in source else ("url", source["s3Location"]["uri"])
            )
        elif "toolUse" in block:
            names[block["toolUse"]["toolUseId"]] = block["toolUse"]["name"]
            said["calls"].append((block["toolUse"]["name"], block["toolUse"]["input"]))
        else:
            result = block["toolResult"]
            said["results"].append(
                (names[result["toolUseId"]], "".join(part["text"] for part in result["content"]))
            )
    specs = [tool["toolSpec"] for tool in (body.get("toolConfig") or {"tools": []})["tools"]]
    structure = ((body.get("outputConfig") or {}).get("textFormat") or {}).get("structure")
    return {
        **said,
        "system": [block["text"] for block in body.get("system") or ()],
        "tools": [(spec["name"], spec["description"], spec["inputSchema"]["json"]) for spec in specs],
        "longest": config.get("maxTokens"),
        "temperature": config.get("temperature"),
        "stop": config.get("stopSequences"),
        "schema": loads(structure["jsonSchema"]["schema"]) if structure else None,
        "thinks": (fields.get("thinking") or {}).get("type") in ("enabled", "adaptive") or None,
    }


_TELLERS = {
    "openai-chat": _tell_chat,
    "openai-responses": _tell_responses,
    "anthropic-messages": _tell_messages,
    "gemini": _tell_gemini,
    "bedrock-converse": _tell_converse,
    "cohere": _tell_cohere,
}
