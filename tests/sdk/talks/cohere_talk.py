"""Cohere's official SDK, whose streams an application adds up itself."""

import base64
import json
from typing import Any, ClassVar

import cohere
import httpx
from cohere.core.api_error import ApiError

from tests.sdk.talks.talk import RESULT, SYSTEM, THINKING_BUDGET, Plan, Talk, Told, describe_tools

_FINISH = {"COMPLETE": "stop", "STOP_SEQUENCE": "stop", "MAX_TOKENS": "length", "TOOL_CALL": "tool_calls"}


class Broken(Exception):
    """A stream whose end says ERROR."""


def add_up(events: Any) -> tuple[dict[str, Any], str, Any]:
    """The assistant's message that the events of a stream amount to, its finish and its usage."""
    content: dict[int, dict[str, Any]] = {}
    calls: dict[int, Any] = {}
    plan, ended = "", None
    for event in events:
        if event.type == "message-end":
            ended = event.delta
            continue
        message = getattr(getattr(event, "delta", None), "message", None)
        if event.type == "content-start":
            content[event.index] = {"type": message.content.type, message.content.type: ""}
        elif event.type == "content-delta":
            block = content[event.index]
            block[block["type"]] += message.content.text or message.content.thinking or ""
        elif event.type == "tool-plan-delta":
            plan += message.tool_plan
        elif event.type == "tool-call-start":
            calls[event.index] = message.tool_calls
        elif event.type == "tool-call-delta":
            called = calls[event.index].function
            called.arguments = (called.arguments or "") + message.tool_calls.function.arguments
    if ended is None or ended.finish_reason == "ERROR":
        raise Broken(ended.error if ended else "no end")
    said: dict[str, Any] = {"role": "assistant", "content": list(content.values())}
    if calls:
        said = {"role": "assistant", "tool_calls": list(calls.values()), "tool_plan": plan}
        said |= {"content": list(content.values())} if content else {}
    return said, ended.finish_reason, ended.usage


def dump(message: Any) -> dict[str, Any]:
    """A plain answer's message as it goes back."""
    told: dict[str, Any] = message.model_dump(exclude_none=True)
    if not told.get("tool_calls"):
        told.pop("tool_calls", None)
    return told


class CohereTalk(Talk):
    error: ClassVar[type[Exception]] = ApiError
    broken: ClassVar[type[Exception]] = Broken
    errors: ClassVar[Any] = {
        400: cohere.BadRequestError,
        401: cohere.UnauthorizedError,
        403: cohere.ForbiddenError,
        404: cohere.NotFoundError,
        422: cohere.UnprocessableEntityError,
        429: cohere.TooManyRequestsError,
        503: cohere.ServiceUnavailableError,
    }

    @classmethod
    def connect(cls, url: str, key: str) -> Any:
        made = cohere.ClientV2(
            api_key=key,
            base_url=url,
            httpx_client=httpx.Client(timeout=30),
            log_warning_experimental_features=False,
        )
        return made

    @classmethod
    def disconnect(cls, client: Any) -> None:
        client._client_wrapper.httpx_client.httpx_client.close()

    def open(self) -> None:
        self.turns = [{"role": "system", "content": SYSTEM}]

    def say(self, text: str, image: bytes | None = None) -> None:
        content: Any = text
        if image is not None:
            url = f"data:image/png;base64,{base64.b64encode(image).decode()}"
            content = [{"type": "text", "text": text}, {"type": "image_url", "image_url": {"url": url}}]
        self.turns.append({"role": "user", "content": content})

    def _ask(self) -> dict[str, Any]:
        asked: dict[str, Any] = {
            "model": self.model,
            "messages": self.turns,
            "max_tokens": self.wanted.limit,
            "request_options": {"max_retries": 0},
        }
        if self.wanted.tools:
            asked["tools"] = [
                {"type": "function", "function": {"name": name, "parameters": schema}}
                for name, schema in describe_tools()
            ]
        if self.wanted.thoughts:
            asked["thinking"] = {"type": "enabled", "token_budget": THINKING_BUDGET}
        if self.wanted.stops:
            asked["stop_sequences"] = list(self.wanted.stops)
        return asked

    def answer(self, *, stream: bool) -> Told:
        if stream:
            message, finish, usage = add_up(self.client.chat_stream(**self._ask()))
        else:
            whole = self.client.chat(**self._ask())
            message, finish, usage = dump(whole.message), whole.finish_reason, whole.usage
        self.turns.append(message)
        called = message.get("tool_calls", [])
        self.calls = [call if isinstance(call, dict) else call.model_dump() for call in called]
        content = message.get("content", [])
        return Told(
            "".join(block.get("text", "") for block in content),
            "".join(block.get("thinking", "") for block in content),
            [
                (call["function"]["name"], json.loads(call["function"]["arguments"] or "{}"))
                for call in self.calls
            ],
            _FINISH[finish],
            int(usage.tokens.input_tokens),
            int(usage.tokens.output_tokens),
        )

    def give_results(self) -> None:
        self.turns += [{"role": "tool", "tool_call_id": call["id"], "content": RESULT} for call in self.calls]

    def parse(self) -> Plan:
        form: Any = {"type": "json_object", "json_schema": Plan.model_json_schema()}
        content: Any = self.client.chat(**self._ask(), response_format=form).message.content
        return Plan.model_validate_json("".join(block.text for block in content if block.type == "text"))

    def find_request_id(self, error: Any) -> str | None:
        return (error.headers or {}).get("x-request-id")
