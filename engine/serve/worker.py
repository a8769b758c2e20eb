"""A worker process: serves the socket it is handed until it is drained or its supervisor is gone.

It takes the configuration as a manifest of content hashes and never reads a changed file by itself, so that
all workers have the same one.
"""

import asyncio
import contextlib
import logging
import os
import resource
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, cast

import uvloop
from uvicorn.config import Config
from uvicorn.server import ServerState

from engine.config.reload import Loader, Manifest, Runtime
from engine.config.settings import Settings, read_environment, read_settings
from engine.errors import DependencyAway
from engine.http.admin import Control
from engine.serve.control import Facts, Line, LineClosed, open_line, receive_sockets
from engine.serve.memory import settle_memory
from engine.serve.protocol import ConnectionLimits, bind_limits, write_safe_head

if TYPE_CHECKING:
    from uvicorn._types import ASGI3Application

    from engine.config.snapshot import ServerSettings, Snapshot

log = logging.getLogger(__name__)

BACKLOG = 2048
ORPHAN_FINISH_S = 2.0
ORPHAN_WITHIN_S = 4.0
"""A worker whose supervisor was killed is gone after this, whatever hangs."""
CLOSE_WITHIN_S = 2.0
LOOK_S = 0.01
SPARE_DESCRIPTORS = 200
SWITCH_INTERVAL_S = 0.001
"""A thread that compiles a new configuration gives way to the event loop this often."""


class WorkerApp(Protocol):
    """What a worker drives."""

    def open_ports(self, count: int) -> "Sequence[Asgi]":
        """What each of the sockets serves: one everything; of two, the second administration."""

    async def start(self) -> None: ...
    def begin_drain(self) -> None:
        """`/health/ready` answers 503 from now on."""

    async def finish_calls(self, within_s: float) -> None:
        """Wait for the open calls; end in-band what is left after `within_s`."""

    async def stop(self) -> None:
        """Flush and close everything."""

    def swap(self, snapshot: "Snapshot") -> None: ...
    def dump_metrics(self) -> dict[str, Any]: ...


Asgi = Callable[..., Awaitable[None]]
CreateApp = Callable[[Settings, Runtime, Control, int], WorkerApp]


class SupervisorControl:
    """`Control` over the line."""

    def __init__(self) -> None:
        self.line: Line | None = None

    async def reload(self) -> tuple[int, dict[str, Any]]:
        answer = await self._ask("reload", 30.0)
        return answer["status"], answer["document"]

    async def config_state(self) -> dict[str, Any]:
        document: dict[str, Any] = (await self._ask("config", 5.0))["document"]
        return document

    async def metrics(self) -> bytes:
        text: str = (await self._ask("metrics", 10.0))["text"]
        return text.encode()

    async def _ask(self, op: str, within_s: float) -> Facts:
        try:
            answer = await self.line.ask(op, within_s) if self.line else {"fault": "not started"}
        except LineClosed as error:
            raise DependencyAway(f"The supervisor does not answer: {error}", retry_after_s=1) from error
        if "fault" in answer:
            raise DependencyAway(f"The supervisor could not answer: {answer['fault']}", retry_after_s=1)
        return answer


