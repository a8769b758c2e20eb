"""The doors of all formats laid out: no two at one place, none in front of the gateway's own routes.

A shipped format gives way to a user's at the same place, so that a file can change what a path speaks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from engine.config.entries import Entry
from engine.errors import Problem
from engine.wire.doors import Door, DoorTable
from engine.wire.formats import Format

OWN_ROUTES = ("/health", "/metrics", "/admin")


@dataclass(slots=True)
class DoorBuilder:
    """Takes the formats one after another; `build` gives the table."""

    problems: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)
    _taken: dict[object, tuple[Door, Entry]] = field(default_factory=dict)

    def add(self, format: Format, entry: Entry) -> None:
        for index, serving in enumerate(format.client.serves):
            if serving.path.startswith(OWN_ROUTES):
                message = f"{', '.join(OWN_ROUTES)} are the gateway's own"
                self.problems.append(entry.problem(("serves", index, "path"), message))
            self._take(Door(format, serving), index, entry)

    def build(self, common: Format | None) -> DoorTable:
        return DoorTable([door for door, _ in self._taken.values()], common)

    def _take(self, door: Door, index: int, entry: Entry) -> None:
        place = door.serving.place
        there = self._taken.get(place)
        if there is None:
            self._taken[place] = door, entry
            return
        other, other_entry = there
        said = f'"{door.path}" is also served by the format "{other.format.name}" ({other_entry.thing.place})'
        problem = entry.problem(("serves", index), said)
        if entry.thing.shipped == other_entry.thing.shipped:
            self.problems.append(problem)
            return
        self.warnings.append(problem)
        if other_entry.thing.shipped:
            self._taken[place] = door, entry


def find_common_formats(formats: Sequence[Format]) -> Mapping[str, Format]:
    """For each operation the format in which examples and commands take requests that do not name one."""
    served = [format for format in formats if format.client.serves]
    by_rank = sorted(served, key=lambda format: (format.client.common, format.name), reverse=True)
    return {format.operation: format for format in reversed(by_rank)}
