"""Changes to the `messages` of a request that some providers need: roles, keys, lists of text, ids of tool calls.

Each is a named verb that any provider's file may use. A message that needs nothing stays the object it was, and a
conversation that needs nothing is not written anew.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from engine.wire.call_ids import derive_id

Message = dict[str, Any]


@dataclass(frozen=True, slots=True)
class MessageFixes:
    """Applied in the order of the fields."""

    roles: Mapping[str, str] = field(default_factory=dict)
    drop: frozenset[str] = frozenset()
    rename: Mapping[str, str] = field(default_factory=dict)
    default: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """{role: {key: value}} for messages of that role without the key."""
    flatten: frozenset[str] = frozenset()
    """Roles whose content becomes one text, where it is a list of nothing but texts."""
    call_id_length: int | None = None
    """Ids of tool calls become so many letters and digits, the same for the same id; those that fit stay."""
    join: bool = False
    """Neighbours of one role (user, assistant, system) become one message."""
    tell_schema: str | None = None
    """The words of a first system message that shows the JSON Schema of the answer (`{schema}`)."""

    def edit(self, body: Mapping[str, Any], edits: dict[str, Any]) -> None:
        """Add the changed conversation to `edits`, if it has to change."""
        messages = edits.get("messages", body.get("messages"))
        if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
            return
        fixed = [*self._tell_schema(body), *(self._fix(message) for message in messages)]
        if self.join:
            fixed = join_neighbours(fixed)
        if len(fixed) != len(messages) or any(
            new is not old for new, old in zip(fixed, messages, strict=True)
        ):
            edits["messages"] = fixed

    def _tell_schema(self, body: Mapping[str, Any]) -> list[Message]:
        wanted: Any = body.get("response_format")
        for name in ("json_schema", "schema"):
            wanted = wanted.get(name) if isinstance(wanted, dict) else None
        if self.tell_schema is None or wanted is None:
            return []
        return [{"role": "system", "content": self.tell_schema.replace("{schema}", _write_schema(wanted))}]

    def _fix(self, message: Message) -> Message:
        changes = self._change_keys(message)
        role = changes.get("role") or _role_of(message)
        for name, value in self.default.get(role, {}).items():
            if message.get(name) is None and changes.get(name) is None:
                changes[name] = value
        if role in self.flatten and (text := flatten_content(message.get("content"))) is not None:
            changes["content"] = text
        if self.call_id_length is not None:
            changes |= _fit_ids(message, self.call_id_length)
        if not changes and self.drop.isdisjoint(message) and self.rename.keys().isdisjoint(message):
            return message
        left_out = self.drop | self.rename.keys()
        return {**{key: value for key, value in message.items() if key not in left_out}, **changes}

    def _change_keys(self, message: Message) -> dict[str, Any]:
        changes: dict[str, Any] = {}
        if (role := self.roles.get(_role_of(message))) is not None:
            changes["role"] = role
        for old, new in self.rename.items():
            if old in message and message.get(new) is None:
                changes[new] = message[old]
        return changes


def _write_schema(schema: Any) -> str:
    """Text; what of it cannot be sent is refused when the body is written."""
    return json.dumps(schema, ensure_ascii=False, separators=(",", ":"))


def _role_of(message: Message) -> str:
    role = message.get("role")
    return role if isinstance(role, str) else ""


def flatten_content(content: Any) -> str | None:
    """The text of a list of text parts; None for anything else."""
    if not isinstance(content, list) or not content:
        return None
    texts = [part.get("text") for part in content if isinstance(part, dict) and part.get("type") == "text"]
    words = [text for text in texts if isinstance(text, str)]
    return "\n".join(words) if len(words) == len(content) else None


def _fit_ids(message: Message, length: int) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    answered = message.get("tool_call_id")
    if isinstance(answered, str) and (fitted := _fit_id(answered, length)) != answered:
        changes["tool_call_id"] = fitted
    calls = message.get("tool_calls")
    if isinstance(calls, list) and any(_needs_id(call, length) for call in calls):
        changes["tool_calls"] = [
            {**call, "id": _fit_id(call["id"], length)} if _needs_id(call, length) else call for call in calls
        ]
    return changes


def _needs_id(call: Any, length: int) -> bool:
    return (
        isinstance(call, dict)
        and isinstance(call.get("id"), str)
        and _fit_id(call["id"], length) != call["id"]
    )


def _fit_id(id: str, length: int) -> str:
    """Exactly so many letters and digits."""
    if len(id) == length and id.isascii() and id.isalnum():
        return id
    return derive_id(id if id.isascii() else ascii(id), longest=length)  # a half surrogate pair has no bytes


def join_neighbours(messages: list[Message]) -> list[Message]:
    """The conversation with neighbours of one role made one message. Calls and answers of tools stay apart."""
    joined: list[Message] = []
    for message in messages:
        before = joined[-1] if joined else None
        if (
            before is not None
            and _can_join(before)
            and _can_join(message)
            and before["role"] == message["role"]
        ):
            joined[-1] = {**before, "content": _join_content(before["content"], message["content"])}
        else:
            joined.append(message)
    return joined


def _can_join(message: Message) -> bool:
    if message.keys() != {"role", "content"} or not isinstance(message["content"], str | list):
        return False
    return message["role"] in ("system", "developer", "user", "assistant")


def _join_content(one: Any, other: Any) -> Any:
    if isinstance(one, str) and isinstance(other, str):
        return f"{one}\n\n{other}"
    parts = [_as_parts(content) for content in (one, other)]
    return [*parts[0], *parts[1]]


def _as_parts(content: Any) -> list[Any]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else list(content)
