"""What the payment routes take. Amounts are cents; credits are US dollars and only ever a choice among what is sold."""

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints, model_validator

from engine.config.schema_base import Strict
from engine.config.schema_payments import MOST_CENTS
from engine.storage.outbox import is_address

OWN_WORDS = frozenset({"payment_id", "payer", "refund_id"})
MOST_WORDS = 20


def _refuse_control(text: str) -> str:
    if any(ord(letter) < 32 for letter in text):
        raise ValueError("text must be one line")
    return text


def _check_address(text: str) -> str:
    if text and not is_address(text):
        raise ValueError("this is no mail address")
    return text


def _check_words(words: dict[str, str]) -> dict[str, str]:
    if len(words) > MOST_WORDS or OWN_WORDS & set(words):
        raise ValueError(f"up to {MOST_WORDS} words, none of them {', '.join(sorted(OWN_WORDS))}")
    return words


def _refuse_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("a number is expected")
    return str(value) if isinstance(value, float) else value


Cents = Annotated[int, Field(strict=True, ge=1, le=MOST_CENTS)]
Credits = Annotated[Decimal, BeforeValidator(_refuse_bool), Field(gt=0, max_digits=24, decimal_places=12)]
Line = Annotated[str, StringConstraints(max_length=300), AfterValidator(_refuse_control)]
Url = Annotated[str, StringConstraints(max_length=2000)]
Address = Annotated[str, StringConstraints(max_length=254), AfterValidator(_check_address)]
StripeId = Annotated[str, StringConstraints(min_length=3, max_length=100, pattern=r"^[A-Za-z0-9_]+$")]
Word = Annotated[str, StringConstraints(min_length=1, max_length=40), AfterValidator(_refuse_control)]
Words = Annotated[dict[Word, Annotated[str, StringConstraints(max_length=500)]], AfterValidator(_check_words)]
CurrencyText = Annotated[str, StringConstraints(min_length=3, max_length=3, to_lower=True)]


class _Payment(Strict):
    amount: Cents | None = None
    package_id: Line | None = None
    credit_value: Credits | None = None
    currency: CurrencyText = "usd"
    description: Line = ""
    customer_email: Address = ""
    metadata: Words = {}
    save_payment_method: bool = False

    @model_validator(mode="after")
    def _choose_one(self) -> "_Payment":
        if (self.amount is None) == (self.package_id is None):
            raise ValueError("either `amount` or `package_id` is expected")
        return self


class CheckoutBody(_Payment):
    success_url: Url = ""
    cancel_url: Url = ""


class IntentBody(_Payment):
    pass


class RefundBody(Strict):
    payment_intent_id: StripeId
    amount: Cents | None = None
    reason: Line = "requested_by_customer"
    metadata: Words = {}


class PaymentsQuery(Strict):
    limit: Annotated[int, Field(ge=1, le=100)] = 50
    offset: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    status: Line | None = None


class AllPaymentsQuery(PaymentsQuery):
    payer: Line | None = None
    flagged: bool = False


class SubscriptionCheckoutBody(Strict):
    price_id: StripeId
    product_id: StripeId | None = None
    mode: Literal["subscription"] = "subscription"
    success_url: Url = ""
    cancel_url: Url = ""
    customer_email: Address = ""
    metadata: Words = {}


class ChangePlanBody(Strict):
    new_price_id: StripeId
    new_product_id: StripeId | None = None
    proration_behavior: Literal["create_prorations", "always_invoice", "none"] = "create_prorations"


class CancelBody(Strict):
    cancel_at_period_end: bool = True
    reason: Line = ""


class PortalBody(Strict):
    return_url: Url = ""


class FindingsQuery(Strict):
    resolved: bool = False
    limit: Annotated[int, Field(ge=1, le=1000)] = 100


class ReconcileBody(Strict):
    since: datetime | None = None
    replay: bool | None = None
