"""No route lets anybody in by being forgotten: without a key each answers 401, but for those that are open to all."""

import re
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import Any

import orjson
import pytest

from engine.app import WorkerApp, create_worker_app
from engine.config.reload import Loader, Runtime
from engine.config.settings import read_settings
from engine.policies.access import PUBLIC
from tests.homes import lend_parsed_files


class NoControl:
    """A line to a supervisor that nobody may reach."""

    async def reload(self) -> tuple[int, dict[str, Any]]:
        raise AssertionError

    async def config_state(self) -> dict[str, Any]:
        raise AssertionError

    async def metrics(self) -> bytes:
        raise AssertionError


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[WorkerApp]:
    (tmp_path / "gateway.yaml").write_text("database: embedded\nredis: none\ntelemetry: {log_calls: false}\n")
    (tmp_path / "policies.d").mkdir()  # it asks more often than strangers may
    (tmp_path / "policies.d/edge.yaml").write_text("edge: default\nextends: default\nenabled: false\n")
    lend_parsed_files(tmp_path)
    loader = Loader(read_settings(home=tmp_path, config=tmp_path / "gateway.yaml"), {})
    snapshot = loader.prepare(loader.read(), run_examples=False)
    app = create_worker_app(loader.settings, Runtime(snapshot), NoControl(), 0)
    yield app
    app.log.close()


def list_routes(worker: WorkerApp) -> Iterator[tuple[str, str]]:
    routes = worker.asgi
    for path in routes.inference.list_paths():
        yield "POST", path.replace("{model}", "m")
    for path, methods in routes.exact.items():
        yield from ((method, path) for method in methods)
    yield from (
        (route.method, re.sub(r"\{\w+\}", "x", route.path)) for route in routes.declared if not route.public
    )
    for prefix, named in routes.prefixes.items():
        for method in named:
            yield method, f"{prefix}x"
            yield method, f"{prefix}x/api-keys"
    yield from (("GET", "/v1/responses/resp_1"), ("DELETE", "/v1/responses/resp_1"))
    yield from (("GET", "/v1beta/models"), ("GET", "/v1beta/models/m"))


async def ask(worker: WorkerApp, method: str, path: str, media_type: bytes) -> tuple[int, bytes]:
    sent: list[MutableMapping[str, Any]] = []

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.request", "body": b"{}", "more_body": False}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": b"",
        "headers": [(b"content-type", media_type)],
        "client": ("192.0.2.1", 1),
        "extensions": {},
    }
    await worker.asgi(scope, receive, send)
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:])


async def test_every_route_but_the_open_ones_asks_for_a_key(worker: WorkerApp) -> None:
    asked = [route for route in list_routes(worker) if route[1] not in PUBLIC]
    assert len(asked) > 40
    for method, path in asked:
        status, body = await ask(worker, method, path, b"application/json")
        if status == 415:  # it takes forms
            status, body = await ask(worker, method, path, b"multipart/form-data; boundary=b")
        assert status == 401, (method, path, status, orjson.loads(body))
