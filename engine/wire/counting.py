"""The gateway's own count of a prompt, for models whose providers count none.

An estimate: four characters of text are a token, an image or a page is a thousand.
"""

from collections.abc import Mapping
from typing import Any

from engine.call import Call
from engine.errors import UpstreamFailure
from engine.wire.canonical import UsageReported
from engine.wire.json_text import write_json
from engine.wire.requests import describe_asking
from engine.wire.usage import Usage

CHARACTERS_PER_TOKEN = 4
TOKENS_OF_A_TURN = 3
TOKENS_OF_MEDIA = 1000
_TEXTS = ("text", "arguments", "name")


class CountedAnswer:
    """A whole answer that nobody was asked for. Same interface as the other readers."""

    def __init__(self, tail: bytes) -> None:
        self.tail = tail
        self.begun = self.carries = False
        self.ended = self.settling = True
        self.texts: list[str] = []
        self.usage: Usage | None = None
        self.failure: UpstreamFailure | None = None
        self.damaged = 0

    def feed(self, data: bytes) -> bytes:
        return b""

    def close(self) -> bytes:
        return b""

    def finish(self) -> None:
        """It is whole."""


def count_prompt(call: Call) -> CountedAnswer:
    """The count in the words of the client's dialect. Raises InvalidRequest."""
    format, asked = call.door.format, describe_asking(call)
    tokens = estimate_chat_tokens(format.read_request(call.request, asked))
    counted = UsageReported(Usage(input=tokens, estimated=True))
    told = {**asked, "id": call.id, "created": int(call.started_at), "input_estimate": tokens}
    return CountedAnswer(write_json(format.write_reply([counted], told)))


def estimate_chat_tokens(chat: Mapping[str, Any]) -> int:
    turns, tools = chat.get("turns") or (), chat.get("tools")
    characters = sum(_count_parts(turn.get("parts")) for turn in turns)
    characters += len(write_json(tools)) if tools else 0
    return TOKENS_OF_A_TURN * len(turns) - (-characters // CHARACTERS_PER_TOKEN)


def _count_parts(parts: Any) -> int:
    characters = 0
    for part in parts if isinstance(parts, list) else ():
        if "data" in part or "url" in part or "file_id" in part:
            characters += TOKENS_OF_MEDIA * CHARACTERS_PER_TOKEN
        characters += sum(len(part[name]) for name in _TEXTS if isinstance(part.get(name), str))
        characters += _count_parts(part.get("parts"))
    return characters
