"""Files -> manifest -> snapshot, and the one assignment that puts a snapshot in force.

`Loader.read` finds and parses what changed and names it all in a Manifest (JSON, no secrets);
`Loader.prepare` makes the Snapshot of a manifest and may fail; `Runtime.swap` cannot. The supervisor does
both and sends the manifest to its workers, which only prepare: they take trees from the cache and compile
what changed.
"""

import hashlib
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, TypedDict

from engine.config.build import build_server
from engine.config.catalog import Catalog
from engine.config.code_cache import CodeCache
from engine.config.coverage import Trial, list_untouched
from engine.config.declared import DECLARED
from engine.config.entries import Entry, make_entry, make_gateway_entry
from engine.config.examples import run_examples
from engine.config.files import (
    DEFAULT_FOLDERS,
    Rank,
    Search,
    Source,
    TreeCache,
    find_library,
    find_sources,
    hash_bytes,
    read_source,
    stat_signature,
)
from engine.config.notes import Memo
from engine.config.references import Values
from engine.config.schema_gateway import GatewayFile
from engine.config.settings import Settings
from engine.config.snapshot import ServerSettings, Snapshot
from engine.config.things import Kind, Library, Thing, assemble, list_things
from engine.config.yamltree import NOTHING, Document
from engine.errors import ConfigRefused, Problem

KINDS_OF_THINGS: tuple[Kind, ...] = ("format", "policy", "provider", "model", "names", *DECLARED)
RESTART_ONLY = ("server", "database", "redis")
TELLING_NS = 50_000_000
"""Two changes of one file or folder that are closer than the file system's clock ticks have one time."""
_SIMULATOR_VARIABLE = "GATEWAYZ_SIMULATOR_URL"
_PROCESS_VARIABLES = frozenset({"DATABASE_URL", "REDIS_URL", _SIMULATOR_VARIABLE})
"""Differ from process to process of one gateway, so they are not part of the revision."""


class FileEntry(TypedDict):
    path: str
    name: str
    rank: Rank
    sha256: str


class Manifest(TypedDict):
    """All that a snapshot is made of, by content: what the supervisor tells its workers to load."""

    version: str
    folder: str
    files: list[FileEntry]
    problems: list[dict[str, Any]]
    server: dict[str, Any] | None
    """The server settings in force, once there is a snapshot: they need a restart to change."""


