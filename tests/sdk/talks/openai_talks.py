"""The official OpenAI SDK: Chat Completions, and Responses."""

import base64
import json
from typing import Any, ClassVar

import openai

from tests.sdk.talks.talk import RESULT, SYSTEM, Plan, Talk, Told, describe_tools

_ERRORS = {
    400: openai.BadRequestError,
    401: openai.AuthenticationError,
    403: openai.PermissionDeniedError,
    404: openai.NotFoundError,
    422: openai.UnprocessableEntityError,
    429: openai.RateLimitError,
    502: openai.InternalServerError,
    503: openai.InternalServerError,
}


class OpenAITalk(Talk):
    error: ClassVar[type[Exception]] = openai.APIError
    errors: ClassVar[Any] = _ERRORS
    broken: ClassVar[type[Exception]] = openai.APIError

    @classmethod
    def connect(cls, url: str, key: str) -> Any:
        return openai.OpenAI(api_key=key, base_url=f"{url}/v1", max_retries=0)

    def find_request_id(self, error: Any) -> str | None:
        return error.request_id


class ChatTalk(OpenAITalk):
    def open(self) -> None:
        self.turns = [{"role": "system", "content": SYSTEM}]

    def say(self, text: str, image: bytes | None = None) -> None:
        content: Any = text
        if image is not None:
            url = f"data:image/png;base64,{base64.b64encode(image).decode()}"
            content = [{"type": "text", "text": text}, {"type": "image_url", "image_url": {"url": url}}]
        self.turns.append({"role": "user", "content": content})

    def _ask(self) -> dict[str, Any]:
        asked: dict[str, Any] = {"model": self.model, "messages": self.turns}
        asked["max_completion_tokens"] = self.wanted.limit
        if self.wanted.tools:
            asked["tools"] = [
                {"type": "function", "function": {"name": name, "parameters": schema}}
                for name, schema in describe_tools()
            ]
        if self.wanted.thoughts:
            asked["reasoning_effort"] = "medium"
        if self.wanted.stops:
            asked["stop"] = list(self.wanted.stops)
        return asked

    def answer(self, *, stream: bool) -> Told:
        whole: Any
        if stream:
            usage: Any = {"include_usage": True}
            try:
                with self.client.chat.completions.stream(**self._ask(), stream_options=usage) as events:
                    whole = events.get_final_completion()
            except openai.LengthFinishReasonError as cut:
                whole = cut.completion
        else:
            whole = self.client.chat.completions.create(**self._ask())
        choice = whole.choices[0]
        self.turns.append(choice.message)
        self.calls = choice.message.tool_calls or []
        return Told(
            choice.message.content or "",
            getattr(choice.message, "reasoning_content", None) or "",
            [(call.function.name, json.loads(call.function.arguments)) for call in self.calls],
            choice.finish_reason,
            whole.usage.prompt_tokens,
            whole.usage.completion_tokens,
        )

    def give_results(self) -> None:
        self.turns += [{"role": "tool", "tool_call_id": call.id, "content": RESULT} for call in self.calls]

    def parse(self) -> Plan:
        found = self.client.chat.completions.parse(**self._ask(), response_format=Plan)
        parsed = found.choices[0].message.parsed
        assert parsed is not None
        return parsed


class ResponsesTalk(OpenAITalk):
    has_stops: ClassVar[bool] = False

    def say(self, text: str, image: bytes | None = None) -> None:
        content: Any = text
        if image is not None:
            url = f"data:image/png;base64,{base64.b64encode(image).decode()}"
            content = [{"type": "input_text", "text": text}, {"type": "input_image", "image_url": url}]
        self.turns.append({"role": "user", "content": content})

    def _ask(self) -> dict[str, Any]:
        asked: dict[str, Any] = {"model": self.model, "input": self.turns, "instructions": SYSTEM}
        asked |= {"max_output_tokens": self.wanted.limit, "store": False}
        if self.wanted.tools:
            asked["tools"] = [
                {"type": "function", "name": name, "parameters": schema, "strict": False}
                for name, schema in describe_tools()
            ]
        if self.wanted.thoughts:
            asked["reasoning"] = {"effort": "medium", "summary": "auto"}
            asked["include"] = ["reasoning.encrypted_content"]
        return asked

    def answer(self, *, stream: bool) -> Told:
        whole: Any
        if stream:
            with self.client.responses.stream(**self._ask()) as events:
                for event in events:
                    if event.type in ("response.completed", "response.incomplete"):
                        whole = event.response
        else:
            whole = self.client.responses.create(**self._ask())
        self.turns += whole.output
        self.calls = [item for item in whole.output if item.type == "function_call"]
        finish = "tool_calls" if self.calls else "stop" if whole.status == "completed" else "length"
        thoughts = [item for item in whole.output if item.type == "reasoning"]
        return Told(
            whole.output_text,
            "".join(part.text for item in thoughts for part in item.summary),
            [(call.name, json.loads(call.arguments)) for call in self.calls],
            finish,
            whole.usage.input_tokens,
            whole.usage.output_tokens,
        )

    def give_results(self) -> None:
        self.turns += [
            {"type": "function_call_output", "call_id": call.call_id, "output": RESULT} for call in self.calls
        ]

    def parse(self) -> Plan:
        found = self.client.responses.parse(**self._ask(), text_format=Plan).output_parsed
        assert found is not None
        return found
