"""The block machine: facts that a format's reader states, made into canonical events.

A fact is a mapping. It may say several of these at once:

    started: {id, model, created, ...}        who answers
    kind, choice, key, open, end, whole, ...  a block: the other keys are its fields; `key` is the wire's own name of
                                              it, `open` begins it even when empty, `end` closes it, `whole` holds
                                              fields to take when nothing came for them piece by piece
    finish, choice, stop_sequence, detail     the choice is whole
    keep: {name: value}                       remember for later events of this stream
    error: {...}                              the provider failed
    done: true                                the wire's last event

Wires that name their blocks keep them open until they end or the choice finishes. A block without a key ends when
another kind begins, and so does a tool call whose arguments are whole when the next call begins, because wires of that
sort never mark an end. Arguments that come interleaved stay apart by their keys. A citation that says its place in
bytes (`start_byte`, `end_byte`) gets `start` and `end`, in characters of the text that its block has by then.
"""

from collections.abc import Mapping
from typing import Any

import orjson

from engine.errors import ProviderError
from engine.wire.call_ids import derive_id
from engine.wire.canonical import BlockAdded, BlockEnded, BlockStarted, Event, Failed, Finished, Started
from engine.wire.text_offsets import place_citations

JOINED = frozenset(("text", "arguments", "data", "transcript"))
LISTED = frozenset(("citations", "logprobs"))
_LATE = LISTED | {"signature"}
_CONTROL = frozenset(
    (
        "kind",
        "choice",
        "key",
        "open",
        "end",
        "whole",
        "started",
        "finish",
        "stop_sequence",
        "detail",
        "keep",
        "error",
        "done",
    )
)


class _Block:
    __slots__ = ("begun", "choice", "index", "kind", "nth", "pieces", "values", "waiting", "whole")

    def __init__(self, kind: str, choice: int) -> None:
        self.kind = kind
        self.choice = choice
        self.index = self.nth = 0
        self.begun = False
        """Somebody answers: the start was told."""
        self.values: dict[str, Any] = {}
        self.pieces: dict[str, list[str]] = {}
        self.waiting: list[tuple[str, Any]] = []
        self.whole: Mapping[str, Any] = {}


class _Choice:
    __slots__ = ("called", "count", "finished", "kinds", "open")

    def __init__(self) -> None:
        self.open: dict[Any, _Block] = {}
        self.kinds: dict[str, int] = {}
        self.count = 0
        self.called = False
        self.finished = False


