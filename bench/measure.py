"""CPU and memory of a process tree, read from /proc, and one run of the load generator against a port."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import time
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parent.parent
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_PROC = pathlib.Path("/proc")


@dataclasses.dataclass(frozen=True, slots=True)
class Usage:
    """Of a whole tree. `cpu_s` counts descendants that ended, and the database, which is shown apart too.

    `worker_mib` is the resident size of the largest process, the others are proportional shares.
    """

    cpu_s: float
    database_cpu_s: float
    worker_mib: float
    memory_mib: float
    database_mib: float
    processes: int


def read_stat(pid: int) -> tuple[str, int, float] | None:
    """(command, parent, CPU seconds of it and of its reaped children); None when it has ended."""
    try:
        text = (_PROC / str(pid) / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    name, _, rest = text.partition("(")[2].rpartition(")")
    fields = rest.split()
    return name, int(fields[1]), sum(map(int, fields[11:15])) * _TICK_S


def read_memory_mib(pid: int) -> tuple[float, float]:
    """(resident, proportional share): only shares may be summed, forks would count common pages twice."""
    found = {"Rss": 0.0, "Pss": 0.0}
    try:
        for line in (_PROC / str(pid) / "smaps_rollup").read_text().splitlines():
            name, _, rest = line.partition(":")
            if name in found:
                found[name] = int(rest.split()[0]) / 1024
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        pass
    return found["Rss"], found["Pss"]


def find_tree(root: int, marker: str | None = None) -> dict[int, str]:
    """pid -> command of `root`, of those that name `marker` (daemons), and of their descendants."""
    stats = {int(entry.name): read_stat(int(entry.name)) for entry in _PROC.iterdir() if entry.name.isdigit()}
    parents = {pid: stat[1] for pid, stat in stats.items() if stat}
    roots = {root} | ({pid for pid in parents if names(pid, marker)} - {os.getpid()} if marker else set())
    found = {}
    for pid in parents:
        above = pid
        while above and above not in roots:
            above = parents.get(above, 0)
        stat = stats[pid]
        if above and stat:
            found[pid] = stat[0]
    return found


def names(pid: int, marker: str) -> bool:
    try:
        return marker.encode() in (_PROC / str(pid) / "cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False


def measure_tree(root: int, marker: str | None = None) -> Usage:
    tree = find_tree(root, marker)
    cpu = {pid: stat[2] for pid in tree if (stat := read_stat(pid))}
    memory = {pid: read_memory_mib(pid) for pid in tree}
    database = {pid for pid, name in tree.items() if name == "postgres"}
    own = set(tree) - database
    return Usage(
        cpu_s=sum(cpu.values()),
        database_cpu_s=sum(cpu.get(pid, 0) for pid in database),
        worker_mib=round(max((memory[pid][0] for pid in own), default=0), 1),
        memory_mib=round(sum(memory[pid][1] for pid in own), 1),
        database_mib=round(sum(memory[pid][1] for pid in database), 1),
        processes=len(tree),
    )


def run_load(plan: dict[str, Any]) -> dict[str, Any]:
    """Run the load generator in its own process and return its figures."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.load"], input=json.dumps(plan), cwd=ROOT, capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(f"the load generator failed: {done.stderr[-2000:]}")
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


def measure_load(plan: dict[str, Any], root: int | None, marker: str | None = None) -> dict[str, Any]:
    """The load's figures with the tree's CPU per call. Work put off until after the answer is waited for."""
    before = measure_tree(root, marker) if root else None
    figures = run_load(plan)
    if root and before:
        time.sleep(0.4)
        after = measure_tree(root, marker)
        calls = max(figures["calls"], 1)
        figures["cpu_us"] = round((after.cpu_s - before.cpu_s) * 1e6 / calls, 1)
        figures["database_cpu_us"] = round((after.database_cpu_s - before.database_cpu_s) * 1e6 / calls, 1)
        figures["cpu_share"] = round((after.cpu_s - before.cpu_s) / max(figures["seconds"], 0.001), 3)
        figures["worker_mib"] = after.worker_mib
    return figures
