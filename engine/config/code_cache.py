"""Templates that were compiled before, on disk, by the hash of what they were compiled from and with.

An entry is code that will run, so it is taken only when it is whole and nobody but us could have written it.
A name holds the hash of the compiler too: another version of it, or of Python, finds nothing.
"""

import contextlib
import hashlib
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

from jinja2 import lexer, parser

from engine.config.files import prune_entries, read_checked, write_checked
from engine.wire import expressions, templates, trees, verbs

FORM = "code"
MOST_ENTRIES = 256
_COMPILER = (lexer, parser, expressions, templates, trees, verbs)
_OTHERS_MAY_WRITE = 0o022


class CodeCache:
    """`Shelf` of one process. Without a home that is there already nothing is kept."""

    def __init__(self, folder: Path, most: int = MOST_ENTRIES) -> None:
        self._folder = folder
        self._most = most
        self._compiler = hash_compiler(_COMPILER)

    def load(self, key: str) -> bytes | None:
        path = self._folder / self._name(key)
        content = read_checked(path) if self._compiler and _is_ours(path) else None
        if content is not None:
            with contextlib.suppress(OSError):
                os.utime(path)  # what was used last is dropped last
        return content

    def keep(self, key: str, content: bytes) -> None:
        if self._compiler and self._folder.parent.is_dir():
            with contextlib.suppress(OSError):
                write_checked(self._folder, self._name(key), content)
            prune_entries(self._folder, FORM, (), self._most)

    def _name(self, key: str) -> str:
        return f"{hashlib.sha256(f'{key}{self._compiler}'.encode()).hexdigest()}.{FORM}"


def hash_compiler(modules: Iterable[ModuleType]) -> str | None:
    """What these modules say and which Python runs them; None when that cannot be told."""
    total = hashlib.sha256(sys.version.encode())
    try:
        for module in modules:
            total.update(Path(str(module.__file__)).read_bytes())
    except OSError:
        return None
    return total.hexdigest()


def _is_ours(path: Path) -> bool:
    """Nobody else owns or may change the entry, or may put another in its place."""
    try:
        found = [os.stat(path), os.stat(path.parent)]
    except OSError:
        return False
    return all(each.st_uid == os.geteuid() and not each.st_mode & _OTHERS_MAY_WRITE for each in found)