class BlockMachine:
    """Takes facts in order, gives events. Holds the state of one answer."""

    def __init__(self, seed: str = "") -> None:
        self._seed = seed
        self._choices: dict[int, _Choice] = {}
        self._started: Started | None = None
        self.begun = False
        """Somebody answers: the start was told."""
        self.kept: dict[str, Any] = {}
        self.done = False
        self.failed = False
        self.damaged = 0

    def take(self, fact: Mapping[str, Any], events: list[Event]) -> None:
        """Add the events of one fact to `events`. Raises ValueError for one whose values nobody could join."""
        _check_types(fact)
        if "started" in fact:
            self._note_start(fact["started"], events)
        if "kind" in fact or "key" in fact:
            self._take_block(fact, events)
        if "finish" in fact:
            self._finish(fact, events)
        if "keep" in fact:
            self.kept.update(fact["keep"])
        if "done" in fact:
            self.done = True

    def close(self, *, done: bool, events: list[Event]) -> None:
        """The stream is over. An answer whose end was marked is whole; one that just stops is broken."""
        if self.failed:
            return
        unfinished = [number for number, choice in self._choices.items() if not choice.finished]
        if unfinished and (done or self.done):
            for number in unfinished:
                self._finish({"finish": "stop", "choice": number}, events)
        elif unfinished or not self._choices:
            ended = ProviderError("the provider's stream ended before the answer did")
            self.fail(ended, events, kind="broken_stream")

    def fail(
        self, error: ProviderError, events: list[Event], *, status: int = 502, kind: str | None = None
    ) -> None:
        self.failed = True
        events.append(Failed(error, status, kind))

    # --- who answers

    def _note_start(self, said: Any, events: list[Event]) -> None:
        if self.begun or not isinstance(said, Mapping):
            return
        if self._started is None:
            self._started = Started()
        started = self._started
        started.id = said.get("id") or started.id
        started.model = said.get("model") or started.model
        started.created = said.get("created") or started.created
        for name, value in said.items():
            if name not in ("id", "model", "created") and value is not None:
                started.extra[name] = value
        if started.id:
            self._announce(events)

    def _announce(self, events: list[Event]) -> None:
        self.begun = True
        self._started = self._started or Started()
        events.append(self._started)

    # --- blocks

    def _choice(self, number: int) -> _Choice:
        choice = self._choices.get(number)
        if choice is None:
            choice = self._choices[number] = _Choice()
        return choice

    def _take_block(self, fact: Mapping[str, Any], events: list[Event]) -> None:
        choice = self._choice(fact.get("choice") or 0)
        key, kind = fact.get("key"), fact.get("kind")
        block = choice.open.get(key)
        if block is not None and (
            kind is not None
            and kind != block.kind
            or block.kind == "tool_call"
            and _is_other_call(block, fact)
        ):
            self._end(choice, key, events)
            block = None
        if block is None:
            block = self._open(fact, choice, key, events)
            if block is None:
                return
        self._add_fields(fact, block, choice, events)
        if "end" in fact and fact["end"]:
            self._end(choice, key, events)

    def _open(self, fact: Mapping[str, Any], choice: _Choice, key: Any, events: list[Event]) -> _Block | None:
        kind = fact.get("kind")
        if kind is None or not (fact.get("open") or _says_something(fact)):
            return None
        if choice.finished or (
            kind == "tool_call" and not (fact.get("id") or fact.get("name") or fact.get("open"))
        ):
            self.damaged += bool(
                str(fact.get("arguments", "x")).strip()
            )  # more of a call that was whole already
            return None
        if not self.begun:
            self._announce(events)
        if choice.open:
            for other in [k for k, block in choice.open.items() if k is None or _is_whole_call(block)]:
                self._end(choice, other, events)
        block = choice.open[key] = _Block(kind, fact.get("choice") or 0)
        return block

    def _add_fields(
        self, fact: Mapping[str, Any], block: _Block, choice: _Choice, events: list[Event]
    ) -> None:
        added: list[tuple[str, Any]] = []
        for name, value in fact.items():
            if name in JOINED:
                if value:
                    block.pieces.setdefault(name, []).append(value)
                    added.append((name, value))
            elif name not in _CONTROL and value is not None and value != "" and value != []:
                _note_value(block, name, value, added)
        if len(added) > 1 and block.kind != "tool_call":
            added.sort(key=_is_signature)  # what is signed comes before its signature
        if "whole" in fact:
            block.whole = fact["whole"]
        if block.begun or block.kind != "tool_call" or block.values.get("name"):
            self._tell(block, choice, added, events)
        else:
            block.waiting += added

    def _tell(
        self, block: _Block, choice: _Choice, added: list[tuple[str, Any]], events: list[Event]
    ) -> None:
        if not block.begun:
            self._begin(block, choice, events)
            added = [*block.waiting, *added] if block.waiting else added
        for name, value in added:
            events.append(BlockAdded(block.choice, block.index, block.nth, block.kind, name, value))

    def _begin(self, block: _Block, choice: _Choice, events: list[Event]) -> None:
        block.begun = True
        block.index, block.nth = choice.count, choice.kinds.get(block.kind, 0)
        choice.count += 1
        choice.kinds[block.kind] = block.nth + 1
        if block.kind == "tool_call":
            choice.called = True
            if not block.values.get("id"):
                identity = f"{self._seed}/{self._started.id if self._started else ''}/{block.choice}"
                block.values["id"] = derive_id(identity, "call_", 29, block.index)
        late = LISTED if block.kind == "tool_call" else _LATE
        first = {"type": block.kind, **{name: v for name, v in block.values.items() if name not in late}}
        events.append(BlockStarted(block.choice, block.index, block.nth, block.kind, first))

    def _end(self, choice: _Choice, key: Any, events: list[Event]) -> None:
        block = choice.open.pop(key)
        if block.kind == "tool_call" and not block.values.get("name"):
            self.damaged += 1
            return
        rest = [(name, value) for name, value in block.whole.items() if value and name not in block.pieces]
        if block.kind == "tool_call" and not block.values.get("custom") and "arguments" not in block.pieces:
            rest = rest or [
                ("arguments", "{}")
            ]  # every dialect wants an object, even from a call without arguments
        for name, value in rest:
            if name in JOINED:
                block.pieces[name] = [value]
        if rest or not block.begun:
            self._tell(block, choice, rest, events)
        whole = {"type": block.kind, **block.values}
        for name, pieces in block.pieces.items():
            whole[name] = "".join(pieces)
        if block.kind in ("text", "reasoning", "refusal"):
            whole.setdefault("text", "")
        events.append(BlockEnded(block.choice, block.index, block.nth, block.kind, whole))

    def _finish(self, fact: Mapping[str, Any], events: list[Event]) -> None:
        number, reason = fact.get("choice") or 0, fact["finish"]
        choice = self._choice(number)
        if choice.finished:
            return
        if not self.begun:
            self._announce(events)
        for key in list(choice.open):
            self._end(choice, key, events)
        choice.finished = True
        detail = fact.get("detail")
        if reason == "error":
            self.fail(ProviderError(detail or "the provider ended the answer with an error"), events)
            return
        if reason == "stop" and choice.called:
            reason = "tool_calls"
        events.append(Finished(number, reason, fact.get("stop_sequence"), detail))


