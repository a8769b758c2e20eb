"""Decides what is answered to a request: routes, the script's conditions, the wires. No I/O, no clock."""

import base64
import binascii
import secrets
from dataclasses import dataclass, field
from http import HTTPMethod
from typing import Any
from urllib.parse import parse_qs, unquote

from engine.upstream.simulator.book import Book, Seen
from engine.upstream.simulator.dialog import Ask, Refused, Ticket, Wire, Written
from engine.upstream.simulator.errors import find_refusal, make_refusal
from engine.upstream.simulator.jobs import Jobs
from engine.upstream.simulator.names import BEHAVIOURS, PREFIX, NameRefused, Script, list_names, parse_name
from engine.upstream.simulator.routes import CHAT, Look, Route, find_look, find_route
from engine.upstream.simulator.staging import (
    Reply,
    stage_document,
    stage_plain,
    stage_refusal,
    stage_silence,
    stage_stream,
)

_PICTURES = "/_sim/pictures/"
MODELS_CREATED = 1709164800
_KEYS = (b"authorization", b"x-api-key", b"x-goog-api-key", b"api-key")


@dataclass(slots=True)
class Request:
    """One request as the connection read it. `body` is None when it is answered before that has come."""

    method: str
    path: str
    query: str
    headers: list[tuple[bytes, bytes]]
    keep_alive: bool
    http_1_0: bool
    connection: int
    body: bytes | None = None
    early: str = ""
    """The model's name, when the request is answered before its body has come."""

    def header(self, name: bytes) -> str:
        return next((value.decode("latin-1") for key, value in self.headers if key == name), "")


@dataclass(slots=True)
class House:
    """The simulator without its sockets."""

    book: Book = field(default_factory=Book)
    jobs: Jobs = field(default_factory=Jobs)
    _run: str = field(default_factory=lambda: secrets.token_hex(6))

    def answer(self, request: Request, now: float, wall: float) -> tuple[Reply, Seen | None]:
        """The reply, and the record of the call when it is one that is kept."""
        if request.path.startswith("/_sim/") or request.path == "/health":
            return self._answer_about_itself(request), None
        self.book.seen += 1
        number = f"{self._run}{self.book.seen:016x}"
        ticket = Ticket(number, int(wall), request.header(b"host"), request.keep_alive, request.http_1_0)
        seen = self._note(request, now, wall)
        route, look = find_route(request.path, request.query), find_look(request.path)
        try:
            reply = self._look_at(look, ticket, now) if look else None
            reply = reply or self._route(request, route, ticket, seen)
        except Refused as refused:
            reply = stage_refusal(refused, route.wire if route else CHAT, ticket)
        seen.status = reply.status
        seen.counts = reply.counts
        return reply, seen

    def _note(self, request: Request, now: float, wall: float) -> Seen:
        authorization = next(filter(None, map(request.header, _KEYS)), "")
        seen = Seen(
            seq=self.book.seen,
            at=wall,
            began=now,
            method=request.method,
            path=request.path,
            headers=request.headers,
            connection=request.connection,
            body=request.body or None,
            body_bytes=len(request.body or b""),
            authorization=_find_key(authorization),
        )
        self.book.write_down(seen)
        return seen

    def _route(self, request: Request, route: Route | None, ticket: Ticket, seen: Seen) -> Reply:
        path = request.path.removeprefix("/v1")
        if route is None:
            if path == "/models" or path.startswith("/models/"):
                return _answer_models(request, path, ticket)
            raise Refused(404, f"Invalid URL ({request.method} {request.path})")
        if request.method != HTTPMethod.POST:
            raise _refuse_method(request)
        if request.body is None:
            return _answer_early(request, route.wire, ticket)
        return self._perform(route, request, ticket, seen)

    def _perform(self, route: Route, request: Request, ticket: Ticket, seen: Seen) -> Reply:
        wire = route.wire
        body = {**wire.parse(request.body or b"", request.header(b"content-type")), **route.fields}
        self.book.keep_body(seen, body)
        seen.model = body["model"] if isinstance(body.get("model"), str) else ""
        ask = wire.read(body)
        seen.model, seen.stream = ask.model, ask.stream
        script = _find_script(ask.model, request).on_attempt(self.book.count_attempt(seen, ask.digest))
        self.book.use_cache(seen, ask)
        silence = stage_silence(script)
        if silence is not None:
            return silence
        refused = find_refusal(script, ask) or self._find_outage(script, seen)
        if refused is not None:
            return stage_refusal(refused, wire, ticket, script)
        if "error-200" in script.parts or "json-error-in-200-stream" in script.parts:
            pretended = make_refusal(500)
            pretended.status = 200
            return stage_refusal(pretended, wire, ticket, script)
        written = wire.write(ask, script, ticket)
        if written.job is not None:
            self.jobs.begin(written.job, seen.began)
        return _stage_answer(route.wire, ask, script, ticket, written)

    def _look_at(self, look: Look, ticket: Ticket, now: float) -> Reply:
        """How far a piece of work is; to ask for its end ends it."""
        number, what, show = look
        job = self.jobs.kept.get(number)
        if job is None:
            return stage_document({"detail": "Request not found"}, ticket, status=404)
        status, document = show(job, job.stage(now), what)
        job.cancelled = job.cancelled or (what == "/cancel" and job.stage(now) in ("waiting", "running"))
        return stage_document(document, ticket, status=status)

    def _find_outage(self, script: Script, seen: Seen) -> Refused | None:
        down = "down" in script.parts and self.book.is_down(seen, script.parts["down"])
        return make_refusal(503) if down else None

    def _answer_about_itself(self, request: Request) -> Reply:
        query = {name: values[-1] for name, values in parse_qs(request.query).items()}
        ticket = Ticket("", 0, "", request.keep_alive, request.http_1_0)
        if request.path.startswith(_PICTURES):
            return _show_picture(request.path.removeprefix(_PICTURES), ticket)
        match request.method, request.path:
            case "GET", "/health":
                return stage_document({"status": "ok"}, ticket)
            case "GET", "/_sim/stats":
                return stage_document(self.book.as_stats(), ticket)
            case "GET", "/_sim/calls":
                after, limit = _read_count(query, "after", 0), _read_count(query, "limit", 1_000_000)
                return stage_document(self.book.list_calls(after, limit, query.get("model")), ticket)
            case "DELETE", "/_sim/calls":
                self.book.forget()
                return stage_document({"deleted": True}, ticket)
        return stage_refusal(Refused(404, f"Invalid URL ({request.method} {request.path})"), CHAT, ticket)


