"""Which files make up the configuration, and what each of them says.

Files are found beside gateway.yaml and in the shipped library, read whole, named by the sha256 of their
bytes, and parsed once: the tree and its positions are kept under that name in `GATEWAYZ_HOME/cache` (never an
expanded value).
"""

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import engine
from engine.config.yamltree import Document, parse_document
from engine.errors import Problem

CACHE_FORM = "v2"
DEFAULT_FOLDERS = ("providers.d", "models.d", "policies.d")
MAX_FOLDER_DEPTH = 4
Rank = Literal["gateway", "shipped", "user"]


@dataclass(frozen=True, slots=True)
class Source:
    """One file: `path` to open it, `name` for people, and whose it is."""

    path: str
    name: str
    rank: Rank


def find_library() -> Path:
    """The folder that holds the shipped providers.d, models.d and policies.d: in the wheel, or the clone's
    root.
    """
    package = Path(engine.__file__).parent
    shipped = package / "shipped"
    return shipped if shipped.is_dir() else package.parent


@dataclass(slots=True)
class Search:
    """What a look through the folders found: files, and every folder as it was just before it was listed."""

    folder: Path
    library: Path
    sources: list[Source] = field(default_factory=list)
    signature: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    _seen: set[str] = field(default_factory=set)

    def collect(self, start: Path, rank: Rank) -> None:
        """Take every YAML file below `start` that is not there yet: no file is read twice."""
        for path in self._walk(start, 0):
            real = os.path.realpath(path)
            if real not in self._seen:
                self._seen.add(real)
                self.sources.append(
                    Source(str(path), _name_source(path, rank, self.folder, self.library), rank)
                )

    def _walk(self, folder: Path, depth: int) -> Iterator[Path]:
        """YAML files by name; hidden entries are skipped, `..data` of a mounted ConfigMap among them."""
        self.signature[str(folder)] = stat_signature(str(folder))
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except (FileNotFoundError, NotADirectoryError):
            return
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir() and depth < MAX_FOLDER_DEPTH:
                yield from self._walk(folder / entry.name, depth + 1)
            elif entry.name.endswith((".yaml", ".yml")) and entry.is_file():
                yield folder / entry.name


def find_sources(folder: Path, user_folders: Sequence[str], library: Path) -> Search:
    """Shipped files first, then the user's. A user folder that IS a shipped one counts once, as shipped."""
    search = Search(folder, library)
    for name in DEFAULT_FOLDERS:
        search.collect(library / name, "shipped")
    for name in user_folders:
        search.collect(folder / name, "user")
    return search


def _name_source(path: Path, rank: Rank, folder: Path, library: Path) -> str:
    """Relative to the configuration's folder where possible: what an editor can jump to."""
    try:
        return path.absolute().relative_to(folder.absolute()).as_posix()
    except ValueError:
        pass
    if rank == "shipped":
        return f"shipped:{path.relative_to(library).as_posix()}"
    return str(path)


def hash_bytes(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def read_source(path: str, name: str) -> tuple[bytes, Problem | None]:
    """The file's bytes, or the problem that it cannot be read."""
    try:
        return Path(path).read_bytes(), None
    except OSError as error:
        return b"", Problem(name, 1, 1, "", f"cannot be read: {error.strerror}")


class TreeCache:
    """Parsed documents by content hash, on disk. A damaged entry is parsed again, never trusted."""

    def __init__(self, folder: Path, prebuilt: Path | None = None) -> None:
        self._folder = folder
        self._prebuilt = prebuilt

    def load(self, sha256: str) -> Document | None:
        name = f"{sha256}.{CACHE_FORM}"
        document = _read_entry(self._folder / name)
        if document is None and self._prebuilt is not None:
            document = _read_entry(self._prebuilt / name)
        return document

    def parse(self, sha256: str, content: bytes) -> Document:
        """Parse and keep, where there is a home. A cache that cannot be written only costs time."""
        document = parse_document(content)
        if self._folder.parent.is_dir():
            with contextlib.suppress(OSError):
                write_entry(self._folder, sha256, document)
        return document

    def prune(self, in_use: set[str], keep: int = 512) -> None:
        """Drop the oldest entries beyond `keep`, never one that is in use."""
        prune_entries(self._folder, CACHE_FORM, {f"{sha256}.{CACHE_FORM}" for sha256 in in_use}, keep)


def prune_entries(folder: Path, form: str, in_use: Collection[str], keep: int) -> None:
    """Drop the oldest entries of a form beyond `keep`, never one that is in use."""
    try:
        entries = [entry for entry in os.scandir(folder) if entry.name.endswith(f".{form}")]
        if len(entries) <= keep + len(in_use):
            return
        entries.sort(key=lambda entry: entry.stat().st_mtime_ns)
        for entry in entries[: len(entries) - keep]:
            if entry.name not in in_use:
                os.unlink(entry.path)
    except OSError:
        return


def write_entry(folder: Path, sha256: str, document: Document) -> None:
    """Write one document into a cache."""
    facts = json.dumps([document.tree, document.refs, document.problems], separators=(",", ":"))
    write_checked(folder, f"{sha256}.{CACHE_FORM}", f"{facts}\n{document.marks_json}".encode())


def write_checked(folder: Path, name: str, body: bytes) -> None:
    """Write one cache entry so that a reader sees all of it or nothing."""
    folder.mkdir(mode=0o700, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=folder, prefix=".new-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(_checksum(body) + b"\n" + body)
        os.replace(temporary, folder / name)
    except BaseException:
        os.unlink(temporary)
        raise


def read_checked(path: Path) -> bytes | None:
    """The body of an entry; None when there is none, or a damaged one."""
    try:
        checksum, _, body = path.read_bytes().partition(b"\n")
    except OSError:
        return None
    return body if checksum == _checksum(body) else None


def _read_entry(path: Path) -> Document | None:
    body = read_checked(path)
    if body is None:
        return None
    facts, _, marks_json = body.decode().partition("\n")
    tree, refs, problems = json.loads(facts)
    return Document(tree, marks_json, tuple(refs), tuple((*found,) for found in problems))


def _checksum(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=16).hexdigest().encode()


def prebuild(library: Path, target: Path) -> int:
    """Parse every shipped file of `library` into cache entries under `target`, for the wheel and for a clone; returns
    how many there are. What was parsed before is kept, and what no file asks for any more goes.
    """
    sources = find_sources(library, (), library).sources
    contents = {hash_bytes(content): content for content in (Path(s.path).read_bytes() for s in sources)}
    names = {f"{sha256}.{CACHE_FORM}" for sha256 in contents}
    target.mkdir(exist_ok=True)
    for sha256, content in contents.items():
        if _read_entry(target / f"{sha256}.{CACHE_FORM}") is None:
            write_entry(target, sha256, parse_document(content))
    for entry in os.scandir(target):
        if entry.name in names:
            os.chmod(entry.path, 0o644)
        elif entry.name.endswith(f".{CACHE_FORM}"):
            os.unlink(entry.path)
    return len(sources)


def stat_signature(path: str) -> tuple[Any, ...]:
    """What changes when the file does: symlinks are followed, an absent file has a signature too."""
    try:
        found = os.stat(path)
    except OSError:
        return (path,)
    return (path, found.st_mtime_ns, found.st_size, found.st_ino, found.st_dev)
