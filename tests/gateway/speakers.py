"""Clients of several dialects that hold a conversation: each keeps of an answer what its dialect has a place for."""

import json
from typing import Any

import httpx

from tests.harness import ADMIN_KEY

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS = ("weather", "clock")


class Speaker:
    """`history` is the conversation as the dialect writes it; `calls` are those of the last answer."""

    dialect = ""
    carries = False
    """Whether it sends back the reasoning of an answer."""

    def __init__(self, url: str, key: str = ADMIN_KEY) -> None:
        self.url, self.key = url, key
        self.history: list[Any] = []
        self.calls: list[dict[str, Any]] = []

    def ask(self, model: str) -> dict[str, Any]:
        headers = {"authorization": f"Bearer {self.key}"}
        answer = httpx.post(self.url + self.path(model), json=self.body(model), headers=headers, timeout=60)
        assert answer.status_code == 200, answer.text
        self.loss = answer.headers.get("x-loss", "")
        whole: dict[str, Any] = answer.json()
        self.take(whole)
        return whole

    def path(self, model: str) -> str:
        raise NotImplementedError

    def body(self, model: str) -> dict[str, Any]:
        raise NotImplementedError

    def take(self, answer: dict[str, Any]) -> None:
        raise NotImplementedError

    def say(self, text: str) -> None:
        raise NotImplementedError

    def give_results(self) -> None:
        raise NotImplementedError


class ChatSpeaker(Speaker):
    """Keeps the fields that OpenAI documents and nothing else."""

    dialect = "openai-chat"

    def path(self, model: str) -> str:
        return "/v1/chat/completions"

    def body(self, model: str) -> dict[str, Any]:
        tools = [{"type": "function", "function": {"name": name, "parameters": SCHEMA}} for name in TOOLS]
        return {"model": model, "messages": self.history, "tools": tools, "reasoning_effort": "low"}

    def take(self, answer: dict[str, Any]) -> None:
        message = answer["choices"][0]["message"]
        self.calls = [
            {key: call[key] for key in ("id", "type", "function")} for call in message.get("tool_calls") or ()
        ]
        kept = {"role": "assistant", "content": message["content"]}
        self.history.append({**kept, "tool_calls": self.calls} if self.calls else kept)

    def say(self, text: str) -> None:
        self.history.append({"role": "user", "content": text})

    def give_results(self) -> None:
        for call in self.calls:
            self.history.append({"role": "tool", "tool_call_id": call["id"], "content": "sunny"})


class MessagesSpeaker(Speaker):
    dialect = "anthropic-messages"
    carries = True

    def path(self, model: str) -> str:
        return "/v1/messages"

    def body(self, model: str) -> dict[str, Any]:
        tools = [{"name": name, "input_schema": SCHEMA} for name in TOOLS]
        thinking = {"type": "enabled", "budget_tokens": 1024}
        return {
            "model": model,
            "max_tokens": 4000,
            "messages": self.history,
            "tools": tools,
            "thinking": thinking,
        }

    def take(self, answer: dict[str, Any]) -> None:
        self.calls = [block for block in answer["content"] if block["type"] == "tool_use"]
        self.history.append({"role": "assistant", "content": answer["content"]})

    def say(self, text: str) -> None:
        self.history.append({"role": "user", "content": text})

    def give_results(self) -> None:
        results = [
            {"type": "tool_result", "tool_use_id": call["id"], "content": "sunny"} for call in self.calls
        ]
        self.history.append({"role": "user", "content": results})


