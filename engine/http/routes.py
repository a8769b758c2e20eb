"""Which door a path leads to. Inference paths are the formats' own; what matches nothing gets near names.

Pure ASGI: the inference doors are called with the server's own `receive` and `send`. Errors outside of them end here:
those of our own endpoints in the common dialect, others in the one that the path is nearest to.
"""

import difflib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from engine.config.networks import Networks, find_client
from engine.errors import GatewayError, GatewayMistake, MethodNotAllowed, NotBuilt, NotFound
from engine.http.answers import StoredAnswers
from engine.http.catalog import ModelCatalog
from engine.http.endpoints import Route
from engine.http.identifiers import make_request_id
from engine.http.inference import InferenceDoors
from engine.http.respond import Endpoint, Send, respond_error
from engine.policies.identity import Identity

NamedEndpoint = Callable[[Any, Any, Send, str], Awaitable[None]]

NOT_BUILT = ("/v1/batches", "/v1/files", "/v1/realtime", "/mcp")


@dataclass(slots=True)
class Routes:
    """The application: inference (POST), `exact[path][method]`, then `prefixes` with a name behind."""

    inference: InferenceDoors
    exact: dict[str, dict[str, Endpoint]] = field(default_factory=dict)
    prefixes: dict[str, dict[str, NamedEndpoint]] = field(default_factory=dict)
    report_bug: Callable[[str, str, Exception], None] = lambda path, request_id, bug: None
    answers: StoredAnswers | None = None
    catalog: ModelCatalog | None = None
    trusted_proxies: Networks = field(default_factory=lambda: Networks(()))
    identity: Identity | None = None
    """Who is asked about the callers of declared routes."""
    declared: list[Route] = field(default_factory=list)
    """In the order of declaration; a path without names goes before one with."""

    def add(self, method: str, path: str, endpoint: Endpoint) -> None:
        self.exact.setdefault(path, {})[method] = endpoint

    def add_named(self, method: str, prefix: str, endpoint: NamedEndpoint) -> None:
        self.prefixes.setdefault(prefix, {})[method] = endpoint

    def declare(self, *routes: Route) -> None:
        self.declared += routes
        self.declared.sort(key=lambda route: not route.is_exact)

    async def __call__(self, scope: Any, receive: Any, send: Send) -> None:
        if scope["type"] != "http":
            await refuse_scope(scope, receive, send)
            return
        if self.trusted_proxies:
            name_client(scope, self.trusted_proxies)
        if scope["method"] == "POST":
            visit = self.inference.find(scope["path"], scope.get("query_string", b""))
            if visit is not None:
                await self.inference.answer(visit, scope, receive, send)
                return
        try:
            await self._find_endpoint(scope)(scope, receive, send)
        except GatewayError as error:
            await self.refuse(scope, send, error, make_request_id())
        except Exception as bug:  # noqa: BLE001 - the last border: logged with its trace, answered with a sentence
            request_id = make_request_id()
            self.report_bug(scope["path"], request_id, bug)
            await self.refuse(scope, send, GatewayMistake(), request_id)

    def _find_endpoint(self, scope: Any) -> Endpoint:
        path, method = scope["path"], scope["method"]
        is_door = self.inference.find(path, scope.get("query_string", b"")) is not None
        if method == "GET" and self.catalog is not None and not is_door:
            if (listed := self.catalog.find(scope)) is not None:
                return listed
        if (own := self._find_own(scope)) is not None:
            return own
        if methods := self._list_methods(scope):
            raise MethodNotAllowed(path, method, methods)
        if self.answers is not None and (found := self.answers.find(method, path)) is not None:
            return found
        if is_door:
            raise MethodNotAllowed(path, method, ["POST"])
        if self.catalog is not None and self.catalog.find(scope) is not None:
            raise MethodNotAllowed(path, method, ["GET"])
        if path.startswith(NOT_BUILT):
            raise NotBuilt(f"{path} is not built yet")
        near = difflib.get_close_matches(
            path[:100], [*self.inference.list_paths(), *self.list_paths()], n=3, cutoff=0.6
        )
        hint = f" (did you mean {', '.join(near)}?)" if near else ""
        raise NotFound(f"there is no route {method} {path[:200]}{hint}", code="endpoint_not_found")

    def _find_own(self, scope: Any) -> Endpoint | None:
        """An endpoint that no format serves."""
        method, path = scope["method"], scope["path"]
        if method in (methods := self.exact.get(path, {})):
            return methods[method]
        for prefix, named in self.prefixes.items():
            name = path[len(prefix) :]
            if path.startswith(prefix) and name and method in named:
                return partial(_call_named, named[method], name)
        written = read_written_path(scope)
        for route in self.declared:
            if route.method == method and (names := route.match(written)) is not None:
                assert self.identity is not None
                return partial(route.serve, self.identity, names)
        return None

    def _list_methods(self, scope: Any) -> list[str]:
        """What a path that we know answers."""
        written = read_written_path(scope)
        declared = {route.method for route in self.declared if route.match(written) is not None}
        return sorted({*self.exact.get(scope["path"], {}), *declared})

    def list_paths(self) -> list[str]:
        return list(dict.fromkeys([*self.exact, *(route.path for route in self.declared)]))

    async def refuse(self, scope: Any, send: Send, error: GatewayError, request_id: str) -> None:
        is_own = self._find_own(scope) is not None
        format = self.inference.guess_format("" if is_own else scope["path"])
        await respond_error(send, format, error, request_id)


def read_written_path(scope: Any) -> str:
    """The path as the client wrote it: the fixed pieces of a declared route have one spelling, and its names are
    decoded once, by the route."""
    raw: bytes | None = scope.get("raw_path")
    path: str = scope["path"] if raw is None else raw.decode("latin-1")
    return path


def name_client(scope: Any, trusted: Networks) -> None:
    """From here on the client is whom our own proxies saw, for limits, allowlists and records alike."""
    peer = scope.get("client") or ("", 0)
    forwarded = [value.decode("latin-1") for name, value in scope["headers"] if name == b"x-forwarded-for"]
    address = find_client(peer[0], forwarded, trusted)
    if address != peer[0]:
        scope["client"] = (address, 0)


async def _call_named(endpoint: NamedEndpoint, name: str, scope: Any, receive: Any, send: Send) -> None:
    await endpoint(scope, receive, send, name)


async def refuse_scope(scope: Any, receive: Any, send: Send) -> None:
    """WebSockets are not built; a lifespan that nobody asked for is waved through."""
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1011, "reason": "not built yet"})
        return
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
