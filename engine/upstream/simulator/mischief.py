"""What a script does to the events of an answer: adds, repeats, spoils, breaks off. Before any of them is framed."""

import re
from collections.abc import Iterator
from itertools import chain

from engine.upstream.simulator.dialog import END, FINISH, TOKEN, Event, Wire, Written
from engine.upstream.simulator.errors import make_refusal
from engine.upstream.simulator.names import Script

DONE, EXTRA, BREAK, BARE = "done", "extra", "break", "bare"
_NAMES = rb'"(?:index|contentBlockIndex|output_index)":\d+'
_INDEX = re.compile(rb",%b|%b,?" % (_NAMES, _NAMES))


def script_events(script: Script, wire: Wire, written: Written) -> Iterator[Event]:
    """The answer's events with what the script adds and takes away."""
    parts, events = script.parts, _change_events(script, wire, written.events())
    if "bad-event" in parts:
        events = _spoil_event(events, parts["bad-event"])
    write_error = wire.write_stream_error or wire.write_error
    if "error-in-stream" in parts:
        events = _put_error(events, parts["error-in-stream"], (EXTRA, write_error(make_refusal(500))))
    if "bare-error" in parts:
        events = _put_error(events, parts["bare-error"], (BARE, wire.write_error(make_refusal(500))))
    if wire.done and "no-done" not in parts and "no-done-open" not in parts:
        events = chain(events, ((DONE, wire.done),))
    if script.breaks == "cut-in-tool-arguments":
        events = _break_events(events, _find_middle_of_arguments(written))
    elif script.breaks:
        events = _break_events(events, parts[script.breaks])
    return events


def _change_events(script: Script, wire: Wire, events: Iterator[Event]) -> Iterator[Event]:
    """What is wrong with the events themselves."""
    parts = script.parts
    if "no-done" in parts or "no-done-open" in parts:
        events = (event for event in events if event[0] != END)
    if "no-index" in parts:
        events = ((kind, _INDEX.sub(b"", payload)) for kind, payload in events)
    if "start-twice" in parts:
        events = _repeat_first(events)
    if "empty-choices" in parts and wire.blank:
        events = chain(((EXTRA, wire.blank),), events)
    return events


def _repeat_first(events: Iterator[Event]) -> Iterator[Event]:
    for event in events:
        yield EXTRA, event[1]
        yield event
        break
    yield from events


def _find_middle_of_arguments(written: Written) -> int:
    """The middle of the first call's fragments; of the text, when nothing is called."""
    before, fragments = written.first_call
    return before + 1 + fragments // 2 if fragments else written.tokens // 2


def _is_due(kind: str, sent: int, at: float) -> bool:
    """Whether the place after `at` tokens has come; a place beyond the last token comes before the finish."""
    return kind == FINISH or (kind == TOKEN and sent >= at)


def _spoil_event(events: Iterator[Event], at: float) -> Iterator[Event]:
    """One more event, which is not JSON, so that the rest is still the whole answer."""
    sent, spoiled = 0, False
    for kind, payload in events:
        if not spoiled and _is_due(kind, sent, at):
            spoiled = True
            yield EXTRA, payload[: len(payload) * 2 // 3]
        yield kind, payload
        sent += kind == TOKEN


def _put_error(events: Iterator[Event], at: float, error: Event) -> Iterator[Event]:
    sent = 0
    for kind, payload in events:
        if at == 0 or _is_due(kind, sent, at):
            yield error
            return
        yield kind, payload
        sent += kind == TOKEN


def _break_events(events: Iterator[Event], at: float) -> Iterator[Event]:
    sent = 0
    for kind, payload in events:
        if _is_due(kind, sent, at):
            yield BREAK, payload
            return
        yield kind, payload
        sent += kind == TOKEN
