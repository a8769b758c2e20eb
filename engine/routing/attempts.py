"""One attempt after another for one call: open the exchange, choose how its answer is read, pump it to the client.

The reader of the latest attempt that delivered something stays here, because a rescue begins where it stopped.
"""

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Protocol

from engine.call import Attempt, Call
from engine.config.snapshot import Credential, Endpoint, Target, Timeouts
from engine.errors import InvalidRequest, UpstreamFailure, UpstreamTimedOut
from engine.routing.raw import read_as_it_comes
from engine.routing.uploads import send_form
from engine.upstream.exchange import Continuation, Exchange, Sent, hide_secrets, render_body
from engine.upstream.reply import Reply
from engine.wire.answers import AnswerReader, SameWireAnswer, SameWireStream
from engine.wire.formats import Format
from engine.wire.look import Look
from engine.wire.opaque import holds_tags
from engine.wire.passing import PassedStream
from engine.wire.rescue import CONTINUE, RescueStream, Resumption, read_identity
from engine.wire.translation import TranslatedAnswer, Translation, open_translation


class Relay(Protocol):
    """Room 6 (gateway.py): pumps an answer to the client until it is whole."""

    async def run(
        self, upstream: Reply, reader: AnswerReader, attempt: Attempt, clocks: Timeouts
    ) -> None: ...


@dataclass(frozen=True, slots=True)
class Rescue:
    mode: str
    """continue or restart"""


class Attempts:
    __slots__ = (
        "_before_first",
        "_call",
        "_clock",
        "_exchange",
        "_relay",
        "_timeouts",
        "_translation",
        "last",
        "reader",
    )

    def __init__(
        self,
        call: Call,
        timeouts: Timeouts,
        exchange: Exchange,
        relay: Relay,
        clock: Callable[[], float],
        before_first: Callable[[Call], None],
    ) -> None:
        self._call, self._timeouts, self._exchange, self._relay = call, timeouts, exchange, relay
        self._clock, self._before_first = clock, before_first
        self._translation: Translation | None = None
        self.reader: AnswerReader | None = None
        self.last: Attempt

    async def make(
        self, target: Target, credential: Credential, mode: str, rescue: Rescue | None = None
    ) -> AnswerReader:
        """Ask one target once and relay its answer; returns the reader of a whole answer or raises UpstreamFailure."""
        call, began = self._call, self._clock()
        clocks = self._remaining(began)
        if not call.attempts:
            self._before_first(call)
        attempt = Attempt(target.provider.name, target.model, credential.name, began - call.began, mode=mode)
        call.attempts.append(attempt)
        self.last = attempt
        reader: AnswerReader | None = None
        try:
            endpoint = find_endpoint(call, target)
            upstream = await self._open(target, endpoint, credential, clocks, rescue)
            try:
                reader = self._choose_reader(upstream, target, endpoint, rescue)
                await self._relay.run(upstream, reader, attempt, clocks)
                if self._translation is not None and call.operation == "images":
                    await self._fetch_media(reader, target, credential)
            finally:
                upstream.close()
        except UpstreamFailure as failure:
            hide_secrets(failure, target.provider, credential)
            attempt.outcome = f"timeout:{failure.clock}" if failure.clock else failure.kind
            attempt.reason = failure.message
            raise
        else:
            attempt.outcome = "ok"
        finally:
            if attempt.outcome == "running":
                attempt.outcome = "cancelled"
            attempt.seconds = self._clock() - began
            self._keep(reader, target, attempt)
        return reader

    def _open(
        self,
        target: Target,
        endpoint: Endpoint,
        credential: Credential,
        clocks: Timeouts,
        rescue: Rescue | None,
    ) -> Awaitable[Reply]:
        call, exchange = self._call, self._exchange
        if call.upload is not None:
            return send_form(exchange, call, target, endpoint, credential, clocks)
        body = self._render(target, endpoint, rescue)
        passed = call.passed_headers if self._translation is None else ()
        format = endpoint.format
        if format.takes_form and self._translation is not None:
            edits = target.provider.params.edits(self._translation.body, target.model)
            form, media_type = self._translation.render_form(edits)
            return exchange.open_form(target, endpoint, credential, form, media_type, clocks)
        if format.poll is not None:
            return exchange.open_job(target, endpoint, credential, body, clocks, format.poll)
        if format.answers and not call.stream:  # its bytes go out as they come
            clocks = replace(clocks, headers_s=clocks.answer_s)
            return exchange.open(target, endpoint, credential, Sent(body, passed), clocks, stream=True)
        return exchange.open(target, endpoint, credential, Sent(body, passed), clocks, stream=call.stream)

    async def _fetch_media(self, reader: AnswerReader, target: Target, credential: Credential) -> None:
        """Callers who want the images themselves do not get addresses."""
        chat = self._call.chat or {}
        if chat.get("media_form") == "data" and isinstance(reader, TranslatedAnswer):
            if pointers := reader.list_pointers():
                await self._exchange.fetch_parts(pointers, target, credential)
                reader.write_again()

    def is_final(self) -> bool:
        """Nobody else can be asked: some of the request has gone without being kept."""
        upload = self._call.upload
        return upload is not None and upload.spent

    def delivered_chars(self) -> int:
        return sum(map(len, self.reader.texts)) if self.reader is not None else 0

    def can_be_rescued(self) -> bool:
        """Only the plain text of one choice goes on elsewhere, and only on the caller's own wire."""
        reader, call = self.reader, self._call
        return (
            isinstance(reader, SameWireStream | RescueStream)
            and not reader.carries
            and call.operation == "chat"
            and call.request.get("n", 1) in (None, 1)
        )

    def speaks_callers_wire(self, target: Target) -> bool:
        call = self._call
        endpoint = find_endpoint(call, target)
        format = endpoint.format
        alike = format.name == call.door.format.name and format.look is not None
        return alike and not must_be_told_anew(call, target, endpoint)

    def _keep(self, reader: AnswerReader | None, target: Target, attempt: Attempt) -> None:
        """What this attempt used belongs to it; the reader that reached the client stays."""
        if reader is None:
            return
        attempt.usage = reader.usage
        if reader.begun:
            self.reader = reader
            self._call.served = target
            self._call.damaged += reader.damaged

    def _remaining(self, now: float) -> Timeouts:
        """The clocks of the next attempt, none longer than what is left of the whole call's."""
        clocks, spent = self._timeouts, now - self._call.began
        left = clocks.total_s - spent
        if left <= 0:
            raise UpstreamTimedOut(f"the call did not end within {clocks.total_s:g} s (clock: total)")
        if left >= clocks.answer_s:
            return clocks
        return replace(
            clocks,
            connect_s=min(clocks.connect_s, left),
            headers_s=min(clocks.headers_s, left),
            first_token_s=min(clocks.first_token_s, left),
            answer_s=left,
        )

    def _render(self, target: Target, endpoint: Endpoint, rescue: Rescue | None) -> bytes:
        call = self._call
        surface = call.door.format
        self._translation, call.loss = None, ()
        if endpoint.format.name == surface.name and not must_be_told_anew(call, target, endpoint):
            continuation = None
            if rescue is not None and rescue.mode == CONTINUE and self.reader is not None:
                continuation = Continuation("".join(self.reader.texts))
            return render_body(call, target, endpoint, continuation)
        self._translation = self._translate(target, endpoint)
        call.loss = self._translation.loss
        if call.loss and call.policy is not None and call.policy.on_loss == "fail":
            lost = ", ".join(call.loss)
            raise InvalidRequest(
                f"{target.provider.name} cannot express {lost} of this request", code="request_would_lose"
            )
        return self._translation.render(target.provider.params.edits(self._translation.body, target.model))

    def _translate(self, target: Target, endpoint: Endpoint) -> Translation:
        call = self._call
        surface = call.door.format
        return open_translation(call, surface, endpoint.format, describe_target(call, target))

    def _choose_reader(
        self, upstream: Reply, target: Target, endpoint: Endpoint, rescue: Rescue | None
    ) -> AnswerReader:
        call, format = self._call, endpoint.format
        if self._translation is not None:
            translated = self._translation.reader(upstream.header(b"content-type") or b"")
            call.writer = translated.writer
            return translated
        if format.answers and (raw := read_as_it_comes(call, format, upstream)) is not None:
            return raw
        if not call.stream:
            return SameWireAnswer(format)
        media_type = upstream.header(b"content-type") or b""
        if format.look is None or media_type.startswith(b"application/json"):
            if rescue is not None:
                raise UpstreamFailure("broken_stream", "a whole answer cannot continue a stream")
            if passes_frames(call, format, media_type):
                return PassedStream(format, {"id": call.id, "choices": 1})
            return self._translate(target, endpoint).reader(media_type)
        look, begun = format.look, self.reader
        if rescue is not None and isinstance(look, Look) and isinstance(begun, SameWireStream | RescueStream):
            call.rescued_by.append(target.name)
            identity = read_identity(begun.first_read, look)
            resumption = Resumption(rescue.mode, identity, call.rescued_by, call.usage_asked)
            return RescueStream(format, look, begun, resumption)
        return SameWireStream(
            format, look, hide_usage=not call.usage_asked, choices=look.count_choices(call.request)
        )


