"""The configuration in force, as the supervisor keeps it: read, checked, spread to the workers, or refused.

One reload runs at a time; requests that come meanwhile share the one after it. A refused configuration
changes nothing but `last_refusal`, which stays until what is on disk is in force again.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from engine.errors import ConfigRefused, Problem

if TYPE_CHECKING:
    from engine.config.reload import Manifest
    from engine.config.snapshot import Snapshot

log = logging.getLogger(__name__)

POLL_S = 1.0

Document = dict[str, Any]


class ConfigLoader(Protocol):
    """What the supervisor needs of `engine.config.reload.Loader`."""

    def read(self) -> "Manifest": ...
    def prepare(
        self, manifest: "Manifest", previous: "Snapshot | None" = None, *, run_examples: bool
    ) -> "Snapshot": ...


class Reloader:
    """`spread` gives a manifest to every worker and returns when they have it."""

    def __init__(self, loader: ConfigLoader) -> None:
        self._loader = loader
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="config")
        self._next: asyncio.Future[tuple[int, list[Problem]]] | None = None
        self._running: asyncio.Task[None] | None = None
        self.spread: Callable[[], Awaitable[None]] | None = None
        self.snapshot: Snapshot
        self.manifest: Manifest
        self.loaded_at = datetime.now(UTC)
        self.refusals = 0
        self.last_refusal: Document | None = None

    async def load_first(self) -> "Snapshot":
        """The configuration to start with. Raises ConfigRefused."""
        self.manifest, self.snapshot = await self._run(self._read_and_prepare, None)
        self.loaded_at = datetime.now(UTC)
        return self.snapshot

    async def reload(self) -> int:
        """Read again and spread what changed: 200 when every worker has it, or 422."""
        if self._next is None:
            self._next = asyncio.get_running_loop().create_future()
            if self._running is None or self._running.done():
                self._running = asyncio.get_running_loop().create_task(self._serve_requests())
        status, _ = await asyncio.shield(self._next)
        return status

    async def poll(self, changed: Callable[[], bool]) -> None:
        """Reload whenever the files have changed. Runs until it is cancelled."""
        while True:
            await asyncio.sleep(POLL_S)
            if await asyncio.get_running_loop().run_in_executor(None, changed):
                await self.reload()

    async def _serve_requests(self) -> None:
        while self._next is not None:
            asked, self._next = self._next, None
            asked.set_result(await self._reload_once())

    async def _reload_once(self) -> tuple[int, list[Problem]]:
        try:
            manifest, snapshot = await self._run(self._read_and_prepare, self.snapshot)
        except ConfigRefused as refused:
            return 422, self._note_refusal(list(refused.problems))
        except Exception as error:
            # A border: whatever a reload meets, the gateway goes on with what it has.
            log.exception("the configuration could not be loaded")
            problem = Problem("", 0, 0, "", f"the configuration could not be loaded: {error}")
            return 422, self._note_refusal([problem])
        self.last_refusal = None
        if snapshot.version != self.snapshot.version:
            await self._take(manifest, snapshot)
        return 200, []

    async def _take(self, manifest: "Manifest", snapshot: "Snapshot") -> None:
        self.manifest, self.snapshot = manifest, snapshot
        self.loaded_at = datetime.now(UTC)
        for warning in snapshot.warnings:
            log.warning("configuration: %s", warning)
        if self.spread is not None:
            await self.spread()
        log.info("configuration %s is in force", snapshot.version[:12])

    def _note_refusal(self, problems: list[Problem]) -> list[Problem]:
        self.refusals += 1
        self.last_refusal = {
            "at": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "problems": [show_problem(problem) for problem in problems],
        }
        for problem in problems:
            log.error("configuration refused: %s", problem)
        return problems

    def _read_and_prepare(self, previous: "Snapshot | None") -> "tuple[Manifest, Snapshot]":
        manifest = self._loader.read()
        return manifest, self._loader.prepare(manifest, previous, run_examples=True)

    async def _run(
        self, work: "Callable[[Snapshot | None], tuple[Manifest, Snapshot]]", previous: "Snapshot | None"
    ) -> "tuple[Manifest, Snapshot]":
        return await asyncio.get_running_loop().run_in_executor(self._thread, partial(work, previous))

    def describe(self, workers: list[Document]) -> Document:
        """The document of GET /admin/config."""
        return {
            "revision": self.snapshot.version,
            "loaded_at": self.loaded_at.isoformat(timespec="milliseconds"),
            "workers": workers,
            "last_refusal": self.last_refusal,
            "warnings": list(self.snapshot.warnings),
        }


def show_problem(problem: Problem) -> Document:
    return {
        "file": problem.file,
        "line": problem.line,
        "column": problem.column,
        "path": problem.path,
        "message": problem.message,
    }
