"""The filters of the expression language: named verbs over JSON values that any format may use.

Every verb takes None for "not there" and gives None back where nothing can be said. None of them reads a clock, draws
a random number or changes what it is given.
"""

import base64
import re
from binascii import Error as NotBase64
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import orjson

from engine.wire.call_ids import derive_id, fit_id
from engine.wire.call_order import order_results
from engine.wire.json_text import write_json
from engine.wire.openapi_schemas import read_openapi_schema, write_openapi_schema
from engine.wire.pieces import join_texts
from engine.wire.schemas import close_objects, inline_references, prune_schema
from engine.wire.spellings import standard_base64
from engine.wire.text_offsets import count_bytes_before, place_in_whole
from engine.wire.turns import (
    answer_open_calls,
    find_call_names,
    has_unsigned_calls,
    join_for_two_roles,
    leave_out_blanks,
    take_opening,
    trim_last_words,
)
from engine.wire.vectors import pack_floats, unpack_floats

Part = Mapping[str, Any]

_DATA_URL = re.compile(r"data:([\w.+-]+/[\w.+-]+)?(?:;[\w-]+=[^;,]*)*(;base64)?,", re.ASCII)


def takes_table(verb: Callable[..., Any]) -> Callable[..., Any]:
    """The verb's first argument names a table of the format."""
    verb.takes_table = True  # type: ignore[attr-defined]
    return verb


# --- values


def default(value: Any, other: Any) -> Any:
    return other if value is None else value


def parse_json(text: Any) -> Any:
    """The value of a JSON text; a text that is not JSON gives None, anything else is itself."""
    if not isinstance(text, str):
        return text
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return None


def parse_object(text: Any) -> Any:
    """The object in a JSON text such as a tool call's arguments; {} for an empty or broken one."""
    value = parse_json(text)
    return value if isinstance(value, dict) else {}


def dump_json(value: Any) -> Any:
    """Compact JSON text, not escaped for HTML. A text is taken as it is."""
    if value is None or isinstance(value, str):
        return value
    return write_json(value).decode()


def quote_json(value: Any) -> str:
    """JSON text of anything, a text in quotes included."""
    return write_json(value).decode()


def make_text(value: Any) -> Any:
    return None if value is None else value if isinstance(value, str) else dump_json(value)


def make_int(value: Any) -> Any:
    return int(value) if isinstance(value, int | float | str) else None


def make_list(value: Any) -> Any:
    """A list of one for a single value; an empty list is nothing."""
    if value is None or value == []:
        return None
    return value if isinstance(value, list) else [value]


def clamp(value: Any, low: Any, high: Any) -> Any:
    return None if value is None else max(low, min(high, value))


@takes_table
def map_value(value: Any, table: Mapping[Any, Any], other: Any = None) -> Any:
    """The table's entry for the value; its `default` entry (or `other`) for a value that is not in it."""
    if value is None:
        return None
    found = table.get(value) if isinstance(value, str | int | bool) else None
    return found if found is not None else table.get("default", other)


