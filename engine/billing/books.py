"""The books of one worker: a call is opened before its upstream is asked and settled before its last bytes leave.

`settle` has no await, so that no cancellation can split it: usage, cost, one journal record, metrics, one log line.
Whatever needs the network or the database happens later, in the flusher.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any, Protocol

from engine.billing.tariffs import Charge, Tariff, find_tariff
from engine.call import Call
from engine.config.snapshot import Model, Target
from engine.wire.answers import AnswerReader
from engine.wire.operations import COUNTING, WRITING
from engine.wire.rescue import RescueStream, count_delivered_tokens
from engine.wire.usage import Usage

Record = dict[str, Any]
NOTHING = Usage()
_TEXTS = ("text", "arguments")
_CONTENTS = ("content", "output", "summary", "parts")
_DEEPEST = 4
FREE = Decimal(0)
_FAR = 2
"""A count of delivered tokens may be off by nearly that."""
LEAST_USD = Decimal("1e-12")
"""The last decimal of an amount anywhere."""


class Journal(Protocol):
    def append_begun(self, record: Record) -> None: ...
    def append_ended(self, record: Record) -> bytes: ...


class Books:
    """`on_settled` gets every record after it is in the journal (metrics, the log line), and as JSON if it is."""

    def __init__(
        self,
        journal: Journal,
        clock: Callable[[], float],
        on_settled: Sequence[Callable[[Call, Record, bytes], None]],
    ) -> None:
        self._journal, self._clock, self._on_settled = journal, clock, on_settled

    def open(self, call: Call) -> None:
        """Write down that the upstream is about to be asked. Raises DependencyAway when that cannot be kept."""
        self._journal.append_begun(
            {
                "id": call.id,
                "request_id": call.request_id,
                "started_at": call.started_at,
                "key_id": call.caller.key_id if call.caller else None,
                "user_id": call.caller.user_id if call.caller else None,
                "surface": call.surface,
                "requested_model": call.requested_model,
                "stream": call.stream,
                "tags": call.tags,
                "config_revision": call.snapshot.version,
            }
        )
        call.begun_recorded = True

    def settle(self, call: Call, status: str, reader: AnswerReader | None = None, error: str = "") -> None:
        """Close the call, once: `status` is ok, error, aborted or interrupted."""
        if call.settled:
            return
        call.settled = True
        call.status, call.error = status, error
        call.usage = measure_usage(call, reader)
        call.cost = self._cost(call, reader).quantize(LEAST_USD, ROUND_HALF_EVEN)
        call.cost_text = format_usd(call.cost)
        now = self._clock()
        if call.hold is not None:
            call.hold.settle(call.id, call.cost, now)
        record = write_record(call, now - call.began)
        written = b""
        if call.begun_recorded or call.model is not None:
            written = self._journal.append_ended(record)
        for listen in self._on_settled:
            listen(call, record, written)

    def _cost(self, call: Call, reader: AnswerReader | None) -> Decimal:
        model, served, policy = call.model, call.served, call.policy
        if model is None or served is None or policy is None or reader is None or call.operation == COUNTING:
            return FREE
        billing, usage = policy.billing, call.usage or NOTHING
        delivered = bool(reader.texts) or reader.carries
        if call.status == "error" and (billing.on_error == "never" or not delivered):
            return FREE
        if call.status in ("aborted", "interrupted"):
            if billing.on_abort == "never" or (billing.on_abort == "delivered" and not delivered):
                return FREE
        elif call.operation in WRITING and not (delivered or usage.completion):
            return FREE  # whoever got nothing pays nothing
        cost = FREE
        if not is_own(call, served):
            tariff = find_tariff(call.snapshot, model, served, call.started_at)
            charge = tariff.charge(usage)
            call.pricing = write_pricing(call, tariff, charge)
            cost = charge.cost
        if billing.fallback_attempts == "provider" and len(call.attempts) > 1 and not call.rescued_by:
            failed = cost_of_failures(call, model)
            if failed and call.pricing:
                call.pricing["attempts_usd"] = format_usd(failed)
            cost += failed
        return cost


def is_own(call: Call, target: Target) -> bool:
    """Whether the caller asks this provider with a key of its own, and pays it there."""
    own = call.caller.own_keys if call.caller is not None else None
    return own is not None and target.provider.name in own.credentials


def cost_of_failures(call: Call, model: Model) -> Decimal:
    """What the providers of the attempts before the last one reported; what they did not report costs nothing."""
    cost, targets = FREE, {target.name: target for target in call.targets}
    for attempt in call.attempts[:-1]:
        target = targets.get(f"{attempt.provider}/{attempt.model}")
        if target is not None and attempt.usage is not None and not is_own(call, target):
            cost += find_tariff(call.snapshot, model, target, call.started_at).charge(attempt.usage).cost
    return cost


def write_pricing(call: Call, tariff: Tariff, charge: Charge) -> Record:
    """What a call has to be priced by again, beside its tokens."""
    usage = call.usage or NOTHING
    pricing: Record = {"listed": call.model.name if call.model else ""}
    if usage.service:
        pricing["service"] = usage.service
    if usage.variant:
        pricing["variant"] = usage.variant
    if tariff.book:
        pricing["book"] = tariff.book
    if charge.provider_cost != charge.cost:
        pricing["provider_cost_usd"] = format_usd(charge.provider_cost)
    if tariff.is_unpriced:
        pricing["unpriced"] = True
    return pricing


def measure_usage(call: Call, reader: AnswerReader | None) -> Usage | None:
    """What the provider reported, else an estimate of what was delivered, else nothing."""
    if reader is None or not (reader.begun or reader.usage):
        return None
    if isinstance(reader, RescueStream) and reader.shown_usage is not None:
        return reader.shown_usage
    usage = reader.usage
    if usage is None:
        usage = Usage(input=estimate_input_tokens(call.request), estimated=True)
    if usage.estimated or not (reader.ended or reader.settling):
        usage = add_delivered(usage, count_delivered_tokens(reader.texts))
    return call.door.format.add_asked(usage, call.request)


def add_delivered(usage: Usage, delivered: int) -> Usage:
    """With the tokens that were delivered, where far fewer are told: some providers count the answer in the stream's
    first event, and again in the last one, which a stream that is cut does not have."""
    if delivered <= _FAR * usage.completion:
        return usage
    return replace(usage, output=usage.output + delivered - usage.completion, estimated=True)


_PROMPTS = frozenset(
    ("instructions", "prompt", "input", "texts", "query", "documents")
    + ("system", "contents", "systemInstruction", "system_instruction")
)


def estimate_input_tokens(request: dict[str, Any]) -> int:
    """Tokens of a request's texts at four characters each; an image counts as a thousand."""
    characters = 0
    messages = request.get("messages")
    for message in messages if isinstance(messages, list) else ():
        content = message.get("content") if isinstance(message, dict) else None
        characters += len(content) if isinstance(content, str) else _count_characters(content)
    for name in _PROMPTS & request.keys():
        value = request[name]
        if isinstance(value, list) and value and isinstance(value[0], int):
            characters += 4 * len(value)
        else:
            characters += _count_characters([value] if isinstance(value, dict) else value)
    return -(-characters // 4)


def _count_characters(content: Any, depth: int = 0) -> int:
    if isinstance(content, str):
        return len(content)
    if not isinstance(content, list):
        return 0
    characters = 0
    for part in content:
        if isinstance(part, str):
            characters += len(part)
        elif isinstance(part, list):  # ids of tokens
            characters += 4 * len(part)
        elif isinstance(part, dict):
            characters += _count_part(part, depth)
    return characters


def _count_part(part: dict[str, Any], depth: int) -> int:
    """A part has its text; an item of a conversation has content of its own; anything else is taken for an image."""
    for name in _TEXTS:
        if isinstance(part.get(name), str):
            return len(part[name])
    for name in _CONTENTS if depth < _DEEPEST else ():
        if isinstance(part.get(name), str | list):
            return _count_characters(part[name], depth + 1)
    return 4000


def write_record(call: Call, seconds: float) -> Record:
    """The call record, as `GET /admin/calls` shows it. Amounts are decimal text."""
    served, usage, caller = call.served, call.usage, call.caller
    record: Record = {
        "id": call.id,
        "request_id": call.request_id,
        "started_at": call.started_at,
        "key_id": caller.key_id if caller else None,
        "user_id": caller.user_id if caller else None,
        "surface": call.surface,
        "requested_model": call.requested_model,
        "model": served.model if served else None,
        "provider": served.provider.name if served else None,
        "attempts": [attempt.as_record() for attempt in call.attempts],
        "status": call.status,
        "http_status": call.http_status,
        "tokens": usage.as_record() if usage else {},
        "usage_source": "none" if usage is None else "estimated" if usage.estimated else "reported",
        "cost_usd": call.cost_text,
        "pricing": call.pricing,
        "first_token_ms": call.first_token_ms,
        "total_ms": int(seconds * 1_000_000) / 1000,  # cut as in Attempt.as_record
        "tags": call.tags,
        "stream": call.stream,
        "rescued_by": call.rescued_by,
        "damaged": call.damaged,
        "config_revision": call.snapshot.version,
    }
    if caller is not None and not caller.unlimited:
        record["payer"] = caller.payer
        record["prepaid"] = call.is_prepaid
        if call.hold is not None:
            record["lease"], record["purses"] = call.hold.worker, call.hold.list_purses()
            if call.hold.lent:
                record["lent"] = True
    if call.error:
        record["error"] = call.error[:500]
    return record


def format_usd(amount: Decimal) -> str:
    """Plain decimal digits, never an exponent."""
    return format(amount.normalize(), "f") if amount else "0"
