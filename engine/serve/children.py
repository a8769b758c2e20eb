"""Child processes of the supervisor: how they are started, found dead and ended.

Children live in sessions of their own, so that Ctrl-C in a terminal reaches the supervisor alone, which ends
them in the right order. They inherit no descriptor but the one they are given.
"""

import asyncio
import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from engine.serve.control import Answer, Facts, Line, LineClosed, hand_over_sockets, open_line

if TYPE_CHECKING:
    from engine.config.reload import Manifest

WORKER_COMMAND = (sys.executable, "-m", "engine.worker")
SIMULATOR_COMMAND = (sys.executable, "-m", "engine.upstream.simulator", "--with-parent", "--fd")
START_WITHIN_S = 60.0
DEATH_POLL_S = 0.05
PR_SET_PDEATHSIG = 1


def spawn_worker(command: Sequence[str], descriptor: int) -> subprocess.Popen[bytes]:
    """A child whose last argument is the number of the descriptor that it inherits."""
    return subprocess.Popen(
        [*command, str(descriptor)], pass_fds=[descriptor], stdin=subprocess.DEVNULL, start_new_session=True
    )


def spawn_simulator(descriptor: int) -> subprocess.Popen[bytes]:
    """The simulator on a listening socket. It has no line to us: Linux ends it when this thread is gone."""
    with warnings.catch_warnings():
        # Python 3.12 warns of a fork beside threads; between fork and exec runs one system call and no lock.
        warnings.simplefilter("ignore", DeprecationWarning)
        return subprocess.Popen(
            [*SIMULATOR_COMMAND, str(descriptor)],
            pass_fds=[descriptor],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=die_with(os.getpid()),
        )


def die_with(parent: int) -> Callable[[], None] | None:
    """What a child does first, so that it never outlives its parent."""
    if sys.platform != "linux":
        return None
    set_option = ctypes.CDLL(None).prctl

    def arrange() -> None:
        set_option(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(1)

    return arrange


async def await_death(process: subprocess.Popen[bytes]) -> int:
    """The exit code, whenever it comes. Costs nothing meanwhile where the system has process descriptors."""
    if process.poll() is None and hasattr(os, "pidfd_open"):
        await _await_descriptor(os.pidfd_open(process.pid))
    while process.poll() is None:  # noqa: ASYNC110 - where there are no process descriptors, nobody tells
        await asyncio.sleep(DEATH_POLL_S)
    return process.returncode


async def _await_descriptor(descriptor: int) -> None:
    """Until the process of the descriptor has ended."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(descriptor, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


async def await_exit(process: subprocess.Popen[bytes], within_s: float) -> bool:
    """Whether the process ended in time."""
    deadline = time.monotonic() + within_s
    while process.poll() is None:
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.01)
    return True


async def end_child(process: subprocess.Popen[bytes], within_s: float) -> None:
    """Ask the child to end, then make it."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        if not await await_exit(process, within_s):
            process.kill()
            await await_exit(process, 5.0)


class WorkerProcess:
    """One worker: it imports what it needs once it is spawned, and serves after `start` and `accept`."""

    def __init__(self, number: int, command: Sequence[str] = WORKER_COMMAND) -> None:
        self.number = number
        self.born_at = time.monotonic()
        self.revision: str | None = None
        self.last_dump: dict[str, Any] | None = None
        self.line: Line | None = None
        self.leaving = False
        """It was told to go; its end is no accident."""
        self._end, theirs = socket.socketpair()
        with theirs:
            self.process = spawn_worker(command, theirs.fileno())
        self._listening: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def serves(self) -> bool:
        return self.revision is not None and self.line is not None and not self.line.closed.is_set()

    async def start(
        self, listening: Sequence[socket.socket], answers: Mapping[str, Answer], facts: Facts
    ) -> None:
        """Hand over the sockets and the configuration. Raises LineClosed when it does not become ready."""
        try:
            hand_over_sockets(self._end, listening)
        except OSError as error:
            raise LineClosed("the worker ended while it was loading") from error
        self.line = await open_line(self._end, answers)
        self._listening = asyncio.get_running_loop().create_task(self.line.listen())
        answer = await self.line.ask("start", START_WITHIN_S, **facts)
        self._note_revision(answer)

    async def accept(self) -> None:
        """From now on the worker takes connections."""
        await self._ask("accept", START_WITHIN_S)

    async def load(self, manifest: "Manifest", within_s: float) -> None:
        """Let the worker take another configuration. Raises LineClosed when it did not."""
        self._note_revision(await self._ask("load", within_s, manifest=manifest))

    async def read_metrics(self, within_s: float) -> dict[str, Any]:
        self.last_dump = await self._ask("metrics", within_s)
        return self.last_dump

    async def feel_pulse(self, within_s: float) -> None:
        """Raises LineClosed when the worker's loop does not turn."""
        await self._ask("pulse", within_s)

    def tell(self, op: str, **facts: Any) -> None:
        if self.line is not None:
            self.line.tell(op, **facts)

    async def ended(self) -> int:
        """Wait until the process is gone; its exit code (negative: the signal).

        A worker that closed its line but stays is made to go.
        """
        if self.line is not None:
            await self.line.closed.wait()
            if not await await_exit(self.process, 10.0):
                self.process.kill()
        code = await await_death(self.process)
        if self._listening is not None:
            await self._listening
        else:
            self._end.close()
        return code

    async def _ask(self, op: str, within_s: float, **facts: Any) -> Facts:
        if self.line is None:
            raise LineClosed(f"{op}: the worker has not started")
        answer = await self.line.ask(op, within_s, **facts)
        if "fault" in answer:
            raise LineClosed(f"{op}: {answer['fault']}")
        return answer

    def _note_revision(self, answer: Facts) -> None:
        if "revision" not in answer:
            raise LineClosed(f"the worker did not take the configuration: {answer.get('fault')}")
        self.revision = answer["revision"]
