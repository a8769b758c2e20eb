"""Traffic over raw sockets, one connection per call, and what a test looks at while it runs.

A client here knows exactly what it got: every byte, whether the answer was whole, and when it went away.
"""

import asyncio
import contextlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.harness import ADMIN_KEY, Gateway, Simulator, clean_environment

CHAT = "/v1/chat/completions"


@dataclass
class Answer:
    """What one client got. `status` 0: not even a status line."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    whole: bool = False
    seconds: float = 0.0

    @property
    def request_id(self) -> str:
        return self.headers.get("x-request-id", "")

    @property
    def text(self) -> str:
        return self.body.decode("utf-8", "replace")

    @property
    def done(self) -> bool:
        """Whole, good, and without an error in it: what a client counts as an answer."""
        if self.status != 200 or not self.whole or b'"error":' in self.body:
            return False
        return not self.headers["content-type"].startswith("text/event-stream") or b"[DONE]" in self.body

    def json(self) -> Any:
        return json.loads(self.body)


def write_request(
    port: int,
    model: str,
    *,
    key: str = ADMIN_KEY,
    text: str = "Tell me a story.",
    tags: str = "",
    **body: Any,
) -> bytes:
    doc = {"model": model, "messages": [{"role": "user", "content": text}], **body}
    data = json.dumps(doc).encode()
    lines = [
        f"POST {CHAT} HTTP/1.1",
        f"host: 127.0.0.1:{port}",
        f"authorization: Bearer {key}",
        "content-type: application/json",
        "connection: close",
        f"content-length: {len(data)}",
    ]
    if tags:
        lines.append(f"x-tags: {tags}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + data


async def ask(port: int, model: str, **options: Any) -> Answer:
    """One call from connecting to its end, however that comes."""
    return await exchange(port, write_request(port, model, **options))


async def ask_admin(port: int, path: str, method: str = "GET") -> Answer:
    """One request of an administrator."""
    head = f"{method} {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nauthorization: Bearer {ADMIN_KEY}"
    return await exchange(port, f"{head}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n".encode())


async def exchange(port: int, request: bytes) -> Answer:
    answer, began = Answer(), time.monotonic()
    received = bytearray()
    writer: asyncio.StreamWriter | None = None
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request)
        while piece := await reader.read(65536):
            received += piece
    except OSError:
        pass
    finally:
        if writer is not None:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
    answer.seconds = time.monotonic() - began
    read_answer(bytes(received), answer)
    return answer


def read_answer(received: bytes, answer: Answer) -> None:
    head, found, body = received.partition(b"\r\n\r\n")
    if not found:
        return
    status, *lines = head.decode("latin-1").split("\r\n")
    answer.status = int(status.split()[1])
    answer.headers = {
        name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)
    }
    if answer.headers.get("transfer-encoding") == "chunked":
        answer.body, answer.whole = read_chunks(body)
    else:
        answer.body = body
        answer.whole = len(body) == int(answer.headers.get("content-length", "-1"))


def read_chunks(body: bytes) -> tuple[bytes, bool]:
    pieces: list[bytes] = []
    while body:
        size, found, rest = body.partition(b"\r\n")
        if not found:
            break
        length = int(size, 16)
        if length == 0:
            return b"".join(pieces), True
        pieces.append(rest[:length])
        body = rest[length + 2 :]
    return b"".join(pieces), False


class Load:
    """Calls at a steady rate until it is stopped; every answer is kept with the moment it began."""

    def __init__(self, port: int, per_second: float, calls: Sequence[Mapping[str, Any]]) -> None:
        self.port, self.per_second, self.calls = port, per_second, calls
        self.answers: list[tuple[float, Mapping[str, Any], Answer]] = []
        self.late_s = 0.0
        """How late a call was sent at most: nearly as long as this process was held up itself."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._running: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "Load":
        self._running = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._running is not None
        self._running.cancel()
        await asyncio.gather(self._running, return_exceptions=True)
        await asyncio.gather(*self._tasks)

    async def _run(self) -> None:
        began, number = time.monotonic(), 0
        while True:
            number += 1
            task = asyncio.create_task(self._ask(self.calls[number % len(self.calls)]))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            due = began + number / self.per_second
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            self.late_s = max(self.late_s, time.monotonic() - due)

    async def _ask(self, call: Mapping[str, Any]) -> None:
        at = time.monotonic()
        self.answers.append((at, call, await ask(self.port, **call)))

    def failures(self, model: str) -> list[Answer]:
        return [answer for _, call, answer in self.answers if call["model"] == model and not answer.done]


