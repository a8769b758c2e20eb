"""Amazon Bedrock's Converse, read. What comes back is checked as the real server does.

Roles take turns, each `toolUse` is followed by its `toolResult`, reasoning carries the signature it was given, and
tools that the conversation has used are still offered.
"""

from collections.abc import Mapping
from typing import Any

import orjson

from engine.upstream.simulator.dialog import Ask, Refused, Tool
from engine.upstream.simulator.signing import is_ours
from engine.upstream.simulator.wires.prompt import Prompt, take_list, take_object, take_whole

ISSUER = "bedrock"
_OTHERS = ("image", "document", "video", "audio", "citationsContent", "searchResult")
Body = Mapping[str, Any]


def read(body: Body) -> Ask:
    """Validate a request; the model's name and whether it streams came with the path."""
    prompt, config = Prompt(), body.get("inferenceConfig") or {}
    chosen = _read_tools(body.get("toolConfig"), prompt)
    for place, block in enumerate(take_list(body, "system")):
        if place == 0:
            prompt.open("system")
        _read_plain(block, prompt, f"system.{place}")
    _read_messages(body, prompt)
    fields = body.get("additionalModelRequestFields") or {}
    thinking = fields.get("thinking") or fields.get("reasoning_config") or {}
    return Ask(
        body["model"],
        [prompt.turns],
        stream=bool(body.get("stream")),
        limit=take_whole(config, "maxTokens"),
        stops=tuple(take_list(config, "stopSequences")),
        tools=prompt.tools,
        tool_choice=chosen,
        schema=_read_schema(body.get("outputConfig") or {}),
        thinks=thinking.get("type") in ("enabled", "adaptive"),
        marks=prompt.marks,
        digest=prompt.digest(),
    )


def _read_schema(config: Body) -> Any:
    wanted = config.get("textFormat") or {}
    if wanted.get("type") != "json_schema":
        return None
    written = ((wanted.get("structure") or {}).get("jsonSchema") or {}).get("schema")
    try:
        return orjson.loads(str(written))
    except orjson.JSONDecodeError:
        raise Refused(400, "outputConfig.textFormat.structure.jsonSchema.schema is not JSON.") from None


def _read_tools(config: Any, prompt: Prompt) -> str | None:
    """The tools and which of them must be called."""
    if config is None:
        return None
    tools = take_list(config, "tools")
    if not tools:
        raise Refused(400, "1 validation error detected: Value at 'toolConfig.tools' failed to satisfy constraint: "
                      "Member must have length greater than or equal to 1")  # fmt: skip
    for place, tool in enumerate(tools):
        if "cachePoint" in tool:
            prompt.mark(hour=tool["cachePoint"].get("ttl") == "1h")
            continue
        spec = take_object(tool.get("toolSpec"), f"toolConfig.tools.{place}.member.toolSpec")
        schema = (spec.get("inputSchema") or {}).get("json")
        if not isinstance(schema, dict) or schema.get("type") != "object":
            raise Refused(400, f"The value at toolConfig.tools.{place}.toolSpec.inputSchema.json.type must be one of "
                          "the following: object.")  # fmt: skip
        prompt.offer(Tool(str(spec.get("name")), schema))
    choice = config.get("toolChoice") or {}
    return (choice.get("tool") or {}).get("name") or ("required" if "any" in choice else None)


def _read_plain(block: Any, prompt: Prompt, where: str) -> bool:
    """Text or a mark of the cache; False for anything else."""
    block = take_object(block, where)
    if "text" in block:
        if not str(block["text"]).strip():
            raise Refused(400, f"The text field in the ContentBlock object at {where} is blank. Add text to the text "
                          "field, and try again.")  # fmt: skip
        prompt.add_text(block["text"])
    elif "cachePoint" in block:
        prompt.mark(hour=block["cachePoint"].get("ttl") == "1h")
    return "text" in block or "cachePoint" in block or "guardContent" in block


def _read_messages(body: Body, prompt: Prompt) -> None:
    before, called = "assistant", set[str]()
    messages = take_list(body, "messages")
    if not messages:
        raise Refused(400, "The conversation must have at least one message.")
    for number, message in enumerate(messages):
        role, where = message.get("role"), f"messages.{number}.content"
        if role == before or role not in ("user", "assistant"):
            raise Refused(400, "A conversation must alternate between user and assistant roles. Make sure the "
                          "conversation alternates between user and assistant roles and try again.")  # fmt: skip
        content = take_list(message, "content")
        if not content:
            raise Refused(400, f"The content field in the Message object at messages.{number} is empty. Add a "
                          "ContentBlock object to the content field and try again.")  # fmt: skip
        _check_results(called, content, where)
        called = {block["toolUse"]["toolUseId"] for block in content if "toolUse" in block}
        if called and body.get("toolConfig") is None:
            raise Refused(400, "The toolConfig field must be defined when using toolUse and toolResult content "
                          "blocks.")  # fmt: skip
        prompt.open(role)
        for place, block in enumerate(content):
            if not _read_plain(block, prompt, f"{where}.{place}"):
                _read_block(block, prompt, f"{where}.{place}")
        before = role
    _check_results(called, [], f"messages.{len(messages)}.content")


def _check_results(called: set[str], content: list[Any], where: str) -> None:
    answered = {block["toolResult"].get("toolUseId") for block in content if "toolResult" in block}
    if answered - called:
        raise Refused(400, f"The number of toolResult blocks at {where} exceeds the number of toolUse blocks of "
                      "previous turn.")  # fmt: skip
    if called - answered:
        raise Refused(400, f"Expected toolResult blocks at {where} for the following Ids: "
                      f"{', '.join(sorted(called - answered))}")  # fmt: skip


def _read_block(block: Body, prompt: Prompt, where: str) -> None:
    if "toolUse" in block:
        used = block["toolUse"]
        prompt.add_call(str(used.get("name")), take_object(used.get("input"), f"{where}.toolUse.input"))
    elif "toolResult" in block:
        for part in take_list(block["toolResult"], "content"):
            prompt.add_result(part.get("text", ""), block["toolResult"]["toolUseId"])
            if "text" not in part:
                prompt.add_other(part, "tool")
    elif "reasoningContent" in block:
        held = block["reasoningContent"]
        said, sealed = held.get("reasoningText") or {}, held.get("redactedContent")
        known = is_ours(ISSUER, said.get("text", ""), said.get("signature"))
        if not (is_ours(ISSUER, "redacted", sealed) if sealed else known):
            raise Refused(400, f"The model returned the following errors: {where}: Invalid `signature` in `thinking` "
                          "block")  # fmt: skip
    elif any(name in block for name in _OTHERS):
        prompt.add_other(block)
    else:
        raise Refused(400, f"The ContentBlock object at {where} must set one of the following keys: text, image, "
                      "toolUse, toolResult, document, video, cachePoint, reasoningContent.")  # fmt: skip
