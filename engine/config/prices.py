"""What YAML says of a price -> rates per single token, with every class, tier and service filled in. Pure."""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from engine.config.schema_price import PriceEntry, RatesEntry, TierEntry
from engine.config.snapshot import Price
from engine.wire.usage import UNITS

_MILLION = Decimal(1_000_000)
_RATES = tuple(RatesEntry.model_fields)
Said = Mapping[str, Decimal]


def build_price(entry: PriceEntry) -> Price:
    """Per million -> per token. A tier goes over its price, a service over the price, its tiers over the service."""
    said = _list_said(entry)
    services = {
        name: _build_rates(said | _list_said(service), entry.per_image_of, service.tiers or entry.tiers)
        for name, service in entry.services.items()
    }
    return _build_rates(said, entry.per_image_of, entry.tiers, services)


def build_unknown_price(entry: PriceEntry | str | None) -> Any:
    return build_price(entry) if isinstance(entry, PriceEntry) else entry


def _list_said(entry: RatesEntry) -> dict[str, Decimal]:
    found = ((name, getattr(entry, name)) for name in _RATES if name in entry.model_fields_set)
    return {name: amount for name, amount in found if amount is not None}


def _build_rates(
    said: Said,
    variants: Mapping[str, Decimal],
    tiers: Sequence[TierEntry] = (),
    services: Mapping[str, Price] | None = None,
) -> Price:
    """Every class that is left out at its nearest class's price."""

    def per_token(name: str, otherwise: Decimal) -> Decimal:
        return said[name] / _MILLION if name in said else otherwise

    read, written = per_token("input", Decimal(0)), per_token("output", Decimal(0))
    cache_write = per_token("cache_write", read)
    return Price(
        input=read,
        output=written,
        cached_input=per_token("cached_input", read),
        cache_write=cache_write,
        cache_write_1h=per_token("cache_write_1h", cache_write),
        reasoning=per_token("reasoning", written),
        audio_input=per_token("audio_input", read),
        audio_output=per_token("audio_output", written),
        image_input=per_token("image_input", read),
        image_output=per_token("image_output", written),
        request=said.get("request", Decimal(0)),
        units={unit: said[key] for unit, key in UNITS.items() if key in said},
        variants=variants,
        tiers=tuple(
            (tier.above, _build_rates({**said, **_list_said(tier)}, variants)) for tier in reversed(tiers)
        ),
        services=services or {},
    )
