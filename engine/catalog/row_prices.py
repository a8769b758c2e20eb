"""One row of a public price list -> a `price` of models.d, with its tiers and services. Pure.

The list writes a condition behind a key: `input_cost_per_token_above_200k_tokens_priority`.
"""

import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

Row = Mapping[str, Any]
Rates = dict[str, Decimal]
MILLION = Decimal(1_000_000)
PER_TOKEN = {
    "input": ("input_cost_per_token",),
    "output": ("output_cost_per_token",),
    "cached_input": ("cache_read_input_token_cost",),
    "cache_write": ("cache_creation_input_token_cost",),
    "cache_write_1h": ("cache_creation_input_token_cost_above_1hr",),
    "reasoning": ("output_cost_per_reasoning_token",),
    "audio_input": ("input_cost_per_audio_token",),
    "audio_output": ("output_cost_per_audio_token",),
    "image_input": ("input_cost_per_image_token",),
    "image_output": ("output_cost_per_image_token",),
}
"""Our class of tokens -> the list's keys for it, the first that is there."""
PER_UNIT = {
    "per_image": ("output_cost_per_image", "input_cost_per_image"),
    "per_pixel": ("output_cost_per_pixel", "input_cost_per_pixel"),
    "per_second": ("input_cost_per_second", "output_cost_per_second"),
    "per_character": ("input_cost_per_character", "output_cost_per_character"),
    "per_search": ("input_cost_per_query",),
}
"""Of models that are not metered in tokens."""
NEAREST = {
    "cached_input": "input",
    "cache_write": "input",
    "cache_write_1h": "cache_write",
    "reasoning": "output",
    "audio_input": "input",
    "audio_output": "output",
    "image_input": "input",
    "image_output": "output",
}
"""A class that is left out costs what this one costs."""
SERVICES = {"batch": "_batches", "flex": "_flex", "priority": "_priority", "ultrafast": "_ultrafast"}
"""Our name of a service tier -> what the list writes behind its keys."""
_ABOVE = re.compile(r"^(?:input|output)_cost_per_token_above_(\d+)k_tokens$")
_SEARCHES = "search_context_cost_per_query"
_USUAL_SEARCH = "search_context_size_medium"


def read_price(row: Row, operation: str) -> dict[str, Any]:
    """The row's price as a `price` of models.d; what costs as much as its nearest class is left out."""
    base = _read_rates(row, "")
    if "output" not in base and operation == "images" and "image_output" in base:
        base["output"] = base.pop("image_output")
    bands = list(_read_bands(row))
    if bands and "input" not in base:
        base = bands.pop(0)[1]
    if "input" not in base:
        return write_rates(_read_unit_price(row, operation))
    if operation == "chat" and (search := _find_search(row)):
        base["per_search"] = search
    tiers = bands or list(_read_tiers(row, ""))
    price = write_rates(_drop_repeated(base))
    if tiers:
        price["tiers"] = _write_tiers(tiers, base)
    if services := dict(_read_services(row, base)):
        price["services"] = services
    return price


def _read_rates(row: Row, suffix: str) -> Rates:
    found = ((name, find_amount(row, [key + suffix for key in keys])) for name, keys in PER_TOKEN.items())
    return {name: amount * MILLION for name, amount in found if amount}


def _read_tiers(row: Row, suffix: str) -> Iterator[tuple[int, Rates]]:
    """Thresholds and what differs above them, the lowest first."""
    lengths = {int(found[1]) for key in row if (found := _ABOVE.match(key.removesuffix(suffix)))}
    for thousands in sorted(lengths):
        if rates := _read_rates(row, f"_above_{thousands}k_tokens{suffix}"):
            yield thousands * 1000, rates


def _read_bands(row: Row) -> Iterator[tuple[int, Rates]]:
    """Rows that list a price for each range of lengths of the prompt."""
    bands = row.get("tiered_pricing")
    for band in bands if isinstance(bands, list) else ():
        if isinstance(band.get("range"), list) and (rates := _read_rates(band, "")):
            yield int(band["range"][0]), rates


def _read_services(row: Row, base: Rates) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, suffix in SERVICES.items():
        rates = _read_rates(row, suffix)
        if "input" not in rates and "output" not in rates:
            continue
        service: dict[str, Any] = write_rates(_drop_inherited(rates, base))
        if tiers := list(_read_tiers(row, suffix)):
            service["tiers"] = _write_tiers(tiers, base | rates)
        if service:
            yield name, service


def _write_tiers(tiers: list[tuple[int, Rates]], around: Rates) -> list[dict[str, Any]]:
    return [{"above": above, **write_rates(_drop_inherited(rates, around))} for above, rates in tiers]


def _drop_repeated(rates: Rates) -> Rates:
    return {name: amount for name, amount in rates.items() if amount != _find_nearest(rates, name)}


def _drop_inherited(rates: Rates, around: Rates) -> Rates:
    """Without what would be the same if it were not said."""
    known = _drop_repeated(around)
    kept = {name: amount for name, amount in rates.items() if known.get(name) != amount}
    merged = known | kept
    return {
        name: amount
        for name, amount in kept.items()
        if name in known or name not in NEAREST or amount != _find_nearest(merged, name)
    }


def _find_nearest(rates: Rates, name: str) -> Decimal | None:
    nearest = NEAREST.get(name, "")
    while nearest not in rates and nearest in NEAREST:
        nearest = NEAREST[nearest]
    return rates.get(nearest)


def _read_unit_price(row: Row, operation: str) -> Rates:
    """The first unit that has a price. Further ones say the same in another unit."""
    if operation in ("chat", "completions", "embeddings"):
        return {}
    found = ((name, find_amount(row, keys)) for name, keys in PER_UNIT.items())
    return dict([pair for pair in found if pair[1]][:1])


def _find_search(row: Row) -> Decimal:
    """Of one search of the web: the list has it by the size of what is read, of which medium is the usual one."""
    found = row.get(_SEARCHES)
    return find_amount(found, [_USUAL_SEARCH]) if isinstance(found, Mapping) else Decimal(0)


def read_image_prices(rows: Mapping[str, Row], pattern: str, model: str) -> dict[str, str]:
    """Of one image by `quality/size`, from rows such as `high/1024-x-1536/MODEL`."""
    before, _, behind = pattern.partition("{model}")
    shape = re.compile(rf"{re.escape(before)}([a-z]+)/(\d+)-x-(\d+)/{re.escape(model + behind)}")
    found = ((shape.fullmatch(key), row) for key, row in rows.items())
    prices = (
        (f"{match[1]}/{match[2]}x{match[3]}", find_amount(row, PER_UNIT["per_image"]))
        for match, row in found
        if match
    )
    return {name: write_amount(amount) for name, amount in sorted(prices) if amount}


def write_rates(rates: Rates) -> dict[str, Any]:
    return {name: write_amount(amount) for name, amount in rates.items()}


def write_amount(amount: Decimal) -> str:
    """Plain decimal text, at least two places: 0.15, 10.00, 0.075."""
    text = format(amount.normalize(), "f")
    whole, _, places = text.partition(".")
    return f"{whole}.{places.ljust(2, '0')}"


def find_amount(row: Row, keys: tuple[str, ...] | list[str]) -> Decimal:
    """The first amount above zero; zero when the row has none. A list's 0 often means `not known`."""
    amounts = (Decimal(row[key]) for key in keys if isinstance(row.get(key), Decimal | int))
    return next((amount for amount in amounts if amount > 0), Decimal(0))
