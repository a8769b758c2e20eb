"""How people pay: `billing.stripe` of gateway.yaml, and policies.d/payments.yaml, what is taken.

One credit is one US dollar, everywhere.
"""

from decimal import Decimal
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, model_validator
from pydantic_core import PydanticCustomError

from engine.config.schema_base import Count, Name, Seconds, SecretText, Share, Strict, Usd, described
from engine.secret import Secret

Currency = Literal["usd", "eur", "gbp", "cad", "aud"]
LEAST_CENTS, MOST_CENTS = 50, 99_999_999


def _check_pattern(text: str) -> str:
    parts = urlsplit(text.removesuffix("*"))
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or "*" in parts.geturl():
        raise ValueError("an address is expected, such as https://app.example.org/billing/*")
    if parts.query or parts.fragment or not parts.path.startswith("/"):
        raise ValueError("an address with a path and without a query is expected; a `*` may stand at its end")
    return text


UrlPattern = Annotated[str, AfterValidator(_check_pattern)]


class ReconcileEntry(Strict):
    each_h: float = described(
        "how often Stripe's list of events is compared with ours, hours; 0: never", 24, ge=0
    )
    days: float = described("how far back it looks, days; Stripe keeps events for 30", 3, gt=0, le=30)
    replay: bool = described("events that never came are done as if they had", True)


class StripeEntry(Strict):
    """Payments by Stripe. Without `secret_key` its routes answer 503, and nothing else changes."""

    secret_key: SecretText | None = described("the secret or restricted key of the account", None)
    webhook_secret: SecretText | None = described("what Stripe signs its events with (`whsec_...`)", None)
    publishable_key: SecretText | None = described("the key that pages may show; nothing here needs it", None)
    return_urls: tuple[UrlPattern, ...] = described(
        "where Stripe's pages may send people back to; a `*` at the end stands for everything below", ()
    )
    success_url: str = described(
        "where to after paying when the request does not say so", "", max_length=2000
    )
    cancel_url: str = described(
        "where to after not paying when the request does not say so", "", max_length=2000
    )
    portal_configuration: str = described(
        "the id of the customer portal's settings; empty: the default's", ""
    )
    signature_tolerance_s: Seconds = described("events signed longer ago than this are refused", 300)
    timeout_s: Seconds = described("how long Stripe may take to answer", 20)
    api_base: str = described("where Stripe's API is, for tests; empty: at Stripe", "", max_length=300)
    reconcile: ReconcileEntry = described("the comparison of their books with ours", ReconcileEntry())

    @property
    def is_configured(self) -> bool:
        return isinstance(self.secret_key, Secret) and bool(self.secret_key)

    @model_validator(mode="after")
    def _refuse_half(self) -> "StripeEntry":
        if self.is_configured and not self.webhook_secret:
            raise PydanticCustomError("stripe", "`webhook_secret` is missing: nobody could tell who paid")
        return self


class PaymentsFile(Strict):
    """What is taken for credit. The one named `default` is in force; packages are files of their own."""

    payments: Name = described("the name; `default` is in force")
    extends: Name | None = described("another of the kind whose keys these go over", None)
    least_cents: Count = described("the smallest free amount", LEAST_CENTS, ge=LEAST_CENTS, le=MOST_CENTS)
    most_cents: Count = described("the largest free amount", MOST_CENTS, le=MOST_CENTS)
    rates: dict[Currency, Usd] = described(
        "US dollars of credit for one unit of each currency that is taken", {"usd": Decimal(1)}
    )
    tolerance_cents: Count = described(
        "a payment that differs from what was asked by no more is taken as it", 50
    )
    tolerance_share: Share = described("... or by no more than this share", 0.01)
    flag_share: Share = described(
        "a payment above what was asked by more than this share is told to people", 0.1
    )

    @model_validator(mode="after")
    def _check_bounds(self) -> "PaymentsFile":
        if self.least_cents > self.most_cents:
            raise PydanticCustomError("payments", "`least_cents` is above `most_cents`")
        if not all(self.rates.values()):
            raise PydanticCustomError("payments", "a rate of 0 would take money for nothing")
        return self
