"""Which processes are PostgreSQL servers on a data folder, and what a dead one left behind.

A process is known by its working directory: every process of a server stands in its data folder. A pid
alone says nothing, since pids are used again.
"""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

_PID_FILES = ("postmaster.pid", ".s.PGSQL.5432.lock")
_FAST_SHUTDOWN_S = 5.0
_BACKENDS_LEAVE_S = 1.0


def read_pid(file: Path) -> int | None:
    """The pid on the first line of a server's lock file."""
    try:
        first = file.read_text(errors="replace").partition("\n")[0].strip()
    except FileNotFoundError:
        return None
    return int(first) if first.isdigit() else None


def list_server_pids(data: Path) -> list[int]:
    """Every living process of a server on this data folder."""
    if sys.platform == "linux":
        return [int(name) for name in os.listdir("/proc") if name.isdigit() and _stands_in(int(name), data)]
    pid = read_pid(data / "postmaster.pid")
    return [pid] if pid and _command_names(pid, data) else []


def _stands_in(pid: int, data: Path) -> bool:
    try:
        here = os.stat(f"/proc/{pid}/cwd")
        there = os.stat(data)
        name = Path(f"/proc/{pid}/comm").read_text().strip()
        dead = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return False
    return (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino) and name == "postgres" and not dead


def _command_names(pid: int, data: Path) -> bool:
    shown = subprocess.run(
        ["ps", "-p", str(pid), "-o", "command="], capture_output=True, text=True, check=False
    )
    return "postgres" in shown.stdout and str(data) in shown.stdout


async def end_leftovers(data: Path) -> None:
    """End what an earlier gateway's server left running. Only the holder of the home's lock may call this."""
    pids = list_server_pids(data)
    if not pids:
        return
    postmaster = read_pid(data / "postmaster.pid")
    headless = postmaster not in pids
    if postmaster is not None and not headless:
        _send(postmaster, signal.SIGINT)
    patience = _BACKENDS_LEAVE_S if headless else _FAST_SHUTDOWN_S
    if not await _wait_gone(data, patience):
        for pid in list_server_pids(data):
            _send(pid, signal.SIGKILL)
        await _wait_gone(data, _BACKENDS_LEAVE_S)


async def _wait_gone(data: Path, within_s: float) -> bool:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within_s
    while list_server_pids(data):
        if loop.time() > deadline:
            return False
        await asyncio.sleep(0.01)
    return True


def remove_stale_pid_files(data: Path) -> None:
    """Remove lock files whose pid is not a server on this folder: PostgreSQL takes any living pid for one."""
    alive = set(list_server_pids(data))
    for name in _PID_FILES:
        file = data / name
        if file.exists() and read_pid(file) not in alive:
            file.unlink()


def _send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
