"""What the model says to a request: pure, the same for the same conversation, cut to the limits asked for."""

from collections.abc import Iterator

import orjson

from engine.upstream.simulator.dialog import (
    TOKENS_PER_TOOL,
    Ask,
    Choice,
    Counts,
    Tool,
    ToolCall,
    Turn,
    digest_turns,
)
from engine.upstream.simulator.names import Script
from engine.upstream.simulator.text import cut_fragments, mix, pick_bytes, pick_tokens, split_tokens
from engine.upstream.simulator.values import make_value

DEFAULT_TOKENS = 60
THINKING_TOKENS = 20
REFUSAL = "I cannot help with that request."
_CHOICE_STEP = 977
_REASONING_STEP = 1511


def compose_choices(ask: Ask, script: Script) -> list[Choice]:
    """One choice per conversation and `n`, numbered through as completions count them."""
    choices: list[Choice] = []
    for turns in ask.conversations:
        for number in range(ask.n):
            choices.append(_compose_choice(ask, script, turns, (len(choices), number)))
            choices[-1].redacted = "redact" in script.parts
    return choices


def count_tokens(ask: Ask, script: Script, choices: list[Choice]) -> Counts:
    """The true usage: what was asked once per conversation, and every token said."""
    prompt = sum(turn.counted for turns in ask.conversations for turn in turns) + TOKENS_PER_TOOL * len(
        ask.tools
    )
    cached = min(prompt, int(script.parts.get("cached", ask.cached)))
    return Counts(
        prompt=prompt,
        completion=sum(choice.tokens for choice in choices),
        cached=cached,
        reasoning=sum(len(choice.reasoning) for choice in choices),
        written=min(prompt - cached, int(script.parts.get("cache-write", ask.cache_written))),
    )


def _compose_choice(ask: Ask, script: Script, turns: list[Turn], numbers: tuple[int, int]) -> Choice:
    index, nth = numbers
    prompt = turns[:-1] if _begins_answer(turns) else turns
    start = digest_turns(prompt, ask.seed) + _CHOICE_STEP * nth
    reasoning = pick_tokens(start + _REASONING_STEP, _count_reasoning(ask, script))
    if "refuse" in script.parts:
        return Choice(index, split_tokens(REFUSAL), [], [], "refusal", refused=True)
    if ask.tools and (called := _tools_to_call(ask, script, turns)):
        calls = [_call_tool(tool, start + place, (index, place)) for place, tool in enumerate(called)]
        return Choice(index, [], reasoning, calls, "tool_calls")
    tokens = _continue_text(ask, script, turns, start)
    tokens, stopped_by = _obey_stops(tokens, ask.stops)
    finish = "stop"
    if ask.limit is not None and len(reasoning) + len(tokens) > ask.limit:
        reasoning = reasoning[: ask.limit]
        tokens, finish, stopped_by = tokens[: ask.limit - len(reasoning)], "length", ""
    return Choice(index, tokens, reasoning, [], finish, turns[-1].text if ask.echo else "", stopped_by)


def _count_reasoning(ask: Ask, script: Script) -> int:
    wanted = script.parts.get("reasoning", script.parts.get("think"))
    thinks = ask.thinks or "redact" in script.parts
    return int(wanted) if wanted is not None else THINKING_TOKENS if thinks else 0


def _begins_answer(turns: list[Turn]) -> bool:
    return bool(turns) and turns[-1].role == "assistant" and not turns[-1].calls_tools


def _continue_text(ask: Ask, script: Script, turns: list[Turn], start: int) -> list[str]:
    """The whole text, or what is left of it after the beginning that the conversation ends with."""
    if not _begins_answer(turns):
        return _say(ask, script, turns, start)
    whole, prefix = "".join(_say(ask, script, turns[:-1], start)), turns[-1].text
    if whole.startswith(prefix):
        return split_tokens(whole[len(prefix) :])
    return _say(ask, script, turns, mix(prefix, start))


def _say(ask: Ask, script: Script, turns: list[Turn], start: int) -> list[str]:
    parts = script.parts
    if "echo" in parts:
        said = (turn.text for turn in reversed(turns) if turn.role in ("user", "prompt"))
        return split_tokens(next(said, ""))
    if ask.schema is not None or "json" in parts:
        return cut_fragments(_write_json(ask, start))
    other = "other-text" in parts
    if "large" in parts:
        return pick_bytes(start, int(parts["large"]), other=other)
    return pick_tokens(start, int(parts.get("tokens", parts.get("words", DEFAULT_TOKENS))), other=other)


def _write_json(ask: Ask, start: int) -> str:
    value = make_value(ask.schema, start % 64) if ask.schema else {"answer": "".join(pick_tokens(start, 8))}
    return orjson.dumps(value).decode()


def _tools_to_call(ask: Ask, script: Script, turns: list[Turn]) -> list[Tool]:
    wants = "tools" in script.parts or script.breaks == "cut-in-tool-arguments"
    if ask.tool_choice == "none" or (turns and turns[-1].role == "tool"):
        return []
    if ask.tool_choice == "required" or (wants and ask.tool_choice in (None, "auto")):
        wanted = int(script.parts.get("tools", 0)) or len(ask.tools)
        return [ask.tools[place % len(ask.tools)] for place in range(wanted if ask.parallel else 1)]
    return [tool for tool in ask.tools if tool.name == ask.tool_choice]


def _call_tool(tool: Tool, salt: int, place: tuple[int, int]) -> ToolCall:
    arguments = orjson.dumps(make_value(tool.schema or {"type": "object"}, salt % 64)).decode()
    return ToolCall(
        f"call_{mix(tool.name, salt):08x}{place[0]:02d}{place[1]:02d}", tool.name, cut_fragments(arguments)
    )


def _obey_stops(tokens: list[str], stops: tuple[str, ...]) -> tuple[list[str], str]:
    """The text before the earliest stop sequence, and which that was."""
    if stops:
        text = "".join(tokens)
        ends = [(at, stop) for stop in stops if stop and (at := text.find(stop)) >= 0]
        if ends:
            at, stop = min(ends)
            return split_tokens(text[:at]), stop
    return tokens, ""


def interleave(choices: list[Choice]) -> Iterator[tuple[Choice, int]]:
    """Every choice's text tokens in turns, as a provider streams `n` choices side by side."""
    longest = max((len(choice.text) for choice in choices), default=0)
    for position in range(longest):
        for choice in choices:
            if position < len(choice.text):
                yield choice, position
