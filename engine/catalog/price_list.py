"""One row of a public price list -> prices, limits and capabilities as models.d says them. Pure.

The list is a JSON object: a model's key, and facts such as `input_cost_per_token` (US dollars for one token).
Amounts stay decimal text from the file to ours; none is ever a float.
"""

import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

Row = Mapping[str, Any]
_MILLION = Decimal(1_000_000)
PER_TOKEN = {
    "input": ("input_cost_per_token",),
    "output": ("output_cost_per_token",),
    "cached_input": ("cache_read_input_token_cost",),
    "cache_write": ("cache_creation_input_token_cost",),
    "cache_write_1h": ("cache_creation_input_token_cost_above_1hr",),
    "reasoning": ("output_cost_per_reasoning_token",),
    "audio_input": ("input_cost_per_audio_token",),
    "audio_output": ("output_cost_per_audio_token",),
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
}
"""A class that is left out costs what this one costs."""
OPERATIONS = {
    "chat": "chat",
    "responses": "chat",
    "completion": "completions",
    "embedding": "embeddings",
    "image_generation": "images",
    "image_edit": "images",
    "rerank": "rerank",
    "moderation": "moderation",
    "audio_transcription": "transcription",
    "audio_speech": "speech",
}
"""The list's `mode` -> the capability that names the operation."""
CAPABILITIES = {
    "tools": "supports_function_calling",
    "parallel_tools": "supports_parallel_function_calling",
    "vision": "supports_vision",
    "pdf": "supports_pdf_input",
    "json_schema": "supports_response_schema",
    "reasoning": "supports_reasoning",
    "audio_input": "supports_audio_input",
    "audio_output": "supports_audio_output",
    "web_search": "supports_web_search",
    "caching": "supports_prompt_caching",
}


def read_price_list(text: bytes) -> dict[str, Row]:
    """All rows by key, every number as exact as it is written."""
    rows: dict[str, Row] = json.loads(text, parse_float=Decimal, parse_int=int)
    return {key: row for key, row in rows.items() if isinstance(row, dict)}


def read_price(row: Row) -> dict[str, str]:
    """The row's price as a `price` of models.d; what costs as much as its nearest class is left out."""
    price = _read_token_prices(row) or _read_unit_price(row)
    kept = {
        name: amount
        for name, amount in price.items()
        if name not in NEAREST or amount != _find_nearest(price, name)
    }
    return {name: write_amount(amount) for name, amount in kept.items()}


def _read_token_prices(row: Row) -> dict[str, Decimal]:
    price = {name: amount * _MILLION for name, keys in PER_TOKEN.items() if (amount := _find(row, keys))}
    if read_operation(row) == "images" and (drawn := _find(row, ("output_cost_per_image_token",))):
        price["output"] = drawn * _MILLION
    return price if "input" in price else {}


def _read_unit_price(row: Row) -> dict[str, Decimal]:
    """The first unit that has a price. Further ones say the same in another unit."""
    if read_operation(row) in ("chat", "completions", "embeddings"):
        return {}
    found = ((name, _find(row, keys)) for name, keys in PER_UNIT.items())
    return dict([pair for pair in found if pair[1]][:1])


def read_limits(row: Row) -> dict[str, int]:
    """Tokens in and out together, and of the longest answer, where the row says so."""
    output = _read_count(row.get("max_output_tokens"))
    context = _read_count(row.get("max_input_tokens")) or _read_count(row.get("max_tokens"))
    if read_operation(row) not in ("chat", "completions"):
        output = 0
    limits = {"context": max(context, output), "output": output}
    return {name: count for name, count in limits.items() if count}


def read_capabilities(row: Row) -> list[str]:
    """The operation, then what else it can do."""
    operation = read_operation(row)
    if operation != "chat":
        return [operation]
    found = [name for name, key in CAPABILITIES.items() if row.get(key) is True]
    if "caching" not in found and _find(row, PER_TOKEN["cached_input"]):
        found.append("caching")
    return [operation, *found]


def read_operation(row: Row) -> str:
    return OPERATIONS.get(str(row.get("mode")), "chat")


def write_amount(amount: Decimal) -> str:
    """Plain decimal text, at least two places: 0.15, 10.00, 0.075."""
    text = format(amount.normalize(), "f")
    whole, _, places = text.partition(".")
    return f"{whole}.{places.ljust(2, '0')}"


def _find(row: Row, keys: tuple[str, ...]) -> Decimal:
    """The first amount above zero; zero when the row has none. A list's 0 often means `not known`."""
    amounts = (Decimal(row[key]) for key in keys if isinstance(row.get(key), Decimal | int))
    return next((amount for amount in amounts if amount > 0), Decimal(0))


def _find_nearest(price: Mapping[str, Decimal], name: str) -> Decimal | None:
    nearest = NEAREST[name]
    while nearest not in price and nearest in NEAREST:
        nearest = NEAREST[nearest]
    return price.get(nearest)


def _read_count(value: Any) -> int:
    return int(value) if isinstance(value, Decimal | int) and value > 0 else 0
