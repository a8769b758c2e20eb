"""A route of our own as one declaration: what it needs of its caller, what it takes, and who answers it.

Everything that is the same for all of them happens here, in this order: who asks and may they (401, 403), the query and
the body against their models (400), then `run`, which gets an `Ask` that is right and returns an `Answer`. What the
gateway says of itself in `/openapi.json` is read from the same declarations.
"""

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

import orjson
from pydantic import BaseModel

from engine.call import Caller
from engine.errors import NotFound
from engine.http.actors import name_actor
from engine.http.bodies import MOST_BYTES, NoQuery, read_json, read_query
from engine.http.inference import Receive, read_body
from engine.http.respond import NO_STORE, Send
from engine.policies.access import Need, find_need
from engine.policies.identity import Identity
from engine.storage.audit import Actor

Headers = tuple[tuple[bytes, bytes], ...]
NOT_KEPT: Headers = (NO_STORE,)
KEPT_A_WHILE: Headers = ((b"cache-control", b"public, max-age=60"),)
"""For answers that say the same to everybody. All others are kept by nobody."""
_NAME = re.compile(r"\{(\w+)\}")
_NOBODY = Caller("", "")


@dataclass(frozen=True, slots=True)
class Ask:
    """One checked request. `caller` is nobody on public routes; `query` and `body` are the declared models."""

    caller: Caller
    scope: Any
    names: Mapping[str, str]
    """What stands in the path for `{name}`, decoded."""
    query: Any
    body: Any
    raw: bytes = b""
    """The body as it came, for routes that declare `takes_raw`."""

    @property
    def by(self) -> Actor:
        """Who did it, for the audit log."""
        return name_actor(self.caller, self.scope)

    @property
    def address(self) -> str:
        client = self.scope.get("client")
        return client[0] if client else ""

    def find_header(self, name: bytes) -> str:
        """The value of a header (lower case), or ""."""
        found = (value for key, value in self.scope["headers"] if key == name)
        return next(found, b"").decode("latin-1")


@dataclass(frozen=True, slots=True)
class Answer:
    """`document` is written as JSON; bytes go out as they are, as `media_type`."""

    document: Any
    status: int = 200
    headers: Headers = ()
    media_type: bytes = b"application/json"

    async def send(self, send: Send) -> None:
        body = self.document if isinstance(self.document, bytes) else orjson.dumps(self.document, default=str)
        head = [
            (b"content-type", self.media_type),
            (b"content-length", b"%d" % len(body)),
            *([] if any(name == b"cache-control" for name, _ in self.headers) else [NO_STORE]),
            *self.headers,
        ]
        await send({"type": "http.response.start", "status": self.status, "headers": head})
        await send({"type": "http.response.body", "body": body, "more_body": False})


@dataclass(frozen=True, slots=True)
class Route:
    """`path` may hold names: `/admin/users/{user_id}`. `summary` is one sentence for the reader of the API."""

    method: str
    path: str
    run: Callable[[Ask], Awaitable[Answer]]
    summary: str
    query: type[BaseModel] = NoQuery
    body: type[BaseModel] | None = None
    public: bool = False
    """Nobody is asked who they are."""
    need: Need | None = None
    """What the caller must have; None: what the table of access says of the path."""
    takes_raw: bool = False
    most_bytes: int = MOST_BYTES
    status: int = 200
    """Of the good answer, for the description."""
    media_type: str = "application/json"
    """Of the good answer, for the description."""
    answer: type[BaseModel] | None = None
    """The shape of the good answer, for the description; None: an object or a list."""
    pattern: re.Pattern[str] = field(init=False)

    def __post_init__(self) -> None:
        pieces = _NAME.split(self.path)
        text = "".join(
            f"(?P<{piece}>[^/]+)" if at % 2 else re.escape(piece) for at, piece in enumerate(pieces)
        )
        object.__setattr__(self, "pattern", re.compile(text))

    @property
    def is_exact(self) -> bool:
        return "{" not in self.path

    def match(self, path: str) -> dict[str, str] | None:
        found = self.pattern.fullmatch(path)
        return None if found is None else found.groupdict()

    async def serve(
        self, identity: Identity, names: Mapping[str, str], scope: Any, receive: Receive, send: Send
    ) -> None:
        caller = _NOBODY
        if self.public:
            await identity.meet(scope)
        else:
            caller = await identity.admit(scope, self.need or find_need(scope["method"], scope["path"]))
        query = read_query(self.query, scope)
        body, raw = None, b""
        if self.takes_raw:
            raw = await read_body(dict(scope["headers"]), receive, self.most_bytes)
        elif self.body is not None:
            body = await read_json(self.body, scope, receive, self.most_bytes)
        asked = Ask(caller, scope, {name: _decode(text) for name, text in names.items()}, query, body, raw)
        await (await self.run(asked)).send(send)


def _decode(text: str) -> str:
    """A name out of a path; one that no text can be is of nothing that is there."""
    name = unquote(text) if "%" in text else text
    if "\0" in name or len(name) > 300:
        raise NotFound("there is nothing of this name")
    return name
