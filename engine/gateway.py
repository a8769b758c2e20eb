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
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from typing import Protocol

from engine.billing.books import Books, estimate_input_tokens
from engine.call import Attempt, Call
from engine.config.snapshot import Timeouts
from engine.errors import ClientGone, GatewayError, NobodyAvailable, UpstreamFailure
from engine.policies.admission import Admission
from engine.policies.identity import Headers, Identity
from engine.routing.attempts import Attempts
from engine.routing.failover import Delivery, Router
from engine.routing.resolve import make_plan
from engine.upstream.exchange import Exchange
from engine.upstream.reply import Reply
from engine.wire.answers import AnswerReader
from engine.wire.requests import read_request

# Once the finish was seen, the provider's last bytes are waited for this long: with usage known, and without.
END_GRACE_S = 0.25
USAGE_GRACE_S = 2.0


class ClientReply(Protocol):
    """What the corridor may do to the client (http/respond.py)."""

    def add_headers(self, headers: Mapping[str, str]) -> None: ...
    def promise_life(self, keepalive_s: float) -> None: ...
    async def send(self, data: bytes) -> None: ...
    async def finish(self, tail: bytes, cost_usd: Decimal | None) -> None: ...
    async def fail(self, error: GatewayError) -> None: ...
    def drop(self) -> None: ...


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


async def carry(call: Call, headers: Headers, rooms: Rooms, reply: ClientReply) -> None:
    """Answer one call and settle it, whatever happens on the way."""
    attempts: Attempts | None = None
    try:
        call.caller = await rooms.identity.identify(headers)
        read_request(call)
        plan = make_plan(call.snapshot, call.caller, call.requested_model, call.operation)
        call.model, call.policy, call.targets = plan.model, plan.policy, plan.targets
        if plan.policy.limits or len(plan.targets) > 1:
            call.input_estimate = estimate_input_tokens(call.request)
        async with rooms.admission.admit(call, plan.policy) as limit_headers:
            reply.add_headers(limit_headers)
            reply.promise_life(plan.policy.keepalive_s)
            relay = partial(relay_answer, call, reply, rooms.clock)
            attempts = Attempts(call, plan.timeouts, rooms.exchange, relay, rooms.clock, rooms.books.open)
            answer = await Delivery(call, plan, rooms.router, attempts).run()
            call.http_status = call.http_status or 200
            rooms.books.settle(call, "aborted" if call.client_gone else "ok", answer)
            await reply.finish(answer.tail, call.cost)
    except GatewayError as error:
        call.http_status = call.http_status or error.status
        rooms.books.settle(call, "error", attempts and attempts.reader, error=error.message)
        await reply.fail(error)
    except asyncio.CancelledError:
        await end_early(call, rooms, reply, attempts and attempts.reader)
    except Exception as bug:  # noqa: BLE001 - the last border: a mistake of ours is settled, logged and answered
        rooms.report_bug(call, bug)
        error = GatewayError("the gateway made a mistake; the request id finds it in the log")
        call.http_status = call.http_status or error.status
        rooms.books.settle(call, "error", attempts and attempts.reader, error=f"{type(bug).__name__}: {bug}")
        await reply.fail(error)


async def relay_answer(
    call: Call,
    reply: ClientReply,
    clock: Callable[[], float],
    upstream: Reply,
    reader: AnswerReader,
    attempt: Attempt,
    clocks: Timeouts,
) -> None:
    """Pump one upstream's answer to the client until it is whole, under the clocks of its kind."""
    began = call.began + attempt.started_s
    if call.stream:
        upstream.set_clock("first_token", clocks.first_token_s, idle_s=clocks.idle_s)
    else:
        upstream.set_clock("answer", max(clocks.answer_s - (clock() - began), 0.01))
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
            note_first_token(call, attempt, clock() - began)
            upstream.set_clock("answer", left_of_total(call, clocks, clock()), idle_s=clocks.idle_s)
        if out:
            await reply.send(out)
        if reader.settling and not reader.ended:
            upstream.set_clock("end", END_GRACE_S if reader.usage else USAGE_GRACE_S)


def note_first_token(call: Call, attempt: Attempt, seconds: float) -> None:
    attempt.first_token_ms = seconds * 1000
    if call.first_token_ms is None:
        call.first_token_ms = round((attempt.started_s + seconds) * 1000, 3)


def left_of_total(call: Call, clocks: Timeouts, now: float) -> float:
    return max(clocks.total_s - (now - call.began), 0.01)


async def end_early(call: Call, rooms: Rooms, reply: ClientReply, reader: AnswerReader | None) -> None:
    """The client went away, or the gateway is leaving: what was used is settled, and the client told if it is there."""
    if call.client_gone:
        call.http_status = call.http_status or ClientGone.status
        rooms.books.settle(call, "aborted", reader, error="the client closed the connection")
        reply.drop()
        return
    error = NobodyAvailable("the gateway is shutting down", code="shutting_down", retry_after_s=1.0)
    call.http_status = call.http_status or error.status
    rooms.books.settle(call, "interrupted", reader, error=error.message)
    await reply.fail(error)
