"""The administration routes of the gateway itself: its configuration and the call records. Role admin only."""

import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Annotated, Any, Protocol

from pydantic import BaseModel, ConfigDict, Field

from engine.errors import DependencyAway
from engine.http.endpoints import Answer, Ask, Route
from engine.http.inference import parse_tags
from engine.policies.access import to_look
from engine.storage.audit import Actor, Event

MOST_CALLS = 1000


class Control(Protocol):
    """The line to the supervisor."""

    async def reload(self) -> tuple[int, dict[str, Any]]: ...
    async def config_state(self) -> dict[str, Any]: ...
    async def metrics(self) -> bytes: ...


NoteEvent = Callable[[Actor, Event], Awaitable[None]]
ListCalls = Callable[[str | None, int, Mapping[str, Any]], Awaitable[dict[str, Any]]]


class CallsQuery(BaseModel):
    """What call records are looked for by: any of their filters, and where to go on."""

    model_config = ConfigDict(extra="allow")

    after: str | None = None
    limit: Annotated[int, Field(ge=1, le=MOST_CALLS)] = 100
    tags: str | None = None


class Administration:
    def __init__(self, control: Control, list_calls: ListCalls, note: NoteEvent) -> None:
        self._control, self._list_calls, self._note = control, list_calls, note

    def list(self) -> Sequence[Route]:
        return (
            Route("GET", "/admin/config", self.show_config, "The configuration in force."),
            Route("POST", "/admin/config/reload", self.reload_config, "Read the configuration again."),
            Route("GET", "/admin/calls", self.show_calls, "Read call records.", query=CallsQuery,
                  need=to_look("monitoring:read")),
        )  # fmt: skip

    async def show_config(self, ask: Ask) -> Answer:
        """The revision in force, the workers that have it, and the last refusal."""
        return Answer(await self._control.config_state())

    async def reload_config(self, ask: Ask) -> Answer:
        """Read the files again; 200 when every worker has swapped, 422 with all problems when refused."""
        status, document = await self._control.reload()
        with contextlib.suppress(DependencyAway):  # files can be read again while the database is away
            after = {"status": status, "revision": document.get("revision")}
            await self._note(ask.by, Event("config.reload", "config", after=after))
        return Answer(document, status)

    async def show_calls(self, ask: Ask) -> Answer:
        """Call records, newest first, behind the one whose id is `after`; `has_more` says whether to go on."""
        query = ask.query
        filters: dict[str, Any] = dict(query.model_extra)
        if query.tags is not None:
            filters["tags"] = parse_tags(query.tags)
        return Answer(await self._list_calls(query.after, query.limit, filters))
