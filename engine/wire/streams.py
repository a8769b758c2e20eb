"""Upstream events read into canonical events, and canonical events written for a client: both from a format's tables.

A `StreamReader` runs the row that an event of the wire names and gives its facts to the block machine. A `StreamWriter`
runs the row of each canonical event; it keeps blocks apart for dialects that allow one open block, leaves out or
renames kinds that a dialect has no word for, and numbers what it writes. `fold` and `unfold` join plain answers to
streams.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from engine.errors import ProviderError
from engine.wire.blocks import BlockMachine
from engine.wire.canonical import (
    BlockAdded,
    BlockEnded,
    BlockStarted,
    Event,
    Failed,
    Finished,
    Started,
    UsageReported,
)
from engine.wire.expressions import TemplateFailed
from engine.wire.framing import FrameWriter
from engine.wire.paths import Getter
from engine.wire.usage import CLASSES, Usage, show_units

Rows = Mapping[str, Callable[..., Any]]
Counts = dict[str, Any]
BlockEvent = BlockStarted | BlockAdded | BlockEnded
_OF_BLOCKS = frozenset((BlockStarted, BlockAdded, BlockEnded))
Answer = dict[str, Any]
"""A plain answer: id, model, created, extra, choices [{index, parts, finish}], usage, failed; the first choice's
`parts` and `finish` stand at the top, too."""

ANY_ROW = "any"


@dataclass(frozen=True, slots=True)
class ReadPlan:
    """How a format reads a stream."""

    rows: Rows
    name_of: Getter | None
    find_error: Getter
    read_error: Callable[[int, Any, str], ProviderError]
    kind_of_error: Callable[[int, ProviderError], str | None]
    find_counts: Callable[[Any], dict[str, Any] | None]
    """Where a document counts what was used; `read_counts` reads that."""
    read_counts: Callable[[dict[str, Any]], Counts | None]
    read_beside: Callable[[Any], Counts]
    make_usage: Callable[[Counts], Usage]
    find_whole: Getter | None
    """Where a document that is a plain answer, sent although a stream was asked for, differs from an event."""
    read_whole: Callable[[Any], Any] | None


class StreamReader:
    """Reads one streamed answer. Never raises for what a provider sends."""

    __slots__ = ("_beside", "_counts", "_machine", "_plan", "_reported", "_unread")

    def __init__(self, plan: ReadPlan, seed: str = "") -> None:
        self._plan = plan
        self._machine = BlockMachine(seed)
        self._counts: Counts = {}
        self._beside: Counts = {}
        self._reported = False
        self._unread: dict[str, Any] | None = None
        """What was counted last, where each event counts anew: only the last one is read."""

    @property
    def done(self) -> bool:
        """The wire's last event was seen, or the answer failed."""
        return self._machine.done or self._machine.failed

    @property
    def damaged(self) -> int:
        """Events that could not be read and were left out."""
        return self._machine.damaged

    def feed(self, doc: Any, name: str | None = None) -> list[Event]:
        """Events that one document of the wire means. `name` is the frame's own, where the framing has one."""
        events: list[Event] = []
        if self._machine.failed:
            return events
        if not isinstance(doc, dict):
            self._feed_odd(doc, events)
            return events
        if self._plan.find_error(doc):
            self._fail(doc, events)
            return events
        if (
            not self._machine.begun
            and self._plan.find_whole is not None
            and self._plan.find_whole(doc) is not None
        ):
            self._run_whole(doc, events)
        elif (row := self._row_of(doc, name)) is not None:
            self._run(row, doc, name, events)
        if (counted := self._plan.find_counts(doc)) is not None and not self._machine.failed:
            self._beside.update(self._plan.read_beside(doc))
            self._take_counts(counted, events)
        return events

    def _take_counts(self, counted: dict[str, Any], events: list[Event]) -> None:
        """Report the first count and what comes with an end or alone; in between it is only kept."""
        if self._unread is not None and (
            None in counted.values() or not self._unread.keys() <= counted.keys()
        ):
            self._read_counts()  # the last does not say all that an earlier one did
        self._unread = counted
        if not self._reported or not events or events[-1].__class__ is Finished:
            self._report(events)

    def _read_counts(self) -> bool:
        """Whether something was counted that has not been reported."""
        counts = self._plan.read_counts(self._unread) if self._unread is not None else None
        self._unread = None
        if counts:
            self._counts.update(counts, **self._beside)
        return bool(counts)

    def _report(self, events: list[Event]) -> None:
        if self._read_counts():
            self._reported = True
            events.append(UsageReported(self._plan.make_usage(self._counts)))

    @property
    def usage(self) -> Usage | None:
        """What was used so far."""
        self._read_counts()
        return self._plan.make_usage(self._counts) if self._counts else None

    def close(self, *, done: bool = False) -> list[Event]:
        """The stream has ended; `done` when its end was marked outside of the documents (`[DONE]`)."""
        events: list[Event] = []
        self._report(events)
        self._machine.close(done=done, events=events)
        return events

    def _feed_odd(self, doc: Any, events: list[Event]) -> None:
        """Some wires put an error, or all events, into a list."""
        if isinstance(doc, list) and doc and all(isinstance(item, dict) for item in doc):
            for item in doc:
                events.extend(self.feed(item))
        else:
            self._machine.damaged += 1

    def _row_of(self, doc: Any, name: str | None) -> Callable[..., Any] | None:
        rows = self._plan.rows
        event = self._plan.name_of(doc) if self._plan.name_of is not None else name
        return rows.get(event, rows.get(ANY_ROW)) if isinstance(event, str) else rows.get(ANY_ROW)

    def _run(self, row: Callable[..., Any], doc: Any, name: str | None, events: list[Event]) -> None:
        machine = self._machine
        try:
            facts = row(doc, name, machine.kept, machine.begun)
            for fact in facts if isinstance(facts, list) else [facts]:
                if fact and "error" in fact:
                    self._fail({"error": fact["error"]}, events)
                    return
                if fact and not machine.failed:
                    machine.take(fact, events)
        except (TemplateFailed, TypeError, AttributeError, ValueError):
            machine.damaged += 1  # a document against the grammar of its wire: the rest may still be read

    def _run_whole(self, doc: Any, events: list[Event]) -> None:
        try:
            if self._plan.read_whole is not None:
                take_answer(self._machine, self._plan.read_whole(doc), events)
        except (TemplateFailed, TypeError, AttributeError, ValueError, KeyError):
            self._machine.damaged += 1

    def _fail(self, doc: Any, events: list[Event]) -> None:
        error = self._plan.read_error(0, doc, "")
        self._machine.fail(error, events, kind=self._plan.kind_of_error(0, error))


