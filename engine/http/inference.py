"""The doors: a bounded body, one snapshot, one `Call`, and the corridor. Also where a client that leaves is noticed.

A client's leaving cancels the corridor's task (or, with `on_disconnect: drain`, mutes its reply and lets the answer
be read on for a while). The server protocol tells it through `scope["extensions"]["gatewayz.disconnect"]`; under any
other server a watcher reads `http.disconnect`.
"""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qsl

from engine.call import Call
from engine.config.snapshot import Snapshot
from engine.errors import BodyTooLarge, ClientGone, GatewayError, InvalidRequest, WrongMediaType
from engine.gateway import Rooms, carry
from engine.http.identifiers import CallIds
from engine.http.respond import Reply, Send
from engine.http.uploads import FormUpload, read_length
from engine.policies.identity import Headers
from engine.wire.doors import Door
from engine.wire.formats import Format
from engine.wire.forms import read_boundary

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Fields = Mapping[bytes, bytes]
"""Headers by their names; of one that stands there twice the last."""

DISCONNECT = "gatewayz.disconnect"
READY_HEAD = "gatewayz.ready_head"
DRAIN_S = 60.0
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")
_AMOUNT = re.compile(r"[0-9]{1,9}(\.[0-9]{1,12})?")
_MAX_TAGS = 20


class OpenCalls:
    """The calls under way, so that a drain can wait for them and end the rest."""

    def __init__(self) -> None:
        self._tasks: dict[Call, asyncio.Task[Any]] = {}
        self._emptied: asyncio.Future[None] | None = None

    def __len__(self) -> int:
        return len(self._tasks)

    def add(self, call: Call, task: asyncio.Task[Any]) -> None:
        self._tasks[call] = task

    def remove(self, call: Call) -> None:
        self._tasks.pop(call, None)
        if self._emptied is not None and not self._tasks and not self._emptied.done():
            self._emptied.set_result(None)

    async def finish(self, within_s: float) -> None:
        """Wait for the open calls; what is still open then is ended in-band and settled."""
        try:
            async with asyncio.timeout(within_s):
                await self._wait_until_empty()
        except TimeoutError:
            for task in list(self._tasks.values()):
                task.cancel()
            await self._wait_until_empty()

    async def _wait_until_empty(self) -> None:
        while self._tasks:
            self._emptied = asyncio.get_running_loop().create_future()
            await self._emptied


@dataclass(slots=True)
class Visit:
    """What a request's path leads to: a door of the snapshot in force, and the model that the path names."""

    snapshot: Snapshot
    door: Door
    model: str


class InferenceDoors:
    """All inference routes: those that the formats of the snapshot in force serve."""

    def __init__(
        self, rooms: Rooms, read_snapshot: Callable[[], Snapshot], open_calls: OpenCalls, ids: CallIds
    ) -> None:
        self._rooms, self._read_snapshot = rooms, read_snapshot
        self._open_calls, self._ids = open_calls, ids

    def find(self, path: str, query: bytes) -> Visit | None:
        snapshot = self._read_snapshot()
        found = snapshot.doors.find(path, query)
        return None if found is None else Visit(snapshot, *found)

    def guess_format(self, path: str) -> Format | None:
        """Whose words are used for an error at a path that is no door."""
        return self._read_snapshot().doors.guess_format(path)

    def list_paths(self) -> list[str]:
        return [door.path for door in self._read_snapshot().doors.doors]

    async def answer(self, visit: Visit, scope: Scope, receive: Receive, send: Send) -> None:
        now = time.time()
        call_id, headers = self._ids.make(now), scope["headers"]
        client, extensions = scope.get("client"), scope.get("extensions") or {}
        call = Call(
            id=call_id,
            request_id=call_id,
            door=visit.door,
            started_at=now,
            began=self._rooms.clock(),
            snapshot=visit.snapshot,
            client_ip=client[0] if client else "",
            named_model=visit.model,
        )
        signal = extensions.get(DISCONNECT)
        # Known to the server: to ask asyncio costs a system call (3.11 compares process ids).
        task = signal.task if signal is not None else asyncio.current_task()
        assert task is not None
        reply = Reply(send, call, task.get_loop(), ready_head=READY_HEAD in extensions)
        self._open_calls.add(call, task)
        leaving = Leaving(call, reply, task, signal)
        upload: FormUpload | None = None
        try:
            fields = dict(headers)
            headers = read_call_headers(call, headers, fields, scope)
            edge = self._rooms.identity.edge
            if edge is not None and edge.closed:
                self._rooms.identity.turn_away(headers, call.client_ip)
            if visit.door.format.takes_form:
                call.upload = upload = open_upload(call, fields, receive)
            else:
                call.body = await read_body(fields, receive, call.snapshot.server.max_body_bytes)
            leaving.watch(receive)
            await carry(call, headers, self._rooms, reply)
        except GatewayError as error:
            call.http_status = error.status
            self._rooms.books.settle(call, "error", error=error.message)
            if not isinstance(error, ClientGone):
                await reply.fail(error)
        except asyncio.CancelledError:
            if not call.client_gone:
                raise
            self._rooms.books.settle(call, "aborted")
        finally:
            leaving.unwatch()
            self._open_calls.remove(call)
            if upload is not None:
                upload.close()


