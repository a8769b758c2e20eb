"""What is charged for a call at a time: the price book in force over what the target costs. Pure; time is an argument.

A book never changes what a provider costs: it says what the caller pays, and how far above the cost that is at least.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from decimal import Decimal
from fnmatch import fnmatchcase
from typing import NamedTuple

from engine.billing.pricing import ANYTHING, PLAIN, Possible, price_ceiling, price_usage
from engine.config.prices import build_price
from engine.config.schema_prices import BookEntry, PricesFile
from engine.config.snapshot import Model, Price, Snapshot, Target
from engine.routing.resolve import FREE, find_price
from engine.wire.usage import Usage

_ALWAYS = (float("-inf"), float("inf"))


@dataclass(slots=True)
class Charge:
    cost: Decimal
    """What the caller pays."""
    provider_cost: Decimal
    """What the provider bills, by its declared price."""


class Line(NamedTuple):
    """The most that a plain call can cost where prices know no tiers: so much, and so much more for each token."""

    request: Decimal
    per_input: Decimal
    per_output: Decimal


@dataclass(frozen=True, slots=True)
class Tariff:
    """What one target costs and what is charged for it, from one time to another."""

    cost: Price
    price: Price
    markup: Decimal
    margin: Decimal | None = None
    book: str = ""
    """`name@revision`, where a book decided."""
    since: float = _ALWAYS[0]
    until: float = _ALWAYS[1]
    line: Line | None = field(init=False, repr=False, compare=False)
    """Drawn once, because every call of a prepaid payer asks for it."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "line", self._find_line())

    @property
    def is_unpriced(self) -> bool:
        """Nobody declared a price, and the rule for such models is to serve them free of charge."""
        return self.cost is FREE

    def charge(self, usage: Usage) -> Charge:
        if self.price is self.cost and self.margin is None and not self.markup:
            cost = price_usage(usage, self.cost)
            return Charge(cost, cost)
        provider_cost = price_usage(usage, self.cost)
        cost = price_usage(usage, self.price, self.markup)
        if self.margin is not None:
            cost = max(cost, provider_cost * (1 + self.margin))
        return Charge(cost, provider_cost)

    def ceiling(self, prompt_tokens: int, output_tokens: int, possible: Possible = ANYTHING) -> Decimal:
        """The most that `charge` can say of a call with no more tokens than these."""
        if possible is PLAIN and self.line is not None:
            line = self.line
            return line.request + line.per_input * prompt_tokens + line.per_output * output_tokens
        return self._find_ceiling(prompt_tokens, output_tokens, possible)

    def _find_line(self) -> Line | None:
        if self.price.tiers or self.price.services or self.margin is not None:
            return None
        request, read, written = (self._find_ceiling(*tokens, PLAIN) for tokens in ((0, 0), (1, 0), (0, 1)))
        return Line(request, read - request, written - request)

    def _find_ceiling(self, prompt_tokens: int, output_tokens: int, possible: Possible) -> Decimal:
        most = price_ceiling(prompt_tokens, output_tokens, self.price, self.markup, possible)
        if self.margin is None:
            return most
        return max(most, price_ceiling(prompt_tokens, output_tokens, self.cost, self.margin, possible))


def find_tariff(snapshot: Snapshot, model: Model, target: Target, at: float) -> Tariff:
    """The tariff of a call that begins at `at` (seconds since 1970). Raises Unpriced."""
    tariffs = snapshot.tariffs.get((model, target))
    if tariffs is None:
        tariffs = list_tariffs(snapshot, model, target)
        if snapshot.models.get(model.name) is model and target in model.targets:
            snapshot.tariffs[model, target] = tariffs
    for tariff in tariffs:
        if tariff.since <= at < tariff.until:
            return tariff
    raise AssertionError("the last tariff is always in force")


def list_tariffs(snapshot: Snapshot, model: Model, target: Target) -> Sequence[Tariff]:
    """All that books say of a target, what goes first first; the last one is always in force."""
    usual = usual_tariff(model, target)
    return (
        *(say(book, usual, model, target) for book in list_books(snapshot) if covers(book, model, target)),
        usual,
    )


def usual_tariff(model: Model, target: Target) -> Tariff:
    """What is charged without any book. Raises Unpriced."""
    cost = find_price(model, target)
    return Tariff(cost, cost, model.policy.billing.markup)


def list_books(snapshot: Snapshot) -> list[PricesFile]:
    """The book that began last goes first."""
    books = sorted(snapshot.declared(PricesFile).values(), key=lambda book: book.prices)
    return sorted(books, key=lambda book: book.from_ or date.min, reverse=True)


def covers(book: PricesFile, model: Model, target: Target) -> bool:
    return find_entry(book, model, target) is not None or book.markup is not None or book.margin is not None


def find_entry(book: PricesFile, model: Model, target: Target) -> BookEntry | None:
    for name in (target.name, model.name):
        if name in book.models:
            return book.models[name]
    globs = (
        glob for glob in book.models if any(fnmatchcase(name, glob) for name in (target.name, model.name))
    )
    return book.models[glob] if (glob := next(globs, None)) is not None else None


def say(book: PricesFile, usual: Tariff, model: Model, target: Target) -> Tariff:
    """The usual tariff with what the book says, if it says anything."""
    if not covers(book, model, target):
        return usual
    entry = find_entry(book, model, target) or BookEntry()
    markup = next((share for share in (entry.markup, book.markup) if share is not None), usual.markup)
    return replace(
        usual,
        price=build_price(entry.price) if entry.price is not None else usual.cost,
        markup=markup,
        margin=entry.margin if entry.margin is not None else book.margin,
        book=f"{book.prices}@{find_revision(book)}",
        since=_begin(book.from_, _ALWAYS[0]),
        until=_begin(book.until, _ALWAYS[1]),
    )


def find_revision(book: PricesFile) -> str:
    """The same for the same content, whatever its file looks like."""
    return hashlib.sha256(book.model_dump_json(by_alias=True).encode()).hexdigest()[:12]


def _begin(day: date | None, otherwise: float) -> float:
    return otherwise if day is None else datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()


def list_unpriced(snapshot: Snapshot) -> Iterator[tuple[Model, Target]]:
    """Targets that are served, or refused, because nobody declared a price."""
    for model in snapshot.models.values():
        yield from (
            (model, target) for target in model.targets if target.price is None and model.price is None
        )
