"""Gateways as processes: started in a home and a configuration folder of their own, looked at from outside."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
FORMATS = {
    "openai-chat": "siblings: {completions: openai-completions, embeddings: openai-embeddings}\n",
    "openai-completions": "",
    "openai-embeddings": "",
}


def write_config(folder: Path, gateway: str = "") -> Path:
    """A small configuration without the shipped files."""
    formats = folder / "providers.d" / "_formats"
    formats.mkdir(parents=True)
    for name, more in FORMATS.items():
        operation = name.removeprefix("openai-")
        text = f"format: {name}\noperation: {operation}\nframing: sse\npath: /{operation}\n{more}"
        (formats / f"{name}.yaml").write_text(text)
    file = folder / "gateway.yaml"
    file.write_text(f"include: {{builtin: false}}\nlimits: {{without_redis: divide}}\n{gateway}")
    write_provider(folder, "first")
    return file


def write_provider(folder: Path, name: str, more: str = "") -> Path:
    file = folder / "providers.d" / f"{name}.yaml"
    text = (
        f"provider: {name}\nformat: openai-chat\nbase_url: https://{name}.example.org/v1\nauth: none\n{more}"
    )
    beside = file.with_suffix(".new")
    beside.write_text(text)
    beside.replace(file)
    return file


class RunningGateway:
    """A started process. Reads its stderr all the time, so that it never blocks on it."""

    def __init__(
        self, folder: Path, home: Path, *arguments: str, environ: dict[str, str] | None = None
    ) -> None:
        command = [
            sys.executable,
            str(ROOT / "tests/serve/fake_gateway.py"),
            "-c",
            str(folder / "gateway.yaml"),
        ]
        inherited = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG")}
        given = {"GATEWAYZ_HOME": str(home), "PYTHONPATH": str(ROOT), **(environ or {})}
        self.home, self.folder = home, folder
        self.process = subprocess.Popen(
            [*command, *arguments], env=inherited | given, stderr=subprocess.PIPE, text=True, cwd=folder
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.url = ""

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)
        self.process.stderr.close()

    @property
    def text(self) -> str:
        return "".join(self.lines)

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    def await_ready(self) -> "RunningGateway":
        wait_until(lambda: self._find_url() or self.process.poll() is not None, 60, lambda: self.text)
        assert self.url, self.text
        return self

    def _find_url(self) -> bool:
        found = re.search(r"gatewayz \S+ on (http://\S+)", self.text)
        self.url = found[1] if found else ""
        return bool(found)

    def get(self, path: str = "/", method: str = "GET") -> tuple[int, dict]:
        request = urllib.request.Request(self.url + path, method=method)
        try:
            with urllib.request.urlopen(request, timeout=20) as response:
                return response.status, json.loads(response.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read())

    def worker_pids(self) -> set[int]:
        return {worker["pid"] for worker in self.get("/admin/config")[1]["workers"]}

    def children(self) -> set[int]:
        """All processes below the supervisor."""
        return descendants(self.pid)

    def open_stream(self) -> socket.socket:
        stream = socket.create_connection(("127.0.0.1", self.port))
        stream.sendall(b"GET /stream HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"token" in stream.recv(200) + stream.recv(200)
        return stream

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def await_exit(self, within_s: float = 15) -> int:
        code = self.process.wait(within_s)
        self._reader.join(5)
        return code

    def stop(self) -> None:
        below = self.children()
        self.process.kill()
        self.process.wait(10)
        for pid in below:
            if "python" in read_command(pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not {pid for pid in below if is_alive(pid)}, 10, lambda: f"left: {below}")
        self._reader.join(5)


def wait_until(fact, within_s, explain=lambda: ""):
    deadline = time.monotonic() + within_s
    while not fact():
        assert time.monotonic() < deadline, f"not within {within_s} s {explain()}"
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def read_command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except (FileNotFoundError, ProcessLookupError):
        return ""


def descendants(pid: int) -> set[int]:
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue
            parents.setdefault(parent, []).append(int(entry.name))
    found, todo = set(), [pid]
    while todo:
        for child in parents.get(todo.pop(), []):
            found.add(child)
            todo.append(child)
    return found


def read_all(stream: socket.socket) -> bytes:
    stream.settimeout(10)
    received = b""
    while data := stream.recv(65536):
        received += data
    return received
