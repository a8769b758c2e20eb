"""JSONPath reads of single declared facts: plain paths become getters, everything else is jsonpath-ng's.

A getter never raises: what is not there is None.
"""

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from jsonpath_ng.exceptions import JSONPathError
from jsonpath_ng.ext.parser import parse as parse_jsonpath

Getter = Callable[[Any], Any]
RowsGetter = Callable[[Any], list[Any]]

_STEP = re.compile(r"""\.?([A-Za-z_][\w-]*)|\[(\d+|-1)\]|\[(?:'([^'\]]*)'|"([^"\]]*)")\]""")


_CHOSEN = re.compile(r"(.+)\[\?\(?@\.(\w+)\s*==\s*'([^']*)'\)?\](.*)")


class PathRefused(ValueError):
    """A text that is not a JSONPath."""


@lru_cache(maxsize=4096)
def compile_path(text: str) -> Getter:
    """A function that reads the first value at the path, or None."""
    steps = split_plain_path(text)
    if steps is None:
        return _compile_choice(text) or _compile_search(text)
    if not steps:
        return lambda doc: doc
    if len(steps) == 1 and isinstance(steps[0], str):
        return _compile_key(steps[0])
    return _compile_steps(steps)


@lru_cache(maxsize=1024)
def compile_rows(text: str) -> RowsGetter:
    """A function that reads all values at the path: the items of `$.data[*]`, or the list that `$.data` is."""
    if text.endswith("[*]") and split_plain_path(text[:-3]) is not None:
        read = compile_path(text[:-3])
        return lambda doc: _rows(read(doc))
    if split_plain_path(text) is not None:
        read_list = compile_path(text)
        return lambda doc: _rows(read_list(doc))
    found = _parse(text)
    return lambda doc: [match.value for match in found.find(doc)]


def compile_first(texts: str | Sequence[str]) -> Getter:
    """A function that reads the first of several paths that has a value."""
    if not isinstance(texts, str | list | tuple) or not texts:
        raise PathRefused(f"a JSONPath or a list of them is expected, not {texts!r}")
    getters = tuple(compile_path(text) for text in ([texts] if isinstance(texts, str) else texts))
    if len(getters) == 1:
        return getters[0]

    def read_first(doc: Any) -> Any:
        for read in getters:
            found = read(doc)
            if found is not None:
                return found
        return None

    return read_first


def split_plain_path(text: str) -> tuple[str | int, ...] | None:
    """The keys and indexes of a plain path such as `$.a.b[0]['c d']`; None when it is more than that."""
    if not isinstance(text, str):
        raise PathRefused(f"not a JSONPath: {text!r}")
    rest = text.removeprefix("$")
    if rest == text and rest[:1] in (".", "["):
        return None
    steps: list[str | int] = []
    position = 0
    while position < len(rest):
        match = _STEP.match(rest, position)
        if match is None:
            return None
        name, number, quoted, doubly_quoted = match.groups()
        steps.append(
            int(number)
            if number is not None
            else next(s for s in (name, quoted, doubly_quoted) if s is not None)
        )
        position = match.end()
    return tuple(steps)


def _compile_key(name: str) -> Getter:
    def read_key(doc: Any) -> Any:
        return doc.get(name) if doc.__class__ is dict else None

    return read_key


def _compile_steps(steps: tuple[str | int, ...]) -> Getter:
    def read_steps(doc: Any) -> Any:
        try:
            for step in steps:  # an error costs more than all the rest
                doc = doc.get(step) if doc.__class__ is dict else doc[step]
                if doc is None:
                    return None
        except (LookupError, TypeError):
            return None
        return doc

    return read_steps


def _compile_choice(text: str) -> Getter | None:
    """`$.list[?(@.key == 'word')].rest`: written out, because jsonpath-ng takes a hundred times as long."""
    match = _CHOSEN.fullmatch(text)
    if match is None:
        return None
    before, key, wanted, after = match.groups()
    rest = "$" + after
    if split_plain_path(before) is None or split_plain_path(rest) is None:
        return None
    read_list, read_rest = compile_path(before), compile_path(rest)

    def read_chosen(doc: Any) -> Any:
        items = read_list(doc)
        for item in items if isinstance(items, list) else ():
            if isinstance(item, dict) and item.get(key) == wanted:
                return read_rest(item)
        return None

    return read_chosen


def _compile_search(text: str) -> Getter:
    found = _parse(text)

    def search(doc: Any) -> Any:
        matches = found.find(doc)
        return matches[0].value if matches else None

    return search


def _parse(text: str) -> Any:
    try:
        return parse_jsonpath(text)
    except (JSONPathError, ValueError, AttributeError) as error:  # its lexer lets an AttributeError out
        raise PathRefused(f"not a JSONPath: {text!r} ({error})") from error


def _rows(value: Any) -> list[Any]:
    if isinstance(value, list):
        return value
    return list(value.values()) if isinstance(value, dict) else []
