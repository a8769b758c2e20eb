"""What same-wire traffic is read for: where an event of this wire keeps its text, finish, usage and error.

A `Look` is compiled from a format's `look:` section. `plain_text` is the hot path: it answers for the one shape that
nearly every event has (one choice, one piece of text) and leaves the rest to the slower, complete `read_event`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

Doc = Any
Getter = Callable[[Doc], Any]
Steps = tuple[str, ...]


@dataclass(slots=True)
class Seen:
    """What one event told."""

    text: str = ""
    carries: bool = False
    """Content that is not plain text (a tool call, a refusal, audio): it cannot be rescued after a cut."""
    thought: bool = False
    """Reasoning that carries no signature."""
    finished: list[int] = field(default_factory=list)
    error: Any = None
    usage: Mapping[str, Any] | None = None
    empty: bool = False
    """No choice at all: a chunk that is there for its usage."""
    last: bool = False
    """Nothing comes after it."""


@dataclass(frozen=True, slots=True)
class Look:
    choices: str
    text: tuple[str, ...]
    carries: tuple[tuple[str, ...], ...]
    thoughts: tuple[tuple[str, ...], ...]
    finish: str
    usage: tuple[str, ...]
    error: str
    id: str
    created: str
    model: str
    answer_text: tuple[str, ...]
    """Where a plain (not streamed) choice keeps its text."""
    error_finish: frozenset[str]
    prompt_count: str
    """The name of the inclusive prompt count inside usage; `completion_count` likewise."""
    completion_count: str
    ends: tuple[tuple[str, ...], ...]
    """What ends an answer that has no choice at all, such as a refused prompt."""
    text_unless: str
    """The key of a piece that is not the answer's text although it stands where text does."""
    plain_text: Callable[[Doc], str | None]
    asked_choices: tuple[Steps, ...]
    """Where a request says how many choices it wants."""
    can_be_rescued: ClassVar[bool] = True

    def count_choices(self, request: Mapping[str, Any]) -> int:
        """How many choices a whole answer has: those asked for each prompt. Token ids in a list are one prompt."""
        said = (follow(request, steps) for steps in self.asked_choices)
        choices = next((count for count in said if isinstance(count, int)), 1)
        prompts = request.get("prompt")
        return choices * (len(prompts) if prompts and _are_prompts(prompts) else 1)

    def read_event(self, doc: Mapping[str, Any]) -> Seen:
        """Everything there is to know about one streamed event."""
        seen = Seen(error=doc.get(self.error), usage=_mapping(follow(doc, self.usage)))
        choices = doc.get(self.choices)
        if not isinstance(choices, list) or not choices:
            seen.empty = True
            if any(follow(doc, path) for path in self.ends):
                seen.finished.append(0)
            return seen
        for position, choice in enumerate(choices):
            if isinstance(choice, dict):
                self._read_choice(choice, position, seen)
        return seen

    def _read_choice(self, choice: dict[str, Any], position: int, seen: Seen) -> None:
        text = follow(choice, self.text)
        if isinstance(text, str) and text:
            seen.text += text
        elif isinstance(text, list):
            seen.text += self._join_pieces(choice, self.text)
        if any(follow(choice, path) for path in self.carries):
            seen.carries = True
        if any(follow(choice, path) for path in self.thoughts):
            seen.thought = True
        reason = choice.get(self.finish)
        if reason and isinstance(reason, str):
            index = choice.get("index")
            seen.finished.append(index if isinstance(index, int) else position)
            if reason in self.error_finish and seen.error is None:
                seen.error = choice.get(self.error) or {
                    "message": f"the provider ended the answer with {reason}"
                }

    def read_answer_text(self, doc: Mapping[str, Any]) -> str:
        """All text of a plain answer, for estimates."""
        choices = doc.get(self.choices)
        if not isinstance(choices, list):
            return ""
        texts = (follow(choice, self.answer_text) for choice in choices)
        return "".join(
            text if isinstance(text, str) else self._join_pieces(choice, self.answer_text)
            for choice, text in zip(choices, texts, strict=True)
            if isinstance(text, str | list)
        )

    def _join_pieces(self, choice: dict[str, Any], steps: tuple[str, ...]) -> str:
        """The text of a choice that keeps it in a list of pieces."""
        pieces = follow(choice, steps[:-1])
        said = (piece for piece in pieces if isinstance(piece, dict) and not piece.get(self.text_unless))
        texts = (piece.get(steps[-1]) for piece in said)
        return "".join(text for text in texts if isinstance(text, str))

    def set_text(self, choice: dict[str, Any], text: str) -> None:
        """Put `text` where a streamed choice keeps it; in a list it is the only piece."""
        for name in self.text[:-1]:
            held = choice.setdefault(name, {})
            if isinstance(held, list):
                held[:] = [{}]
                held = held[0]
            choice = held
        choice[self.text[-1]] = text


