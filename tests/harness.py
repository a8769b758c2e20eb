"""Real processes for tests: the gateway as a user starts it, and the simulator as the only provider."""

import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import httpx

from tests.homes import furnish

ADMIN_KEY = "gw_test_9fQzL2vXk7RtB4mWc8YpJ3nHs6DgA1uEoTi5KxZqVwC"
READY_WITHIN_S = 60.0


def find_free_port() -> int:
    """Below those that the system gives to whoever connects, so that nobody has it before it is used."""
    while True:
        port = 11_000 + secrets.randbelow(20_000)
        with suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port


def clean_environment(**changes: str) -> dict[str, str]:
    """This process's environment without anything that a gateway would read."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not re.search(r"GATEWAYZ|DATABASE_URL|REDIS_URL|_API_KEY|PROXY", name, re.IGNORECASE)
    }
    return kept | changes


class Process:
    """A command that listens on a port; it answers `ready_path` before the test goes on."""

    def __init__(
        self, command: list[str], port: int, ready_path: str, folder: Path, environ: Mapping[str, str]
    ) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.port = port
        self.log_path = folder / f"{Path(command[-1]).name or 'process'}-{port}.log"
        self.log = self.log_path.open("wb")
        self.started = time.monotonic()
        self.process = subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=folder,
            env=dict(environ),
            stdout=self.log,
            stderr=self.log,
            start_new_session=True,
        )
        self.ready_path = ready_path

    def await_ready(self, within_s: float = READY_WITHIN_S) -> Self:
        while time.monotonic() - self.started < within_s:
            if self.process.poll() is not None:
                break
            try:
                if httpx.get(self.url + self.ready_path, timeout=2).status_code == 200:
                    self.ready_after_s = time.monotonic() - self.started
                    return self
            except httpx.TransportError:
                time.sleep(0.02)
        raise AssertionError(f"not ready: {self.log_path.read_text()[-4000:]}")

    def stop(self, within_s: float = 20.0) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(within_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        finally:
            self.log.close()
        return code

    def read_log(self) -> str:
        return self.log_path.read_text()


class Simulator(Process):
    def __init__(self, folder: Path) -> None:
        port = find_free_port()
        super().__init__(
            ["engine.cli", "simulate", "--port", str(port)], port, "/_sim/stats", folder, clean_environment()
        )

    def list_calls(self) -> list[dict[str, Any]]:
        calls: list[dict[str, Any]] = httpx.get(f"{self.url}/_sim/calls").json()["calls"]
        return calls

    def reset(self) -> None:
        httpx.delete(f"{self.url}/_sim/calls")


class Gateway(Process):
    """`gatewayz serve` in a folder of its own, with a home as a first start leaves it."""

    def __init__(self, folder: Path, *, workers: int = 1, port: int | None = None, **environ: str) -> None:
        port = port or find_free_port()
        self.folder = folder
        settings = {"GATEWAYZ_ADMIN_KEY": ADMIN_KEY, "GATEWAYZ_HOME": str(folder / "home")} | environ
        furnish(Path(settings["GATEWAYZ_HOME"]), database="DATABASE_URL" not in settings)
        command = ["engine.cli", "serve", "--port", str(port), "--workers", str(workers)]
        super().__init__(command, port, "/health/ready", folder, clean_environment(**settings))

    def client(self, **options: Any) -> httpx.Client:
        headers = {"authorization": f"Bearer {ADMIN_KEY}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=60, **options)

    def chat(self, model: str, **body: Any) -> httpx.Response:
        request = {"model": model, "messages": [{"role": "user", "content": "Tell me a story."}], **body}
        with self.client() as client:
            return client.post("/v1/chat/completions", json=request)

    def find_record(self, request_id: str, within_s: float = 5.0) -> dict[str, Any]:
        """The call record of one answer, as an administrator sees it."""
        until = time.monotonic() + within_s
        while time.monotonic() < until:
            with self.client() as client:
                page = client.get("/admin/calls", params={"limit": 1000}).json()
            for record in page["data"]:
                if request_id in (record["id"], record["request_id"]):
                    found: dict[str, Any] = record
                    return found
            time.sleep(0.05)
        raise AssertionError(f"no record of {request_id}")


def write_files(folder: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


@contextmanager
def running(*processes: Process) -> Iterator[None]:
    try:
        for process in processes:
            process.await_ready()
        yield
    finally:
        for process in reversed(processes):
            process.stop()


def read_events(text: str) -> list[Any]:
    """The data of each server-sent event; `[DONE]` stays text."""
    payloads = [block[5:].strip() for block in text.split("\n\n") if block.startswith("data:")]
    return [payload if payload == "[DONE]" else json.loads(payload) for payload in payloads]


def join_text(events: list[Any]) -> str:
    """All text of the first choice of a stream."""
    chunks = [event for event in events if isinstance(event, dict) and event.get("choices")]
    return "".join(chunk["choices"][0].get("delta", {}).get("content") or "" for chunk in chunks)