class Runtime:
    """Holds the snapshot in force. A call reads `snapshot` once, at the door."""

    __slots__ = ("snapshot",)

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot

    def swap(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot


class Loader:
    """Reads and prepares, and remembers what the next reload need not do again. One reload at a time."""

    def __init__(
        self,
        settings: Settings,
        environ: Mapping[str, str],
        overrides: Mapping[str, Any] | None = None,
        library: Path | None = None,
    ) -> None:
        """`overrides` go over gateway.yaml: `{"server": {"port": 8001}}` for --port."""
        self.settings = settings
        self.folder = settings.config_path.absolute().parent
        self._overrides = dict(overrides or {})
        self._library = library or find_library()
        self._environ = dict(environ)
        if settings.simulator_url:
            self._environ[_SIMULATOR_VARIABLE] = settings.simulator_url
        self._cache = TreeCache(settings.home / "cache", self._library / "cache")
        self._code = CodeCache(settings.home / "cache")
        self._documents: dict[str, Document] = {}
        self._things: dict[tuple[str, str], tuple[list[Thing], list[Problem]]] = {}
        self._memo = Memo()
        self._files: list[FileEntry] = []
        self._user_folders: list[str] = []
        self._listed = Search(self.folder, self._library)
        self._fresh = False
        """Something had changed so shortly before the last `read` that another change might not show."""
        self._server: ServerSettings | None = None
        self._catalog: Catalog | None = None
        self.signature: dict[str, tuple[Any, ...]] = {}
        """File or folder -> what stat said of it just before the last `read` read it."""
        self.warnings: tuple[Problem, ...] = ()
        """What the last `prepare` had to say beside problems."""

    def read(self) -> Manifest:
        """Find, hash and parse everything. What cannot be read is told by `prepare`, with the rest."""
        problems: list[Problem] = []
        began_ns = time.time_ns()
        gateway = str(self.settings.config_path)
        signature = {gateway: stat_signature(gateway)}
        files = self._read_gateway(problems)
        tree = self._documents[files[0]["sha256"]].tree if files else {}
        self._user_folders = self._list_folders(tree, problems)
        self._listed = self._find_sources()
        signature |= self._listed.signature
        signature |= {source.path: _sign_listed(source.path) for source in self._listed.sources}
        self._fresh = any(began_ns - sign[1] < TELLING_NS for sign in signature.values() if len(sign) > 1)
        found = [self._read_file(source, problems) for source in self._listed.sources]
        files += [entry for entry in found if entry is not None]
        self._forget_unused(files)
        return Manifest(
            version=self._hash_all(files, signature),
            folder=str(self.folder),
            files=files,
            problems=[asdict(problem) for problem in problems],
            server=asdict(self._server) if self._server is not None else None,
        )

    def _find_sources(self) -> Search:
        return find_sources(self.folder, self._user_folders, self._library)

    def _hash_all(self, files: list[FileEntry], signature: dict[str, tuple[Any, ...]]) -> str:
        """The revision: every byte that was read, and every value that was asked for."""
        values = Values(self._environ, self.folder)
        references = {inside for entry in files for inside in self._documents[entry["sha256"]].refs}
        total = hashlib.sha256()
        for entry in sorted(files, key=lambda entry: entry["name"]):
            total.update(f"{entry['name']}\0{entry['sha256']}\n".encode())
        for inside in sorted(references):
            if (path := values.path_of(inside)) is not None:
                signature[path] = stat_signature(path)
            if inside.partition(":-")[0] not in _PROCESS_VARIABLES:
                value = values.fingerprint(inside)
                total.update(f"{inside}\0{hash_bytes(value) if value is not None else '-'}\n".encode())
        self.signature = signature
        return total.hexdigest()

    def list_untouched(self, *, shipped: bool = False) -> list[Problem]:
        """Leaves of the provider files of the last `prepare` that no example touches: the user's, or the shipped."""
        if self._catalog is None:
            return []
        return [
            found
            for entry in self._catalog.list_entries("provider")
            if entry.thing.shipped is shipped
            for found in list_untouched(
                entry, Trial(self._catalog, Values(self._environ, self.folder), entry)
            )
        ]

    def is_stale(self, *, look_inside: bool) -> bool:
        """Whether a file or folder is not as the last `read` found it; `look_inside` compares the content
        too.
        """
        if any(stat_signature(path) != before for path, before in self.signature.items()):
            return True
        if not (look_inside or self._fresh):
            return False
        stale = self._is_content_stale()
        self._fresh = self._fresh and stale
        return stale

    def _is_content_stale(self) -> bool:
        """A file can be rewritten, and a folder changed, without its stat telling; a closer look tells."""
        if self._find_sources().sources != self._listed.sources:
            return True
        return any(hash_bytes(read_source(entry["path"], "")[0]) != entry["sha256"] for entry in self._files)

    def prepare(
        self, manifest: Manifest, previous: Snapshot | None = None, *, run_examples: bool
    ) -> Snapshot:
        """The snapshot of a manifest. Raises ConfigRefused with every problem; then nothing has changed."""
        if previous is not None and previous.version == manifest["version"]:
            return previous
        try:
            return self._prepare(manifest, previous, run_examples)
        finally:
            for document in self._documents.values():
                document.fold_marks()

    def _prepare(self, manifest: Manifest, previous: Snapshot | None, examples_too: bool) -> Snapshot:
        memo = Memo(self._memo)
        problems = [Problem(**problem) for problem in manifest["problems"]]
        values = Values(self._environ, Path(manifest["folder"]))
        library, gateway_thing = self._gather(manifest, memo, problems)
        gateway = make_gateway_entry(gateway_thing, values, self._overrides)
        problems += gateway.problems
        if gateway.spec is None:  # the rest is still worth judging
            absent = Thing("gateway", "", {}, NOTHING, (), gateway_thing.file, False)
            gateway = make_gateway_entry(absent, Values({}, self.folder), {})
        catalog = Catalog(gateway.spec, gateway, self.settings.simulator_url, memo, self._code)
        entries = self._make_entries(library, values, memo)
        catalog.compile(entries)
        problems += library.problems + catalog.problems
        if examples_too and not problems:
            problems += _run_all_examples(catalog, entries["provider"], memo)
        if problems:
            raise ConfigRefused(_sort(problems))
        return self._accept(manifest, previous, catalog, gateway, memo)

    def _accept(
        self, manifest: Manifest, previous: Snapshot | None, catalog: Catalog, gateway: Entry, memo: Memo
    ) -> Snapshot:
        warnings = list(catalog.warnings)
        settings, server = gateway.spec, build_server(gateway.spec.server)
        if manifest["server"] is not None:
            server = _keep_server(ServerSettings(**manifest["server"]), server, gateway, warnings)
        if previous is not None:
            settings = _keep_settings(previous.settings, settings, gateway, warnings)
        snapshot = Snapshot(
            version=manifest["version"],
            loaded_at=time.time(),
            server=server,
            models=catalog.models,
            names=catalog.names,
            naming=catalog.naming,
            providers=catalog.providers,
            policies=catalog.policies,
            formats=catalog.formats,
            doors=catalog.doors,
            surfaces=catalog.surfaces,
            settings=settings,
            things={kind: catalog.list_specs(kind) for kind in DECLARED},
            warnings=tuple(str(warning) for warning in _sort(warnings)),
        )
        memo.forget_before()
        self._memo, self._server = memo, server
        self._catalog = catalog
        self.warnings = tuple(_sort(warnings))
        return snapshot

    def _read_gateway(self, problems: list[Problem]) -> list[FileEntry]:
        path = self.settings.config_path
        if self.settings.config is None and not path.exists():
            return []
        entry = self._read_file(Source(str(path.absolute()), path.name, "gateway"), problems)
        return [entry] if entry is not None else []

    def _list_folders(self, tree: Mapping[str, Any], problems: list[Problem]) -> list[str]:
        """The user's folders, taken before anything is validated: what is wrong here is told later."""
        include = tree.get("include")
        folders = include.get("folders") if isinstance(include, dict) else None
        if not isinstance(folders, list):
            return list(DEFAULT_FOLDERS)
        names = [name for name in folders if isinstance(name, str) and name]
        for name in names:
            if name.rstrip("/") not in DEFAULT_FOLDERS and not (self.folder / name).is_dir():
                problems.append(
                    Problem(self.settings.config_path.name, 1, 1, "include.folders", f"no folder {name}")
                )
        return names

    def _read_file(self, source: Source, problems: list[Problem]) -> FileEntry | None:
        content, problem = read_source(source.path, source.name)
        if problem is not None:
            problems.append(problem)
            return None
        sha256 = hash_bytes(content)
        if sha256 not in self._documents:
            self._documents[sha256] = self._cache.load(sha256) or self._cache.parse(sha256, content)
        return FileEntry(path=source.path, name=source.name, rank=source.rank, sha256=sha256)

    def _forget_unused(self, files: list[FileEntry]) -> None:
        in_use = {entry["sha256"] for entry in files}
        self._documents = {sha256: found for sha256, found in self._documents.items() if sha256 in in_use}
        self._files = files
        self._cache.prune(in_use)

    def _gather(self, manifest: Manifest, memo: Memo, problems: list[Problem]) -> tuple[Library, Thing]:
        """All things of the manifest's files, and gateway.yaml as a thing of its own."""
        library = Library()
        gateway = Thing("gateway", "", {}, NOTHING, (), self.settings.config_path.name, False)
        for entry in manifest["files"]:
            source = Source(entry["path"], entry["name"], entry["rank"])
            document = self._find_document(entry)
            if source.rank == "gateway":
                problems += [Problem(source.name, *found) for found in document.problems]
                gateway = Thing("gateway", "", document.tree, document, (), source.name, False, document.refs)
                continue
            key = ("things", entry["sha256"], entry["name"], entry["rank"])
            things, wrong = memo.get(key, partial(list_things, document, source))
            library.add(things)
            problems += wrong
        in_use = {entry["sha256"] for entry in manifest["files"]}
        self._documents = {sha256: found for sha256, found in self._documents.items() if sha256 in in_use}
        include = gateway.tree.get("include")
        library.builtin = not isinstance(include, dict) or include.get("builtin") is not False
        return library, gateway

    def _find_document(self, entry: FileEntry) -> Document:
        """From memory, the cache, or the file itself while it still has that content."""
        sha256 = entry["sha256"]
        document = self._documents.get(sha256) or self._cache.load(sha256)
        if document is None:
            content, problem = read_source(entry["path"], entry["name"])
            if problem is not None or hash_bytes(content) != sha256:
                wrong = problem or Problem(entry["name"], 1, 1, "", "changed while it was being loaded")
                raise ConfigRefused([wrong])
            document = self._cache.parse(sha256, content)
        self._documents[sha256] = document
        return document

    def _make_entries(self, library: Library, values: Values, memo: Memo) -> dict[str, dict[str, Entry]]:
        entries: dict[str, dict[str, Entry]] = {}
        for kind in KINDS_OF_THINGS:
            entries[kind] = {}
            for thing in library.in_force(kind):
                chain, problem = library.follow(thing)
                read = tuple(values.fingerprint(inside) for link in chain for inside in link.refs)
                make = partial(_make_entry, chain, problem, values)
                entries[kind][thing.name] = memo.get(("entry", chain, read, problem), make)
        return entries


def _sign_listed(path: str) -> tuple[Any, ...]:
    """The signature of a file that a folder listed; of one that has vanished since, one that no look confirms."""
    return stat_signature(path) if os.path.lexists(path) else ()


def _make_entry(chain: tuple[Thing, ...], problem: Problem | None, values: Values) -> Entry:
    return make_entry(assemble(chain, problem), values)


def _run_all_examples(catalog: Catalog, entries: Mapping[str, Entry], memo: Memo) -> list[Problem]:
    problems: list[Problem] = []
    compiled = tuple(catalog.formats.values())
    for name, provider in catalog.providers.items():
        key = ("examples", provider, compiled)
        run = partial(run_examples, entries[name], provider, catalog.set_stage(entries[name]))
        problems += memo.get(key, run)
    return problems


def _keep_server(
    running: ServerSettings, wanted: ServerSettings, gateway: Entry, warnings: list[Problem]
) -> ServerSettings:
    if wanted != running:
        warnings.append(gateway.problem(("server",), "has changed and needs a restart; the old value stays"))
    return running


def _keep_settings(
    running: GatewayFile, wanted: GatewayFile, gateway: Entry, warnings: list[Problem]
) -> GatewayFile:
    for name in ("database", "redis"):
        if getattr(running, name) != getattr(wanted, name):
            warnings.append(gateway.problem((name,), "has changed and needs a restart; the old value stays"))
    return wanted.model_copy(update={name: getattr(running, name) for name in RESTART_ONLY})


def _sort(problems: Iterable[Problem]) -> list[Problem]:
    """By place, each once."""
    unique = dict.fromkeys(problems)
    return sorted(unique, key=lambda problem: (problem.file, problem.line, problem.column, problem.path))


class ConfigWatch:
    """Tells, once a second and for little, whether what was read is no longer what is there."""

    LOOK_INSIDE_EVERY = 10

    def __init__(self, loader: Loader) -> None:
        self._loader = loader
        self._asked = 0

    def changed(self) -> bool:
        """True until the next `Loader.read`."""
        self._asked += 1
        return self._loader.is_stale(look_inside=self._asked % self.LOOK_INSIDE_EVERY == 0)