def compile_look(raw: Mapping[str, Any]) -> Look:
    """Compile a `look:` section (see providers.d/_formats/openai-chat.yaml)."""
    choices, finish = _name(raw.get("choices", "$.choices")), _name(raw.get("finish", "finish_reason"))
    usage, error, text = (
        read_steps(raw.get("usage", "$.usage")),
        _name(raw.get("error", "$.error")),
        read_steps(raw["text"]),
    )
    return Look(
        choices=choices,
        text=text,
        carries=tuple(read_steps(path) for path in raw.get("carries", ())),
        thoughts=tuple(read_steps(path) for path in raw.get("thoughts", ())),
        finish=finish,
        usage=usage,
        error=error,
        id=_name(raw.get("id", "$.id")),
        created=_name(raw.get("created", "$.created")),
        model=_name(raw.get("model", "$.model")),
        answer_text=read_steps(raw.get("plain_text", raw["text"])),
        error_finish=frozenset(raw.get("error_finish", ())),
        prompt_count=raw.get("prompt_count", "prompt_tokens"),
        completion_count=raw.get("completion_count", "completion_tokens"),
        ends=tuple(read_steps(path) for path in raw.get("ends", ())),
        text_unless=raw.get("text_unless", ""),
        asked_choices=tuple(read_steps(path) for path in raw.get("asked_choices", ("n",))),
        plain_text=_compile_plain_text(choices, text, finish, usage[0], error),
    )


def follow(doc: Any, steps: tuple[str, ...]) -> Any:
    """The value under nested keys, or None; through a list, what its items have."""
    for place, name in enumerate(steps):
        if isinstance(doc, list):
            found = [value for item in doc if (value := follow(item, steps[place:])) is not None]
            return found or None
        if not isinstance(doc, dict):
            return None
        doc = doc.get(name)
    return doc


def _compile_plain_text(
    choices: str, text: tuple[str, ...], finish: str, usage: str, error: str
) -> Callable[[Doc], str | None]:
    """A reader of the one common shape: half a microsecond for each event, so it is written out twice."""

    def nested(doc: Doc) -> str | None:
        try:
            (choice,) = doc[choices]
            holder = choice[outer]
            found = holder[inner]
            if len(holder) > 1 and (len(holder) > 2 or "role" not in holder):
                return None
        except (KeyError, TypeError, ValueError):
            return None
        if not found or found.__class__ is not str:
            return None
        return found if choice.get(finish) is None and doc.get(usage) is None and error not in doc else None

    def flat(doc: Doc) -> str | None:
        try:
            (choice,) = doc[choices]
            found = choice[inner]
        except (KeyError, TypeError, ValueError):
            return None
        if not found or found.__class__ is not str:
            return None
        return found if choice.get(finish) is None and doc.get(usage) is None and error not in doc else None

    outer, inner = text[0], text[-1]
    return flat if len(text) == 1 else nested


def _are_prompts(prompts: Any) -> bool:
    return isinstance(prompts, list) and bool(prompts) and not isinstance(prompts[0], int)


def read_steps(path: str) -> Steps:
    return tuple(path.removeprefix("$.").split("."))


def _name(path: str) -> str:
    return path.removeprefix("$.")


def _mapping(value: Any) -> Mapping[str, Any] | None:
    return value if isinstance(value, dict) and value else None
