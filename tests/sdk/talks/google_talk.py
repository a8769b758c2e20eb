"""The official Google Gen AI SDK, whose chat keeps what was said by itself."""

from typing import Any, ClassVar

from google import genai
from google.genai import errors, types

from tests.sdk.talks.talk import RESULT, SYSTEM, THINKING_BUDGET, Plan, Talk, Told, describe_tools


class GoogleTalk(Talk):
    error: ClassVar[type[Exception]] = errors.APIError
    broken: ClassVar[type[Exception]] = errors.APIError
    errors: ClassVar[Any] = {
        **dict.fromkeys((400, 401, 403, 404, 422, 429), errors.ClientError),
        **dict.fromkeys((502, 503), errors.ServerError),
    }

    @classmethod
    def connect(cls, url: str, key: str) -> Any:
        options = types.HttpOptions(base_url=url, retry_options=types.HttpRetryOptions(attempts=1))
        return genai.Client(api_key=key, vertexai=False, http_options=options)

    def open(self) -> None:
        self.chat = self.client.chats.create(model=self.model, config=self._configure())
        self.said: Any = None

    def _configure(self, **more: Any) -> types.GenerateContentConfig:
        asked: dict[str, Any] = {"max_output_tokens": self.wanted.limit, "system_instruction": SYSTEM, **more}
        if self.wanted.tools:
            declared: Any = [
                types.FunctionDeclaration(name=name, parameters_json_schema=schema)
                for name, schema in describe_tools()
            ]
            asked["tools"] = [types.Tool(function_declarations=declared)]
            asked["automatic_function_calling"] = types.AutomaticFunctionCallingConfig(disable=True)
        if self.wanted.thoughts:
            asked["thinking_config"] = types.ThinkingConfig(
                include_thoughts=True, thinking_budget=THINKING_BUDGET
            )
        if self.wanted.stops:
            asked["stop_sequences"] = list(self.wanted.stops)
        return types.GenerateContentConfig(**asked)

    def say(self, text: str, image: bytes | None = None) -> None:
        self.said = [types.Part.from_text(text=text)]
        if image is not None:
            self.said.append(types.Part.from_bytes(data=image, mime_type="image/png"))

    def answer(self, *, stream: bool) -> Told:
        if stream:
            chunks = list(self.chat.send_message_stream(self.said))
        else:
            chunks = [self.chat.send_message(self.said)]
        parts = [
            part
            for chunk in chunks
            for candidate in chunk.candidates or ()
            for part in (candidate.content.parts if candidate.content else None) or ()
        ]
        self.calls = [part.function_call for part in parts if part.function_call]
        last: Any = chunks[-1]
        usage, finish = last.usage_metadata, last.candidates[0].finish_reason
        return Told(
            "".join(part.text for part in parts if part.text and not part.thought),
            "".join(part.text for part in parts if part.text and part.thought),
            [(call.name or "", call.args) for call in self.calls],
            "tool_calls" if self.calls else {"STOP": "stop", "MAX_TOKENS": "length"}[finish.value],
            usage.prompt_token_count,
            (usage.candidates_token_count or 0) + (usage.thoughts_token_count or 0),
        )

    def give_results(self) -> None:
        self.said = [
            types.Part(
                function_response=types.FunctionResponse(
                    id=call.id, name=call.name, response={"output": RESULT}
                )
            )
            for call in self.calls
        ]

    def parse(self) -> Plan:
        config = self._configure(response_mime_type="application/json", response_schema=Plan)
        found = self.client.models.generate_content(model=self.model, contents=self.said, config=config)
        assert isinstance(found.parsed, Plan)
        return found.parsed

    def find_request_id(self, error: Any) -> str | None:
        headers = getattr(error.response, "headers", None) or {}
        return headers.get("x-request-id")

    def read_status(self, error: Any) -> int:
        return int(error.code)