def _check_types(fact: Mapping[str, Any]) -> None:
    """Choices are counted and pieces are joined: a provider that sends anything else there is not understood."""
    if not isinstance(fact.get("choice") or 0, int):
        raise ValueError("a choice's number is not a number")
    _check_pieces(fact)
    if fact.get("whole"):
        _check_pieces(fact["whole"])


def _check_pieces(said: Mapping[str, Any]) -> None:
    for name, value in said.items():
        if value.__class__ is not str and name in JOINED and value is not None and value != []:
            raise ValueError(f"{name} is not text")


def _note_value(block: _Block, name: str, value: Any, added: list[tuple[str, Any]]) -> None:
    if name in LISTED:
        value = _place(name, value, block)
        block.values.setdefault(name, []).extend(value)
        added.append((name, value))
    elif block.values.get(name) != value:
        block.values[name] = value
        if block.kind != "tool_call" if name == "signature" else block.begun:
            added.append((name, value))


def _is_signature(added: tuple[str, Any]) -> bool:
    return added[0] == "signature"


def _is_other_call(call: _Block, fact: Mapping[str, Any]) -> bool:
    """A new id under an old key: some wires number every call 0, or not at all."""
    given = fact.get("id")
    return bool(given and call.values.get("id", given) != given)


def _place(name: str, value: list[Any], block: _Block) -> list[Any]:
    return place_citations(value, "".join(block.pieces.get("text", ()))) if name == "citations" else value


def _says_something(fact: Mapping[str, Any]) -> bool:
    for name, value in fact.items():
        if name not in _CONTROL and value is not None and value != "" and value != []:
            return True
    return False


def _is_whole_call(block: _Block) -> bool:
    pieces = block.pieces.get("arguments")
    if block.kind != "tool_call" or not pieces or not pieces[-1].rstrip().endswith("}"):
        return False
    try:
        orjson.loads("".join(pieces))
    except orjson.JSONDecodeError:
        return False
    return True
