"""What each port of the gateway serves. With `server.admin` administration has a port of its own.

Then the public port answers 404 to its paths, as to any path that leads nowhere, and the administration's port serves
nothing but them, readiness and the description of the API.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from engine.errors import NotFound
from engine.http.identifiers import make_request_id
from engine.http.respond import Send
from engine.http.routes import Routes

App = Callable[[Any, Any, Send], Awaitable[None]]
ADMINISTRATION = ("/admin", "/api/admin", "/metrics")
ON_BOTH = ("/health", "/openapi.json", "/docs")


def split_ports(routes: Routes, count: int) -> Sequence[App]:
    """One application for each of the sockets: one serves everything, two are the public one and administration's."""
    if count == 1:
        return [routes]
    return [Port(routes, serves_administration=False), Port(routes, serves_administration=True)]


class Port:
    def __init__(self, routes: Routes, *, serves_administration: bool) -> None:
        self._routes, self._serves_administration = routes, serves_administration

    async def __call__(self, scope: Any, receive: Any, send: Send) -> None:
        if scope["type"] != "http" or self._serves(scope["path"]):
            await self._routes(scope, receive, send)
            return
        error = NotFound("there is no such route at this port", code="endpoint_not_found")
        await self._routes.refuse(scope, send, error, make_request_id())

    def _serves(self, path: str) -> bool:
        if is_below(path, ON_BOTH):
            return True
        return is_below(path, ADMINISTRATION) == self._serves_administration


def is_below(path: str, above: Sequence[str]) -> bool:
    return any(path == one or path.startswith(f"{one}/") for one in above)
