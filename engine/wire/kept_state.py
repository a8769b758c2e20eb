"""Provider-private state that a client's dialect has no place for: what is to be kept of an answer, and put back.

It is kept under the ids of the answer's tool calls, because these do come back: with each call its own signature and
the signed reasoning that led to it. Pure: who keeps it, and for how long, is storage's.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from engine.wire.call_ids import fit_id
from engine.wire.canonical import BlockEnded, Event
from engine.wire.json_text import parse_json, write_json
from engine.wire.opaque import FIELDS, Chat, Part

SHORTEST_IDS = 40
"""So long an id may be in the dialect that allows least."""
MOST_CALLS = 64
"""Of so many calls of a conversation, counted from its end, is state looked for."""


@dataclass(frozen=True, slots=True)
class CallState:
    """What stands with one tool call. `before`: the reasoning since the call before, as its issuer wrote it."""

    issuer: str
    signature: str | None = None
    before: tuple[Part, ...] = ()

    @property
    def is_empty(self) -> bool:
        return not self.before and self.signature is None

    def pack(self) -> bytes:
        return write_json([self.issuer, self.signature, list(self.before)])

    @staticmethod
    def unpack(packed: bytes) -> "CallState | None":
        """None for what no release of this gateway has written."""
        try:
            issuer, signature, before = parse_json(packed)
        except (ValueError, TypeError):
            return None
        return CallState(issuer, signature, tuple(before))


def name_call(id: Any) -> str:
    """The name under which a call's state is kept: the same for its id as it came and as a dialect fitted it."""
    return str(fit_id(id, SHORTEST_IDS))


class StateNotes:
    """Notes the blocks of one answer that matter, as they end."""

    __slots__ = ("_carried", "_ended", "_issuer")

    def __init__(self, issuer: str, carried: frozenset[str]) -> None:
        """`carried`: the kinds of parts whose blobs the client's own dialect brings back."""
        self._issuer, self._carried = issuer, carried
        self._ended: list[BlockEnded] = []

    def note(self, events: Iterable[Event]) -> None:
        for event in events:
            if isinstance(event, BlockEnded) and event.kind in ("reasoning", "tool_call"):
                self._ended.append(event)

    def list_states(self) -> dict[str, CallState]:
        """The state of every call by its name; an empty one says that there is nothing to look for."""
        states: dict[str, CallState] = {}
        before: dict[int, list[Part]] = {}
        for event in sorted(self._ended, key=lambda each: (each.choice, each.index)):
            waiting = before.setdefault(event.choice, [])
            if event.kind == "tool_call":
                signature = None if "tool_call" in self._carried else event.block.get("signature")
                states[name_call(event.block.get("id"))] = CallState(self._issuer, signature, tuple(waiting))
                waiting.clear()
            elif "reasoning" not in self._carried and any(event.block.get(field) for field in FIELDS):
                waiting.append(event.block)
        return states


def list_open_calls(chat: Chat) -> list[str]:
    """The names of the calls in a chat whose turns came back without any blob, the last ones first."""
    names: list[str] = []
    for turn in reversed(chat.get("turns") or ()):
        if turn.get("role") == "assistant":
            calls = [part for part in turn.get("parts") or () if _is_unsigned_call(part)]
            names += [name_call(part.get("id")) for part in reversed(calls)]
        if len(names) >= MOST_CALLS:
            break
    return names[:MOST_CALLS]


def put_back(chat: Chat, kept: Mapping[str, CallState], issuer: str) -> Chat:
    """The chat with what this issuer is to have back."""
    if not any(state.issuer == issuer and not state.is_empty for state in kept.values()):
        return chat
    return {**chat, "turns": [_complete_turn(turn, kept, issuer) for turn in chat.get("turns") or ()]}


def _complete_turn(turn: Mapping[str, Any], kept: Mapping[str, CallState], issuer: str) -> Mapping[str, Any]:
    parts = turn.get("parts") or []
    found = {place: state for place, part in enumerate(parts) if (state := _find(part, kept, issuer))}
    if turn.get("role") != "assistant" or not found:
        return turn
    returned = any(_is_signed_reasoning(part) for part in parts)
    thinks = not returned and any(state.before for state in found.values())
    completed: list[Any] = []
    segment = 0
    for place, part in enumerate(parts):
        if thinks and part.get("type") == "reasoning":
            continue  # the client's copy of the text, which stands in the signed original
        state = found.get(place)
        if state is not None:
            completed[segment:segment] = state.before if thinks else ()
            part = {**part, "signature": state.signature} if state.signature else part
        completed.append(part)
        segment = len(completed) if part.get("type") == "tool_call" else segment
    return {**turn, "parts": completed}


def _find(part: Mapping[str, Any], kept: Mapping[str, CallState], issuer: str) -> CallState | None:
    state = kept.get(name_call(part.get("id"))) if _is_unsigned_call(part) else None
    return state if state is not None and state.issuer == issuer and not state.is_empty else None


def _is_unsigned_call(part: Mapping[str, Any]) -> bool:
    return part.get("type") == "tool_call" and bool(part.get("id")) and not part.get("signature")


def _is_signed_reasoning(part: Mapping[str, Any]) -> bool:
    return part.get("type") == "reasoning" and any(part.get(field) for field in FIELDS)
