"""`GET` and `DELETE` of kept answers, below every path at which a format that keeps them is served."""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any
from urllib.parse import parse_qsl, unquote

from engine.config.snapshot import Snapshot
from engine.errors import InvalidRequest, MethodNotAllowed
from engine.http.respond import Send, respond_json
from engine.policies.access import FOR_INFERENCE
from engine.policies.identity import Identity
from engine.storage.answers import AnswerStore

Endpoint = Callable[[Any, Any, Send], Awaitable[None]]
MOST_ITEMS = 100


class StoredAnswers:
    def __init__(self, identity: Identity, store: AnswerStore, read_snapshot: Callable[[], Snapshot]) -> None:
        self._identity, self._store, self._read_snapshot = identity, store, read_snapshot

    def find(self, method: str, path: str) -> Endpoint | None:
        """The endpoint of an answer's path; None for other paths. Raises MethodNotAllowed."""
        for door in self._read_snapshot().doors.doors:
            stored = door.format.stored
            if stored is None or not path.startswith(f"{door.path}/"):
                continue
            name, *below = path[len(door.path) + 1 :].split("/")
            methods = {"GET": self.show, "DELETE": self.delete} if not below else {"GET": self.list_input}
            if not name or below not in ([], [stored.listing]):
                return None
            if method not in methods:
                raise MethodNotAllowed(path, method, list(methods))
            return partial(methods[method], unquote(name))
        return None

    async def show(self, name: str, scope: Any, receive: Any, send: Send) -> None:
        """The answer as its caller got it."""
        caller = await self._identity.admit(scope, FOR_INFERENCE)
        kept = await self._store.find(caller.key_id, name)
        await respond_json(send, 200, kept.answer)

    async def delete(self, name: str, scope: Any, receive: Any, send: Send) -> None:
        caller = await self._identity.admit(scope, FOR_INFERENCE)
        kept = await self._store.find(caller.key_id, name)
        await self._store.delete(caller.key_id, name)
        kind = kept.read().answer.get("object", "response")
        await respond_json(send, 200, {"id": name, "object": kind, "deleted": True})

    async def list_input(self, name: str, scope: Any, receive: Any, send: Send) -> None:
        """What was said to get the answer, newest first unless `order=asc`; `after` an id, `limit` of them."""
        caller = await self._identity.admit(scope, FOR_INFERENCE)
        query = dict(parse_qsl(scope.get("query_string", b"").decode("latin-1")))
        limit, newest_first = read_page(query)
        kept = await self._store.find(caller.key_id, name)
        items = [{"id": f"item_{number}", **item} for number, item in enumerate(kept.read().input)]
        items = items[::-1] if newest_first else items
        places = [place for place, item in enumerate(items) if item["id"] == query.get("after")]
        behind = items[places[0] + 1 :] if places else items
        page = behind[:limit]
        ids = {"first_id": page[0]["id"], "last_id": page[-1]["id"]} if page else {}
        body = {"object": "list", "data": page, "has_more": len(behind) > limit, **ids}
        await respond_json(send, 200, body)


def read_page(query: dict[str, str]) -> tuple[int, bool]:
    """How many items, and whether the newest comes first."""
    limit, order = query.get("limit", "20"), query.get("order", "desc")
    if not (limit.isdecimal() and len(limit) <= 3 and 1 <= int(limit) <= MOST_ITEMS):
        raise InvalidRequest(f"limit must be a number from 1 to {MOST_ITEMS}", param="limit")
    if order not in ("asc", "desc"):
        raise InvalidRequest("order must be asc or desc", param="order")
    return int(limit), order == "desc"
