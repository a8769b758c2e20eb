"""A declared route checks who asks and what is asked before its endpoint sees anything."""

from collections.abc import MutableMapping
from typing import Any

import orjson
import pytest

from engine.call import Caller
from engine.config.schema_base import Strict
from engine.errors import NotFound
from engine.http.endpoints import Answer, Ask, Route
from engine.policies.access import Need
from engine.policies.identity import Identity
from tests.http.test_routes import House

KEY = "gw_test_" + "k" * 43


class Keys:
    def find(self, key_text: str) -> Caller | None:
        return Caller("key_1", "user_1", scopes=frozenset({"read"})) if key_text == KEY else None

    async def fetch(self, key_text: str) -> Caller:
        raise AssertionError


class Query(Strict):
    limit: int = 10


class Body(Strict):
    name: str


async def show(ask: Ask) -> Answer:
    body = ask.body.name if ask.body else None
    facts = {"user": ask.caller.user_id, "names": dict(ask.names), "body": body, "limit": ask.query.limit}
    return Answer(facts, 201, ((b"x-more", b"1"),))


async def show_raw(ask: Ask) -> Answer:
    return Answer(ask.raw[::-1], media_type=b"text/plain")


def make_house() -> House:
    house = House()
    house.routes.identity = Identity(Keys(), None)
    house.routes.declare(
        Route("GET", "/things/{thing_id}", show, "Show one.", query=Query, need=Need("read")),
        Route("GET", "/things/special", show, "Show the special one.", query=Query, need=Need("read")),
        Route("POST", "/things/{thing_id}/parts", show, "Add.", query=Query, body=Body, need=Need("read")),
        Route("DELETE", "/things/{thing_id}", show, "Drop one.", query=Query, need=Need("admin")),
        Route("GET", "/unlisted", show, "Nobody said who may.", query=Query),
        Route("POST", "/hook", show_raw, "Told by others.", takes_raw=True, public=True, most_bytes=8),
    )
    return house


async def ask(
    method: str, path: str, body: bytes = b"", query: bytes = b"", key: str = KEY
) -> tuple[int, Any, dict[str, str]]:
    messages: list[MutableMapping[str, Any]] = []

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: MutableMapping[str, Any]) -> None:
        messages.append(message)

    headers = [(b"content-type", b"application/json"), (b"authorization", f"Bearer {key}".encode())]
    scope = {"type": "http", "method": method, "path": path, "headers": headers, "query_string": query}
    await make_house().routes(scope, receive, send)
    head = {name.decode(): value.decode() for name, value in messages[0]["headers"]}
    content = messages[1]["body"]
    document = orjson.loads(content) if head["content-type"] == "application/json" else content
    return messages[0]["status"], document, head


async def test_names_of_the_path_query_and_body_arrive_checked() -> None:
    status, document, head = await ask("POST", "/things/t%201/parts", b'{"name": "n"}', b"limit=3")
    assert (status, head["x-more"]) == (201, "1")
    assert document == {"user": "user_1", "names": {"thing_id": "t 1"}, "body": "n", "limit": 3}


async def test_a_path_without_names_goes_before_one_with() -> None:
    assert (await ask("GET", "/things/special"))[1]["names"] == {}


async def test_a_name_is_one_piece_of_the_path() -> None:
    assert (await ask("GET", "/things/a/b"))[0] == 404


@pytest.mark.parametrize("name", ["%00", "a" * 301])
async def test_a_name_that_nothing_can_have_is_not_found(name: str) -> None:
    assert (await ask("GET", f"/things/{name}"))[0] == 404


@pytest.mark.parametrize(
    ("method", "path", "body", "query", "status"),
    [
        ("POST", "/things/t/parts", b"{}", b"", 400),
        ("POST", "/things/t/parts", b'{"name": "n", "more": 1}', b"", 400),
        ("POST", "/things/t/parts", b"[]", b"", 400),
        ("POST", "/things/t/parts", b"nothing", b"", 400),
        ("GET", "/things/t", b"", b"limit=many", 400),
        ("GET", "/things/t", b"", b"other=1", 400),
        ("GET", "/things/t", b"", b"limit=1&limit=2", 400),
        ("PATCH", "/things/t", b"", b"", 405),
        ("DELETE", "/things/t", b"", b"", 403),
        ("GET", "/unlisted", b"", b"", 403),
        ("POST", "/hook", b"123456789", b"", 413),
    ],
)
async def test_what_is_wrong_is_refused_before_the_endpoint(
    method: str, path: str, body: bytes, query: bytes, status: int
) -> None:
    assert (await ask(method, path, body, query))[0] == status


async def test_who_has_no_key_learns_nothing_of_the_body() -> None:
    assert (await ask("POST", "/things/t/parts", b"nothing", key="gw_none"))[0] == 401


async def test_a_public_route_takes_raw_bytes_of_anybody() -> None:
    assert (await ask("POST", "/hook", b"1234", key=""))[1] == b"4321"


async def test_an_endpoints_error_has_the_common_shape() -> None:
    house = make_house()

    async def miss(ask: Ask) -> Answer:
        raise NotFound("gone")

    house.routes.declare(Route("GET", "/gone", miss, "Nothing.", public=True))
    status, _, document = await house.ask("GET", "/gone")
    assert (status, document["error"]["message"]) == (404, "gone")
