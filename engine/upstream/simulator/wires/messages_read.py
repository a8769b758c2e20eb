"""Anthropic's Messages, read. What comes back is checked as the real server does.

A thinking block must carry the signature it was given, each `tool_use` must be followed by its `tool_result`, and with
thinking on a turn that used tools begins with its thought.
"""

from collections.abc import Mapping
from typing import Any

from engine.upstream.simulator.dialog import Ask, Refused, Tool
from engine.upstream.simulator.signing import is_ours
from engine.upstream.simulator.wires.prompt import (
    Prompt,
    asks_to_think,
    take_list,
    take_model,
    take_object,
    take_whole,
)

ISSUER = "anthropic"
_CHOICES = {"auto": None, "any": "required", "none": "none"}
Body = Mapping[str, Any]


def read(body: Body) -> Ask:
    """Validate a request; `max_tokens` is required."""
    limit = take_whole(body, "max_tokens")
    if not limit:
        raise Refused(400, "max_tokens: Field required")
    return _read(body, limit)


def _read(body: Body, limit: int | None) -> Ask:
    model, prompt = take_model(body), Prompt()
    thinks = _reads_thinking(body, limit)
    _read_tools(body, prompt)
    _read_system(body.get("system"), prompt)
    _read_messages(body, prompt, thinks or (thinks is None and asks_to_think(model)))
    choice = body.get("tool_choice") or {}
    kind = choice.get("type")
    if thinks and kind in ("any", "tool"):
        raise Refused(400, "Thinking may not be enabled when tool_choice forces tool use.")
    return Ask(
        model,
        [prompt.turns],
        stream=bool(body.get("stream")),
        limit=limit,
        stops=tuple(take_list(body, "stop_sequences")),
        tools=prompt.tools,
        tool_choice=choice.get("name") if kind == "tool" else _CHOICES.get(str(kind)),
        parallel=not choice.get("disable_parallel_tool_use"),
        schema=((body.get("output_config") or {}).get("format") or {}).get("schema"),
        thinks=bool(thinks),
        marks=prompt.marks,
        raw=take_list(body, "stop_sequences"),
        digest=prompt.digest(),
    )


def _reads_thinking(body: Body, limit: int | None) -> bool | None:
    """Whether thinking is on; None when nothing is said about it."""
    thinking = body.get("thinking")
    if thinking is None:
        return None
    kind = take_object(thinking, "thinking").get("type")
    if kind == "enabled":
        budget = take_whole(thinking, "budget_tokens")
        if budget is None or budget < 1024:
            raise Refused(
                400, "thinking.enabled.budget_tokens: Input should be greater than or equal to 1024"
            )
        if limit is not None and budget >= limit:
            raise Refused(400, "`max_tokens` must be greater than `thinking.budget_tokens`.")
        if body.get("temperature") not in (None, 1):
            raise Refused(400, "`temperature` may only be set to 1 when thinking is enabled.")
    if kind not in ("enabled", "adaptive", "disabled"):
        raise Refused(
            400, f"thinking: Input tag '{kind}' found using 'type' does not match any of the expected tags"
        )
    return bool(kind != "disabled")


def _read_tools(body: Body, prompt: Prompt) -> None:
    for number, tool in enumerate(take_list(body, "tools")):
        tool = take_object(tool, f"tools.{number}")
        if not isinstance(tool.get("name"), str):
            raise Refused(400, f"tools.{number}.custom.name: Field required")
        if "input_schema" not in tool and tool.get("type", "custom") == "custom":
            raise Refused(400, f"tools.{number}.custom.input_schema: Field required")
        prompt.offer(Tool(tool["name"], tool.get("input_schema")))
        _mark(tool, prompt)


def _mark(held: Body, prompt: Prompt) -> None:
    control = held.get("cache_control")
    if control:
        prompt.mark(hour=control.get("ttl") == "1h")
    if len(prompt.marks) > 4:
        raise Refused(400, "A maximum of 4 blocks with cache_control may be provided. Found 5.")


def _read_system(system: Any, prompt: Prompt) -> None:
    if system is None:
        return
    prompt.open("system")
    if isinstance(system, str):
        prompt.add_text(system)
        return
    for number, block in enumerate(take_list({"system": system}, "system")):
        _read_text(block, prompt, f"system.{number}")
        _mark(block, prompt)


