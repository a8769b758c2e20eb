"""LangChain's classes: its messages are kept, its chunks added, its own way of parsing used."""

import base64
from abc import abstractmethod
from typing import Any, ClassVar

import anthropic
import openai
from langchain_anthropic import ChatAnthropic
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_openai import ChatOpenAI

from tests.sdk.talks.anthropic_talk import AnthropicTalk
from tests.sdk.talks.openai_talks import OpenAITalk
from tests.sdk.talks.talk import RESULT, SYSTEM, THINKING_BUDGET, Plan, Talk, Told, describe_tools

_FINISH = {
    **dict.fromkeys(("stop", "end_turn", "stop_sequence", "completed"), "stop"),
    **dict.fromkeys(("length", "max_tokens", "incomplete"), "length"),
    **dict.fromkeys(("tool_calls", "tool_use"), "tool_calls"),
}


class LangChainTalk(Talk):
    """`make` makes the model; everything else is the same for all of them."""

    @abstractmethod
    def make(self, url: str, key: str) -> Any: ...

    @classmethod
    def connect(cls, url: str, key: str) -> Any:
        return url, key  # its models keep their clients by themselves

    @classmethod
    def disconnect(cls, client: Any) -> None:
        pass

    def open(self) -> None:
        self.plain = self.asked = self.make(*self.client)
        if self.wanted.tools:
            tools = [
                {"name": name, "description": name, "parameters": schema} for name, schema in describe_tools()
            ]
            self.asked = self.plain.bind_tools(tools)
        self.turns = [SystemMessage(SYSTEM)]

    def say(self, text: str, image: bytes | None = None) -> None:
        content: Any = text
        if image is not None:
            data = base64.b64encode(image).decode()
            picture = {"type": "image", "base64": data, "mime_type": "image/png"}
            content = [{"type": "text", "text": text}, picture]
        self.turns.append(HumanMessage(content))

    def answer(self, *, stream: bool) -> Told:
        message: Any = None
        if stream:
            for chunk in self.asked.stream(self.turns):
                message = chunk if message is None else message + chunk
        else:
            message = self.asked.invoke(self.turns)
        assert isinstance(message, AIMessage)
        self.turns.append(message)
        self.calls = message.tool_calls
        told, usage = message.response_metadata, message.usage_metadata
        assert usage is not None
        finish = told.get("finish_reason") or told.get("stop_reason") or told.get("status")
        blocks: list[Any] = message.content_blocks
        return Told(
            message.text,
            "".join(block.get("reasoning", "") for block in blocks if block["type"] == "reasoning"),
            [(call["name"], call["args"]) for call in self.calls],
            "tool_calls" if self.calls else _FINISH[str(finish)],
            usage["input_tokens"],
            usage["output_tokens"],
        )

    def give_results(self) -> None:
        self.turns += [ToolMessage(RESULT, tool_call_id=call["id"]) for call in self.calls]

    def parse(self) -> Plan:
        found = self.plain.with_structured_output(Plan, method="json_schema").invoke(self.turns)
        assert isinstance(found, Plan)
        return found


class LangChainOpenAITalk(LangChainTalk):
    error: ClassVar[type[Exception]] = openai.APIError
    errors: ClassVar[Any] = OpenAITalk.errors
    broken: ClassVar[type[Exception]] = openai.APIError
    shows_thoughts: ClassVar[bool] = False
    """Of chat completions this class reads no thoughts."""
    responses: ClassVar[bool] = False

    def make(self, url: str, key: str) -> Any:
        asked: dict[str, Any] = {"stop": list(self.wanted.stops)} if self.wanted.stops else {}
        if self.responses:
            asked |= {"use_responses_api": True, "store": False, "include": ["reasoning.encrypted_content"]}
        if self.wanted.thoughts and self.responses:
            asked["reasoning"] = {"effort": "medium", "summary": "auto"}
        elif self.wanted.thoughts:
            asked["reasoning_effort"] = "medium"
        return ChatOpenAI(
            model=self.model,
            base_url=f"{url}/v1",
            api_key=key,  # type: ignore[arg-type]
            max_retries=0,
            max_tokens=self.wanted.limit,
            stream_usage=True,
            **asked,
        )

    def find_request_id(self, error: Any) -> str | None:
        return error.request_id


class LangChainResponsesTalk(LangChainOpenAITalk):
    shows_thoughts: ClassVar[bool] = True
    has_stops: ClassVar[bool] = False
    responses: ClassVar[bool] = True


class LangChainAnthropicTalk(LangChainTalk):
    error: ClassVar[type[Exception]] = anthropic.APIStatusError
    errors: ClassVar[Any] = AnthropicTalk.errors
    broken: ClassVar[type[Exception]] = anthropic.APIStatusError

    def make(self, url: str, key: str) -> Any:
        asked: dict[str, Any] = {}
        if self.wanted.thoughts:
            asked["thinking"] = {"type": "enabled", "budget_tokens": THINKING_BUDGET}
        if self.wanted.stops:
            asked["stop"] = list(self.wanted.stops)
        return ChatAnthropic(
            model=self.model,
            base_url=url,
            api_key=key,
            max_retries=0,
            max_tokens=self.wanted.limit,
            **asked,
        )

    def find_request_id(self, error: Any) -> str | None:
        return error.request_id
