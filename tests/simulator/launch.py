"""Starts the simulator as its own process on a free port and talks to it over plain sockets."""

import contextlib
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

LIMIT_S = 10


@contextlib.contextmanager
def run_simulator(*more: str) -> Iterator[int]:
    """The port of a simulator that runs until the block ends."""
    command = [sys.executable, "-m", "engine.upstream.simulator", "--port", "0", *more]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            yield int(line.split("/v1")[0].rpartition(":")[2])
        finally:
            process.terminate()


def make_request(body: dict[str, Any] | bytes, path: str = "/v1/chat/completions", *headers: str) -> bytes:
    payload = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"POST {path} HTTP/1.1", "host: sim", f"content-length: {len(payload)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + payload


def make_chat(model: str, *, content: str = "hello there", **fields: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": content}], **fields}


@dataclass
class Heard:
    """Everything that came over one connection, and how that ended: fin, reset or open."""

    raw: bytes
    ended: str
    seconds: float

    @property
    def status(self) -> int:
        return int(self.raw.split(b" ", 2)[1])

    @property
    def head(self) -> bytes:
        return self.raw.partition(b"\r\n\r\n")[0]

    @property
    def body(self) -> bytes:
        return self.raw.partition(b"\r\n\r\n")[2]

    @property
    def chunks(self) -> bytes:
        """The body without its HTTP chunk framing; a last chunk that is cut counts with what came of it."""
        rest, joined = self.body, b""
        while rest:
            size, _, rest = rest.partition(b"\r\n")
            joined += rest[: int(size, 16)]
            rest = rest[int(size, 16) + 2 :]
        return joined

    @property
    def events(self) -> list[Any]:
        return [
            json.loads(line[6:])
            for line in self.chunks.splitlines()
            if line.startswith(b"data: {") and line.endswith(b"}")
        ]

    @property
    def text(self) -> str:
        deltas = (choice["delta"] for event in self.events for choice in event.get("choices", ()))
        return "".join(delta.get("content") or "" for delta in deltas)

    @property
    def whole(self) -> bool:
        return self.body.endswith(b"0\r\n\r\n")


def listen_to(port: int, request: bytes, *, quiet_s: float = 0.25, until: bytes | None = None) -> Heard:
    """Send a request and take what comes, until the end, `until`, or nothing for `quiet_s`."""
    began, raw, ended = time.monotonic(), b"", "open"
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(request)
        connection.settimeout(quiet_s)
        try:
            while (until is None or until not in raw) and time.monotonic() < began + LIMIT_S:
                piece = connection.recv(65536)
                if not piece:
                    ended = "fin"
                    break
                raw += piece
        except TimeoutError:
            ended = "open"
        except ConnectionResetError:
            ended = "reset"
    return Heard(raw, ended, time.monotonic() - began)


def fetch(port: int, path: str, method: str = "GET") -> Any:
    """A JSON document of the simulator's own."""
    heard = listen_to(
        port, f"{method} {path} HTTP/1.1\r\nhost: sim\r\nconnection: close\r\n\r\n".encode(), quiet_s=5
    )
    return json.loads(heard.body)
