"""The corridor: one request from the door to its record, top to bottom. Who knows this file knows the product.

    http/inference   door: bounded body, one snapshot, one Call
    1  identity      who pays, what is allowed
    2  request       the caller's JSON, checked
    3  resolve       who may answer (pure)
    4  admission     places under the limits, taken and given back
    5  failover      targets are asked until one has answered whole
    6  relay         every read is metered and pushed to the client
    7  books         settled before the last bytes leave
    8  reply         the end of the answer, or one clear error

Streamed and plain, known and refused are the same path.
"""

import asyncio
from collections.abc import Callable, Sized
from dataclasses import dataclass
from typing import Protocol

from engine.billing.books import Books, estimate_input_tokens, measure_usage
from engine.call import Attempt, Call, Caller
from engine.config.snapshot import Timeouts
from engine.errors import (
    ClientGone,
    GatewayError,
    GatewayMistake,
    KeyRefused,
    NobodyAvailable,
    UpstreamFailure,
)
from engine.policies.admission import Admission, limits_tokens
from engine.policies.guests import Guests
from engine.policies.identity import Headers, Identity
from engine.routing.attempts import Attempts, takes_state
from engine.routing.failover import Delivery, Router
from engine.routing.resolve import Plan, make_plan
from engine.upstream.exchange import Exchange
from engine.upstream.reply import Reply
from engine.wire.answers import AnswerReader
from engine.wire.requests import read_form, read_request
from engine.wire.rescue import count_delivered_tokens

# Once the finish was seen, the provider's last bytes are waited for this long: with usage known, and without.
END_GRACE_S = 0.25
USAGE_GRACE_S = 2.0
CROWD = 8


class ClientReply(Protocol):
    """What the corridor may do to the client (http/respond.py)."""

    def add_headers(self, headers: list[tuple[bytes, bytes]]) -> None: ...
    def promise_life(self, keepalive_s: float) -> None: ...
    async def send(self, data: bytes) -> None: ...
    async def finish(self, tail: bytes, cost_usd: str) -> None: ...
    async def fail(self, error: GatewayError) -> None: ...
    def drop(self) -> None: ...


class Conversations(Protocol):
    """What was said before (storage/conversations.py)."""

    async def recall(self, call: Call) -> None: ...
    def keep(self, call: Call, end: bytes) -> None: ...


class PrivateState(Protocol):
    """What only its provider understands, and clients cannot carry (storage/private_state.py)."""

    async def recall(self, call: Call) -> None: ...
    def keep(self, call: Call, reader: AnswerReader | None) -> None: ...


@dataclass(frozen=True, slots=True)
class Rooms:
    """What the corridor leads through. Built once in app.py."""

    identity: Identity
    admission: Admission
    exchange: Exchange
    router: Router
    books: Books
    clock: Callable[[], float]
    report_bug: Callable[[Call, Exception], None]
    conversations: Conversations
    private_state: PrivateState
    guests: Guests
    sign_receipt: Callable[[Call], bytes]
    open_calls: Sized
    """The calls that are under way."""


async def carry(call: Call, headers: Headers, rooms: Rooms, reply: ClientReply) -> None:
    """Answer one call and settle it, whatever happens on the way."""
    attempts: Attempts | None = None
    try:
        call.caller = await identify_caller(call, headers, rooms)
        if call.upload is None:
            read_request(call)
        else:
            read_form(call, await call.upload.read_head())
        plan = make_plan(call.snapshot, call.caller, call.requested_model, call.operation)
        call.model, call.policy, call.targets = plan.model, plan.policy, plan.targets
        if call.door.format.stored is not None:
            await rooms.conversations.recall(call)
        if takes_state(call, plan.targets):
            await rooms.private_state.recall(call)
        if needs_estimate(call, plan):
            call.input_estimate = estimate_input_tokens(call.request)
        async with rooms.admission.admit(call, plan.policy) as limit_headers:
            reply.add_headers(limit_headers + name_receipt(call) if call.wants_receipt else limit_headers)
            reply.promise_life(plan.policy.keepalive_s)
            relay = Relay(call, reply, rooms.clock)
            attempts = Attempts(call, plan.timeouts, rooms.exchange, relay, rooms.clock, rooms.books.open)
            await walk_in_step(call, rooms)
            answer = await deliver(call, plan, attempts, rooms)
            await walk_in_step(call, rooms)
            call.http_status = call.http_status or 200
            rooms.books.settle(call, "aborted" if call.client_gone else "ok", answer)
            await finish(call, rooms, reply, answer.tail)
            if call.door.format.stored is not None:
                rooms.conversations.keep(call, answer.tail)
    except GatewayError as error:
        await end_in_error(call, rooms, reply, attempts, error)
    except asyncio.CancelledError:
        await end_early(call, rooms, reply, attempts)
    except Exception as bug:  # noqa: BLE001 - the last border: a mistake of ours is settled, logged and answered
        rooms.report_bug(call, bug)
        await end_in_error(call, rooms, reply, attempts, GatewayMistake())