def must_be_told_anew(call: Call, target: Target, endpoint: Endpoint) -> bool:
    """Whether blobs that only their issuer may see keep a request from going to a target of its own wire as it is."""
    if holds_tags(call.body):
        return True
    issuer = endpoint.traits_of(target).get("issuer")
    return call.operation == "chat" and issuer != call.door.format.traits["issuer"]


def takes_state(call: Call, targets: Iterable[Target]) -> bool:
    """Whether some target of another wire may want back what a client could not carry."""
    surface = call.door.format.name
    if call.operation != "chat":
        return False
    for target in targets:
        endpoint = find_endpoint(call, target)
        format = endpoint.format
        if format.name != surface and (
            format.carries or endpoint.traits_of(target).get("issuer") != format.traits["issuer"]
        ):
            return True
    return False


def passes_frames(call: Call, format: Format, media_type: bytes) -> bool:
    """A stream whose frames the client can have as they are: of its wire, and nothing in it that only we asked for."""
    side, framing = call.door.format.client, call.door.serving.framing
    return (
        side.usage_asked is None
        and framing == format.framing
        and not media_type.startswith(b"application/json")
    )


def find_endpoint(call: Call, target: Target) -> Endpoint:
    return target.provider.find_endpoint(call.operation, call.door.format.name)


def describe_target(call: Call, target: Target) -> dict[str, Any]:
    """The target as request templates see it."""
    return {
        "model": target.model,
        "asks_usage": target.provider.stream_usage == "ask",
        "provider": target.provider.name,
        "stream": call.stream,
        "limits": {"context": target.context, "output": target.output},
        "capabilities": sorted(call.model.capabilities) if call.model else [],
        "traits": find_endpoint(call, target).traits_of(target),
    }
