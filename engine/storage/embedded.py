"""The embedded PostgreSQL: made, started, watched and stopped by the holder of the home's lock.

It listens on a socket inside its data folder only. That folder has mode 0700, and whoever can enter it (its
owner and root) can read the data files anyway: so connections on the socket are trusted and no password is
kept.
"""

import asyncio
import contextlib
import hashlib
import logging
import os
import signal
import stat
import subprocess
import tempfile
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg

from engine.storage.binaries import ServerUser, find_programs, make_reachable
from engine.storage.cluster import (
    DATABASE_USER,
    arrange_child,
    choose_server_user,
    create_database,
    fork_quietly,
    name_data_folder,
)
from engine.storage.home import Holder, HomeLock, open_private, prepare_home
from engine.storage.interfaces import HomeTaken, StorageRefused
from engine.storage.postmaster import end_leftovers, remove_stale_pid_files
from engine.storage.time_slices import lengthen_slices

log = logging.getLogger(__name__)

_LONGEST_SOCKET_FOLDER = 107 - len("/.s.PGSQL.5432")
_LOG_BYTES = 4 << 20
_START_WITHIN_S = 30.0
_COMMAND_WITHIN_S = 30.0
_NAME_STAYS_S = 0.2
_SLICE_S = 0.02

SERVER_SETTINGS = {
    "listen_addresses": "",
    "unix_socket_directories": ".",
    "unix_socket_permissions": "0700",
    "port": "5432",
    "max_connections": "100",
    "shared_buffers": "32MB",
    "max_wal_size": "256MB",
    "dynamic_shared_memory_type": "posix",
    "huge_pages": "off",
    "io_method": "sync",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_logical_replication_workers": "0",
    "max_parallel_workers": "0",
    "autovacuum_max_workers": "1",
    "statement_timeout": "60s",
    "idle_in_transaction_session_timeout": "60s",
    "log_min_messages": "warning",
    "log_checkpoints": "off",
}


class EmbeddedDatabase:
    """One server on GATEWAYZ_HOME/postgres.

    `start` belongs on a thread that lives as long as the server should: Linux ends the server when the
    thread that started it is gone, so that a killed gateway leaves no server behind.
    """

    def __init__(self, home: Path, *, role: str = "gateway", lock: HomeLock | None = None) -> None:
        self.home = prepare_home(home)
        self.data = self.home / "postgres"
        self.restarts = 0
        self._role = role
        self._lock = lock or HomeLock(self.home)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return locate_server(self.home)

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    async def start(self) -> str:
        """Take the lock, make the database when there is none, start the server; the URL when it answers."""
        await take_home(self._lock, self._role)
        try:
            await self._launch()
        except BaseException:
            await self.stop()
            raise
        return self.url

    async def stop(self) -> None:
        """Let those who are connected finish for a moment, stop the server, give the lock back."""
        process, self._process = self._process, None
        if process is not None:
            connected_s = _COMMAND_WITHIN_S if self._role == "command" else 1.0
            for number, within_s in (
                (signal.SIGTERM, connected_s),
                (signal.SIGINT, 10.0),
                (signal.SIGKILL, 5.0),
            ):
                if process.poll() is None:
                    process.send_signal(number)
                    await _wait_exit(process, within_s)
            _unlink_brief(self.data)
        self._lock.release()

    async def watch(self) -> None:
        """Start the server again whenever it is gone. Runs until it is cancelled."""
        pause_s, looks = 0.1, 0
        while True:
            await asyncio.sleep(0.1)
            if self._process is None or self._process.poll() is None:
                looks += 1
                if looks % 10 == 0:
                    # A cleaner of the temporary folder may have taken the short path away.
                    locate_server(self.home)
                continue
            log.error("the embedded database ended (exit %s): starting it again", self._process.returncode)
            try:
                await self._launch()
            except StorageRefused as error:
                log.error("the embedded database does not start: %s", error)
                await asyncio.sleep(pause_s := min(pause_s * 2, 5.0))
            else:
                self.restarts += 1
                pause_s = 0.1

    async def _launch(self) -> None:
        user = choose_server_user(self.home, self.data)
        if not (self.data / "PG_VERSION").exists():
            with ThreadPoolExecutor(1, thread_name_prefix="initdb") as thread:  # others go on meanwhile
                make = partial(create_database, self.home, self.data, user)
                await asyncio.get_running_loop().run_in_executor(thread, make)
        major = (self.data / "PG_VERSION").read_text().strip()
        programs = make_reachable(find_programs(major), user)
        deadline = asyncio.get_running_loop().time() + _START_WITHIN_S
        while True:
            await end_leftovers(self.data)
            remove_stale_pid_files(self.data)
            self._process = self._spawn(programs, user)
            if await self._wait_answer(deadline):
                return
            if asyncio.get_running_loop().time() > deadline:
                raise StorageRefused(f"the embedded database does not start: {self._read_log_end()}")
            await asyncio.sleep(0.1)

    def _spawn(self, programs: Path, user: ServerUser | None) -> subprocess.Popen[bytes]:
        settings = [part for name, value in SERVER_SETTINGS.items() for part in ("-c", f"{name}={value}")]
        command = [str(programs / "postgres"), "-D", name_data_folder(self.data, user), *settings]
        flags = os.O_WRONLY | os.O_APPEND
        log_file = self.home / "postgres.log"
        if log_file.exists() and log_file.stat().st_size > _LOG_BYTES:
            flags |= os.O_TRUNC
        descriptor = open_private(self.home, log_file, flags)
        try:
            with fork_quietly():
                process = subprocess.Popen(
                    command, stdout=descriptor, stderr=descriptor, **arrange_child(self.data, user)
                )
            lengthen_slices(process.pid, _SLICE_S)
            return process
        finally:
            os.close(descriptor)

    async def _wait_answer(self, deadline: float) -> bool:
        assert self._process is not None
        loop = asyncio.get_running_loop()
        while self._process.poll() is None:
            connection = await connect_now(self.url)
            if connection is not None:
                await connection.close()
                return True
            if loop.time() > deadline:
                self._process.kill()
                await _wait_exit(self._process, 5.0)
                return False
            await asyncio.sleep(0.01)
        return False

    def _read_log_end(self) -> str:
        lines = (self.home / "postgres.log").read_text(errors="replace").strip().splitlines()
        return " | ".join(lines[-3:])


