"""YAML bytes -> a plain tree of JSON values, and for every node the line and column where it stands.

Built from ruamel's events, not from its constructors: so duplicate keys, aliases, depth and tags are judged
here, nothing but text, numbers, booleans, null, lists and mappings can come out, and keys are text as
written.
"""

import json
import math
import re
from collections.abc import Iterator
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
    StreamEndEvent,
)

MAX_BYTES = 8 * 1024 * 1024
MAX_DEPTH = 40
MAX_ALIASED_NODES = 20_000
"""Nodes that aliases may add to a file: a bomb multiplies, honest reuse adds."""

_INT = re.compile(r"[-+]?[0-9]+")
_BASED_INT = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_WORDS: dict[str, Any] = {
    "": None, "~": None, "null": None, "Null": None, "NULL": None,
    "true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False,
}  # fmt: skip
_TAGS = frozenset(
    f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "seq", "map")
)
_REFERENCE = re.compile(r"\$\{([^{}]*)\}")

Marks = list[Any]
"""[line, column] of a scalar, [line, column, {key: Marks}] of a mapping, [line, column, [Marks]] of a list."""


class Document:
    """One parsed file. `refs` are the insides of every `${...}`; `problems`: (line, column, path, message).

    Positions are kept as JSON text and unfolded when something has to be said about them: they are many small
    objects, which every garbage collection would walk.
    """

    __slots__ = ("_marks", "marks_json", "problems", "refs", "tree")

    def __init__(
        self,
        tree: dict[str, Any],
        marks_json: str,
        refs: tuple[str, ...] = (),
        problems: tuple[tuple[int, int, str, str], ...] = (),
    ) -> None:
        self.tree = tree
        self.marks_json = marks_json
        self.refs = refs
        self.problems = problems
        self._marks: Marks | None = None

    def find_mark(self, path: tuple[str | int, ...]) -> tuple[int, int, int]:
        """(line, column, how many steps of `path` the file has): of the node, or of its nearest ancestor."""
        if self._marks is None:
            self._marks = json.loads(self.marks_json)
        return find_mark(self._marks or [1, 1], path)

    def fold_marks(self) -> None:
        """Let the unfolded positions go."""
        self._marks = None


_NO_MARKS = "[1,1,{}]"
NOTHING = Document({}, _NO_MARKS)


class _Refused(Exception):
    def __init__(self, line: int, column: int, message: str) -> None:
        super().__init__(message)
        self.line, self.column, self.message = line, column, message


def parse_document(content: bytes) -> Document:
    """Parse one file. Never raises for what the file says: a bad file is a Document with problems."""
    reader = _Reader()
    try:
        tree, marks = reader.read(_decode(content))
    except _Refused as refused:
        problems = (*reader.problems, (refused.line, refused.column, "", refused.message))
        return Document({}, _NO_MARKS, (), problems)
    marks_json = json.dumps(marks, separators=(",", ":"))
    return Document(tree, marks_json, tuple(sorted(reader.refs)), tuple(reader.problems))


def find_mark(marks: Marks, path: tuple[str | int, ...]) -> tuple[int, int, int]:
    """(line, column, how many steps of `path` exist in the file): of the node, or of its nearest ancestor."""
    depth = 0
    for step in path:
        children = marks[2] if len(marks) > 2 else None
        if isinstance(children, dict) and isinstance(step, str) and step in children:
            marks = children[step]
        elif isinstance(children, list) and isinstance(step, int) and step < len(children):
            marks = children[step]
        else:
            break
        depth += 1
    return marks[0], marks[1], depth


def _decode(content: bytes) -> str:
    if len(content) > MAX_BYTES:
        raise _Refused(1, 1, f"the file has {len(content)} bytes; at most {MAX_BYTES} are read")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise _Refused(line, 1, "the file is not UTF-8 text") from error


