"""Readings of Stripe's objects: what we go by, out of what they say. Pure; both shapes of invoices and subscriptions.

Since the version of spring 2025 an invoice names its subscription below `parent`, a line its price below `pricing`, and
periods stand at a subscription's items. Endpoints that were made before still get the older shape.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Object = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Told:
    """One event. `object` is a snapshot of the thing at the moment `created`."""

    event_id: str
    type: str
    created: int
    object: Object
    livemode: bool = True
    account: str = ""
    """Set when it is another account's."""

    @property
    def object_id(self) -> str:
        return read_id(self.object.get("id"))


def read_event(event: Object) -> Told:
    """Raises KeyError, TypeError or ValueError when it is not what an event looks like."""
    found = event["data"]["object"]
    if not isinstance(found, Mapping):
        raise TypeError("data.object is no object")
    return Told(
        str(event["id"]),
        str(event["type"]),
        int(event["created"]),
        found,
        bool(event.get("livemode", True)),
        str(event.get("account") or ""),
    )


def read_id(value: Any) -> str:
    """An id, or that of an expanded object, or ""."""
    if isinstance(value, Mapping):
        value = value.get("id")
    return value if isinstance(value, str) else ""


def read_mark(found: Object, name: str) -> str:
    """One of our own words in an object's metadata."""
    metadata = found.get("metadata")
    value = metadata.get(name) if isinstance(metadata, Mapping) else None
    return value if isinstance(value, str) else ""


DISPUTE_STAGES = {
    "warning_needs_response": 0,
    "warning_under_review": 0,
    "warning_closed": 0,
    "prevented": 0,
    "needs_response": 1,
    "under_review": 1,
    "won": 2,
    "lost": 2,
}
"""A later stage goes over an earlier one, in whatever order they are told. At stage 0 no money has moved."""


@dataclass(frozen=True, slots=True)
class Dispute:
    dispute_id: str
    intent_id: str
    amount_cents: int
    stage: int
    status: str


def read_dispute(told: Told) -> Dispute:
    found = told.object
    status = str(found["status"])
    if told.type == "charge.dispute.funds_reinstated":
        status = "won"  # also of what was won in part: the bank gave the money back
    stage = DISPUTE_STAGES.get(status, 1)
    return Dispute(read_id(found), read_id(found.get("payment_intent")), int(found["amount"]), stage, status)


@dataclass(frozen=True, slots=True)
class Subscription:
    subscription_id: str
    customer_id: str
    status: str
    product_id: str
    price_id: str
    item_id: str
    period_start: int | None
    period_end: int | None
    cancel_at_period_end: bool
    canceled_at: int | None
    schedule_id: str
    started_at: int


def read_subscription(found: Object) -> Subscription:
    item: Object = next(iter(_read_list(found.get("items"))), {})
    price = item.get("price") or item.get("plan") or {}
    return Subscription(
        subscription_id=read_id(found),
        customer_id=read_id(found.get("customer")),
        status=str(found["status"]),
        product_id=read_id(price.get("product")),
        price_id=read_id(price),
        item_id=read_id(item),
        period_start=item.get("current_period_start") or found.get("current_period_start"),
        period_end=item.get("current_period_end") or found.get("current_period_end"),
        cancel_at_period_end=bool(found.get("cancel_at_period_end")) or found.get("cancel_at") is not None,
        canceled_at=found.get("canceled_at"),
        schedule_id=read_id(found.get("schedule")),
        started_at=int(found["created"]),
    )


@dataclass(frozen=True, slots=True)
class Line:
    """What one line of an invoice is for."""

    product_id: str
    price_id: str
    amount_cents: int
    is_proration: bool
    begins: int
    ends: int


@dataclass(frozen=True, slots=True)
class Invoice:
    invoice_id: str
    subscription_id: str
    customer_id: str
    status: str
    reason: str
    paid_cents: int
    currency: str
    made_at: int
    lines: tuple[Line, ...]
    intent_id: str = ""
    """Of older endpoints only; since 2025 payments of invoices are objects of their own."""


def read_invoice(found: Object) -> Invoice:
    parent = found.get("parent") or {}
    details = parent.get("subscription_details") or {}
    return Invoice(
        invoice_id=read_id(found),
        subscription_id=read_id(details.get("subscription")) or read_id(found.get("subscription")),
        customer_id=read_id(found.get("customer")),
        status=str(found.get("status") or ""),
        reason=str(found.get("billing_reason") or ""),
        paid_cents=int(found.get("amount_paid") or 0),
        currency=str(found.get("currency") or ""),
        made_at=int(found["created"]),
        lines=tuple(_read_line(line) for line in _read_list(found.get("lines"))),
        intent_id=read_id(found.get("payment_intent")),
    )


def _read_line(line: Object) -> Line:
    pricing = (line.get("pricing") or {}).get("price_details") or {}
    older = line.get("price") or line.get("plan") or {}
    parent = line.get("parent") or {}
    details = parent.get("subscription_item_details") or parent.get("invoice_item_details") or {}
    period = line["period"]
    return Line(
        product_id=read_id(pricing.get("product")) or read_id(older.get("product")),
        price_id=read_id(pricing.get("price")) or read_id(older),
        amount_cents=int(line["amount"]),
        is_proration=bool(details.get("proration") or line.get("proration")),
        begins=int(period["start"]),
        ends=int(period["end"]),
    )


def _read_list(found: Any) -> Iterator[Object]:
    data = found.get("data") if isinstance(found, Mapping) else None
    return iter(data or ())