def _read_text(block: Body, prompt: Prompt, where: str) -> None:
    text = block.get("text")
    if not isinstance(text, str):
        raise Refused(400, f"{where}.text: Field required")
    if not text:
        raise Refused(400, f"{where}: text content blocks must be non-empty")
    prompt.add_text(text)


def _read_messages(body: Body, prompt: Prompt, thinks: bool) -> None:
    messages = take_list(body, "messages")
    if not messages:
        raise Refused(400, "messages: at least one message is required")
    called: list[str] = []
    for number, message in enumerate(messages):
        message, where = take_object(message, f"messages.{number}"), f"messages.{number}"
        if message.get("role") not in ("user", "assistant"):
            raise Refused(400, f"{where}.role: Input should be 'user' or 'assistant'")
        content = message.get("content")
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
        if not isinstance(blocks, list):
            raise Refused(400, f"{where}.content: Input should be a valid list")
        _check_results(called, blocks, where)
        called = [block.get("id", "") for block in blocks if block.get("type") == "tool_use"]
        current = not any(_is_said(later) for later in messages[number + 1 :])
        if thinks and called and current and blocks[0].get("type") not in ("thinking", "redacted_thinking"):
            raise Refused(400, _lacks_thought(where, blocks[0].get("type")))
        prompt.open(message["role"])
        for place, block in enumerate(blocks):
            _read_block(take_object(block, f"{where}.content.{place}"), prompt, f"{where}.content.{place}")
            _mark(block, prompt)
    _check_results(called, [], f"messages.{len(messages)}")


def _is_said(message: Any) -> bool:
    """Whether this is something new from the user, and not only results."""
    content = message.get("content") if message.get("role") == "user" else []
    return isinstance(content, str) or not any(
        block.get("type") == "tool_result" for block in content or [{}]
    )


def _lacks_thought(where: str, found: Any) -> str:
    return (
        f"{where}.content.0.type: Expected `thinking` or `redacted_thinking`, but found `{found}`. When "
        "`thinking` is enabled, a final `assistant` message must start with a thinking block (preceeding the "
        "lastmost set of `tool_use` and `tool_result` blocks)."
    )


def _check_results(called: list[str], blocks: list[Any], where: str) -> None:
    answered = [block.get("tool_use_id") for block in blocks if block.get("type") == "tool_result"]
    for one in answered:
        if one not in called:
            raise Refused(400, f"{where}.content.0: unexpected `tool_use_id` found in `tool_result` blocks: {one}. "
                          "Each `tool_result` block must have a corresponding `tool_use` block in the previous "
                          "message.")  # fmt: skip
    missing = [one for one in called if one not in answered]
    if missing:
        raise Refused(400, f"{where}: `tool_use` ids were found without `tool_result` blocks immediately after: "
                      f"{', '.join(missing)}. Each `tool_use` block must have a corresponding `tool_result` block "
                      "in the next message.")  # fmt: skip


def _read_block(block: dict[str, Any], prompt: Prompt, where: str) -> None:
    match block.get("type"):
        case "text":
            _read_text(block, prompt, where)
        case "thinking":
            if not is_ours(ISSUER, block.get("thinking", ""), block.get("signature")):
                raise Refused(400, f"{where}: Invalid `signature` in `thinking` block")
        case "redacted_thinking":
            if not is_ours(ISSUER, "redacted", block.get("data")):
                raise Refused(400, f"{where}: Invalid `data` in `redacted_thinking` block")
        case "tool_use":
            prompt.add_call(
                str(block.get("name")), take_object(block.get("input"), f"{where}.tool_use.input")
            )
        case "tool_result":
            _read_result(block, prompt, where)
        case "image" | "document":
            take_object(block.get("source"), f"{where}.{block['type']}.source")
            prompt.add_other(block)
        case "server_tool_use" | "web_search_tool_result" | "search_result" | "container_upload":
            prompt.add_other(block)
        case kind:
            raise Refused(400, f"{where}: Input tag '{kind}' found using 'type' does not match any of the "
                          "expected tags: 'text', 'thinking', 'tool_use', 'tool_result', 'image'")  # fmt: skip


def _read_result(block: Body, prompt: Prompt, where: str) -> None:
    content = block.get("content")
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content or []
    text = "".join(part.get("text", "") for part in parts if part.get("type") == "text")
    prompt.add_result(text, str(block.get("tool_use_id")))
    for part in parts:
        if part.get("type") != "text":
            prompt.add_other(part, "tool")


def read_count(body: Body) -> Ask:
    return _read(body, None)
