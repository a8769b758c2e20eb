"""Usage by class and unit times its price, exact. No rounding happens here, and no float ever enters.

What a call costs depends on how long its prompt was and on the service tier it was given; `price_ceiling` is the most
that the same rules can make of what is known before the call.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Context, Decimal

from engine.config.snapshot import Price
from engine.wire.usage import INPUT_CLASSES, NO_UNITS, OUTPUT_CLASSES, Usage

# Enough digits for a trillion tokens at twelve decimals; `Inexact` cannot happen with prices of the book.
_EXACT = Context(prec=50)
_NOTHING = Decimal(0)
_PARTS = (*INPUT_CLASSES[1:], *OUTPUT_CLASSES[1:])


def price_usage(usage: Usage, price: Price, markup: Decimal = _NOTHING) -> Decimal:
    """US dollars for one answered call."""
    if price.tiers or price.services:
        price = choose_rates(price, usage.prompt, usage.service)
    cost = price.request + price.input * usage.input + price.output * usage.output
    if usage.has_parts:
        for name in _PARTS:
            cost += getattr(price, name) * getattr(usage, name)
    if usage.units:
        cost += _price_units(usage.units, usage.variant, price)
    return _EXACT.multiply(cost, 1 + markup) if markup else cost


def _price_units(units: Mapping[str, Decimal], variant: str, price: Price) -> Decimal:
    cost = _NOTHING
    for unit, count in units.items():
        if unit == "images" and price.variants:
            cost += find_image_price(price, variant) * count
        elif unit in price.units:
            cost += price.units[unit] * count
    return cost


def find_image_price(price: Price, variant: str) -> Decimal:
    """Of one image: as its quality and size say, its quality or its size alone, else the price of any."""
    quality, _, size = variant.partition("/")
    for name in (variant, quality, size):
        if name in price.variants:
            return price.variants[name]
    return price.units.get("images", _NOTHING)


def choose_rates(price: Price, prompt: int, service: str = "") -> Price:
    """The rates of a call with so long a prompt: the whole of it costs what its tier costs."""
    price = price.services.get(service, price)
    for above, rates in price.tiers:
        if prompt > above:
            return rates
    return price


@dataclass(frozen=True, slots=True)
class Possible:
    """What is known of a call before it is made, beside its lengths."""

    service: str = ""
    """The service tier that is asked for; the provider may give the usual one instead."""
    cache_writes: bool = True
    """Some of the prompt may be written to a cache."""
    media: bool = True
    """Some of the prompt or the answer may be sound or images."""
    units: Mapping[str, Decimal] = field(default_factory=lambda: NO_UNITS)
    """What is asked for beside tokens."""
    variant: str = ""
    """Quality and size of the images that are asked for."""


ANYTHING = Possible()
PLAIN = Possible(cache_writes=False, media=False)


def price_ceiling(
    prompt_tokens: int,
    output_tokens: int,
    price: Price,
    markup: Decimal = _NOTHING,
    possible: Possible = ANYTHING,
) -> Decimal:
    """The most that `price_usage` can make of a call with no more tokens than these."""
    reachable = _list_reachable(price, prompt_tokens, possible.service)
    dearest = max(_price_dearest(prompt_tokens, output_tokens, rates, possible) for rates in reachable)
    return _EXACT.multiply(dearest, 1 + markup) if markup else dearest


def _list_reachable(price: Price, prompt_tokens: int, service: str) -> Iterator[Price]:
    """Rates that a call may come to: of a shorter prompt than was feared, of the usual service instead of another."""
    given = [price, price.services[service]] if service in price.services else [price]
    for each in given:
        yield each
        yield from (rates for above, rates in each.tiers if prompt_tokens > above)


def _price_dearest(prompt_tokens: int, output_tokens: int, rates: Price, possible: Possible) -> Decimal:
    """Every token at the rate of the dearest class that it can be of."""
    read, written = [rates.input, rates.cached_input], [rates.output, rates.reasoning]
    if possible.cache_writes:
        read += (rates.cache_write, rates.cache_write_1h)
    if possible.media:
        read += (rates.audio_input, rates.image_input)
        written += (rates.audio_output, rates.image_output)
    cost = rates.request + max(read) * prompt_tokens + max(written) * output_tokens
    return cost + _price_units(possible.units, possible.variant, rates)