class GeminiSpeaker(Speaker):
    dialect = "gemini"
    carries = True

    def path(self, model: str) -> str:
        return f"/v1beta/models/{model}:generateContent"

    def body(self, model: str) -> dict[str, Any]:
        tools = [{"functionDeclarations": [{"name": name, "parameters": SCHEMA} for name in TOOLS]}]
        thinking = {"thinkingConfig": {"includeThoughts": True, "thinkingBudget": 1024}}
        return {"contents": self.history, "tools": tools, "generationConfig": thinking}

    def take(self, answer: dict[str, Any]) -> None:
        content = answer["candidates"][0]["content"]
        self.calls = [part["functionCall"] for part in content["parts"] if "functionCall" in part]
        self.history.append(content)

    def say(self, text: str) -> None:
        self.history.append({"role": "user", "parts": [{"text": text}]})

    def give_results(self) -> None:
        parts = [
            {
                "functionResponse": {
                    "name": call["name"],
                    "response": {"result": "sunny"},
                    **({"id": call["id"]} if call.get("id") else {}),
                }
            }
            for call in self.calls
        ]
        self.history.append({"role": "user", "parts": parts})


class ResponsesSpeaker(Speaker):
    dialect = "openai-responses"
    carries = True

    def path(self, model: str) -> str:
        return "/v1/responses"

    def body(self, model: str) -> dict[str, Any]:
        tools = [{"type": "function", "name": name, "parameters": SCHEMA} for name in TOOLS]
        more = {"include": ["reasoning.encrypted_content"], "store": False, "reasoning": {"effort": "low"}}
        return {"model": model, "input": self.history, "tools": tools, **more}

    def take(self, answer: dict[str, Any]) -> None:
        self.calls = [item for item in answer["output"] if item["type"] == "function_call"]
        self.history += answer["output"]

    def say(self, text: str) -> None:
        self.history.append({"role": "user", "content": text})

    def give_results(self) -> None:
        for call in self.calls:
            self.history.append(
                {"type": "function_call_output", "call_id": call["call_id"], "output": "sunny"}
            )


class ConverseSpeaker(Speaker):
    dialect = "bedrock-converse"
    carries = True

    def path(self, model: str) -> str:
        return f"/model/{model}/converse"

    def body(self, model: str) -> dict[str, Any]:
        tools = [{"toolSpec": {"name": name, "inputSchema": {"json": SCHEMA}}} for name in TOOLS]
        thinking = {"thinking": {"type": "enabled", "budget_tokens": 1024}}
        return {
            "messages": self.history,
            "toolConfig": {"tools": tools},
            "inferenceConfig": {"maxTokens": 4000},
            "additionalModelRequestFields": thinking,
        }

    def take(self, answer: dict[str, Any]) -> None:
        message = answer["output"]["message"]
        self.calls = [block["toolUse"] for block in message["content"] if "toolUse" in block]
        self.history.append(message)

    def say(self, text: str) -> None:
        self.history.append({"role": "user", "content": [{"text": text}]})

    def give_results(self) -> None:
        results = [
            {"toolResult": {"toolUseId": call["toolUseId"], "content": [{"text": "sunny"}]}}
            for call in self.calls
        ]
        self.history.append({"role": "user", "content": results})


class CohereSpeaker(ChatSpeaker):
    dialect = "cohere"

    def path(self, model: str) -> str:
        return "/v2/chat"

    def body(self, model: str) -> dict[str, Any]:
        tools = [{"type": "function", "function": {"name": name, "parameters": SCHEMA}} for name in TOOLS]
        thinking = {"type": "enabled", "token_budget": 1024}
        return {"model": model, "messages": self.history, "tools": tools, "thinking": thinking}

    def take(self, answer: dict[str, Any]) -> None:
        message = answer["message"]
        self.calls = message.get("tool_calls") or []
        kept = {
            key: message[key] for key in ("role", "content", "tool_calls", "tool_plan") if message.get(key)
        }
        self.history.append(json.loads(json.dumps(kept)))


SPEAKERS: tuple[type[Speaker], ...] = (
    ChatSpeaker,
    MessagesSpeaker,
    GeminiSpeaker,
    ResponsesSpeaker,
    ConverseSpeaker,
    CohereSpeaker,
)