# --- plain answers


def fold(events: Iterable[Event]) -> Answer:
    """The plain answer that a stream amounts to."""
    answer: Answer = {"id": "", "model": "", "created": None, "extra": {}, "usage": None}
    choices: dict[int, dict[str, Any]] = {}
    for event in events:
        if isinstance(event, BlockEnded):
            _choice_of(choices, event.choice)["blocks"].append((event.index, event.block))
        elif isinstance(event, Finished):
            _choice_of(choices, event.choice)["finish"] = finish_fields(event)
        elif isinstance(event, UsageReported):
            answer["usage"] = usage_fields(event.usage)
        elif isinstance(event, Started):
            answer.update(id=event.id, model=event.model, created=event.created, extra=event.extra)
        elif isinstance(event, Failed):
            answer["failed"] = event
    for choice in choices.values():
        choice["parts"] = [block for _, block in sorted(choice.pop("blocks"), key=lambda pair: pair[0])]
    answer["choices"] = [choices[number] for number in sorted(choices)]
    first = answer["choices"][0] if answer["choices"] else {"parts": [], "finish": None}
    return {**answer, "parts": first["parts"], "finish": first["finish"]}


def _choice_of(choices: dict[int, dict[str, Any]], number: int) -> dict[str, Any]:
    return choices.setdefault(number, {"index": number, "blocks": [], "finish": None})


def unfold(answer: Mapping[str, Any], seed: str = "") -> list[Event]:
    """The events of a plain answer: what a format's `reply` template yields (choices, or parts and finish)."""
    events: list[Event] = []
    take_answer(BlockMachine(seed), answer, events)
    return events


