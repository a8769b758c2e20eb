"""Which door a path leads to, and what is said where there is none."""

from collections.abc import MutableMapping
from typing import Any

import orjson
import pytest

from engine.config.networks import Networks
from engine.errors import KeyRefused
from engine.http.identifiers import CallIds
from engine.http.inference import InferenceDoors, OpenCalls, Visit
from engine.http.respond import respond_json
from engine.http.routes import Routes
from tests.routing.things import make_snapshot


async def show(scope: Any, receive: Any, send: Any) -> None:
    await respond_json(send, 200, {"path": scope["path"]})


async def show_named(scope: Any, receive: Any, send: Any, name: str) -> None:
    await respond_json(send, 200, {"name": name})


async def refuse(scope: Any, receive: Any, send: Any) -> None:
    raise KeyRefused("no")


async def break_down(scope: Any, receive: Any, send: Any) -> None:
    raise RuntimeError("the secret reason")


class Doors(InferenceDoors):
    """The doors of a hand-made snapshot; behind them the path is shown."""

    async def answer(self, visit: Visit, scope: Any, receive: Any, send: Any) -> None:
        await show(scope, receive, send)


class House:
    def __init__(self) -> None:
        self.bugs: list[tuple[str, str, Exception]] = []
        rooms: Any = None
        doors = Doors(rooms, make_snapshot, OpenCalls(), CallIds())
        self.routes = Routes(doors, report_bug=lambda *facts: self.bugs.append(facts))
        self.routes.add("GET", "/health", show)
        self.routes.add("GET", "/refused", refuse)
        self.routes.add("GET", "/broken", break_down)
        self.routes.add("POST", "/health", show)
        self.routes.add_named("GET", "/v1/models/", show_named)

    async def ask(self, method: str, path: str) -> tuple[int, dict[str, str], Any]:
        messages: list[MutableMapping[str, Any]] = []

        async def send(message: MutableMapping[str, Any]) -> None:
            messages.append(message)

        await self.routes({"type": "http", "method": method, "path": path, "headers": []}, None, send)
        head = {name.decode(): value.decode() for name, value in messages[0]["headers"]}
        return messages[0]["status"], head, orjson.loads(messages[1]["body"])


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/v1/chat/completions"), ("GET", "/health"), ("POST", "/health")]
)
async def test_an_exact_path_leads_to_its_endpoint(method: str, path: str) -> None:
    assert (await House().ask(method, path))[::2] == (200, {"path": path})


@pytest.mark.parametrize("name", ["gpt-4o", "openai/gpt-4o", "..", "../admin", "a b", "%2f"])
async def test_what_stands_behind_a_prefix_is_a_name_and_nothing_else(name: str) -> None:
    assert (await House().ask("GET", f"/v1/models/{name}"))[2] == {"name": name}


@pytest.mark.parametrize("path", ["/v1/models/", "/v1", "", "/", "/healthz/x", "/v1/chat/completions/x"])
async def test_where_nothing_is_there_is_a_404_with_an_id(path: str) -> None:
    status, headers, document = await House().ask("GET", path)
    assert (status, document["error"]["code"]) == (404, "endpoint_not_found")
    assert headers["x-request-id"] == document["request_id"] != ""


async def test_a_path_nearly_right_gets_the_right_one() -> None:
    _, _, document = await House().ask("POST", "/v1/chat/complete")
    assert "/v1/chat/completions" in document["error"]["message"]


async def test_a_long_path_is_not_echoed_whole() -> None:
    _, _, document = await House().ask("GET", "/" + "a" * 10_000)
    assert len(document["error"]["message"]) < 500


@pytest.mark.parametrize(
    ("method", "path", "allowed"), [("GET", "/v1/chat/completions", "POST"), ("PUT", "/health", "GET, POST")]
)
async def test_another_method_is_told_the_right_ones(method: str, path: str, allowed: str) -> None:
    status, headers, _ = await House().ask(method, path)
    assert (status, headers["allow"]) == (405, allowed)


@pytest.mark.parametrize("path", ["/v1/batches", "/v1/files/f_1", "/v1/realtime", "/mcp"])
async def test_what_is_not_built_says_so(path: str) -> None:
    status, _, document = await House().ask("POST", path)
    assert status == 501 and document["error"]["message"].endswith("is not built yet")


async def test_an_endpoints_refusal_is_answered_in_the_dialect() -> None:
    status, headers, document = await House().ask("GET", "/refused")
    assert (status, document["error"]["code"]) == (401, "invalid_api_key")
    assert headers["x-request-id"]


async def test_a_mistake_of_ours_is_reported_and_not_told() -> None:
    house = House()
    status, headers, document = await house.ask("GET", "/broken")
    assert status == 500 and "secret reason" not in str(document)
    ((path, request_id, bug),) = house.bugs
    assert (path, request_id, str(bug)) == ("/broken", headers["x-request-id"], "the secret reason")


async def show_client(scope: Any, receive: Any, send: Any) -> None:
    await respond_json(send, 200, {"client": scope["client"][0]})


@pytest.mark.parametrize(
    ("peer", "client"), [("10.0.0.1", "203.0.113.9"), ("192.0.2.1", "192.0.2.1")], ids=["proxy", "stranger"]
)
async def test_whom_a_trusted_proxy_saw_is_the_client_everywhere(peer: str, client: str) -> None:
    house = House()
    house.routes.trusted_proxies = Networks(["10.0.0.0/8"])
    house.routes.add("GET", "/client", show_client)
    scope = {
        "type": "http",
        "method": "GET",
        "path": "/client",
        "client": (peer, 5),
        "headers": [(b"x-forwarded-for", b"198.51.100.1, 203.0.113.9")],
    }
    sent: list[MutableMapping[str, Any]] = []

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    await house.routes(scope, None, send)
    assert orjson.loads(sent[1]["body"]) == {"client": client}