@takes_table
def band(value: Any, table: Mapping[Any, Any]) -> Any:
    """The entry of the largest number in the table that is not above the value."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    reached = [limit for limit in table if isinstance(limit, int | float) and limit <= value]
    return table[max(reached)] if reached else None


@takes_table
def rename_keys(value: Any, table: Mapping[Any, Any]) -> Any:
    """A mapping with its keys renamed; keys that the table does not have are left out."""
    if not isinstance(value, dict):
        return None
    return {table[key]: found for key, found in value.items() if key in table}


# --- lists and mappings


def first(value: Any) -> Any:
    return value[0] if value else None


def last(value: Any) -> Any:
    return value[-1] if value else None


def length(value: Any) -> int:
    return len(value) if value is not None else 0


def join(value: Any, between: str = "") -> Any:
    return None if value is None else between.join(item for item in value if isinstance(item, str))


def numbered(value: Any) -> Any:
    """[(0, first), (1, second) ...] for loops that need the position."""
    return list(enumerate(value)) if isinstance(value, list) else None


def items(value: Any) -> Any:
    return list(value.items()) if isinstance(value, dict) else None


def values(value: Any) -> Any:
    return list(value.values()) if isinstance(value, dict) else None


def only(value: Any, *names: str) -> Any:
    """The mapping with these keys alone; nothing when none is there."""
    return {name: value[name] for name in names if name in value} or None if isinstance(value, dict) else None


def without(value: Any, *names: str) -> Any:
    """The mapping without these keys; nothing when none is left."""
    return {k: v for k, v in value.items() if k not in names} or None if isinstance(value, dict) else None


def pluck(value: Any, name: str) -> Any:
    """The `name` of each item that has one."""
    found = [item[name] for item in value or () if isinstance(item, dict) and item.get(name) is not None]
    return found or None


def where(value: Any, name: str, *wanted: Any) -> Any:
    """The items whose `name` is one of the values; nothing when there is none."""
    found = [item for item in value or () if isinstance(item, dict) and item.get(name) in wanted]
    return found or None


def where_not(value: Any, name: str, *unwanted: Any) -> Any:
    found = [item for item in value or () if isinstance(item, dict) and item.get(name) not in unwanted]
    return found or None


def lacking(value: Any, *names: str) -> Any:
    """The items that have none of these keys; nothing when there is no such item."""
    found = [item for item in value or () if not any(name in item for name in names)]
    return found or None


def exclude(value: Any, *unwanted: Any) -> Any:
    """The list without these values; nothing when none is left."""
    return [item for item in value if item not in unwanted] or None if isinstance(value, list) else None


@takes_table
def cut_into_runs(value: Any, table: Mapping[Any, Any], *joined: str) -> Any:
    """Items by whose turn they are: {role, items}. Neighbours of a role that is `joined` are one turn.

    The table says the role of a type; an item of another type says its `role`, else it is the table's `default`.
    """
    runs: list[dict[str, Any]] = []
    for item in value or ():
        role = table.get(item.get("type")) or item.get("role") or table.get("default")
        if runs and role in joined and runs[-1]["role"] == role:
            runs[-1]["items"].append(item)
        else:
            runs.append({"role": role, "items": [item]})
    return runs or None


def replace(value: Any, old: str, new: str) -> Any:
    return value.replace(old, new) if isinstance(value, str) else None


def lower(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else None


def upper(value: Any) -> Any:
    return value.upper() if isinstance(value, str) else None


def trim(value: Any) -> Any:
    """The text without white space at its ends; an empty one is nothing."""
    return value.strip() or None if isinstance(value, str) else None


def starts(value: Any, *beginnings: str) -> bool:
    return isinstance(value, str) and value.startswith(beginnings)


def split(value: Any, separator: str) -> Any:
    return value.split(separator) if isinstance(value, str) else None


# --- the canonical chat


def of_role(turns: Any, *roles: str) -> Any:
    return where(turns, "role", *roles)


def of_type(parts: Any, *types: str) -> Any:
    return where(parts, "type", *types)


def has_type(parts: Any, *types: str) -> bool:
    return any(isinstance(part, dict) and part.get("type") in types for part in parts or ())


def text_of(value: Any, between: str = "") -> Any:
    """The text of parts, turns or a text itself; nothing when there is none."""
    if value is None or isinstance(value, str):
        return value or None
    if isinstance(value, dict):
        value = value.get("parts") if "parts" in value else [value]
    return between.join(_texts(value)) or None


def _texts(value: Iterable[Any]) -> Iterable[str]:
    for item in value:
        if isinstance(item, str):
            yield item
        elif isinstance(item, dict) and "parts" in item:
            yield from _texts(item["parts"])
        elif (
            isinstance(item, dict)
            and isinstance(item.get("text"), str)
            and item.get("type", "text") in _SPOKEN
        ):
            yield item["text"]


def sole_text(parts: Any) -> Any:
    """The text of parts that are exactly one text without a cache mark; nothing for anything else."""
    if not isinstance(parts, list) or len(parts) != 1:
        return None
    part = parts[0]
    return part.get("text") if part.get("type") == "text" and not part.get("cache") else None


def result_media(parts: Any) -> Any:
    """What the results of tools hold besides text."""
    found = [
        inner
        for part in parts or ()
        if part.get("type") == "tool_result"
        for inner in part.get("parts") or ()
        if inner.get("type") in ("image", "document", "audio", "video")
    ]
    return found or None


def gather(items: Any, name: str) -> Any:
    """The lists under `name` of all items, as one list."""
    found = [value for item in items or () for value in item.get(name) or ()]
    return found or None


_SPOKEN = frozenset(("text", "refusal"))


# --- data URLs, ids, base64


def is_data_url(value: Any) -> bool:
    return isinstance(value, str) and value.startswith("data:")


def media_type_of(value: Any, other: Any = None) -> Any:
    """The media type that a data URL names."""
    found = _DATA_URL.match(value) if isinstance(value, str) else None
    return (found.group(1) if found else None) or other


def data_of(value: Any) -> Any:
    """The base64 text of a data URL (made of its plain text when it is not in base64)."""
    found = _DATA_URL.match(value) if isinstance(value, str) else None
    if found is None:
        return None
    rest = value[found.end() :]
    return rest if found.group(2) else base64.b64encode(rest.encode()).decode()


def data_url(part: Any, other: str = "application/octet-stream") -> Any:
    """`data:` URL of a part that holds media_type and data."""
    if not isinstance(part, dict) or part.get("data") is None:
        return None
    return f"data:{part.get('media_type') or other};base64,{part['data']}"


def decode_base64(value: Any) -> Any:
    """The text in base64; nothing when it is not text."""
    try:
        return base64.b64decode(value, validate=True).decode() if isinstance(value, str) else None
    except (NotBase64, UnicodeDecodeError):
        return None


def encode_base64(value: Any) -> Any:
    return base64.b64encode(value.encode()).decode() if isinstance(value, str) else None


VERBS: Mapping[str, Callable[..., Any]] = {
    "default": default,
    "parsed": parse_json,
    "parsed_object": parse_object,
    "dumped": dump_json,
    "quoted": quote_json,
    "as_text": make_text,
    "as_int": make_int,
    "as_list": make_list,
    "clamped": clamp,
    "mapped": map_value,
    "banded": band,
    "renamed": rename_keys,
    "first": first,
    "last": last,
    "length": length,
    "join": join,
    "numbered": numbered,
    "items": items,
    "values": values,
    "only": only,
    "without": without,
    "pluck": pluck,
    "where": where,
    "where_not": where_not,
    "joined_texts": join_texts,
    "lacking": lacking,
    "excluding": exclude,
    "runs": cut_into_runs,
    "replaced": replace,
    "lower": lower,
    "upper": upper,
    "trim": trim,
    "starts": starts,
    "split": split,
    "of_role": of_role,
    "of_type": of_type,
    "has_type": has_type,
    "text": text_of,
    "sole_text": sole_text,
    "result_media": result_media,
    "gather": gather,
    "opening": take_opening,
    "two_roles": join_for_two_roles,
    "without_blanks": leave_out_blanks,
    "with_all_results": answer_open_calls,
    "trimmed_end": trim_last_words,
    "unsigned_calls": has_unsigned_calls,
    "with_call_names": find_call_names,
    "is_data_url": is_data_url,
    "media_type": media_type_of,
    "base64_data": data_of,
    "data_url": data_url,
    "from_base64": decode_base64,
    "to_base64": encode_base64,
    "packed_floats": pack_floats,
    "unpacked_floats": unpack_floats,
    "fitting_id": fit_id,
    "derived_id": derive_id,
    "pruned_schema": prune_schema,
    "inlined_schema": inline_references,
    "openapi_schema": write_openapi_schema,
    "json_schema": read_openapi_schema,
    "standard_base64": standard_base64,
    "bytes_before": count_bytes_before,
    "placed_citations": place_in_whole,
    "in_call_order": order_results,
    "closed_schema": close_objects,
}
