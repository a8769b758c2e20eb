"""Which leaves of a provider's file no example touches.

A leaf is touched when the file's examples no longer all hold once it is left out (where it may not be left out alone,
together with what is around it). So each leaf is tried: the file without it is validated, built, and its examples are
run. That costs some milliseconds a leaf and is done by `gatewayz check` only.
"""

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

from engine.config.catalog import Catalog
from engine.config.describe import TreePath
from engine.config.entries import Entry, make_entry
from engine.config.examples import holds
from engine.config.references import Values
from engine.config.things import assemble
from engine.errors import Problem

SECTIONS = (
    *(
        "format",
        "headers",
        "params",
        "traits",
        "endpoints",
        "usage",
        "errors",
        "models",
        "stream_usage",
        "prefill",
    ),
)
_WHOLE = (("params", "clamp"), ("params", "force"), ("params", "default"))
"""Below these a named value is one leaf, whatever is inside it."""
Verdict = Callable[[dict[str, Any]], bool | None]
"""Of a tree: do all examples hold? None: it is not a valid file."""


@dataclass(frozen=True, slots=True)
class Trial:
    """The verdict on one provider's file with another tree, among everything else that is loaded."""

    catalog: Catalog
    values: Values
    entry: Entry

    def __call__(self, tree: dict[str, Any]) -> bool | None:
        thing, *below = self.entry.assembled.chain
        entry = make_entry(assemble((replace(thing, tree=tree), *below)), self.values)
        provider = self.catalog.try_provider(entry)
        if provider is None:
            return None
        return holds(provider, entry.spec, self.catalog.set_stage(entry))


def list_untouched(entry: Entry, judge: Verdict) -> list[Problem]:
    """A sentence for every leaf that the examples of this file do not need."""
    tree = entry.thing.tree
    return [
        entry.problem(path, "no example touches this")
        for path in list_leaves(tree)
        if not _is_touched(tree, path, judge)
    ]


def list_leaves(tree: dict[str, Any]) -> Iterator[TreePath]:
    """The leaves of the sections that change what is sent or read."""
    for section in SECTIONS:
        if section in tree and not (section == "format" and isinstance(tree[section], str)):
            yield from _walk(tree[section], (section,))


def _walk(value: Any, path: TreePath) -> Iterator[TreePath]:
    if path == ("format", "extends"):
        return
    if isinstance(value, dict) and value and not _is_whole(path):
        for key, inner in value.items():
            yield from _walk(inner, (*path, key))
    elif isinstance(value, list) and value and not _is_whole(path):
        for index, inner in enumerate(value):
            yield from _walk(inner, (*path, index))
    else:
        yield path


def _is_whole(path: TreePath) -> bool:
    named = tuple(step for step in path if isinstance(step, str) and step not in ("rules", "messages"))
    return len(named) > 2 and named[:2] in _WHOLE


def _is_touched(tree: dict[str, Any], path: TreePath, judge: Verdict) -> bool:
    """Left out, alone or else with what is around it; or written otherwise, where nothing may be left out."""
    for end in range(len(path), 0, -1):
        held = judge(_without(tree, path[:end]))
        if held is not None:
            return not held
    return judge(_with_another(tree, path)) is not True


def _without(tree: dict[str, Any], path: TreePath) -> dict[str, Any]:
    """A list or mapping that would be empty then goes with it: it says nothing, or something else."""
    changed = deepcopy(tree)
    holder = _find_holder(changed, path)
    del holder[path[-1]]
    return changed if holder or len(path) == 1 else _without(tree, path[:-1])


def _with_another(tree: dict[str, Any], path: TreePath) -> dict[str, Any]:
    changed = deepcopy(tree)
    holder = _find_holder(changed, path)
    value = holder[path[-1]]
    holder[path[-1]] = f"{value}-x" if isinstance(value, str) else None
    return changed


def _find_holder(tree: Any, path: TreePath) -> Any:
    for step in path[:-1]:
        tree = tree[step]
    return tree
