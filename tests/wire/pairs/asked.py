"""What clients ask: one body for each dialect and case, saying the same in the dialect's own words."""

from json import dumps as _write
from typing import Any

DIALECTS = ("openai-chat", "openai-responses", "anthropic-messages", "gemini", "bedrock-converse", "cohere")
CASES = ("text", "tools", "image", "image by URL", "JSON schema", "thinking")

RULE, QUESTION, LOOK = "be brief", "How is the weather?", "What is this?"
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
LINK = "https://images.example/1.png"
PLACE = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOLS = (("look", "Looks out of the window"), ("ask", "Asks somebody"))
CALLS = (("call_a", "look", {"city": "Bern"}), ("call_b", "ask", {"city": "Rome"}))
RESULTS = (("call_a", "look", "rain"), ("call_b", "ask", "sun"))


def ask(dialect: str, case: str, *, stream: bool = False) -> dict[str, Any]:
    body: dict[str, Any] = _ASKERS[dialect](case)
    if stream and dialect not in ("gemini", "bedrock-converse"):  # there the path says it
        body["stream"] = True
        if dialect == "openai-chat":
            body["stream_options"] = {"include_usage": True}
    return body


def _chat_tools() -> list[Any]:
    return [
        {"type": "function", "function": {"name": n, "description": d, "parameters": PLACE}} for n, d in TOOLS
    ]


def _chat_calls(write: Any) -> list[Any]:
    return [
        {"id": i, "type": "function", "function": {"name": n, "arguments": write(a)}} for i, n, a in CALLS
    ]


def _ask_chat(case: str) -> dict[str, Any]:
    def user(content: Any) -> dict[str, Any]:
        return {"role": "user", "content": content}

    messages: list[Any] = [{"role": "system", "content": RULE}, user(QUESTION)]
    body: dict[str, Any] = {"model": "m", "messages": messages, "max_completion_tokens": 3000}
    if case == "text":
        body |= {"temperature": 0.5, "stop": ["END"]}
    elif case == "tools":
        messages.append({"role": "assistant", "content": None, "tool_calls": _chat_calls(_write)})
        messages += [{"role": "tool", "tool_call_id": i, "content": said} for i, _, said in RESULTS]
        body |= {"tools": _chat_tools(), "tool_choice": "auto"}
    elif case.startswith("image"):
        url = LINK if "URL" in case else f"data:image/png;base64,{PIXEL}"
        messages[1] = user([{"type": "text", "text": LOOK}, {"type": "image_url", "image_url": {"url": url}}])
    elif case == "JSON schema":
        schema = {"name": "place", "schema": PLACE, "strict": True}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    elif case == "thinking":
        body["reasoning_effort"] = "low"
    return body


def _ask_responses(case: str) -> dict[str, Any]:
    said: list[Any] = [{"role": "user", "content": QUESTION}]
    body: dict[str, Any] = {"model": "m", "instructions": RULE, "input": said, "max_output_tokens": 3000}
    if case == "text":
        body["temperature"] = 0.5
    elif case == "tools":
        said += [
            {"type": "function_call", "call_id": i, "name": n, "arguments": _write(a)} for i, n, a in CALLS
        ]
        said += [{"type": "function_call_output", "call_id": i, "output": text} for i, _, text in RESULTS]
        body["tools"] = [
            {"type": "function", "name": n, "description": d, "parameters": PLACE, "strict": False}
            for n, d in TOOLS
        ]
        body["tool_choice"] = "auto"
    elif case.startswith("image"):
        url = LINK if "URL" in case else f"data:image/png;base64,{PIXEL}"
        said[0]["content"] = [
            {"type": "input_text", "text": LOOK},
            {"type": "input_image", "image_url": url, "detail": "auto"},
        ]
    elif case == "JSON schema":
        body["text"] = {"format": {"type": "json_schema", "name": "place", "schema": PLACE, "strict": True}}
    elif case == "thinking":
        body["reasoning"] = {"effort": "low"}
    return body


def _ask_messages(case: str) -> dict[str, Any]:
    said: list[Any] = [{"role": "user", "content": QUESTION}]
    body: dict[str, Any] = {"model": "m", "system": RULE, "messages": said, "max_tokens": 3000}
    if case == "text":
        body |= {"temperature": 0.5, "stop_sequences": ["END"]}
    elif case == "tools":
        calls = [{"type": "tool_use", "id": i, "name": n, "input": a} for i, n, a in CALLS]
        results = [{"type": "tool_result", "tool_use_id": i, "content": text} for i, _, text in RESULTS]
        said += [{"role": "assistant", "content": calls}, {"role": "user", "content": results}]
        body["tools"] = [{"name": n, "description": d, "input_schema": PLACE} for n, d in TOOLS]
        body["tool_choice"] = {"type": "auto"}
    elif case.startswith("image"):
        data = {"type": "base64", "media_type": "image/png", "data": PIXEL}
        source = {"type": "url", "url": LINK} if "URL" in case else data
        said[0]["content"] = [{"type": "text", "text": LOOK}, {"type": "image", "source": source}]
    elif case == "JSON schema":
        body["output_config"] = {"format": {"type": "json_schema", "schema": PLACE}}
    elif case == "thinking":
        body["thinking"] = {"type": "enabled", "budget_tokens": 1024}
    return body