async def identify_caller(call: Call, headers: Headers, rooms: Rooms) -> Caller:
    """Whoever the key is of; without one a guest, where there are guests."""
    try:
        return await rooms.identity.identify(headers, call.client_ip)
    except KeyRefused as refused:
        guest = rooms.guests.welcome(call, refused)
        if guest is None:
            raise
        return guest


async def walk_in_step(call: Call, rooms: Rooms) -> None:
    """Let those who came together reach this place, too, before anybody goes on; streams come piece by piece anyway.

    What they need next is then the same code, of which a cache of the processor holds only a part: a busy call
    costs a sixth less.
    """
    if len(rooms.open_calls) > CROWD and not call.stream:
        await asyncio.sleep(0)


def needs_estimate(call: Call, plan: Plan) -> bool:
    """Whether anybody asks how long the prompt is: a limit on tokens, the choice of the cheapest, the client."""
    if len(plan.targets) > 1 and plan.model.strategy == "cheapest":
        return True
    return limits_tokens(call, plan.policy) or call.door.format.tells_estimate


def name_receipt(call: Call) -> list[tuple[bytes, bytes]]:
    """Where the receipt of a stream will be: what it cost is known when its headers are long gone."""
    return [(b"x-receipt-url", b"/v1/receipts/" + call.id.encode())] if call.stream else []


async def deliver(call: Call, plan: Plan, attempts: Attempts, rooms: Rooms) -> AnswerReader:
    """A whole answer. What was used counts against the limits however that ends; a good end is measured by `settle`."""
    try:
        return await Delivery(call, plan, rooms.router, attempts).run()
    except BaseException:
        call.usage = measure_usage(call, attempts.reader)
        raise
    finally:
        rooms.private_state.keep(call, attempts.reader)


async def finish(call: Call, rooms: Rooms, reply: ClientReply, tail: bytes) -> None:
    """The end of a settled answer; a plain one with its receipt, if its caller wants one."""
    if call.wants_receipt and not call.stream:
        reply.add_headers([(b"x-receipt", rooms.sign_receipt(call))])
    await reply.finish(tail, call.cost_text)


async def end_in_error(
    call: Call, rooms: Rooms, reply: ClientReply, attempts: Attempts | None, error: GatewayError
) -> None:
    """One clear error, after what was used is settled."""
    call.http_status = call.http_status or error.status
    call.error_code = error.code or ""
    rooms.books.settle(call, "error", attempts.reader if attempts else None, error=error.message)
    await reply.fail(error)


async def end_early(call: Call, rooms: Rooms, reply: ClientReply, attempts: Attempts | None) -> None:
    """The client went away, or the gateway is leaving: settle what was used; tell the client if it is there."""
    reader = attempts.reader if attempts else None
    if call.client_gone:
        call.http_status = call.http_status or ClientGone.status
        rooms.books.settle(call, "aborted", reader, error="the client closed the connection")
        reply.drop()
        return
    error = NobodyAvailable("the gateway is shutting down", code="shutting_down", retry_after_s=1.0)
    call.http_status = call.http_status or error.status
    rooms.books.settle(call, "interrupted", reader, error=error.message)
    await reply.fail(error)


class Relay:
    """Pumps one upstream's answer after another to the one client of a call, under the clocks of its kind."""

    __slots__ = ("_call", "_clock", "_reply")

    def __init__(self, call: Call, reply: ClientReply, clock: Callable[[], float]) -> None:
        self._call, self._reply, self._clock = call, reply, clock

    async def run(self, upstream: Reply, reader: AnswerReader, attempt: Attempt, clocks: Timeouts) -> None:
        """Returns when the answer is whole; raises UpstreamFailure when it will not be."""
        if self._call.stream:
            upstream.set_clock("first_token", clocks.first_token_s)
        while not reader.ended:
            try:
                data = await upstream.read()
                out = reader.feed(data) if data else reader.close()
            except UpstreamFailure:
                if not reader.settling:
                    raise
                reader.finish()
                return
            if reader.begun and attempt.first_token_ms is None:
                self._note_first_token(upstream, attempt, clocks)
            if out:
                await self._reply.send(out)
            if self._call.client_gone and self._has_drained_enough(reader):
                raise asyncio.CancelledError
            if reader.failure is not None and not reader.settling:
                raise reader.failure
            if reader.settling and not reader.ended:
                upstream.set_clock("end", END_GRACE_S if reader.usage else USAGE_GRACE_S)

    def _note_first_token(self, upstream: Reply, attempt: Attempt, clocks: Timeouts) -> None:
        call, now = self._call, self._clock()
        attempt.first_token_ms = (now - call.began - attempt.started_s) * 1000
        if call.first_token_ms is None:
            call.first_token_ms = int((now - call.began) * 1_000_000) / 1000
        if call.stream:
            left_s = max(clocks.total_s - (now - call.began), 0.01)
            upstream.set_clock("total", left_s, idle_s=clocks.idle_s)

    def _has_drained_enough(self, reader: AnswerReader) -> bool:
        """A caller who left is read on for its usage, but not for more than the policy assumes of an answer."""
        policy = self._call.policy
        return policy is not None and count_delivered_tokens(reader.texts) > policy.assume_output_tokens
