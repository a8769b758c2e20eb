"""Usage by class and unit times its price, exact. No rounding happens here, and no float ever enters."""

from decimal import Context, Decimal

from engine.config.snapshot import Price
from engine.wire.usage import Usage

# Enough digits for a trillion tokens at twelve decimals; `Inexact` cannot happen with prices of the book.
_EXACT = Context(prec=50)


def price_usage(usage: Usage, price: Price, markup: Decimal = Decimal(0)) -> Decimal:
    """US dollars for one answered call."""
    cost = price.request + price.input * usage.input + price.output * usage.output
    if usage.cached_input:
        cost += price.cached_input * usage.cached_input
    if usage.cache_write:
        cost += price.cache_write * usage.cache_write
    if usage.cache_write_1h:
        cost += price.cache_write_1h * usage.cache_write_1h
    if usage.reasoning:
        cost += price.reasoning * usage.reasoning
    if usage.audio_input:
        cost += price.audio_input * usage.audio_input
    if usage.audio_output:
        cost += price.audio_output * usage.audio_output
    for unit, count in usage.units.items():
        if unit in price.units:
            cost += price.units[unit] * count
    return _EXACT.multiply(cost, 1 + markup) if markup else cost