def _ask_gemini(case: str) -> dict[str, Any]:
    config: dict[str, Any] = {"maxOutputTokens": 3000}
    contents: list[Any] = [{"role": "user", "parts": [{"text": QUESTION}]}]
    body: dict[str, Any] = {"systemInstruction": {"parts": [{"text": RULE}]}, "contents": contents}
    if case == "text":
        config |= {"temperature": 0.5, "stopSequences": ["END"]}
    elif case == "tools":
        calls = [{"functionCall": {"id": i, "name": n, "args": a}} for i, n, a in CALLS]
        results = [
            {"functionResponse": {"id": i, "name": n, "response": {"output": text}}} for i, n, text in RESULTS
        ]
        contents += [{"role": "model", "parts": calls}, {"role": "user", "parts": results}]
        declared = [{"name": n, "description": d, "parametersJsonSchema": PLACE} for n, d in TOOLS]
        body["tools"] = [{"functionDeclarations": declared}]
        body["toolConfig"] = {"functionCallingConfig": {"mode": "AUTO"}}
    elif case.startswith("image"):
        link = {"fileData": {"mimeType": "image/png", "fileUri": LINK}}
        data = {"inlineData": {"mimeType": "image/png", "data": PIXEL}}
        contents[0]["parts"] = [{"text": LOOK}, link if "URL" in case else data]
    elif case == "JSON schema":
        config |= {"responseMimeType": "application/json", "responseJsonSchema": PLACE}
    elif case == "thinking":
        config["thinkingConfig"] = {"thinkingBudget": 1024, "includeThoughts": True}
    return {**body, "generationConfig": config}


def _ask_converse(case: str) -> dict[str, Any]:
    said: list[Any] = [{"role": "user", "content": [{"text": QUESTION}]}]
    config: dict[str, Any] = {"maxTokens": 3000}
    body: dict[str, Any] = {"system": [{"text": RULE}], "messages": said, "inferenceConfig": config}
    if case == "text":
        config |= {"temperature": 0.5, "stopSequences": ["END"]}
    elif case == "tools":
        calls = [{"toolUse": {"toolUseId": i, "name": n, "input": a}} for i, n, a in CALLS]
        results = [{"toolResult": {"toolUseId": i, "content": [{"text": text}]}} for i, _, text in RESULTS]
        said += [{"role": "assistant", "content": calls}, {"role": "user", "content": results}]
        tools = [
            {"toolSpec": {"name": n, "description": d, "inputSchema": {"json": PLACE}}} for n, d in TOOLS
        ]
        body["toolConfig"] = {"tools": tools, "toolChoice": {"auto": {}}}
    elif case.startswith("image"):
        source = {"s3Location": {"uri": "s3://bucket/1.png"}} if "URL" in case else {"bytes": PIXEL}
        said[0]["content"] = [{"text": LOOK}, {"image": {"format": "png", "source": source}}]
    elif case == "JSON schema":
        schema = {"schema": _write(PLACE), "name": "place"}
        body["outputConfig"] = {"textFormat": {"type": "json_schema", "structure": {"jsonSchema": schema}}}
    elif case == "thinking":
        body["additionalModelRequestFields"] = {"thinking": {"type": "enabled", "budget_tokens": 1024}}
    return body


def _ask_cohere(case: str) -> dict[str, Any]:
    said: list[Any] = [{"role": "system", "content": RULE}, {"role": "user", "content": QUESTION}]
    body: dict[str, Any] = {"model": "m", "messages": said, "max_tokens": 3000}
    if case == "text":
        body |= {"temperature": 0.5, "stop_sequences": ["END"]}
    elif case == "tools":
        said.append({"role": "assistant", "tool_calls": _chat_calls(_write)})
        said += [{"role": "tool", "tool_call_id": i, "content": text} for i, _, text in RESULTS]
        body["tools"] = _chat_tools()
    elif case.startswith("image"):
        url = LINK if "URL" in case else f"data:image/png;base64,{PIXEL}"
        content = [{"type": "text", "text": LOOK}, {"type": "image_url", "image_url": {"url": url}}]
        said[1] = {"role": "user", "content": content}
    elif case == "JSON schema":
        body["response_format"] = {"type": "json_object", "json_schema": PLACE}
    elif case == "thinking":
        body["thinking"] = {"type": "enabled", "token_budget": 1024}
    return body


_ASKERS = {
    "openai-chat": _ask_chat,
    "openai-responses": _ask_responses,
    "anthropic-messages": _ask_messages,
    "gemini": _ask_gemini,
    "bedrock-converse": _ask_converse,
    "cohere": _ask_cohere,
}