class Leaving:
    """Notices that the client went away, and acts on it once."""

    __slots__ = ("_call", "_reply", "_signal", "_task", "_watcher")

    def __init__(self, call: Call, reply: Reply, task: asyncio.Task[Any], signal: Any) -> None:
        """`signal` is what the server says by the extension DISCONNECT; None under another server."""
        self._call, self._reply, self._task, self._signal = call, reply, task, signal
        self._watcher: asyncio.Task[None] | None = None

    def watch(self, receive: Receive) -> None:
        if self._signal is not None:
            self._signal.subscribe(self._act)
        elif self._call.upload is None:  # a form shows by itself when its client leaves
            self._watcher = asyncio.get_running_loop().create_task(self._wait_for_disconnect(receive))

    def unwatch(self) -> None:
        if self._signal is not None:
            self._signal.unsubscribe()
        if self._watcher is not None:
            self._watcher.cancel()

    def _act(self) -> None:
        call = self._call
        if call.client_gone or self._reply.ended:
            return
        call.client_gone = True
        if call.policy is not None and call.policy.on_disconnect == "drain" and call.attempts:
            self._reply.muted = True
            asyncio.get_running_loop().call_later(DRAIN_S, self._task.cancel)
        else:
            self._task.cancel()

    async def _wait_for_disconnect(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._act()


def read_call_headers(call: Call, headers: Headers, fields: Fields, scope: Scope) -> Headers:
    """Request id, tags and media type of a request, and what its dialect hands through; returns the headers with a key
    that came in the query."""
    side = call.door.format.client
    request_id, tags = fields.get(b"x-request-id"), fields.get(b"x-tags")
    if request_id is not None and _REQUEST_ID.fullmatch(request_id):
        call.request_id = request_id.decode()
    if tags is not None:
        call.tags = parse_tags(tags.decode("latin-1"))
    max_cost = fields.get(b"x-max-cost-usd")
    if max_cost is not None:
        call.max_cost = read_max_cost(max_cost.decode("latin-1"))
    call.wants_receipt = fields.get(b"x-receipt") == b"1"
    if side.passes_headers:
        call.passed_headers = tuple(
            (name.decode(), value.decode("latin-1")) for name, value in headers if name in side.passes_headers
        )
    if call.door.format.takes_form:
        return headers
    media_type = fields.get(b"content-type", b"")
    if media_type != b"application/json" and b"json" not in media_type.lower().partition(b";")[0]:
        raise WrongMediaType("the content type must be application/json")
    return add_query_key(headers, side.key_parameter, scope) if side.key_parameter else headers


def add_query_key(headers: Headers, name: str, scope: Scope) -> Headers:
    """A key in the query is one more header that carries a key."""
    query = parse_qsl(scope.get("query_string", b"").decode("latin-1"))
    return [
        *headers,
        *((b"x-api-key", value.encode("latin-1", "replace")) for key, value in query if key == name),
    ]


def parse_tags(text: str) -> dict[str, str]:
    """`team=search,feature=rag` as a mapping. Raises InvalidRequest when it is not of that form."""
    tags: dict[str, str] = {}
    for pair in text.split(","):
        name, equals, value = (piece.strip() for piece in pair.partition("="))
        if not name and not equals:
            continue
        if not (name and equals and len(name) <= 64 and len(value) <= 256):
            raise InvalidRequest("x-tags must look like `team=search,feature=rag`", param="x-tags")
        tags[name] = value
    if len(tags) > _MAX_TAGS:
        raise InvalidRequest(f"x-tags may carry {_MAX_TAGS} tags", param="x-tags")
    return tags


def read_max_cost(text: str) -> Decimal:
    """The most that a call may cost, in US dollars."""
    if not _AMOUNT.fullmatch(text):
        raise InvalidRequest(
            "x-max-cost-usd must be an amount of US dollars such as 0.05", param="x-max-cost-usd"
        )
    return Decimal(text)


def open_upload(call: Call, fields: Fields, receive: Receive) -> FormUpload:
    server = call.snapshot.server
    content_type = fields.get(b"content-type", b"").decode("latin-1")
    boundary = read_boundary(content_type)
    if boundary is None:
        raise WrongMediaType("the content type must be multipart/form-data with a boundary")
    return FormUpload(
        receive,
        content_type,
        boundary,
        read_length(fields.get(b"content-length", b"")),
        max_bytes=server.max_upload_bytes,
        keep_bytes=server.keep_upload_bytes,
    )


async def read_body(fields: Fields, receive: Receive, limit: int) -> bytes:
    """The whole body; a larger one is refused as soon as that is known, not after it was read."""
    declared = fields.get(b"content-length", b"")
    if declared.isdigit() and int(declared) > limit:
        raise too_large(limit)
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body"):
        body: bytes = message.get("body", b"")
        if len(body) > limit:
            raise too_large(limit)
        return body
    pieces: list[bytes] = []
    size = 0
    while True:
        if message["type"] == "http.disconnect":
            raise ClientGone("the client left before its request was complete")
        pieces.append(message.get("body", b""))
        size += len(pieces[-1])
        if size > limit:
            raise too_large(limit)
        if not message.get("more_body"):
            return b"".join(pieces)
        message = await receive()


def too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(f"the body is larger than {limit} bytes (server.max_body_mb)")
