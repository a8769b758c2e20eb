"""A worker process whose application is small: the real supervisor, line, protocol and configuration around it."""

import asyncio
import json
import os
import sys
from pathlib import Path

from engine.errors import GatewayError
from engine.serve.worker import run_worker


class FakeApp:
    """Shows what it was given; `/stream` runs until the drain ends it in-band."""

    def __init__(self, settings, runtime, control, worker):
        self.settings, self.runtime, self.control, self.worker = settings, runtime, control, worker
        self.draining = False
        self.open_calls = 0
        self.ended = asyncio.Event()
        self.calls = 0

    def open_ports(self, count):
        return [self.asgi] * count

    async def start(self):
        if (self.settings.home / "fail-start").exists():
            raise RuntimeError("the application does not start")

    def begin_drain(self):
        self.draining = True

    async def finish_calls(self, within_s):
        deadline = asyncio.get_running_loop().time() + within_s
        while self.open_calls and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.01)
        self.ended.set()
        while self.open_calls:
            await asyncio.sleep(0.01)

    async def stop(self):
        with Path(self.settings.home, "stopped").open("a") as file:
            file.write(f"{os.getpid()}\n")

    def swap(self, snapshot):
        if (self.settings.home / "fail-swap").exists():
            raise RuntimeError("this worker takes nothing")
        self.runtime.swap(snapshot)

    def dump_metrics(self):
        return {
            "gatewayz_workers": [[[], 1]],
            "gatewayz_calls_total": [[["chat", "200"], self.calls]],
        }

    async def asgi(self, scope, receive, send):
        self.calls += 1
        self.open_calls += 1
        try:
            await self.answer(scope["path"], send)
        except GatewayError as error:
            await self.send_json(send, error.status, {"error": error.message})
        finally:
            self.open_calls -= 1

    async def answer(self, path, send):
        if path == "/stream":
            await self.stream(send)
        elif path == "/health/ready":
            await self.send_json(send, 503 if self.draining else 200, {})
        elif path == "/admin/config/reload":
            await self.send_json(send, *await self.control.reload())
        elif path == "/admin/config":
            await self.send_json(send, 200, await self.control.config_state())
        elif path == "/metrics":
            await self.send_json(send, 200, {"text": (await self.control.metrics()).decode()})
        else:
            await self.send_json(send, 200, self.describe())

    def describe(self):
        snapshot = self.runtime.snapshot
        return {
            "pid": os.getpid(),
            "worker": self.worker,
            "revision": snapshot.version,
            "providers": sorted(snapshot.providers),
            "workers": snapshot.server.workers,
            "max_body_bytes": snapshot.server.max_body_bytes,
            "database": self.settings.database_url,
            "simulator": self.settings.simulator_url,
        }

    async def stream(self, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while not self.ended.is_set():
            await send({"type": "http.response.body", "body": b"token ", "more_body": True})
            await asyncio.sleep(0.02)
        await send({"type": "http.response.body", "body": b"ended in-band", "more_body": False})

    async def send_json(self, send, status, document):
        body = json.dumps(document).encode()
        headers = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


if __name__ == "__main__":
    sys.exit(run_worker(int(sys.argv[1]), FakeApp))
