"""What the payment rooms need of Stripe: objects of its API as plain dictionaries, in and out.

The only thing behind it is `stripe_api.py`, which brings Stripe's library and is imported when a key is configured.
"""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from engine.errors import GatewayError

Object = dict[str, Any]


class PaymentRefused(GatewayError):
    """The bank or Stripe declined; raised to whoever wanted to pay."""

    status, type, code = 402, "card_error", "payment_refused"


class PaymentsMissing(GatewayError):
    """Asked for payments where none are configured."""

    status, type, code = 503, "service_unavailable_error", "payments_not_configured"

    def __init__(self) -> None:
        super().__init__(
            "payments are not configured here: `billing.stripe.secret_key` of gateway.yaml is empty"
        )


class Stripe(Protocol):
    """Raises PaymentRefused (402), InvalidRequest, NotFound, or DependencyAway when nobody can tell what became of it.

    `key` names a request: Stripe answers a repeated one with what it did the first time.
    """

    async def create(self, what: str, params: Mapping[str, Any], key: str) -> Object: ...

    async def update(self, what: str, name: str, params: Mapping[str, Any], key: str) -> Object: ...

    async def fetch(self, what: str, name: str, params: Mapping[str, Any] | None = None) -> Object: ...

    async def act(self, what: str, name: str, action: str, params: Mapping[str, Any], key: str) -> Object:
        """Such as `act("subscriptions", id, "cancel", ...)`."""

    def walk(self, what: str, params: Mapping[str, Any]) -> AsyncIterator[Object]:
        """Every object of a list, page by page."""

    def check_signature(self, raw: bytes, header: str) -> Object:
        """The event that was signed. Raises InvalidRequest."""

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Charged:
    """How an attempt to charge somebody who is not there ended: `done`, `failed` or `unsure`."""

    outcome: str
    payment_id: str
    reason: str = ""
