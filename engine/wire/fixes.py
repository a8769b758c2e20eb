"""What a provider's file changes in a request body: top-level keys, by declared verbs, some of them under a condition.

`ParamFixes.edits` says which members to set or to leave out; the caller's other bytes stay as they are (splice.py).
Nothing here knows a provider: which keys, which values and which models is said in its file.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from engine.wire.messages import MessageFixes
from engine.wire.splice import DROPPED

Values = tuple[Any, ...] | None
"""None: any value will do, as long as there is one."""


@dataclass(frozen=True, slots=True)
class When:
    """Whether a rule is meant for a request: by its model, by what it says and by what it does not say."""

    models: tuple[str, ...] = ()
    """Globs; without any, every model."""
    said: Mapping[str, Values] = field(default_factory=dict)
    """Keys (`a.b` is b inside a) that must be there, with one of these values where any are given."""
    unsaid: Mapping[str, Values] = field(default_factory=dict)

    def fits(self, body: Mapping[str, Any], model: str) -> bool:
        if self.models and not any(fnmatchcase(model, glob) for glob in self.models):
            return False
        return all(_says(body, key, values) for key, values in self.said.items()) and not any(
            _says(body, key, values) for key, values in self.unsaid.items()
        )


@dataclass(frozen=True, slots=True)
class ParamFixes:
    """Declared changes, applied in the order of the fields."""

    drop: frozenset[str] = frozenset()
    rename: Mapping[str, str] = field(default_factory=dict)
    clamp: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    default: Mapping[str, Any] = field(default_factory=dict)
    force: Mapping[str, Any] = field(default_factory=dict)
    replace: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """{key: {its value as text: the value instead}}; None instead leaves the key out."""
    messages: MessageFixes | None = None
    rules: tuple[tuple[When, "ParamFixes"], ...] = ()
    """More of the same, for those requests only that the condition fits."""
    changes_nothing: bool = field(init=False)

    def __post_init__(self) -> None:
        declared = (self.drop, self.rename, self.clamp, self.default, self.force, self.replace, self.rules)
        object.__setattr__(self, "changes_nothing", not any(declared) and self.messages is None)

    def edits(self, body: Mapping[str, Any], model: str = "") -> dict[str, Any]:
        """Top-level keys to set, or with value `DROPPED` to remove, so that `body` becomes what is sent."""
        edits: dict[str, Any] = {}
        if self.changes_nothing:
            return edits
        self._edit(body, edits)
        for when, fixes in self.rules:
            if when.fits(body, model):
                fixes._edit(body, edits)
        return edits

    def _edit(self, body: Mapping[str, Any], edits: dict[str, Any]) -> None:
        edits.update({name: DROPPED for name in self.drop if name in body or name in edits})
        self._rename(body, edits)
        for name, (low, high) in self.clamp.items():
            value = edits.get(name, body.get(name))
            if isinstance(value, int | float) and not isinstance(value, bool) and not low <= value <= high:
                edits[name] = low if value < low else high
        for name, value in self.default.items():
            if name not in body and name not in edits:
                edits[name] = value
        edits.update(self.force)
        self._replace(body, edits)
        if self.messages is not None:
            self.messages.edit(body, edits)

    def _rename(self, body: Mapping[str, Any], edits: dict[str, Any]) -> None:
        for old, new in self.rename.items():
            value = edits.get(old, body.get(old, DROPPED))
            if value is DROPPED:
                continue
            edits[old] = DROPPED
            if new not in body or edits.get(new) is DROPPED:
                edits[new] = value

    def _replace(self, body: Mapping[str, Any], edits: dict[str, Any]) -> None:
        for name, instead in self.replace.items():
            value = edits.get(name, body.get(name))
            if isinstance(value, str) and value in instead:
                edits[name] = DROPPED if instead[value] is None else instead[value]


def _says(body: Mapping[str, Any], key: str, values: Values) -> bool:
    found: Any = body
    for name in key.split("."):
        found = found.get(name) if isinstance(found, Mapping) else None
    if values is None:
        return found is not None
    return any(found == value and isinstance(found, bool) == isinstance(value, bool) for value in values)


def ask_for_usage(request: Mapping[str, Any], asking: Mapping[str, Any]) -> dict[str, Any]:
    """The members that ask for usage in a stream, merged with what the client wrote there itself."""
    return {
        name: {**(request.get(name) or {}), **value} if isinstance(value, dict) else value
        for name, value in asking.items()
    }


def continue_answer(request: Mapping[str, Any], prefill: Mapping[str, Any], delivered: str) -> dict[str, Any]:
    """The members that ask to go on from what was delivered, by an assistant's message at the end."""
    message = {"role": "assistant", "content": delivered, **prefill.get("message", {})}
    return {"messages": [*request.get("messages", ()), message], **prefill.get("body", {})}
