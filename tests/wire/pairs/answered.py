"""What providers answer: one plain answer and one stream for each dialect, saying the same with all that it can say."""

from json import loads
from typing import Any

THOUGHT, PROOF = "Let me look.", "c2lnbmVkIGJ5IHRoZSBtb2RlbA=="


WORDS = ("It", " rains", " in Bärn.")


TEXT = "".join(WORDS)


CALLS = (("call_1", "look", '{"city": "Bern"}'), ("call_2", "ask", '{"city": "Rome"}'))


def answer(dialect: str, *, calls: bool) -> dict[str, Any]:
    body: dict[str, Any] = _ANSWERS[dialect](calls)
    return body


# --- chat completions


CHAT_USAGE = {
    "prompt_tokens": 100,
    "completion_tokens": 30,
    "total_tokens": 130,
    "prompt_tokens_details": {"cached_tokens": 40, "cache_write_tokens": 10},
    "completion_tokens_details": {"reasoning_tokens": 12},
}


def _answer_chat(calls: bool) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": TEXT, "reasoning_content": THOUGHT}
    if calls:
        message["tool_calls"] = [
            {"id": i, "type": "function", "function": {"name": n, "arguments": a}} for i, n, a in CALLS
        ]
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls" if calls else "stop"}
    head = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1700000000, "model": "up-1"}
    return {**head, "choices": [choice], "usage": CHAT_USAGE}


# --- Responses


def _items(calls: bool) -> list[Any]:
    spoken = {"type": "output_text", "text": TEXT, "annotations": [], "logprobs": []}
    items: list[Any] = [
        {
            "id": "rs_1",
            "type": "reasoning",
            "summary": [{"type": "summary_text", "text": THOUGHT}],
            "encrypted_content": PROOF,
        },
        {"id": "msg_1", "type": "message", "status": "completed", "role": "assistant", "content": [spoken]},
    ]
    for i, n, a in CALLS if calls else ():
        items.append(
            {
                "id": f"fc_{i}",
                "type": "function_call",
                "status": "completed",
                "call_id": i,
                "name": n,
                "arguments": a,
            }
        )
    return items


def answer_responses(calls: bool) -> dict[str, Any]:
    usage = {
        "input_tokens": 100,
        "input_tokens_details": {"cached_tokens": 40, "cache_write_tokens": 10},
        "output_tokens": 30,
        "output_tokens_details": {"reasoning_tokens": 12},
        "total_tokens": 130,
    }
    head = {
        "id": "resp_1",
        "object": "response",
        "created_at": 1700000000,
        "status": "completed",
        "model": "up-1",
    }
    return {**head, "output": _items(calls), "error": None, "incomplete_details": None, "usage": usage}


# --- Messages


MESSAGES_USAGE = {
    "input_tokens": 50,
    "cache_read_input_tokens": 40,
    "cache_creation_input_tokens": 10,
    "cache_creation": {"ephemeral_5m_input_tokens": 10, "ephemeral_1h_input_tokens": 0},
    "output_tokens": 30,
    "output_tokens_details": {"thinking_tokens": 12},
}


def answer_messages(calls: bool) -> dict[str, Any]:
    blocks: list[Any] = [
        {"type": "thinking", "thinking": THOUGHT, "signature": PROOF},
        {"type": "text", "text": TEXT},
    ]
    blocks += [
        {"type": "tool_use", "id": i, "name": n, "input": loads(a)} for i, n, a in (CALLS if calls else ())
    ]
    head = {"id": "msg_01", "type": "message", "role": "assistant", "model": "up-1", "content": blocks}
    return {
        **head,
        "stop_reason": "tool_use" if calls else "end_turn",
        "stop_sequence": None,
        "usage": MESSAGES_USAGE,
    }


# --- Gemini


GEMINI_USAGE = {
    "promptTokenCount": 100,
    "cachedContentTokenCount": 40,
    "candidatesTokenCount": 18,
    "thoughtsTokenCount": 12,
    "totalTokenCount": 130,
}


def write_parts(calls: bool, words: tuple[str, ...]) -> list[Any]:
    parts: list[Any] = [{"text": THOUGHT, "thought": True}, *({"text": word} for word in words)]
    for number, (i, n, a) in enumerate(CALLS if calls else ()):
        signed = {"thoughtSignature": PROOF} if number == 0 else {}
        parts.append({"functionCall": {"id": i, "name": n, "args": loads(a)}, **signed})
    return parts


def _answer_gemini(calls: bool) -> dict[str, Any]:
    candidate = {
        "content": {"role": "model", "parts": write_parts(calls, (TEXT,))},
        "finishReason": "STOP",
        "index": 0,
    }
    return {
        "candidates": [candidate],
        "usageMetadata": GEMINI_USAGE,
        "modelVersion": "up-1",
        "responseId": "resp-g1",
    }


# --- Converse


CONVERSE_USAGE = {
    "inputTokens": 50,
    "outputTokens": 30,
    "totalTokens": 130,
    "cacheReadInputTokens": 40,
    "cacheWriteInputTokens": 10,
}


def _answer_converse(calls: bool) -> dict[str, Any]:
    content: list[Any] = [
        {"reasoningContent": {"reasoningText": {"text": THOUGHT, "signature": PROOF}}},
        {"text": TEXT},
    ]
    content += [
        {"toolUse": {"toolUseId": i, "name": n, "input": loads(a)}} for i, n, a in (CALLS if calls else ())
    ]
    message = {"role": "assistant", "content": content}
    reason = "tool_use" if calls else "end_turn"
    return {
        "output": {"message": message},
        "stopReason": reason,
        "usage": CONVERSE_USAGE,
        "metrics": {"latencyMs": 9},
    }


# --- Cohere


COHERE_USAGE = {
    "billed_units": {"input_tokens": 100, "output_tokens": 30},
    "tokens": {"input_tokens": 500, "output_tokens": 30},
}


def _answer_cohere(calls: bool) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant"}
    if calls:
        message["tool_plan"] = TEXT
        message["content"] = [{"type": "thinking", "thinking": THOUGHT}]
        message["tool_calls"] = [
            {"id": i, "type": "function", "function": {"name": n, "arguments": a}} for i, n, a in CALLS
        ]
    else:
        message["content"] = [{"type": "thinking", "thinking": THOUGHT}, {"type": "text", "text": TEXT}]
    return {
        "id": "c-1",
        "finish_reason": "TOOL_CALL" if calls else "COMPLETE",
        "message": message,
        "usage": COHERE_USAGE,
    }


_ANSWERS = {
    "openai-chat": _answer_chat,
    "openai-responses": answer_responses,
    "anthropic-messages": answer_messages,
    "gemini": _answer_gemini,
    "bedrock-converse": _answer_converse,
    "cohere": _answer_cohere,
}