async def take_home(lock: HomeLock, role: str = "gateway") -> None:
    """Take the home's lock. Waits for a command at work; a gateway is never waited for (HomeTaken names its
    pid).
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _COMMAND_WITHIN_S
    first_seen: tuple[Holder | None, float] = (None, 0.0)
    while not lock.try_take(role):
        holder = lock.read_holder()
        if holder != first_seen[0]:
            first_seen = (holder, loop.time())
        # A name that stays: one just taken may still show its dead holder's.
        if holder and holder.role == "gateway" and loop.time() - first_seen[1] > _NAME_STAYS_S:
            raise HomeTaken(
                f"a gateway with pid {holder.pid} already runs on {lock.home}: "
                "stop it or set another GATEWAYZ_HOME",
                holder.pid,
            )
        if loop.time() > deadline:
            raise StorageRefused(
                f"{lock.home} is held by {f'pid {holder.pid}' if holder else 'another process'}"
            )
        await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def borrow_embedded(home: Path) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    """A connection for a command: to the server that runs, else to one that lives as long as the command.

    The connection is open from the first moment, and a server that a command started is stopped only when
    nobody is connected: so two commands at once never take each other's server away.
    """
    home = prepare_home(home)
    lock = HomeLock(home)
    started: EmbeddedDatabase | None = None
    deadline = asyncio.get_running_loop().time() + _COMMAND_WITHIN_S
    while (connection := await connect_now(locate_server(home))) is None:
        if lock.try_take("command"):
            started = EmbeddedDatabase(home, role="command", lock=lock)
            await started.start()
        elif asyncio.get_running_loop().time() > deadline:
            holder = lock.read_holder()
            raise StorageRefused(f"the database of {home} does not answer (its lock is held by {holder})")
        else:
            await asyncio.sleep(0.02)
    try:
        async with connection:
            yield connection
    finally:
        if started is not None:
            await started.stop()


async def connect_now(url: str) -> psycopg.AsyncConnection[Any] | None:
    """A connection, or None when no server answers there at this moment."""
    try:
        async with asyncio.timeout(3):
            return await psycopg.AsyncConnection.connect(url, prepare_threshold=None)
    except (psycopg.OperationalError, TimeoutError):
        return None


def locate_server(home: Path) -> str:
    """The URL of the home's server. A path too long for a socket gets a link in the temporary folder."""
    data = home / "postgres"
    if _is_too_long(data):
        data = _link_briefly(data)
    return f"postgresql://{DATABASE_USER}@/postgres?host={quote(str(data), safe='')}&port=5432"


def _is_too_long(data: Path) -> bool:
    return len(os.fsencode(data)) > _LONGEST_SOCKET_FOLDER


def _name_short_folder(data: Path) -> Path:
    mark = hashlib.sha256(os.fsencode(data)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"gatewayz-{os.geteuid()}-{mark}"


def _link_briefly(data: Path) -> Path:
    folder = _name_short_folder(data)
    link = folder / "db"
    for _ in range(10):  # a server that stops at this moment takes the link away
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        try:
            found = folder.lstat()
            if found.st_uid != os.geteuid() or not stat.S_ISDIR(found.st_mode) or found.st_mode & 0o077:
                break
            link.symlink_to(data)
        except FileNotFoundError:
            continue
        except FileExistsError:
            pass
        return link
    raise StorageRefused(f"{folder} was not made by this user: remove it")


def _unlink_brief(data: Path) -> None:
    if _is_too_long(data):
        folder = _name_short_folder(data)
        with contextlib.suppress(OSError):
            (folder / "db").unlink()
            folder.rmdir()


async def _wait_exit(process: subprocess.Popen[bytes], within_s: float) -> None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within_s
    while process.poll() is None and loop.time() < deadline:  # noqa: ASYNC110 - a child tells nobody
        await asyncio.sleep(0.005)