class _Reader:
    def __init__(self) -> None:
        self.problems: list[tuple[int, int, str, str]] = []
        self.refs: set[str] = set()
        self._anchors: dict[str, tuple[Any, Marks, int]] = {}
        self._nodes = 0
        self._aliased = 0

    def read(self, text: str) -> tuple[dict[str, Any], Marks]:
        """The one document of `text`, which must be a mapping (or nothing)."""
        try:
            return self._read_document(YAML(typ="safe", pure=True).parse(text))
        except MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
            raise _Refused(line, column, f"not YAML: {error.problem or error.context}") from error
        except YAMLError as error:
            line = text.count("\n", 0, getattr(error, "position", 0)) + 1
            raise _Refused(line, 1, f"not YAML: {getattr(error, 'reason', error)}") from error

    def _read_document(self, events: Iterator[Any]) -> tuple[dict[str, Any], Marks]:
        found: tuple[dict[str, Any], Marks] | None = None
        for event in events:
            if isinstance(event, StreamEndEvent):
                break
            if not isinstance(event, DocumentStartEvent):
                continue
            if found is not None:
                raise _Refused(event.start_mark.line + 1, 1, "a second document begins here; one per file")
            found = self._read_root(events)
        return found or ({}, [1, 1, {}])

    def _read_root(self, events: Iterator[Any]) -> tuple[dict[str, Any], Marks]:
        tree, marks = self._read_node(next(events), events, ())
        if tree is None:
            return {}, [1, 1, {}]
        if not isinstance(tree, dict):
            raise _Refused(marks[0], marks[1], "a mapping (key: value) is expected at the top of the file")
        return tree, marks

    def _read_node(self, event: Any, events: Iterator[Any], path: tuple[str | int, ...]) -> tuple[Any, Marks]:
        if isinstance(event, AliasEvent):
            return self._read_alias(event)
        line, column = event.start_mark.line + 1, event.start_mark.column + 1
        if event.tag is not None and event.tag not in _TAGS:
            raise _Refused(line, column, f"tag {event.tag} is not allowed; only plain YAML values are read")
        if len(path) > MAX_DEPTH:
            raise _Refused(line, column, f"nested deeper than {MAX_DEPTH} levels")
        before = self._nodes
        self._nodes += 1
        value, marks = self._read_value(event, events, path, [line, column])
        if event.anchor is not None:
            self._anchors[event.anchor] = (value, marks, self._nodes - before)
        return value, marks

    def _read_value(
        self, event: Any, events: Iterator[Any], path: tuple[str | int, ...], marks: Marks
    ) -> tuple[Any, Marks]:
        if isinstance(event, ScalarEvent):
            return self._read_scalar(event, marks), marks
        if isinstance(event, SequenceStartEvent):
            return self._read_sequence(events, path, marks)
        if isinstance(event, MappingStartEvent):
            return self._read_mapping(events, path, marks)
        raise _Refused(marks[0], marks[1], "unexpected YAML event")

    def _read_alias(self, event: Any) -> tuple[Any, Marks]:
        line, column = event.start_mark.line + 1, event.start_mark.column + 1
        if event.anchor not in self._anchors:
            raise _Refused(
                line, column, f"alias *{event.anchor} has no anchor before it (or contains itself)"
            )
        value, marks, size = self._anchors[event.anchor]
        self._nodes += size
        self._aliased += size
        if self._aliased > MAX_ALIASED_NODES:
            raise _Refused(line, column, f"aliases expand to more than {MAX_ALIASED_NODES} values")
        return value, [line, column, *marks[2:]]

    def _read_sequence(
        self, events: Iterator[Any], path: tuple[str | int, ...], marks: Marks
    ) -> tuple[list[Any], Marks]:
        values: list[Any] = []
        children: list[Marks] = []
        while not isinstance(event := next(events), SequenceEndEvent):
            value, mark = self._read_node(event, events, (*path, len(values)))
            values.append(value)
            children.append(mark)
        return values, [*marks, children]

    def _read_mapping(
        self, events: Iterator[Any], path: tuple[str | int, ...], marks: Marks
    ) -> tuple[dict[str, Any], Marks]:
        tree: dict[str, Any] = {}
        children: dict[str, Marks] = {}
        merged: list[tuple[Any, Marks]] = []
        while not isinstance(event := next(events), MappingEndEvent):
            line, column = event.start_mark.line + 1, event.start_mark.column + 1
            key = _read_key(event, line, column)
            value, mark = self._read_node(next(events), events, (*path, key))
            if key == "<<" and event.implicit[0]:
                merged.append((value, mark))
            elif key in tree:
                self._tell_duplicate((*path, key), (line, column), children[key])
            else:
                tree[key] = value
                children[key] = [line, column, *mark[2:]]
        for value, mark in merged:
            _take_merge(tree, children, value, mark)
        return tree, [*marks, children]

    def _tell_duplicate(self, path: tuple[str | int, ...], at: tuple[int, int], first: Marks) -> None:
        message = f'duplicate key "{path[-1]}" (first at line {first[0]}, column {first[1]})'
        self.problems.append((*at, format_path(path), message))

    def _read_scalar(self, event: Any, marks: Marks) -> Any:
        text: str = event.value
        if "${" in text:
            self.refs.update(_REFERENCE.findall(text))
        if not event.implicit[0] or event.tag == "tag:yaml.org,2002:str":
            return text
        value = _resolve_plain(text)
        if (
            isinstance(value, float)
            and not math.isfinite(value)
            or isinstance(value, int)
            and abs(value) >= 2**63
        ):
            raise _Refused(marks[0], marks[1], "the number is too large")
        return value


def _read_key(event: Any, line: int, column: int) -> str:
    if not isinstance(event, ScalarEvent):
        raise _Refused(line, column, "a key must be plain text")
    return str(event.value)


def _take_merge(tree: dict[str, Any], children: dict[str, Marks], value: Any, mark: Marks) -> None:
    """`<<: *anchor` or `<<: [*a, *b]`: keys written out win, then earlier ones."""
    sources = zip(value, mark[2], strict=True) if isinstance(value, list) else [(value, mark)]
    for source, source_mark in sources:
        if not isinstance(source, dict):
            raise _Refused(mark[0], mark[1], "<< merges mappings only")
        for key, item in source.items():
            if key not in tree:
                tree[key] = item
                children[key] = source_mark[2][key]


def _resolve_plain(text: str) -> Any:
    """YAML 1.2 core: `yes`, `on` and dates stay text."""
    if text in _WORDS:
        return _WORDS[text]
    if text[0] not in "-+.0123456789":
        return text
    if _INT.fullmatch(text):
        return int(text)
    if _BASED_INT.fullmatch(text):
        return int(text, 0)
    return float(text) if _FLOAT.fullmatch(text) else text


def format_path(path: tuple[str | int, ...]) -> str:
    """`("targets", 1, "provider")` -> `targets[1].provider`."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text
