"""What same-wire traffic is read for where a wire names its events instead of sending choices.

    look:
      event: type                                   # the key that holds an event's name
      text: {content_delta: delta.text}             # in which events text is, and where
      thoughts: {content_delta: delta.thinking}     # content without a seal
      carries: {block_start: block.name}            # content that is not plain text
      finish: {message_delta: delta.stop_reason}    # the answer is whole but for its end
      end: [message_stop]                           # nothing comes after it
      error: {failed: response.error}

Where only the name counts, a list of names does. An answer on such a wire is not taken up by another provider once it
has begun: its events are numbered and its blocks are open.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from engine.wire.look import Seen, Steps, follow, read_steps

Places = Mapping[str, tuple[Steps, ...]]
"""For each name of an event: where in it something is; an empty path is there whatever the event holds."""


@dataclass(frozen=True, slots=True)
class EventLook:
    event: str
    text: Steps
    """Where the text of a text event is: the last key is the one that a mould learns."""
    texts: Places
    thoughts: Places
    carries: Places
    finish: Places
    ends: frozenset[str]
    errors: Places
    usage: tuple[Steps, ...]
    answer_text: Steps
    can_be_rescued: ClassVar[bool] = False

    def plain_text(self, doc: Any) -> str | None:
        """The text of an event that has nothing else."""
        try:
            places = self.texts.get(doc[self.event])
        except (KeyError, TypeError):
            return None
        if places is None or "error" in doc:
            return None
        found = follow(doc, places[0])
        return found if found.__class__ is str and found else None

    def count_choices(self, request: Mapping[str, Any]) -> int:
        """Wires that name their events have one choice."""
        return 1

    def read_event(self, doc: Mapping[str, Any]) -> Seen:
        name = doc.get(self.event)
        seen = Seen(error=doc.get("error") or _find(doc, self.errors, name))
        text = _find(doc, self.texts, name)
        seen.text = text if isinstance(text, str) else ""
        seen.thought = bool(_find(doc, self.thoughts, name))
        seen.carries = bool(_find(doc, self.carries, name))
        seen.last = isinstance(name, str) and name in self.ends
        if seen.last or _find(doc, self.finish, name):
            seen.finished.append(0)
        seen.usage = next(
            (found for path in self.usage if isinstance(found := follow(doc, path), dict)), None
        )
        return seen

    def read_answer_text(self, doc: Mapping[str, Any]) -> str:
        """All text of a plain answer, for estimates."""
        return "".join(_texts(follow(doc, self.answer_text)))


def compile_event_look(raw: Mapping[str, Any]) -> EventLook:
    texts = _compile_places(raw["text"])
    usage = raw.get("usage", "usage")
    return EventLook(
        event=str(raw["event"]).removeprefix("$."),
        text=next(iter(texts.values()))[0],
        texts=texts,
        thoughts=_compile_places(raw.get("thoughts", ())),
        carries=_compile_places(raw.get("carries", ())),
        finish=_compile_places(raw.get("finish", ())),
        ends=frozenset(raw.get("end", ())),
        errors=_compile_places(raw.get("error", ())),
        usage=tuple(map(read_steps, usage if isinstance(usage, list) else [usage])),
        answer_text=read_steps(raw["plain_text"]),
    )


def _compile_places(raw: Any) -> Places:
    if not isinstance(raw, Mapping):
        return {str(name): ((),) for name in raw}
    return {
        str(name): tuple(map(read_steps, paths if isinstance(paths, list) else [paths]))
        for name, paths in raw.items()
    }


def _find(doc: Mapping[str, Any], places: Places, name: Any) -> Any:
    """What stands at the first of the event's places that holds something."""
    for steps in places.get(name, ()) if isinstance(name, str) else ():
        if found := follow(doc, steps):
            return found
    return None


def _texts(value: Any) -> list[str]:
    if isinstance(value, list):
        return [text for item in value for text in _texts(item)]
    return [value] if isinstance(value, str) else []
