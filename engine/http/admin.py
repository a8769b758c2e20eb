"""The administration routes of the gateway itself: its configuration and the call records. Role admin only."""

import contextlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol
from urllib.parse import parse_qsl

from engine.errors import DependencyAway, InvalidRequest
from engine.http.actors import name_actor
from engine.http.inference import parse_tags
from engine.http.respond import Send, respond_json
from engine.policies.identity import Identity
from engine.storage.audit import Actor, Event

MOST_CALLS = 1000


class Control(Protocol):
    """The line to the supervisor."""

    async def reload(self) -> tuple[int, dict[str, Any]]: ...
    async def config_state(self) -> dict[str, Any]: ...
    async def metrics(self) -> bytes: ...


NoteEvent = Callable[[Actor, Event], Awaitable[None]]
ListCalls = Callable[[str | None, int, Mapping[str, Any]], Awaitable[dict[str, Any]]]


class Administration:
    def __init__(self, identity: Identity, control: Control, list_calls: ListCalls, note: NoteEvent) -> None:
        self._identity, self._control, self._list_calls = identity, control, list_calls
        self._note = note

    async def show_config(self, scope: Any, receive: Any, send: Send) -> None:
        """The revision in force, the workers that have it, and the last refusal."""
        await self._identity.admit(scope)
        await respond_json(send, 200, await self._control.config_state())

    async def reload_config(self, scope: Any, receive: Any, send: Send) -> None:
        """Read the files again; 200 when every worker has swapped, 422 with all problems when refused."""
        caller = await self._identity.admit(scope)
        status, document = await self._control.reload()
        with contextlib.suppress(DependencyAway):  # files can be read again while the database is away
            after = {"status": status, "revision": document.get("revision")}
            await self._note(name_actor(caller, scope), Event("config.reload", "config", after=after))
        await respond_json(send, status, document)

    async def show_calls(self, scope: Any, receive: Any, send: Send) -> None:
        """Call records, newest first, behind the one whose id is `after`; `has_more` says whether to go on."""
        await self._identity.admit(scope)
        query: dict[str, Any] = dict(parse_qsl(scope["query_string"].decode("latin-1")))
        if "tags" in query:
            query["tags"] = parse_tags(query["tags"])
        limit = read_limit(query.pop("limit", "100"))
        await respond_json(send, 200, await self._list_calls(query.pop("after", None), limit, query))


def read_limit(text: str) -> int:
    if not (text.isdecimal() and len(text) <= 4 and 1 <= int(text) <= MOST_CALLS):
        raise InvalidRequest(f"limit must be a number from 1 to {MOST_CALLS}", param="limit")
    return int(text)
