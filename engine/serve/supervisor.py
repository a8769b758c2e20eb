"""The process that people start: it owns the port, the embedded database, the simulator and the workers.

It reads and checks the configuration once for all, and forwards what changes. It serves no request itself, so
that nothing it does can delay one.
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from engine import __version__
from engine.config.reload import ConfigWatch, Loader
from engine.config.settings import Settings
from engine.secret import Secret
from engine.serve.children import (
    WORKER_COMMAND,
    WorkerProcess,
    await_death,
    end_child,
    spawn_simulator,
)
from engine.serve.control import Answer, Facts
from engine.serve.fleet import Fleet
from engine.serve.reloading import Reloader
from engine.serve.scrape import Scrape
from engine.serve.state import EMBEDDED, State
from engine.storage.embedded import take_home
from engine.storage.home import HomeLock, prepare_home, write_private

if TYPE_CHECKING:
    from engine.config.snapshot import ServerSettings, Snapshot
    from engine.telemetry.metrics import Dump

log = logging.getLogger(__name__)

PID_FILE = "gatewayz.pid"
BIND_WITHIN_S = 2.0
"""The workers of a gateway that was killed close its port within this."""
SIMULATOR_PAUSE_S = 0.5


class ServeRefused(Exception):
    """The gateway cannot start; the message is one sentence for a person."""


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """What `gatewayz serve` was given, and how its children are started."""

    settings: Settings
    environ: Mapping[str, str]
    server: Mapping[str, Any] = field(default_factory=dict)
    """host, port, workers: these go over gateway.yaml."""
    worker_command: Sequence[str] = WORKER_COMMAND


class Supervisor:
    """Runs until a signal tells it to leave. `say` shows a line to whoever started it."""

    def __init__(self, options: ServeOptions, say: Callable[[str], None]) -> None:
        self._options = options
        self._say = say
        self._leave = asyncio.Event()
        self._hurry = asyncio.Event()
        self._home = prepare_home(options.settings.home)
        self._lock = HomeLock(self._home)
        self._state = State(self._home, self._lock, options.settings.keyring)
        self._fleet = Fleet(self._list_answers, self._describe_start, self._note_end, options.worker_command)
        self._scrape = Scrape(lambda: [w for w in self._fleet.workers if w.serves], self._dump_own)
        self._listening: list[socket.socket] = []
        """The public port, and administration's when it has its own."""
        self._simulator: subprocess.Popen[bytes] | None = None
        self._simulator_socket: socket.socket | None = None
        self._polling: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[Any]] = set()

    async def run(self) -> None:
        """From start to drained. Raises ServeRefused, ConfigRefused, StorageRefused or WorkersFailed."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._leave_on_signal)
        loop.add_signal_handler(signal.SIGINT, self._leave_on_signal)
        loop.add_signal_handler(signal.SIGHUP, self._reload_on_signal)
        async with contextlib.AsyncExitStack() as exits:
            await take_home(self._lock)
            exits.callback(self._lock.release)
            write_private(self._home, PID_FILE, f"{os.getpid()}\n".encode())
            exits.callback((self._home / PID_FILE).unlink, missing_ok=True)
            exits.push_async_callback(self._state.close)
            exits.push_async_callback(self._end_simulator)
            exits.push_async_callback(self._fleet.kill)
            exits.callback(self._cancel_tasks)
            if await self._finish_unless_left(self._start()):
                await self._leave.wait()
            if self._fleet.serving():  # also when others of them were still starting
                await self._drain()

    # Start

    async def _start(self) -> None:
        self._fleet.spawn()
        if self._options.settings.database_url is None and (self._state.exists or self._will_embed()):
            self._state.start_early()
        snapshot = await self._load_config()
        refuse_shared_limits(snapshot)
        self._state.choose(snapshot.settings.database.url)
        server = snapshot.server
        for host, port in ((server.host, server.port), *([server.admin] if server.admin else [])):
            self._listening.append(await bind_port(host, port))
        self._start_simulator()
        key, _ = await asyncio.gather(
            self._open_state(snapshot),
            self._fleet.start(server.workers, self._listening, server.finish_s),
        )
        self._polling = self._spawn_task(self._reloader.poll(ConfigWatch(self._loader).changed))
        self._greet(server, key)

    def _will_embed(self) -> bool:
        """Whether gateway.yaml says nothing of a database: then one is made while the rest is still being read."""
        try:
            return b"database" not in self._options.settings.config_path.read_bytes()
        except FileNotFoundError:
            return True
        except OSError:
            return False

    async def _open_state(self, snapshot: "Snapshot") -> Secret | None:
        key = await self._state.open(is_embedded(snapshot))
        self._fleet.gate.set()
        return key

    async def _load_config(self) -> "Snapshot":
        """Load once; a second time only when the simulator turns out to be wanted otherwise than guessed."""
        wanted = self._options.settings.database_url is None
        snapshot = await self._load_with_simulator(wanted)
        if wants_simulator(snapshot) != wanted:
            snapshot = await self._load_with_simulator(not wanted)
        return snapshot

    async def _load_with_simulator(self, wanted: bool) -> "Snapshot":
        if wanted and self._simulator_socket is None:
            self._simulator_socket = await bind_port("127.0.0.1", 0)
        elif not wanted and self._simulator_socket is not None:
            self._simulator_socket.close()
            self._simulator_socket = None
        settings = self._options.settings.model_copy(
            update={"home": self._home, "simulator_url": self._simulator_url}
        )
        overrides = {"server": dict(self._options.server)} if self._options.server else {}
        self._loader = Loader(settings, self._options.environ, overrides)
        self._reloader = Reloader(self._loader)
        self._reloader.spread = self._spread
        return await self._reloader.load_first()

    @property
    def _simulator_url(self) -> str | None:
        if self._simulator_socket is None:
            return None
        return f"http://127.0.0.1:{self._simulator_socket.getsockname()[1]}"

    def _start_simulator(self) -> None:
        if self._simulator_socket is not None:
            self._simulator_socket.listen(4096)
            self._spawn_task(self._keep_simulator())

    async def _keep_simulator(self) -> None:
        assert self._simulator_socket is not None
        while True:
            self._simulator = spawn_simulator(self._simulator_socket.fileno())
            code = await await_death(self._simulator)
            log.error("the simulator ended with %d: starting it again", code)
            await asyncio.sleep(SIMULATOR_PAUSE_S)

    def _greet(self, server: "ServerSettings", key: Secret | None) -> None:
        url = write_url(server.host, self._listening[0])
        count = f"{server.workers} worker{'s' if server.workers > 1 else ''}"
        revision = self._reloader.snapshot.version[:12]
        if key is not None:
            self._say(f"admin key: {key.reveal()}")
        self._say(f"gatewayz {__version__} on {url} (pid {os.getpid()}, {count}, configuration {revision})")
        if server.admin is not None:
            self._say(f"administration on {write_url(server.admin[0], self._listening[1])}")
        if self._simulator_socket is not None:
            self._say(write_example(url, key))

    # Leave

    async def _drain(self) -> None:
        server = self._reloader.snapshot.server
        log.info("leaving: open calls may finish for %g s", server.finish_s)
        if self._polling is not None:
            self._polling.cancel()
        loop = asyncio.get_running_loop()
        closing = loop.call_later(server.announce_s, self._close_port)
        draining = loop.create_task(self._fleet.drain(server.announce_s, server.finish_s))
        hurried = loop.create_task(self._hurry.wait())
        await asyncio.wait({draining, hurried}, return_when=asyncio.FIRST_COMPLETED)
        if not draining.done():
            log.warning("leaving at once: open calls are ended")
            self._close_port()
            self._fleet.hurry()
        await draining
        hurried.cancel()
        closing.cancel()
        self._close_port()

    def _close_port(self) -> None:
        for listening in self._listening:
            listening.close()

    def _spawn_task(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _cancel_tasks(self) -> None:
        for task in list(self._tasks):
            task.cancel()

    async def _end_simulator(self) -> None:
        if self._simulator is not None:
            await end_child(self._simulator, 1.0)
        if self._simulator_socket is not None:
            self._simulator_socket.close()

    def _leave_on_signal(self) -> None:
        (self._hurry if self._leave.is_set() else self._leave).set()

    async def _finish_unless_left(self, work: Coroutine[Any, Any, None]) -> bool:
        """Whether the work was done before a signal said to leave."""
        loop = asyncio.get_running_loop()
        working, leaving = loop.create_task(work), loop.create_task(self._leave.wait())
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        leaving.cancel()
        if working.done():
            working.result()
            return True
        working.cancel()
        await asyncio.wait({working})
        return False

    # What workers are told and may ask

    def _describe_start(self) -> Facts:
        settings = self._options.settings
        return {
            "settings": {
                "config": str(settings.config) if settings.config else None,
                "home": str(self._home),
                "simulator_url": self._simulator_url,
            },
            "overrides": {"server": dict(self._options.server)} if self._options.server else {},
            "database_url": self._state.url,
            "manifest": self._reloader.manifest,
            "revision": self._reloader.snapshot.version,
        }

    def _list_answers(self, worker: WorkerProcess) -> Mapping[str, Answer]:
        async def leave(_: Facts) -> Facts:
            self._fleet.retire(worker)
            return {}

        return {
            "reload": self._answer_reload,
            "config": self._answer_config,
            "metrics": self._answer_metrics,
            "leaving": leave,
        }

    async def _answer_reload(self, _: Facts) -> Facts:
        status = await self._reloader.reload()
        return {"status": status, "document": self._describe_config()}

    async def _answer_config(self, _: Facts) -> Facts:
        return {"document": self._describe_config()}

    async def _answer_metrics(self, _: Facts) -> Facts:
        return {"text": (await self._scrape.read()).decode()}

    def _describe_config(self) -> dict[str, Any]:
        workers = [{"pid": worker.pid, "revision": worker.revision} for worker in self._fleet.serving()]
        return self._reloader.describe(workers)

    async def _spread(self) -> None:
        await self._fleet.spread(self._reloader.manifest, self._reloader.snapshot.version)

    def _reload_on_signal(self) -> None:
        if self._fleet.gate.is_set():
            self._spawn_task(self._reloader.reload())

    def _note_end(self, worker: WorkerProcess) -> None:
        self._scrape.keep_last(worker)

    def _dump_own(self) -> "Dump":
        return {"gatewayz_config_refusals_total": [[[], self._reloader.refusals]]}


def is_embedded(snapshot: "Snapshot") -> bool:
    return bool(snapshot.settings.database.url.reveal() == EMBEDDED)


def wants_simulator(snapshot: "Snapshot") -> bool:
    enabled = snapshot.settings.simulator.enabled
    return is_embedded(snapshot) if enabled == "auto" else bool(enabled)


def refuse_shared_limits(snapshot: "Snapshot") -> None:
    """Several workers that do not share their counters would let through a multiple of every limit."""
    settings = snapshot.settings
    if settings.redis.url.reveal() != "none":
        return
    in_force = [snapshot.default_policy, *(model.policy for model in snapshot.models.values())]
    limited = sorted({policy.name for policy in in_force if policy.limits})
    if limited and snapshot.server.workers > 1 and settings.limits.without_redis == "refuse":
        raise ServeRefused(
            f"the limits of policy {limited[0]} are counted in each worker: share them (`redis: URL` in gateway.yaml),"
            " write `limits: {without_redis: divide}` there to give each worker its part, or run one worker"
        )


async def bind_port(host: str, port: int) -> socket.socket:
    """The bound socket, not yet listening. A port that is just being left is waited for."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    deadline = time.monotonic() + BIND_WITHIN_S
    while True:
        listening = socket.socket(family)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        try:
            listening.bind((host, port))
        except OSError as error:
            listening.close()
            if time.monotonic() > deadline:
                raise ServeRefused(f"{host}:{port} cannot be listened on: {error.strerror}") from error
            await asyncio.sleep(0.1)
        else:
            return listening


def write_url(host: str, listening: socket.socket) -> str:
    """Where to reach a listening socket from this machine."""
    port = listening.getsockname()[1]
    host = "127.0.0.1" if host in ("0.0.0.0", "::", "") else host  # nosec B104 # compared
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def write_example(url: str, key: Secret | None) -> str:
    """A line to paste: it streams an answer from the simulator."""
    shown = key.reveal() if key is not None else "$GATEWAYZ_KEY"
    body = (
        '{"model":"sim/echo","stream":true,"messages":[{"role":"user","content":"Hello from the gateway"}]}'
    )
    return (
        f'try: curl -N {url}/v1/chat/completions -H "Authorization: Bearer {shown}"'
        f" -H 'Content-Type: application/json' -d '{body}'"
    )
