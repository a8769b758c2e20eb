"""Answers that the gateway keeps, and requests that go on from one, as a format's `stored` section says it.

stored:
  wanted: store                    # key of a request; false: the answer is not kept
  previous: previous_response_id   # key of a request: the answer that it goes on from
  input: input                     # key of a request: what is said now
  answer: response                 # key of a stream's last event that holds the whole answer
  output: output                   # key of an answer: what was answered
  items: {...}                     # body -> what the request says, as a list
  replay: {...}                    # items -> what is said again of what was said before
  reference: item_reference        # type of an item that stands, by its id, for one of an earlier answer
  made_in: "{{ ... }}"             # id -> the answer whose item has this id; nothing when nobody here made it
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from engine.wire.framing import split_all
from engine.wire.json_text import parse_json

KEYS = ("wanted", "previous", "input", "answer", "output", "listing", "reference")
TEMPLATES: Mapping[str, tuple[str, ...]] = {"items": ("body",), "replay": ("items",), "made_in": ("id",)}

Item = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Exchange:
    """What was said and what was answered, once."""

    input: list[Item]
    answer: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Stored:
    wanted: str
    previous: str
    input: str
    answer: str
    output: str
    listing: str
    reference: str
    framing: str
    list_items: Callable[[Mapping[str, Any]], list[Item] | None]
    replay: Callable[[list[Item]], list[Item] | None]
    made_in: Callable[[str], str | None]

    def is_wanted(self, request: Mapping[str, Any]) -> bool:
        return request.get(self.wanted) is not False

    def go_on(self, request: Mapping[str, Any], earlier: Iterable[Exchange]) -> dict[str, Any]:
        """The request with all that was said before in front of what it says."""
        said: list[Item] = []
        for exchange in earlier:
            said += exchange.input
            said += exchange.answer.get(self.output) or []
        told = {name: value for name, value in request.items() if name != self.previous}
        return {**told, self.input: [*(self.replay(said) or []), *(self.list_items(request) or [])]}

    def find_references(self, request: Mapping[str, Any]) -> dict[str, str]:
        """The items that a request has by their ids alone, each with the answer that it was part of."""
        said = request.get(self.input)
        ids = (self._referred(item) for item in said) if isinstance(said, list) else ()
        made = {id: self.made_in(id) for id in ids if id is not None}
        return {id: answer for id, answer in made.items() if answer}

    def put_items(self, request: Mapping[str, Any], items: Mapping[str, Item]) -> dict[str, Any]:
        """The request with the items themselves in place of their references."""
        said: list[Any] = []
        for item in request[self.input]:
            found = items.get(self._referred(item) or "")
            said += [item] if found is None else self.replay([found]) or []
        return {**request, self.input: said}

    def _referred(self, item: Any) -> str | None:
        if not isinstance(item, dict) or item.get("type") != self.reference:
            return None
        id = item.get("id")
        return id if isinstance(id, str) else None

    def read_answer(self, end: bytes, *, stream: bool) -> dict[str, Any] | None:
        """The whole answer in the last bytes that a client got."""
        found: Any = None
        try:
            for frame in split_all(self.framing, [end]) if stream else ():
                told = parse_json(frame.data) if frame.data else None
                found = told.get(self.answer) or found if isinstance(told, dict) else found
            found = found if stream else parse_json(end)
        except ValueError:
            return None
        return found if isinstance(found, dict) and isinstance(found.get("id"), str) else None


def compile_stored(
    raw: Mapping[str, Any], framing: str, templates: Mapping[str, Callable[..., Any]]
) -> Stored | None:
    """None for a format that keeps nothing. `templates` are those of the section, by their names."""
    if not raw or not all(name in templates for name in ("items", "replay")):
        return None
    made_in = templates.get("made_in", lambda _: None)
    names = {name: str(raw.get(name, name)) for name in KEYS}
    return Stored(
        **names,
        framing=framing,
        list_items=templates["items"],
        replay=templates["replay"],
        made_in=made_in,
    )