def take_answer(machine: BlockMachine, answer: Mapping[str, Any], events: list[Event]) -> None:
    machine.take({"started": {name: v for name, v in answer.items() if name not in _ANSWER_PARTS}}, events)
    choices = answer.get("choices", [answer])
    if not choices:
        machine.fail(ProviderError("the provider's answer is empty"), events)
    for position, choice in enumerate(choices):
        number = choice.get("index", position)
        for key, part in enumerate(choice.get("parts") or ()):
            fact = {**part, "kind": part["type"], "choice": number, "key": key, "open": True, "end": True}
            del fact["type"]
            machine.take(fact, events)
        finish = {"stop_sequence": choice.get("stop_sequence"), "detail": choice.get("detail")}
        machine.take({"finish": choice.get("finish") or "stop", "choice": number, **finish}, events)


_ANSWER_PARTS = frozenset(("choices", "parts", "finish", "stop_sequence", "detail", "usage"))


def finish_fields(event: Finished) -> dict[str, Any]:
    fields = {"reason": event.reason, "stop_sequence": event.stop_sequence, "detail": event.detail}
    return {name: value for name, value in fields.items() if value is not None}


def usage_fields(usage: Usage) -> dict[str, int | float]:
    """A usage as templates see it: the classes, the units, and the totals that dialects count in."""
    fields: dict[str, int | float] = {name: getattr(usage, name) for name in CLASSES}
    prompt, completion = usage.prompt, usage.completion
    if usage.units:
        fields |= show_units(usage.units)
    return {**fields, "prompt": prompt, "completion": completion, "total": prompt + completion}


# --- writing


@dataclass(frozen=True, slots=True)
class WritePlan:
    """How a format writes a stream. `kinds` maps canonical kinds to those of the dialect; None takes all as is."""

    rows: Rows
    write_frame: FrameWriter
    name_of: Getter | None
    number_key: str | None
    kinds: Mapping[str, str] | None
    one_block: bool
    one_choice: bool
    done: bytes | None
    issuer: str = ""
    """Whose `native` blocks this dialect understands; those of others are left out."""


class _Spot:
    """Where one block stands in a dialect, what was known of it when it began, and how much it has had since."""

    __slots__ = ("block", "had", "index", "is_moved", "kind", "nth")

    def __init__(self, event: BlockEvent, index: int, nth: int, kind: str) -> None:
        self.index, self.nth, self.kind = index, nth, kind
        self.is_moved = index != event.index or nth != event.nth or kind != event.kind
        self.block: dict[str, Any] = {}
        self.had: dict[str, int] = {}

    def move(self, event: BlockEvent) -> BlockEvent:
        if isinstance(event, BlockAdded):
            return BlockAdded(event.choice, self.index, self.nth, self.kind, event.field, event.value)
        return event.__class__(event.choice, self.index, self.nth, self.kind, event.block)


