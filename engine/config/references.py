"""`${ENV}`, `${ENV:-default}` and `${file:/path}` in the leaves of a tree.

Expansion happens after merging and before validation; keys are never expanded. In a secret place the result
is a Secret. What is missing comes back as a list, and as an `Unset` leaf where the caller can live without
it.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.secret import Secret

REFERENCE = re.compile(r"\$\{([^{}]*)\}")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
TreePath = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Unset:
    """A leaf whose value is not there. `wrong`: no environment could ever put it there."""

    reason: str
    wrong: bool = False


class Values:
    """Where references are looked up. Reads each file once; remembers nothing else."""

    def __init__(self, environ: Mapping[str, str], folder: Path) -> None:
        self._environ = environ
        self._folder = folder
        self._files: dict[str, bytes | None] = {}

    def look_up(self, inside: str) -> str | Unset:
        """The value of `${inside}`."""
        if inside.startswith("file:"):
            return self._look_up_file(inside.removeprefix("file:"))
        name, has_default, default = inside.partition(":-")
        if not _NAME.fullmatch(name):
            message = f"${{{inside}}} is not a reference: ${{NAME}}, ${{NAME:-default}} or ${{file:/path}}"
            return Unset(message, wrong=True)
        value = self._environ.get(name)
        if has_default:
            return value or default
        if not value:
            return Unset(f"environment variable {name} is {'not set' if value is None else 'empty'}")
        return value

    def fingerprint(self, inside: str) -> bytes | None:
        """The bytes behind a reference, for hashing; None when there is nothing."""
        if inside.startswith("file:"):
            return self._read(inside.removeprefix("file:"))
        value = self._environ.get(inside.partition(":-")[0])
        return None if value is None else value.encode("utf-8", "surrogateescape")

    def path_of(self, inside: str) -> str | None:
        """The file a reference names, or None."""
        if not inside.startswith("file:"):
            return None
        return str(self._folder / inside.removeprefix("file:"))

    def _look_up_file(self, name: str) -> str | Unset:
        content = self._read(name)
        if content is None:
            return Unset(f"file {name} cannot be read")
        try:
            return content.decode().rstrip("\r\n")
        except UnicodeDecodeError:
            return Unset(f"file {name} is not UTF-8 text")

    def _read(self, name: str) -> bytes | None:
        if name not in self._files:
            try:
                self._files[name] = (self._folder / name).read_bytes()
            except (OSError, ValueError):
                self._files[name] = None
        return self._files[name]


def list_references(tree: Any) -> Iterator[str]:
    """The insides of every `${...}` in the leaves of `tree`."""
    if isinstance(tree, str):
        if "${" in tree:
            yield from REFERENCE.findall(tree)
    elif isinstance(tree, dict):
        for value in tree.values():
            yield from list_references(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from list_references(value)


def expand_tree(
    tree: Any, values: Values, is_secret: Callable[[TreePath], bool]
) -> tuple[Any, list[tuple[TreePath, Unset]]]:
    """`tree` with every reference replaced, and the path of each that could not be."""
    missing: list[tuple[TreePath, Unset]] = []

    def expand(node: Any, path: TreePath) -> Any:
        if isinstance(node, dict):
            return {key: expand(value, (*path, key)) for key, value in node.items()}
        if isinstance(node, list):
            return [expand(value, (*path, index)) for index, value in enumerate(node)]
        if not isinstance(node, str) or "${" not in node:
            return node
        text = _expand_text(node, values)
        if isinstance(text, Unset):
            missing.append((path, text))
            return text
        return Secret(text) if is_secret(path) and text != node else text

    return expand(tree, ()), missing


def _expand_text(text: str, values: Values) -> str | Unset:
    parts: list[str] = []
    end = 0
    for found in REFERENCE.finditer(text):
        value = values.look_up(found[1])
        if isinstance(value, Unset):
            return value
        parts += (text[end : found.start()], value)
        end = found.end()
    return "".join((*parts, text[end:]))