def _find_key(authorization: str) -> str:
    """What stays the same from call to call: of a signature only whose it is."""
    signed = authorization.partition("Credential=")[2]
    return signed.partition("/")[0] if signed else authorization.removeprefix("Bearer ")


def _show_picture(name: str, ticket: Ticket) -> Reply:
    try:
        return stage_document(base64.urlsafe_b64decode(name), ticket, b"image/png")
    except binascii.Error:
        return stage_refusal(Refused(404, "There is no such picture."), CHAT, ticket)


def _read_count(query: dict[str, str], name: str, default: int) -> int:
    text = query.get(name, "")
    return int(text) if text.isdecimal() else default


def _find_script(model: str, request: Request) -> Script:
    more = request.header(b"x-sim")
    try:
        return parse_name(f"{model}+{more}" if more and model.startswith(PREFIX) else model)
    except NameRefused as error:
        raise Refused(404, str(error), code="model_not_found") from None


def _answer_early(request: Request, wire: Wire, ticket: Ticket) -> Reply:
    """Nothing is known but the script: a refusal, and the connection is not used again."""
    try:
        script = parse_name(request.early)
    except NameRefused as error:
        raise Refused(404, str(error), code="model_not_found") from None
    ticket.keep_alive = False
    return stage_refusal(make_refusal(script.status or 413), wire, ticket, script)


def _stage_answer(wire: Wire, ask: Ask, script: Script, ticket: Ticket, written: Written) -> Reply:
    if ask.stream and "no-stream" not in script.parts:
        return stage_stream(script, wire, written, ticket)
    return stage_plain(script, written, ticket, written.plain())


def _answer_models(request: Request, path: str, ticket: Ticket) -> Reply:
    if request.method != HTTPMethod.GET:
        raise _refuse_method(request)
    if path == "/models":
        rows = [_describe_model(name, what) for name, what in list_names()]
        return stage_document({"object": "list", "data": rows}, ticket)
    name = unquote(path.removeprefix("/models/"))
    try:
        script = parse_name(name)
    except NameRefused as error:
        raise Refused(404, str(error), code="model_not_found") from None
    return stage_document(
        _describe_model(name, "; ".join(BEHAVIOURS[part].what for part in script.parts)), ticket
    )


def _describe_model(name: str, what: str) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": MODELS_CREATED,
        "owned_by": "simulator",
        "description": what,
    }


def _refuse_method(request: Request) -> Refused:
    message = (
        f"Not allowed to {request.method} on {request.path} "
        "(HINT: Perhaps you meant to use a different HTTP method?)"
    )
    return Refused(405, message, code="method_not_supported")
