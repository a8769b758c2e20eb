"""The official Anthropic SDK."""

import base64
from typing import Any, ClassVar

import anthropic

from tests.sdk.talks.talk import RESULT, SYSTEM, THINKING_BUDGET, Plan, Talk, Told, describe_tools

_FINISH = {"end_turn": "stop", "stop_sequence": "stop", "max_tokens": "length", "tool_use": "tool_calls"}


class AnthropicTalk(Talk):
    error: ClassVar[type[Exception]] = anthropic.APIStatusError
    broken: ClassVar[type[Exception]] = anthropic.APIStatusError
    errors: ClassVar[Any] = {
        400: anthropic.BadRequestError,
        401: anthropic.AuthenticationError,
        403: anthropic.PermissionDeniedError,
        404: anthropic.NotFoundError,
        422: anthropic.UnprocessableEntityError,
        429: anthropic.RateLimitError,
        502: anthropic.InternalServerError,
        503: anthropic.InternalServerError,
    }

    @classmethod
    def connect(cls, url: str, key: str) -> Any:
        return anthropic.Anthropic(api_key=key, base_url=url, max_retries=0)

    def say(self, text: str, image: bytes | None = None) -> None:
        content: Any = text
        if image is not None:
            data = base64.b64encode(image).decode()
            source = {"type": "base64", "media_type": "image/png", "data": data}
            content = [{"type": "text", "text": text}, {"type": "image", "source": source}]
        self.turns.append({"role": "user", "content": content})

    def _ask(self) -> dict[str, Any]:
        asked: dict[str, Any] = {"model": self.model, "messages": self.turns, "system": SYSTEM}
        asked["max_tokens"] = self.wanted.limit
        if self.wanted.tools:
            asked["tools"] = [{"name": name, "input_schema": schema} for name, schema in describe_tools()]
        if self.wanted.thoughts:
            asked["thinking"] = {"type": "enabled", "budget_tokens": THINKING_BUDGET}
        if self.wanted.stops:
            asked["stop_sequences"] = list(self.wanted.stops)
        return asked

    def answer(self, *, stream: bool) -> Told:
        whole: Any
        if stream:
            with self.client.messages.stream(**self._ask()) as events:
                whole = events.get_final_message()
        else:
            whole = self.client.messages.create(**self._ask())
        self.turns.append({"role": "assistant", "content": whole.content})
        self.calls = [block for block in whole.content if block.type == "tool_use"]
        usage = whole.usage
        cached = (usage.cache_read_input_tokens or 0) + (usage.cache_creation_input_tokens or 0)
        return Told(
            "".join(block.text for block in whole.content if block.type == "text"),
            "".join(block.thinking for block in whole.content if block.type == "thinking"),
            [(call.name, call.input) for call in self.calls],
            _FINISH[whole.stop_reason],
            usage.input_tokens + cached,
            usage.output_tokens,
        )

    def give_results(self) -> None:
        results = [{"type": "tool_result", "tool_use_id": call.id, "content": RESULT} for call in self.calls]
        self.turns.append({"role": "user", "content": results})

    def parse(self) -> Plan:
        found = self.client.messages.parse(**self._ask(), output_format=Plan).parsed_output
        assert found is not None
        return found

    def find_request_id(self, error: Any) -> str | None:
        return error.request_id
