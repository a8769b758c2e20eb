"""What an amount buys, and where people may be sent back to. Pure; all numbers are those of the files."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import ROUND_DOWN, Decimal
from typing import Any
from urllib.parse import unquote, urlsplit

from engine.config.schema_commerce import PackageFile
from engine.config.schema_payments import PaymentsFile
from engine.config.schema_plan import PlanFile
from engine.errors import InvalidRequest

CENT = Decimal("0.01")
_SMALLEST = Decimal("1E-12")


@dataclass(frozen=True, slots=True)
class Books:
    """What is sold, as the files say at the moment."""

    terms: PaymentsFile
    plans: Mapping[str, PlanFile]
    packages: Mapping[str, PackageFile] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Offer:
    amount_cents: int
    currency: str
    credit_usd: Decimal
    package: str = ""


def find_offer(books: Books, amount_cents: int, currency: str, credit_usd: Decimal | None = None) -> Offer:
    """What this amount buys. `credit_usd` is what the client believes: it may choose a package, never a number."""
    terms = books.terms
    package = _find_package(books, amount_cents, currency, credit_usd)
    if package is not None:
        return package
    rate = terms.rates.get(currency)  # type: ignore[call-overload] # any text may be asked for
    if rate is None:
        taken = ", ".join(sorted(terms.rates))
        raise InvalidRequest(
            f"this currency is not taken; {taken} is", code="invalid_value", param="currency"
        )
    if not terms.least_cents <= amount_cents <= terms.most_cents:
        raise InvalidRequest(
            f"amount is in cents, from {terms.least_cents} to {terms.most_cents}",
            code="invalid_value",
            param="amount",
        )
    offer = Offer(amount_cents, currency, amount_cents * CENT * rate)
    if credit_usd is not None and credit_usd != offer.credit_usd:
        raise InvalidRequest(
            f"this amount buys {offer.credit_usd.normalize():f} credits, as the packages and rates say",
            code="invalid_value",
            param="credit_value",
        )
    return offer


def find_package(books: Books, name: str) -> Offer:
    offer = _list_offers(books).get(name)
    if offer is None:
        raise InvalidRequest("there is no such package", code="invalid_value", param="package_id")
    return offer


def _find_package(books: Books, amount_cents: int, currency: str, credit_usd: Decimal | None) -> Offer | None:
    if credit_usd is None:
        return None
    wanted = (amount_cents, currency, credit_usd)
    offers = _list_offers(books).values()
    return next(
        (each for each in offers if (each.amount_cents, each.currency, each.credit_usd) == wanted), None
    )


def _list_offers(books: Books) -> dict[str, Offer]:
    """Packages that are sold, at whole cents."""
    return {
        name: Offer(int(package.price_usd / CENT), "usd", package.credit_usd, name)
        for name, package in books.packages.items()
        if package.active and package.price_usd and package.price_usd % CENT == 0
    }


def show_packages(books: Books) -> list[dict[str, Any]]:
    return [_show_package(books.packages[name], offer) for name, offer in _list_offers(books).items()]


def _show_package(package: PackageFile, offer: Offer) -> dict[str, Any]:
    saved = 100 * (1 - package.price_usd / package.credit_usd) if package.credit_usd else Decimal(0)
    return {
        "id": package.package,
        "name": package.title or package.package,
        "description": package.description,
        "credits": str(package.credit_usd),
        "credit_usd": str(package.credit_usd),
        "price": offer.amount_cents,
        "price_usd": str(package.price_usd),
        "currency": offer.currency,
        "discount_percentage": max(0.0, float(round(saved, 2))),
        "popular": package.popular,
    }


@dataclass(frozen=True, slots=True)
class Earned:
    """What a payment brings after its amount was looked at; `flag` tells people what was odd."""

    credit_usd: Decimal
    flag: str = ""


def check_amount(
    terms: PaymentsFile, expected_cents: int, paid_cents: int, credit_usd: Decimal, same_currency: bool
) -> Earned:
    """Less than asked brings its share, more brings what was asked for, another currency brings nothing."""
    if not same_currency:
        return Earned(Decimal(0), "currency")
    off = paid_cents - expected_cents
    if abs(off) <= max(terms.tolerance_cents, expected_cents * terms.tolerance_share):
        return Earned(credit_usd)
    if off < 0:
        return Earned(share_of(credit_usd, paid_cents, expected_cents), "underpaid")
    much = off > expected_cents * terms.flag_share
    return Earned(credit_usd, "overpaid" if much else "amount")


def share_of(amount_usd: Decimal, part_cents: int, whole_cents: int) -> Decimal:
    """The whole amount for the whole, exactly; else the part, without what is below the ledger's last digit."""
    if part_cents >= whole_cents:
        return amount_usd
    return (amount_usd * part_cents / whole_cents).quantize(_SMALLEST, ROUND_DOWN)


def check_return_url(patterns: tuple[str, ...], text: str, param: str) -> str:
    """An address that a declared pattern allows: nobody is sent elsewhere under our name."""
    if not any(_matches(pattern, text) for pattern in patterns):
        raise InvalidRequest(
            "this address is not among `billing.stripe.return_urls`", code="url_not_allowed", param=param
        )
    return text


def _matches(pattern: str, text: str) -> bool:
    if not text.isascii() or not text.isprintable() or any(letter in text for letter in ' \\"<>'):
        return False
    try:
        allowed, asked = urlsplit(pattern.removesuffix("*")), urlsplit(text)
        same_place = (allowed.scheme, allowed.hostname, allowed.port) == (
            asked.scheme,
            asked.hostname,
            asked.port,
        )
    except ValueError:
        return False
    if not same_place or "@" in asked.netloc or {".", ".."} & set(unquote(asked.path).split("/")):
        return False
    if pattern.endswith("*"):
        return (asked.path or "/").startswith(allowed.path)
    return asked.path == allowed.path