def percentile(values: list[float], share: float) -> float:
    ranked = sorted(values)
    return ranked[min(int(len(ranked) * share), len(ranked) - 1)] if ranked else 0.0


def report(test: str, **figures: Any) -> None:
    """Figures for whoever runs with -s, and a line in CHAOS_FIGURES for those who keep them."""
    line = f"{test}: " + ", ".join(f"{name}={show(value)}" for name, value in figures.items())
    print(line)
    if path := os.environ.get("CHAOS_FIGURES"):
        with open(path, "a") as file:
            file.write(line + "\n")


def show(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


# What a gateway looks like from outside


def admin(gateway: Gateway, path: str, method: str = "GET", timeout: float = 30) -> httpx.Response:
    headers = {"authorization": f"Bearer {ADMIN_KEY}"}
    return httpx.request(method, gateway.url + path, headers=headers, timeout=timeout)


def read_gauges(gateway: Gateway) -> dict[str, float]:
    """Every sample of /metrics by its name with labels, as Prometheus writes them."""
    text = httpx.get(gateway.url + "/metrics", timeout=20).text
    pairs = (line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#"))
    return {name: float(value) for name, value in pairs}


def list_records(gateway: Gateway) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = []
    after: str | None = None
    while True:
        params = {"limit": "1000"} | ({"after": after} if after else {})
        page = httpx.get(
            f"{gateway.url}/admin/calls",
            params=params,
            headers={"authorization": f"Bearer {ADMIN_KEY}"},
            timeout=60,
        )
        assert page.status_code == 200, page.text
        records += page.json()["data"]
        if not page.json()["has_more"]:
            return records
        after = records[-1]["id"]


def wait_until(true: Callable[[], Any], within_s: float, what: str = "") -> float:
    """Seconds until `true()` was; fails when it does not become so in time."""
    began = time.monotonic()
    while not true():
        assert time.monotonic() - began < within_s, what or "it did not happen in time"
        time.sleep(0.02)
    return time.monotonic() - began


def list_processes() -> dict[int, tuple[int, str]]:
    """Living processes: pid -> (parent, command line)."""
    found = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
                command = Path(f"/proc/{name}/cmdline").read_bytes().replace(b"\0", b" ").decode()
                if fields[0] not in "ZX":
                    found[int(name)] = (int(fields[1]), command)
    return found


def list_family(pid: int) -> dict[int, str]:
    """A process's descendants with their command lines."""
    processes, family = list_processes(), {pid}
    while more := {child for child, (parent, _) in processes.items() if parent in family} - family:
        family |= more
    return {member: processes[member][1] for member in family - {pid} if member in processes}


def list_workers(gateway: Gateway) -> list[int]:
    family = list_family(gateway.process.pid)
    return sorted(pid for pid, command in family.items() if "engine.worker" in command)


def read_rss_mib(pid: int) -> float:
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) / 1024 if found else 0.0


def count_descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def read_cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def run_keys(gateway: Gateway, *arguments: str, **environ: str) -> dict[str, Any]:
    """`gatewayz keys ...` in the gateway's folder."""
    settings = clean_environment(GATEWAYZ_HOME=str(gateway.folder / "home"), **environ)
    done = subprocess.run(
        [sys.executable, "-m", "engine.cli", "keys", *arguments, "--format", "json"],
        cwd=gateway.folder,
        env=settings,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    shown: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1]) if done.stdout.strip() else {}
    return shown


def count_simulated(simulator: Simulator) -> dict[str, Any]:
    stats: dict[str, Any] = httpx.get(f"{simulator.url}/_sim/stats", timeout=20).json()
    return stats


def list_simulated(simulator: Simulator) -> list[dict[str, Any]]:
    """Every call that the simulator saw, over its pages."""
    calls: list[dict[str, Any]] = []
    after = 0
    while True:
        params = {"after": str(after), "limit": "2000"}
        page = httpx.get(f"{simulator.url}/_sim/calls", params=params, timeout=60).json()
        if not page["calls"]:
            return calls
        calls += page["calls"]
        after = calls[-1]["seq"]
