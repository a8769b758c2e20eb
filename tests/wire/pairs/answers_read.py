"""What an answer says, read from the plain answer of each dialect: the same facts whichever dialect says them."""

from json import loads
from typing import Any

Facts = dict[str, Any]

FINISHES = {
    "openai-chat": {"stop": "stop", "tool_calls": "calls", "length": "length", "content_filter": "filter"},
    "anthropic-messages": {
        "end_turn": "stop",
        "tool_use": "calls",
        "max_tokens": "length",
        "refusal": "filter",
    },
    "bedrock-converse": {
        "end_turn": "stop",
        "tool_use": "calls",
        "max_tokens": "length",
        "content_filtered": "filter",
    },
    "cohere": {"COMPLETE": "stop", "TOOL_CALL": "calls", "MAX_TOKENS": "length", "ERROR": "filter"},
}


def tell_answer(dialect: str, doc: dict[str, Any]) -> Facts:
    facts = _TELLERS[dialect](doc)
    return {name: value for name, value in facts.items() if value not in (None, [], "", 0)}


def _tell_chat(doc: dict[str, Any]) -> Facts:
    (choice,), usage = doc["choices"], doc["usage"]
    message = choice["message"]
    calls = message.get("tool_calls") or ()
    return {
        "text": message["content"],
        "thinking": message.get("reasoning_content"),
        "calls": [(call["function"]["name"], loads(call["function"]["arguments"])) for call in calls],
        "call ids": [call["id"] for call in calls],
        "finish": FINISHES["openai-chat"][choice["finish_reason"]],
        "prompt tokens": usage["prompt_tokens"],
        "answer tokens": usage["completion_tokens"],
        "cached tokens": usage["prompt_tokens_details"].get("cached_tokens"),
        "cache writes": usage["prompt_tokens_details"].get("cache_write_tokens"),
        "thinking tokens": usage["completion_tokens_details"].get("reasoning_tokens"),
        "id": doc["id"],
        "model": doc["model"],
    }


def _tell_responses(doc: dict[str, Any]) -> Facts:
    items, usage = doc["output"], doc["usage"]
    calls = [item for item in items if item["type"] == "function_call"]
    finish = "calls" if calls else "stop"
    if doc["status"] == "incomplete":
        finish = {"max_output_tokens": "length", "content_filter": "filter"}[
            doc["incomplete_details"]["reason"]
        ]
    thoughts = [part["text"] for item in items if item["type"] == "reasoning" for part in item["summary"]]
    return {
        "text": "".join(p["text"] for item in items if item["type"] == "message" for p in item["content"]),
        "thinking": "".join(thoughts),
        "calls": [(call["name"], loads(call["arguments"])) for call in calls],
        "call ids": [call["call_id"] for call in calls],
        "finish": finish,
        "prompt tokens": usage["input_tokens"],
        "answer tokens": usage["output_tokens"],
        "cached tokens": usage["input_tokens_details"]["cached_tokens"],
        "cache writes": usage["input_tokens_details"]["cache_write_tokens"],
        "thinking tokens": usage["output_tokens_details"]["reasoning_tokens"],
        "id": doc["id"],
        "model": doc["model"],
    }


def _tell_messages(doc: dict[str, Any]) -> Facts:
    blocks, usage = doc["content"], doc["usage"]
    calls = [block for block in blocks if block["type"] == "tool_use"]
    cached, written = usage["cache_read_input_tokens"], usage["cache_creation_input_tokens"]
    return {
        "text": "".join(block["text"] for block in blocks if block["type"] == "text"),
        "thinking": "".join(block["thinking"] for block in blocks if block["type"] == "thinking"),
        "calls": [(call["name"], call["input"]) for call in calls],
        "call ids": [call["id"] for call in calls],
        "finish": FINISHES["anthropic-messages"][doc["stop_reason"]],
        "prompt tokens": usage["input_tokens"] + cached + written,
        "answer tokens": usage["output_tokens"],
        "cached tokens": cached,
        "cache writes": written,
        "thinking tokens": (usage.get("output_tokens_details") or {}).get("thinking_tokens"),
        "id": doc["id"],
        "model": doc["model"],
    }


def _tell_gemini(doc: dict[str, Any]) -> Facts:
    (candidate,), usage = doc["candidates"], doc["usageMetadata"]
    parts = candidate["content"]["parts"]
    calls = [part["functionCall"] for part in parts if "functionCall" in part]
    finish = {"STOP": "calls" if calls else "stop", "MAX_TOKENS": "length", "SAFETY": "filter"}
    return {
        "text": "".join(part["text"] for part in parts if "text" in part and not part.get("thought")),
        "thinking": "".join(part["text"] for part in parts if part.get("thought")),
        "calls": [(call["name"], call["args"]) for call in calls],
        "call ids": [call["id"] for call in calls],
        "finish": finish[candidate["finishReason"]],
        "prompt tokens": usage["promptTokenCount"],
        "answer tokens": usage["candidatesTokenCount"] + usage.get("thoughtsTokenCount", 0),
        "cached tokens": usage.get("cachedContentTokenCount"),
        "thinking tokens": usage.get("thoughtsTokenCount"),
        "id": doc["responseId"],
        "model": doc["modelVersion"],
    }


def _tell_converse(doc: dict[str, Any]) -> Facts:
    blocks, usage = doc["output"]["message"]["content"], doc["usage"]
    calls = [block["toolUse"] for block in blocks if "toolUse" in block]
    thoughts = [
        block["reasoningContent"]["reasoningText"]["text"] for block in blocks if "reasoningContent" in block
    ]
    cited = [block.get("citationsContent", {"content": [block]})["content"] for block in blocks]
    pieces = [piece for content in cited for piece in content]
    cached, written = usage.get("cacheReadInputTokens", 0), usage.get("cacheWriteInputTokens", 0)
    return {
        "text": "".join(piece.get("text", "") for piece in pieces),
        "thinking": "".join(thoughts),
        "calls": [(call["name"], call["input"]) for call in calls],
        "call ids": [call["toolUseId"] for call in calls],
        "finish": FINISHES["bedrock-converse"][doc["stopReason"]],
        "prompt tokens": usage["inputTokens"] + cached + written,
        "answer tokens": usage["outputTokens"],
        "cached tokens": cached,
        "cache writes": written,
    }


def _tell_cohere(doc: dict[str, Any]) -> Facts:
    message, usage = doc["message"], doc["usage"]["billed_units"]
    blocks, calls = message.get("content") or (), message.get("tool_calls") or ()
    return {
        "text": "".join(
            [message.get("tool_plan") or "", *(b["text"] for b in blocks if b["type"] == "text")]
        ),
        "thinking": "".join(block["thinking"] for block in blocks if block["type"] == "thinking"),
        "calls": [(call["function"]["name"], loads(call["function"]["arguments"])) for call in calls],
        "call ids": [call["id"] for call in calls],
        "finish": FINISHES["cohere"][doc["finish_reason"]],
        "prompt tokens": usage["input_tokens"],
        "answer tokens": usage["output_tokens"],
        "id": doc["id"],
    }


_TELLERS = {
    "openai-chat": _tell_chat,
    "openai-responses": _tell_responses,
    "anthropic-messages": _tell_messages,
    "gemini": _tell_gemini,
    "bedrock-converse": _tell_converse,
    "cohere": _tell_cohere,
}
