"""One row of a public price list -> prices, limits and capabilities as models.d says them. Pure.

The list is a JSON object: a model's key, and facts such as `input_cost_per_token` (US dollars for one token).
Amounts stay decimal text from the file to ours; none is ever a float.
"""

import json
from decimal import Decimal
from typing import Any

from engine.catalog import row_prices
from engine.catalog.row_prices import PER_TOKEN, Row, find_amount

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


def read_price(row: Row) -> dict[str, Any]:
    """The row's price as a `price` of models.d."""
    return row_prices.read_price(row, read_operation(row))


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
    if "caching" not in found and find_amount(row, PER_TOKEN["cached_input"]):
        found.append("caching")
    return [operation, *found]


def read_operation(row: Row) -> str:
    return OPERATIONS.get(str(row.get("mode")), "chat")


def _read_count(value: Any) -> int:
    return int(value) if isinstance(value, Decimal | int) and value > 0 else 0
