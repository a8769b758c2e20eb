"""Adds up a conversation while a wire reads it: turns, their digest and cost, and the places marked for the cache."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from engine.upstream.simulator.dialog import (
    TOKENS_PER_IMAGE,
    TOKENS_PER_TOOL,
    Mark,
    Refused,
    Tool,
    Turn,
    digest_turns,
)
from engine.upstream.simulator.text import count_words, mix


@dataclass(slots=True)
class Prompt:
    """Everything before the answer. A turn is opened, filled part by part, and closed."""

    turns: list[Turn] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    tools: list[Tool] = field(default_factory=list)
    _tokens: int = 0
    _digest: int = 0

    def offer(self, tool: Tool) -> None:
        self.tools.append(tool)
        self._tokens += TOKENS_PER_TOOL
        self._digest = mix(tool.name, self._digest)

    def open(self, role: str) -> None:
        self.turns.append(Turn(role, "", 1))
        self._tokens += 1
        self._digest = mix(role, self._digest)

    def add_text(self, text: str) -> None:
        turn, words = self.turns[-1], count_words(text)
        turn.text += text
        turn.counted += words
        self._tokens += words
        self._digest = mix(text, self._digest)

    def add_other(self, part: Any, role: str = "") -> None:
        """An image, a document, a sound: what is not text."""
        self._add_extra(part, TOKENS_PER_IMAGE)
        if role:
            self.turns[-1].role = role

    def add_call(self, name: str, arguments: Any) -> None:
        self.turns[-1].calls_tools = True
        dumped = dump(arguments)
        self._add_extra([name, arguments], count_words(dumped) + 1)

    def add_result(self, text: str, call: str) -> None:
        """A tool's result: its turn is a tool's, whatever role the wire gives it."""
        self.turns[-1].role = "tool"
        self.add_text(text)
        self._add_extra(call, 0)

    def mark(self, *, hour: bool = False) -> None:
        """Everything up to here is to be cached."""
        self.marks.append(Mark(self._digest, self._tokens, hour))

    def _add_extra(self, part: Any, tokens: int) -> None:
        dumped, turn = dump(part), self.turns[-1]
        turn.extra = mix(dumped, turn.extra)
        turn.counted += tokens
        self._tokens += tokens
        self._digest = mix(dumped, self._digest)

    def digest(self, seed: int = 0) -> int:
        return digest_turns(self.turns, seed)


def dump(value: Any) -> str:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()


def take_list(body: Mapping[str, Any], name: str, where: str = "") -> list[Any]:
    """A list that may be absent."""
    value = body.get(name)
    if value is None:
        return []
    if not isinstance(value, list):
        raise Refused(400, f"{where or name}: Input should be a valid list")
    return value


def take_object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Refused(400, f"{where}: Input should be a valid dictionary")
    return value


def take_model(body: Mapping[str, Any]) -> str:
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise Refused(400, "model: Field required")
    return model


def take_whole(body: Mapping[str, Any], name: str) -> int | None:
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise Refused(400, f"{name}: Input should be a valid integer")
    return value


def asks_to_think(model: str) -> bool:
    """Whether the model's name makes it one that thinks and wants its thoughts back."""
    return any(part.startswith("think") for part in model.partition("/")[2].split("+"))
