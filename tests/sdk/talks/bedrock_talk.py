"""boto3's bedrock-runtime: Converse, and ConverseStream whose events an application adds up itself."""

import json
from contextlib import closing
from typing import Any, ClassVar

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError, EventStreamError

from tests.sdk.talks.talk import RESULT, SYSTEM, THINKING_BUDGET, Plan, Talk, Told, describe_tools

_FINISH = {"end_turn": "stop", "stop_sequence": "stop", "max_tokens": "length", "tool_use": "tool_calls"}
_ERRORS = {
    400: "ValidationException",
    401: "AccessDeniedException",
    404: "ResourceNotFoundException",
    429: "ThrottlingException",
    502: "InternalServerException",
    503: "ServiceUnavailableException",
}


def add_up(events: Any) -> dict[str, Any]:
    """The plain answer that the events of a stream amount to."""
    blocks: dict[int, dict[str, Any]] = {}
    whole: dict[str, Any] = {}
    for event in events:
        if started := event.get("contentBlockStart"):
            blocks[started["contentBlockIndex"]] = {"toolUse": {**started["start"]["toolUse"], "input": ""}}
        if added := event.get("contentBlockDelta"):
            _add(blocks.setdefault(added["contentBlockIndex"], {}), added["delta"])
        whole |= event.get("messageStop", {}) | event.get("metadata", {})
    content = [blocks[index] for index in sorted(blocks)]
    for block in content:
        if "toolUse" in block:
            block["toolUse"]["input"] = json.loads(block["toolUse"]["input"] or "{}")
    return {**whole, "output": {"message": {"role": "assistant", "content": content}}}


def _add(block: dict[str, Any], delta: dict[str, Any]) -> None:
    if "text" in delta:
        block["text"] = block.get("text", "") + delta["text"]
    if "toolUse" in delta:
        block["toolUse"]["input"] += delta["toolUse"]["input"]
    if "reasoningContent" in delta:
        thought = block.setdefault("reasoningContent", {})
        if "redactedContent" in delta["reasoningContent"]:
            thought.update(delta["reasoningContent"])
            return
        for name, piece in delta["reasoningContent"].items():
            said = thought.setdefault("reasoningText", {})
            said[name] = said.get(name, "") + piece


class BedrockTalk(Talk):
    error: ClassVar[type[Exception]] = ClientError
    broken: ClassVar[type[Exception]] = EventStreamError

    @classmethod
    def connect(cls, url: str, key: str) -> Any:
        return boto3.client(
            "bedrock-runtime",
            region_name="eu-west-1",
            endpoint_url=url,
            aws_access_key_id=key,
            aws_secret_access_key="anything",
            config=Config(retries={"total_max_attempts": 1}),
        )

    def say(self, text: str, image: bytes | None = None) -> None:
        content: list[Any] = [{"text": text}]
        if image is not None:
            content.append({"image": {"format": "png", "source": {"bytes": image}}})
        self.turns.append({"role": "user", "content": content})

    def _ask(self) -> dict[str, Any]:
        asked: dict[str, Any] = {"modelId": self.model, "messages": self.turns, "system": [{"text": SYSTEM}]}
        asked["inferenceConfig"] = {"maxTokens": self.wanted.limit}
        if self.wanted.stops:
            asked["inferenceConfig"]["stopSequences"] = list(self.wanted.stops)
        if self.wanted.tools:
            specs = [{"name": name, "inputSchema": {"json": schema}} for name, schema in describe_tools()]
            asked["toolConfig"] = {"tools": [{"toolSpec": spec} for spec in specs]}
        if self.wanted.thoughts:
            thinking = {"type": "enabled", "budget_tokens": THINKING_BUDGET}
            asked["additionalModelRequestFields"] = {"thinking": thinking}
        return asked

    def answer(self, *, stream: bool) -> Told:
        if stream:
            with closing(self.client.converse_stream(**self._ask())["stream"]) as events:
                whole = add_up(events)
        else:
            whole = self.client.converse(**self._ask())
        message = whole["output"]["message"]
        self.turns.append(message)
        content = message["content"]
        self.calls = [block["toolUse"] for block in content if "toolUse" in block]
        thoughts = [block["reasoningContent"] for block in content if "reasoningContent" in block]
        usage = whole["usage"]
        cached = usage.get("cacheReadInputTokens", 0) + usage.get("cacheWriteInputTokens", 0)
        return Told(
            "".join(block.get("text", "") for block in content),
            "".join(thought.get("reasoningText", {}).get("text", "") for thought in thoughts),
            [(call["name"], call["input"]) for call in self.calls],
            _FINISH[whole["stopReason"]],
            usage["inputTokens"] + cached,
            usage["outputTokens"],
        )

    def give_results(self) -> None:
        results = [
            {"toolResult": {"toolUseId": call["toolUseId"], "content": [{"text": RESULT}]}}
            for call in self.calls
        ]
        self.turns.append({"role": "user", "content": results})

    def parse(self) -> Plan:
        schema = {"name": "plan", "schema": json.dumps(Plan.model_json_schema())}
        config = {"textFormat": {"type": "json_schema", "structure": {"jsonSchema": schema}}}
        content = self.client.converse(**self._ask(), outputConfig=config)["output"]["message"]["content"]
        return Plan.model_validate_json("".join(block.get("text", "") for block in content))

    def find_request_id(self, error: Any) -> str | None:
        return error.response["ResponseMetadata"]["RequestId"]

    def find_error(self, status: int) -> type[Exception]:
        found: type[Exception] = getattr(self.client.exceptions, _ERRORS[status])
        return found

    def read_status(self, error: Any) -> int:
        return int(error.response["ResponseMetadata"]["HTTPStatusCode"])
