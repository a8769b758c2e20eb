"""What is built from an entry, the sentences about it, and what of it the next reload can take over."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from engine.config.describe import TreePath
from engine.config.entries import Entry
from engine.errors import Problem

Made = TypeVar("Made")


class Memo:
    """What was built before, by what it was built from. One generation back: what is not asked for is
    dropped.
    """

    def __init__(self, before: "Memo | None" = None) -> None:
        self._before = before._kept if before is not None else {}
        self._kept: dict[Hashable, Any] = {}

    def get(self, key: Hashable, make: Callable[[], Made]) -> Made:
        if key in self._kept:
            found: Made = self._kept[key]
            return found
        made: Made = self._before[key] if key in self._before else make()
        self._kept[key] = made
        return made

    def forget_before(self) -> None:
        self._before = {}


@dataclass(frozen=True, slots=True)
class Built:
    """A thing of the snapshot with the sentences about it; `value` is None when it cannot be."""

    value: Any
    problems: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()


@dataclass(slots=True)
class Notes:
    """Problems and warnings about one entry."""

    entry: Entry
    problems: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)

    def refuse(self, path: TreePath, message: str) -> None:
        self.problems.append(self.entry.problem(path, message))

    def warn(self, path: TreePath, message: str) -> None:
        self.warnings.append(self.entry.problem(path, message))

    def built(self, value: Any) -> Built:
        return Built(None if self.problems else value, tuple(self.problems), tuple(self.warnings))
