"""The books of one worker: a call is opened before its upstream is asked and settled before its last bytes leave.

`settle` has no await, so that no cancellation can split it: usage, cost, one journal record, metrics, one log line.
Whatever needs the network or the database happens later, in the flusher.
"""

from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any, Protocol

from engine.billing.tariffs import Charge, Tariff, find_tariff
from engine.call import Call
from engine.wire.answers import AnswerReader
from engine.wire.rescue import RescueStream, count_delivered_tokens
from engine.wire.usage import Usage

Record = dict[str, Any]
NOTHING = Usage()
_TEXTS = ("text", "arguments")
_CONTENTS = ("content", "output", "summary", "parts")
_DEEPEST = 4
CHARGED_AS_DELIVERED = ("delivered", "provider")


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
        call.cost = self._cost(call, reader)
        call.cost_text = format_usd(call.cost)
        record = write_record(call, self._clock() - call.began)
        written = b""
        if call.begun_recorded or call.model is not None:
            written = self._journal.append_ended(record)
        for listen in self._on_settled:
            listen(call, record, written)

    def _cost(self, call: Call, reader: AnswerReader | None) -> Decimal:
        if call.model is None or call.served is None or call.policy is None or reader is None:
            return Decimal(0)
        billing, delivered = call.policy.billing, bool(reader.texts) or reader.carries
        if call.status == "error" and (billing.on_error == "never" or not delivered):
            return Decimal(0)
        if call.status in ("aborted", "interrupted"):
            if billing.on_abort == "never" or (billing.on_abort == "delivered" and not delivered):
                return Decimal(0)
        tariff = find_tariff(call.snapshot, call.model, call.served, call.started_at)
        charge = tariff.charge(call.usage or NOTHING)
        call.pricing = write_pricing(call, tariff, charge)
        return charge.cost


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
    usage = reader.usage or Usage(
        input=estimate_input_tokens(call.request), output=count_delivered_tokens(reader.texts), estimated=True
    )
    return call.door.format.add_asked(usage, call.request)


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
        "total_ms": round(seconds * 1000, 3),
        "tags": call.tags,
        "stream": call.stream,
        "rescued_by": call.rescued_by,
        "damaged": call.damaged,
        "config_revision": call.snapshot.version,
    }
    if call.error:
        record["error"] = call.error[:500]
    return record


def format_usd(amount: Decimal) -> str:
    """Plain decimal digits, never an exponent."""
    return format(amount.normalize(), "f") if amount else "0"
