"""The whole gateway's metrics: every worker's numbers, merged and rendered here, off every request loop.

At most once a second; who asks meanwhile gets the same text. The counters of a worker that is gone stay in.
"""

import asyncio
import time
from collections.abc import Callable

from engine.serve.children import WorkerProcess
from engine.serve.control import LineClosed
from engine.telemetry.metrics import Dump, keep_counters, merge_dumps, render_dump

FRESH_S = 1.0
ANSWER_WITHIN_S = 2.0


class Scrape:
    """`list_workers` gives who to ask, `dump_own` what the supervisor itself counts."""

    def __init__(self, list_workers: Callable[[], list[WorkerProcess]], dump_own: Callable[[], Dump]) -> None:
        self._list_workers = list_workers
        self._dump_own = dump_own
        self._gone: Dump = {}
        self._text = b""
        self._at = -FRESH_S
        self._reading: asyncio.Task[bytes] | None = None

    async def read(self) -> bytes:
        """The Prometheus text."""
        if time.monotonic() - self._at < FRESH_S:
            return self._text
        if self._reading is None or self._reading.done():
            self._reading = asyncio.get_running_loop().create_task(self._read_all())
        return await asyncio.shield(self._reading)

    def keep_last(self, worker: WorkerProcess) -> None:
        """A worker has ended: its last known counters must not vanish from the sums."""
        if worker.last_dump is not None:
            self._gone = merge_dumps([self._gone, keep_counters(worker.last_dump)])

    async def _read_all(self) -> bytes:
        dumps = await asyncio.gather(*(self._read_one(worker) for worker in self._list_workers()))
        gone = [self._gone] if self._gone else []
        everything = [dump for dump in dumps if dump is not None] + gone + [self._dump_own()]
        self._text = await asyncio.to_thread(lambda: render_dump(merge_dumps(everything)))
        self._at = time.monotonic()
        return self._text

    async def _read_one(self, worker: WorkerProcess) -> Dump | None:
        try:
            return await worker.read_metrics(ANSWER_WITHIN_S)
        except LineClosed:
            return keep_counters(worker.last_dump) if worker.last_dump is not None else None
