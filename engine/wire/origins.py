"""Where in a client's body stands what a target could not be told: JSON pointers with `*` for indexes.

Keys of a chat are traced through the format's own `read_request` template, once, when the format is compiled. Parts and
tools are found again in the body by their values.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

Steps = tuple[str, ...]
Places = Mapping[str, tuple[Steps, ...]]

_PATH = re.compile(r"(?<![\w.'])([a-z_]\w*)((?:\.[A-Za-z_]\w*)*)")
_LOOP = re.compile(r"^\s*(\w+)\s+in\s+(.*)$", re.DOTALL)
_BRANCHES = ("$in", "$then", "$else", "$spread")
_DEEPEST = 12
_SHORTEST_TEXT = 4
"""A text of fewer characters says nothing about where it came from."""


def trace_request(tree: Any, fragments: Mapping[str, Any]) -> Places:
    """For each key of a chat the places of the body that the template reads it from."""
    tracer = _Tracer(fragments)
    tracer.trace(tree, {"body": {()}})
    return {key: tuple(sorted(places)) for key, places in tracer.places.items()}


class _Tracer:
    def __init__(self, fragments: Mapping[str, Any]) -> None:
        self._fragments = fragments
        self.places: dict[str, set[Steps]] = {}

    def trace(self, tree: Any, names: Mapping[str, set[Steps]], depth: int = 0) -> None:
        if not isinstance(tree, Mapping) or depth > _DEEPEST:
            return
        names = _bind(tree, names)
        for key, value in tree.items():
            if key in _BRANCHES:
                self.trace(value, names, depth + 1)
            elif isinstance(key, str) and not key.startswith("$"):
                self.places.setdefault(key, set()).update(self._read(value, names, depth))
        if "$use" in tree:
            self.trace(self._fragments.get(str(tree["$use"])), names, depth + 1)

    def _read(self, node: Any, names: Mapping[str, set[Steps]], depth: int) -> Iterator[Steps]:
        if isinstance(node, str):
            yield from _find_places(node, names)
        elif isinstance(node, list):
            for item in node:
                yield from self._read(item, names, depth + 1)
        elif isinstance(node, Mapping) and depth <= _DEEPEST:
            inner = _bind(node, names)
            for key, value in node.items():
                if key == "$each":
                    yield from _find_places(str(value).partition(" in ")[2], names)
                elif key == "$use":
                    yield from self._read(self._fragments.get(str(value)), inner, depth + 1)
                elif key not in ("$let", "$with"):
                    yield from self._read(value, inner, depth + 1)


def _bind(tree: Mapping[Any, Any], names: Mapping[str, set[Steps]]) -> Mapping[str, set[Steps]]:
    """The names that a tree gives to parts of the body."""
    bound = dict(names)
    for key in ("$let", "$with"):
        given = tree.get(key)
        for name, text in given.items() if isinstance(given, Mapping) else ():
            bound[str(name)] = set(_find_places(str(text), bound))
    loop = _LOOP.match(str(tree.get("$each", "")))
    if loop is not None:
        bound[loop[1]] = {(*place, "*") for place in _find_places(loop[2], bound)}
    return bound


def _find_places(text: str, names: Mapping[str, set[Steps]]) -> Iterator[Steps]:
    for name, path in _PATH.findall(text):
        for place in names.get(name, ()):
            steps = (*place, *path.split(".")[1:])
            if steps:
                yield steps


def point_at_losses(
    lost: Iterable[str], chat: Mapping[str, Any], body: Mapping[str, Any], places: Places
) -> tuple[str, ...]:
    """The pointers for what a format could not say (see Format.find_loss), each once and in order."""
    found: set[str] = set()
    for name in lost:
        key, _, rest = name.partition("/")
        if key == "extra":
            found.add(f"/{rest}")
        elif rest:
            kind, *source = (step for step in rest.split("/") if step not in ("*", "parts"))
            found |= _point_at_items(key, kind, source, chat, body) or {f"/{name}"}
        else:
            found |= _point_at_key(places.get(key, ()), body) or {f"/{key}"}
    return tuple(sorted(found))


def _point_at_key(places: Iterable[Steps], body: Any) -> set[str]:
    """The places that are there, but for those inside of others."""
    there = {place for place in places if _is_there(body, place)}
    outer = {place for place in there if not any(place[:length] in there for length in range(1, len(place)))}
    return {"/" + "/".join(place) for place in outer}


def _is_there(value: Any, steps: Steps) -> bool:
    if not steps:
        return value is not None
    if steps[0] == "*":
        return isinstance(value, list) and any(_is_there(item, steps[1:]) for item in value)
    return isinstance(value, dict) and _is_there(value.get(steps[0]), steps[1:])


def _point_at_items(
    key: str, kind: str, source: Iterable[str], chat: Mapping[str, Any], body: Any
) -> set[str]:
    """Where the parts (or tools) of a kind stand in the body; those with this source only, if one is named."""
    items = chat.get(key) or ()
    if key == "turns":
        parts = [part for turn in items for part in turn.get("parts") or ()]
        items = [inner for part in parts for inner in (part, *(part.get("parts") or ()))]
    wanted = [
        item
        for item in items
        if (item.get("type") or "function") == kind and all(item.get(name) is not None for name in source)
    ]
    return {pointer for item in wanted if (pointer := _find_item(item, body)) is not None}


def _find_item(item: Mapping[str, Any], body: Any) -> str | None:
    for value in sorted(item.values(), key=_weigh, reverse=True):
        if isinstance(value, str) and len(value) < _SHORTEST_TEXT or not isinstance(value, str | dict | list):
            continue
        path = _search(body, value, ())
        if path is not None:
            return _write_pointer(path)
    return None


def _weigh(value: Any) -> int:
    return len(value) if isinstance(value, str) else 1_000_000 if isinstance(value, dict) else 0


def _search(node: Any, value: Any, path: tuple[str | int, ...]) -> tuple[str | int, ...] | None:
    """Where the very value stands, or a text that ends with it (base64 in a data URL)."""
    if node is value or (isinstance(node, str) and isinstance(value, str) and node.endswith(value)):
        return path
    if len(path) > _DEEPEST or not isinstance(node, dict | list):
        return None
    pairs = node.items() if isinstance(node, dict) else enumerate(node)
    return next((found for key, item in pairs if (found := _search(item, value, (*path, key)))), None)


def _write_pointer(path: tuple[str | int, ...]) -> str:
    """Down to the item of the innermost list and the key in it."""
    last = max((index for index, step in enumerate(path) if isinstance(step, int)), default=0)
    return "/" + "/".join("*" if isinstance(step, int) else step for step in path[: last + 2])
