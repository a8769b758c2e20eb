"""Cross-origin requests of browsers, as `server.cors` allows them. Without it nothing of this is in the way.

Pure ASGI: a preflight is answered here, without a key; of other answers only the head changes, so streams pass as they
are. An origin that is not allowed gets its answer without a word about origins, which browsers then keep from the page.
"""

import re
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from engine.config.snapshot import CorsRule
from engine.http.respond import Send

App = Callable[[Any, Any, Send], Awaitable[None]]
METHODS = b"GET, POST, PUT, PATCH, DELETE"
ANYBODY = "*"


class Cors:
    def __init__(self, app: App, rule: CorsRule) -> None:
        self._app, self._credentials = app, rule.credentials
        self._origins = re.compile("|".join(compile_origin(text) for text in rule.origins))
        self._exposed = ", ".join(rule.expose).encode()
        self._preflight = (
            (b"access-control-allow-methods", METHODS),
            (b"access-control-allow-headers", ", ".join(rule.headers).encode()),
            (b"access-control-max-age", b"%d" % rule.max_age_s),
            (b"content-length", b"0"),
        )

    async def __call__(self, scope: Any, receive: Any, send: Send) -> None:
        origin = _find(scope, b"origin") if scope["type"] == "http" else None
        if origin is None:
            await self._app(scope, receive, send)
            return
        pairs = self._allow(origin)
        if (
            pairs
            and scope["method"] == "OPTIONS"
            and _find(scope, b"access-control-request-method") is not None
        ):
            await send({"type": "http.response.start", "status": 204, "headers": [*pairs, *self._preflight]})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            return
        if pairs and self._exposed:
            pairs.append((b"access-control-expose-headers", self._exposed))
        await self._app(scope, receive, _say_more(send, [*pairs, (b"vary", b"origin")]))

    def _allow(self, origin: bytes) -> list[tuple[bytes, bytes]]:
        """The headers that let this origin see an answer; none when it may not."""
        if self._origins.fullmatch(origin.decode("latin-1")) is None:
            return []
        allowed = [(b"access-control-allow-origin", origin)]
        return [*allowed, (b"access-control-allow-credentials", b"true")] if self._credentials else allowed


def compile_origin(text: str) -> str:
    """`https://*.example.com` is every name below example.com; `*` alone is everybody."""
    if text == ANYBODY:
        return r"[\x21-\x7e]+"
    label = "[A-Za-z0-9-]+"
    return re.escape(text).replace(re.escape("*."), rf"(?:{label}\.)+")


def _find(scope: Any, name: bytes) -> bytes | None:
    return next((value for key, value in scope["headers"] if key == name), None)


def _say_more(send: Send, pairs: Iterable[tuple[bytes, bytes]]) -> Send:
    """`send`, with more headers on the answer's head, whichever form that has."""

    async def tell(message: Any) -> None:
        if message["type"] == "http.response.start":
            if "head" in message:
                more = b"".join(b"%b: %b\r\n" % pair for pair in pairs)
                message = {**message, "head": message["head"] + more}
            else:
                message = {**message, "headers": [*message.get("headers", ()), *pairs]}
        await send(message)

    return tell