class Listener:
    """The HTTP server of a worker: open connections under the protocol's limits."""

    def __init__(self, asgi: Asgi, limits: ConnectionLimits) -> None:
        self._protocol = bind_limits(limits)
        self.config = Config(
            cast("ASGI3Application", asgi),
            http=self._protocol,
            ws="none",
            interface="asgi3",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
        )
        self.config.load()
        self.state = ServerState()
        self._server: asyncio.Server | None = None

    async def open(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        make = partial(self._protocol, self.config, self.state, {}, loop)
        self._server = await loop.create_server(make, sock=listening, backlog=BACKLOG)

    def close(self) -> None:
        """Accept nothing more; connections end with the answer that they are at."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for connection in list(self.state.connections):
            connection.shutdown()

    async def await_silence(self, within_s: float) -> None:
        """Wait until the last bytes of the last answers have left."""
        for _ in range(int(within_s / LOOK_S)):
            if not self.state.connections:
                return
            await asyncio.sleep(LOOK_S)


class Worker:
    """Answers the supervisor's questions; one per process."""

    def __init__(self, create_app: CreateApp, listening: Sequence[socket.socket]) -> None:
        self._create_app = create_app
        self._listening = listening
        self._listeners: list[Listener] = []
        self._control = SupervisorControl()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="config")
        self._left = asyncio.Event()
        self._hurried = asyncio.Event()
        self._draining = False

    async def run(self, line_end: socket.socket) -> None:
        answers = {
            "start": self._start,
            "accept": self._accept,
            "load": self._load,
            "metrics": self._dump_metrics,
            "drain": self._drain,
            "hurry": self._hurry,
            "pulse": self._show_pulse,
        }
        line = self._control.line = await open_line(line_end, answers)
        self._take_signals()
        listening = asyncio.get_running_loop().create_task(line.listen())
        leaving = asyncio.get_running_loop().create_task(self._left.wait())
        await asyncio.wait({listening, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not self._left.is_set():
            await self._leave_orphaned()

    # What the supervisor asks

    async def _start(self, facts: Facts) -> Facts:
        settings = read_settings(**facts["settings"])
        self.loader = Loader(settings, read_environment(), facts["overrides"])
        snapshot = await self._prepare(facts["manifest"], None)
        self.runtime = Runtime(snapshot)
        own = settings.model_copy(update={"database_url": facts["database_url"]})
        self.app = self._create_app(own, self.runtime, self._control, facts["number"])
        limits = connection_limits(snapshot.server)
        ports = self.app.open_ports(len(self._listening))
        self._listeners = [Listener(asgi, limits) for asgi in ports]
        await self.app.start()
        settle_memory()
        return {"pid": os.getpid(), "revision": snapshot.version}

    async def _accept(self, _: Facts) -> Facts:
        for listener, listening in zip(self._listeners, self._listening, strict=True):
            await listener.open(listening)
        return {}

    async def _load(self, facts: Facts) -> Facts:
        snapshot = await self._prepare(facts["manifest"], self.runtime.snapshot)
        self.app.swap(snapshot)
        return {"pid": os.getpid(), "revision": snapshot.version}

    async def _show_pulse(self, _: Facts) -> Facts:
        return {}

    async def _dump_metrics(self, _: Facts) -> Facts:
        return self.app.dump_metrics()

    async def _drain(self, facts: Facts) -> Facts:
        if not self._draining:
            self._draining = True
            await self._leave_drained(facts["announce_s"], facts["finish_s"])
        return {}

    async def _hurry(self, _: Facts) -> Facts:
        self._hurried.set()
        return {}

    # How a worker leaves

    async def _leave_drained(self, announce_s: float, finish_s: float) -> None:
        self.app.begin_drain()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._hurried.wait(), announce_s)
        for listener in self._listeners:
            listener.close()
        await self._finish_calls(finish_s)
        await asyncio.gather(*(listener.await_silence(CLOSE_WITHIN_S) for listener in self._listeners))
        await self.app.stop()
        self._left.set()

    async def _finish_calls(self, finish_s: float) -> None:
        loop = asyncio.get_running_loop()
        finishing = loop.create_task(self.app.finish_calls(finish_s))
        hurried = loop.create_task(self._hurried.wait())
        await asyncio.wait({finishing, hurried}, return_when=asyncio.FIRST_COMPLETED)
        hurried.cancel()
        if not finishing.done():
            finishing.cancel()
            await asyncio.wait({finishing})
            await self.app.finish_calls(0)

    async def _leave_orphaned(self) -> None:
        log.error("the supervisor is gone: this worker closes")
        asyncio.get_running_loop().call_later(ORPHAN_WITHIN_S, os._exit, 1)
        if hasattr(self, "app"):
            self._hurried.clear()
            await self._leave_drained(0, ORPHAN_FINISH_S)

    # Inside

    async def _prepare(self, manifest: Manifest, previous: "Snapshot | None") -> "Snapshot":
        prepare = partial(self.loader.prepare, manifest, previous, run_examples=False)
        return await asyncio.get_running_loop().run_in_executor(self._thread, prepare)

    def _take_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        loop.add_signal_handler(signal.SIGTERM, self._leave_on_signal)

    def _leave_on_signal(self) -> None:
        line = self._control.line
        if line is not None and hasattr(self, "app"):
            # The supervisor knows the times and whether another worker is to take this one's place.
            line.tell("leaving")
        else:
            self._left.set()


def connection_limits(server: "ServerSettings") -> ConnectionLimits:
    return ConnectionLimits(
        header_s=server.header_s,
        body_s=server.body_s,
        keep_alive_s=server.keep_alive_s,
        max_connections=make_room_for(server.max_connections),
        safe_head=write_safe_head(server.hsts_s),
    )


def make_room_for(connections: int) -> int:
    """Let the process have a descriptor for each connection and as many for upstreams, as far as the system allows;
    how many connections there is room for."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * connections + SPARE_DESCRIPTORS
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return (
        connections
        if soft == resource.RLIM_INFINITY
        else max(1, min(connections, (soft - SPARE_DESCRIPTORS) // 2))
    )


def run_worker(descriptor: int, create_app: CreateApp) -> int:
    """Serve until told to leave; the process's exit code."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    line_end = socket.socket(fileno=descriptor)
    listening = receive_sockets(line_end)
    if not listening:
        return 1

    async def serve() -> None:
        await Worker(create_app, listening).run(line_end)

    uvloop.run(serve())
    return 0
