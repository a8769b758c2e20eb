"""The workers that should be there, and are there again when one dies."""

import asyncio
import logging
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from engine.serve.children import WORKER_COMMAND, WorkerProcess
from engine.serve.control import Answer, Facts, LineClosed

if TYPE_CHECKING:
    from engine.config.reload import Manifest

log = logging.getLogger(__name__)

LOAD_WITHIN_S = 15.0
DIED_AT_ONCE_S = 5.0
LONGEST_PAUSE_S = 5.0
FIRST_STARTS = 3
PULSE_S = 5.0
PULSE_WITHIN_S = 30.0
"""A worker whose loop answers nothing for so long is stuck, and another takes its place."""
LEAVE_GRACE_S = 10.0


class WorkersFailed(Exception):
    """No worker ever became ready; each wrote its reason to stderr."""


class Fleet:
    """`count` slots, each with a live worker. `describe_start` says what a worker is told when it is born."""

    def __init__(
        self,
        answers: Callable[[WorkerProcess], Mapping[str, Answer]],
        describe_start: Callable[[], Facts],
        note_end: Callable[[WorkerProcess], None],
        command: Sequence[str] = WORKER_COMMAND,
    ) -> None:
        self.workers: list[WorkerProcess] = []
        self.restarts = 0
        self.gate = asyncio.Event()
        """Opened when the database is there; no worker accepts connections before."""
        self._listening: Sequence[socket.socket] = ()
        self._answers = answers
        self._describe_start = describe_start
        self._note_end = note_end
        self._command = command
        self._born = 0
        self._stopping = False
        self._finish_s = 0.0
        self._slots: list[asyncio.Task[None]] = []
        self._retired: dict[WorkerProcess, asyncio.Event] = {}
        self._ready: list[asyncio.Event] = []
        self._failed_starts = 0
        self._last_fault = ""

    def spawn(self) -> WorkerProcess:
        """A process that begins to import what a worker needs; a slot brings it up."""
        self._born += 1
        worker = WorkerProcess(self._born, self._command)
        self.workers.append(worker)
        self._retired[worker] = asyncio.Event()
        return worker

    async def start(self, count: int, listening: Sequence[socket.socket], finish_s: float) -> None:
        """Fill every slot and wait until all are ready. Raises WorkersFailed."""
        loop = asyncio.get_running_loop()
        self._listening, self._finish_s = listening, finish_s
        self._ready = [asyncio.Event() for _ in range(count)]
        early = list(self.workers)
        for slot in range(count):
            self._slots.append(loop.create_task(self._keep_slot(slot, early.pop() if early else None)))
        all_ready = loop.create_task(self._await_ready())
        done, _ = await asyncio.wait({all_ready, *self._slots}, return_when=asyncio.FIRST_COMPLETED)
        all_ready.cancel()
        for finished in done:
            finished.result()

    async def _await_ready(self) -> None:
        for ready in self._ready:
            await ready.wait()

    async def spread(self, manifest: "Manifest", revision: str) -> None:
        """Give every worker this configuration; one that does not take it is replaced."""
        await asyncio.gather(*(self._load(worker, manifest, revision) for worker in self.serving()))

    def serving(self) -> list[WorkerProcess]:
        return [worker for worker in self.workers if worker.serves and not worker.leaving]

    def retire(self, worker: WorkerProcess) -> None:
        """Let another worker take this one's place while it finishes its calls."""
        if worker in self._retired and not worker.leaving:
            worker.leaving = True
            worker.tell("drain", announce_s=0, finish_s=self._finish_s)
            self._retired[worker].set()

    async def drain(self, announce_s: float, finish_s: float) -> None:
        """Every worker finishes its calls and leaves; one that does not is killed."""
        self._stopping = True
        for worker in self.workers:
            worker.leaving = True
            if worker.serves:
                worker.tell("drain", announce_s=announce_s, finish_s=finish_s)
            else:
                worker.process.kill()
        self.gate.set()
        await self._await_end(announce_s + finish_s + LEAVE_GRACE_S)

    def hurry(self) -> None:
        """Do not wait any longer for calls to finish."""
        for worker in self.workers:
            worker.tell("hurry")

    async def kill(self) -> None:
        """End what is left, at once."""
        self._stopping = True
        for worker in self.workers:
            worker.leaving = True
            worker.process.kill()
        self.gate.set()
        await self._await_end(LEAVE_GRACE_S)
        for worker in list(self.workers):
            await worker.ended()
            self._forget(worker)

    # One slot

    async def _keep_slot(self, slot: int, worker: WorkerProcess | None) -> None:
        pause_s = 0.0
        while not self._stopping:
            worker = worker or self.spawn()
            if await self._bring_up(worker, slot):
                self._ready[slot].set()
            elif not any(event.is_set() for event in self._ready):
                self._count_failed_start()
            await self._await_gap(worker)
            if self._stopping:
                return
            self.restarts += 1
            lived_s = time.monotonic() - worker.born_at
            pause_s = 0.0 if lived_s > DIED_AT_ONCE_S else min(max(pause_s * 2, 0.1), LONGEST_PAUSE_S)
            worker = None
            await asyncio.sleep(pause_s)

    async def _bring_up(self, worker: WorkerProcess, slot: int) -> bool:
        try:
            facts = self._describe_start()
            await worker.start(self._listening, self._answers(worker), {**facts, "number": slot})
            await self.gate.wait()
            await worker.accept()
            # A reload may have come while it started.
            while (facts := self._describe_start())["revision"] != worker.revision:
                await worker.load(facts["manifest"], LOAD_WITHIN_S)
        except LineClosed as error:
            self._last_fault = str(error)
            if not self._stopping:
                log.error("worker %d (pid %d) did not start: %s", worker.number, worker.pid, error)
            worker.process.kill()
            return False
        log.info("worker %d (pid %d) serves revision %s", worker.number, worker.pid, worker.revision)
        return True

    async def _await_gap(self, worker: WorkerProcess) -> None:
        """Until the slot needs another worker: this one has died, or leaves while another comes."""
        loop = asyncio.get_running_loop()
        ending = loop.create_task(self._bury(worker))
        retired = loop.create_task(self._retired[worker].wait())
        pulse = loop.create_task(self._watch_pulse(worker))
        await asyncio.wait({ending, retired}, return_when=asyncio.FIRST_COMPLETED)
        retired.cancel()
        pulse.cancel()
        if not ending.done():
            self._slots.append(ending)
            loop.call_later(self._finish_s + LEAVE_GRACE_S, self._kill_straggler, worker)

    async def _watch_pulse(self, worker: WorkerProcess) -> None:
        while worker.serves and not worker.leaving:
            await asyncio.sleep(PULSE_S)
            try:
                await worker.feel_pulse(PULSE_WITHIN_S)
            except LineClosed as error:
                if worker.serves and not worker.leaving:
                    log.error("worker %d (pid %d) is stuck: %s", worker.number, worker.pid, error)
                    worker.process.kill()

    async def _bury(self, worker: WorkerProcess) -> None:
        code = await worker.ended()
        if not worker.leaving and not self._stopping:
            log.error("worker %d (pid %d) ended with %d", worker.number, worker.pid, code)
        self._forget(worker)

    def _forget(self, worker: WorkerProcess) -> None:
        if worker in self.workers:
            self._note_end(worker)
            self.workers.remove(worker)
            self._retired.pop(worker, None)

    def _kill_straggler(self, worker: WorkerProcess) -> None:
        if worker.process.poll() is None:
            worker.process.kill()

    def _count_failed_start(self) -> None:
        self._failed_starts += 1
        if self._failed_starts >= FIRST_STARTS:
            raise WorkersFailed(f"no worker became ready in {FIRST_STARTS} attempts: {self._last_fault}")

    async def _load(self, worker: WorkerProcess, manifest: "Manifest", revision: str) -> None:
        try:
            await worker.load(manifest, LOAD_WITHIN_S)
        except LineClosed as error:
            log.error(
                "worker %d (pid %d) did not take the configuration: %s", worker.number, worker.pid, error
            )
            self.retire(worker)
        else:
            if worker.revision != revision:
                log.error("worker %d (pid %d) built another revision", worker.number, worker.pid)
                self.retire(worker)

    async def _await_end(self, within_s: float) -> None:
        if self._slots:
            _, late = await asyncio.wait(self._slots, timeout=within_s)
            for worker in list(self.workers) if late else ():
                worker.process.kill()
            if late:
                await asyncio.wait(late, timeout=LEAVE_GRACE_S)