class StreamWriter:
    """Writes one answer as a stream of the dialect. `context` is what the corridor knows: id, created, model, ..."""

    __slots__ = (
        *("_context", "_count", "_failed", "_foreign", "_next", "_open", "_plan", "_spots", "_waiting"),
        "state",
    )

    def __init__(self, plan: WritePlan, context: Mapping[str, Any]) -> None:
        self._plan = plan
        self._context = dict(context)
        self._count = 0
        self._failed = False
        self._open: tuple[int, int] | None = None
        self._foreign: set[tuple[int, int]] = set()
        self._waiting: dict[tuple[int, int], list[BlockEvent]] = {}
        self._spots: dict[tuple[int, int], _Spot] = {}
        self._next: dict[tuple[int, str], int] = {}
        self.state: dict[str, Any] = {
            "id": context.get("id", ""),
            "model": context.get("model", ""),
            "created": context.get("created"),
            "extra": {},
            "parts": [],
            "finish": None,
            "finishes": [],
            "usage": None,
        }

    def write(self, events: Iterable[Event]) -> bytes:
        """The bytes of these events; b"" when the dialect says nothing about them yet."""
        out: list[bytes] = []
        known = list(events)
        for event in known:
            if self._failed:
                break
            if event.__class__ in _OF_BLOCKS:
                self._write_block(event, out)  # type: ignore[arg-type]  # a class costs less than isinstance
            else:
                if isinstance(
                    event, Started
                ):  # dialects tell at the start what was read, if it is known by then
                    self._note_usage(known)
                self._note(event)
                self._write_row(event.type, event, out)
        return b"".join(out)

    def close(self) -> bytes:
        """The end of the dialect's stream; nothing after a failure."""
        if self._failed:
            return b""
        out: list[bytes] = []
        self._write_row("end", None, out)
        if self._plan.done is not None:
            out.append(self._plan.done)
        return b"".join(out)

    def _note_usage(self, events: Iterable[Event]) -> None:
        for event in events:
            if isinstance(event, UsageReported):
                self.state["usage"] = usage_fields(event.usage)

    def write_failure(self, failed: Failed, request_id: str) -> bytes:
        """The end of a stream that is not whole, as the gateway words it."""
        self._context["request_id"] = request_id
        return self.write([failed])

    def _note(self, event: Event) -> None:
        state = self.state
        if isinstance(event, Started):
            state.update(
                id=event.id or state["id"], created=event.created or state["created"], extra=event.extra
            )
            state["model"] = event.model or state["model"]
        elif isinstance(event, Finished):
            finish = finish_fields(event)
            state["finishes"].append({"choice": event.choice, **finish})
            if event.choice == 0:
                state["finish"] = finish
        elif isinstance(event, UsageReported):
            state["usage"] = usage_fields(event.usage)
        else:
            self._failed = True

    def _write_block(self, event: BlockEvent, out: list[bytes]) -> None:
        plan = self._plan
        if plan.one_choice and event.choice:
            return
        if plan.kinds is not None and event.kind not in plan.kinds:
            return
        if event.kind == "native" and self._is_foreign(event):
            return
        if plan.one_block:
            self._write_in_turn(event, out)
        else:
            self._write_placed(event, out)

    def _is_foreign(self, event: BlockEvent) -> bool:
        key = (event.choice, event.index)
        if isinstance(event, BlockStarted) and event.block.get("issuer") != self._plan.issuer:
            self._foreign.add(key)
        return key in self._foreign

    def _write_in_turn(self, event: BlockEvent, out: list[bytes]) -> None:
        """One block is open; those that begin meanwhile wait for its end."""
        key = (event.choice, event.index)
        if self._open is None:
            self._open = key
        if key != self._open:
            self._waiting.setdefault(key, []).append(event)
            return
        self._write_placed(event, out)
        if isinstance(event, BlockEnded):
            self._open = next(iter(self._waiting), None)
            for waiting in self._waiting.pop(self._open) if self._open is not None else ():
                self._write_in_turn(waiting, out)

    def _write_placed(self, event: BlockEvent, out: list[bytes]) -> None:
        """Tell the row what was known of the block when it began, and how much of this field it has had."""
        state, key = self.state, (event.choice, event.index)
        spot = self._spots.get(key)
        if spot is None:
            spot = self._spots[key] = self._find_spot(event)
        if isinstance(event, BlockAdded):
            had = state["had"] = spot.had.get(event.field, 0)
            spot.had[event.field] = had + (len(event.value) if event.value.__class__ is list else 1)
        elif isinstance(event, BlockStarted):
            spot.block, spot.had = event.block, {}
        elif event.choice == 0:
            state["parts"].append(event.block)
        state["block"] = spot.block
        self._write_row(event.type, spot.move(event) if spot.is_moved else event, out)

    def _find_spot(self, event: BlockEvent) -> "_Spot":
        """Where its block stands in this dialect, which may leave out kinds before it, or rename them."""
        kinds = self._plan.kinds
        if kinds is None:
            return _Spot(event, event.index, event.nth, event.kind)
        kind = kinds.get(event.kind, event.kind)
        return _Spot(event, self._number(event.choice, ""), self._number(event.choice, kind), kind)

    def _number(self, choice: int, kind: str) -> int:
        number = self._next.get((choice, kind), 0)
        self._next[(choice, kind)] = number + 1
        return number

    def _write_row(self, name: str, event: Event | None, out: list[bytes]) -> None:
        row = self._plan.rows.get(name)
        if row is None:
            return
        written = row(event, self.state, self._context)
        if written is None:
            return
        if written.__class__ is list:
            out += map(self._write_frame, written)
        else:
            out.append(self._write_frame(written))

    def _write_frame(self, body: dict[str, Any]) -> bytes:
        plan = self._plan
        if plan.number_key is not None:
            body[plan.number_key] = self._count
            self._count += 1
        name = plan.name_of(body) if plan.name_of is not None else None
        return plan.write_frame(body, name)
