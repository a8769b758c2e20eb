"""How long an answer may be, in the words of the request's own dialect: what it says, and how it is made to say less.

It is written into the caller's own body, so that it is said on whatever wire the call goes out.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from engine.call import Call
from engine.wire.splice import edit_members


def read_stated(call: Call) -> int | None:
    """The longest that any of the dialect's words allows: which of two a provider goes by nobody knows."""
    request, longest = call.request, None
    for keys in call.door.format.client.output_places:
        if keys[0] in request:
            length = read_place(request, keys)
            if is_length(length) and (longest is None or length > longest):
                longest = length
    return longest


def limit_output(call: Call, most: int) -> bool:
    """Have the answer be of at most `most` tokens; False when the request says that already, or its dialect cannot."""
    all_keys = call.door.format.client.output_places
    said = [keys for keys in all_keys if read_place(call.request, keys) is not None]
    longer = [
        keys for keys in said or _choose_place(call.request, all_keys) if not _is_within(call, keys, most)
    ]
    edits: dict[str, Any] = {}
    for keys in longer:
        top = keys[0]
        edits[top] = _set(edits.get(top, call.request.get(top)), keys[1:], most)
    if not edits:
        return False
    call.body = edit_members(call.body, call.request, edits)
    call.as_asked = call.as_asked or call.request
    call.request, call.chat = {**call.request, **edits}, None
    return True


def read_place(tree: Any, keys: Sequence[str]) -> Any:
    """What stands at the end of some keys; None where the way there ends."""
    for key in keys:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree


def is_length(value: Any) -> bool:
    """Zero and less mean no bound to some providers."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_within(call: Call, keys: Sequence[str], most: int) -> bool:
    value = read_place(call.request, keys)
    return is_length(value) and value <= most


def _choose_place(
    request: Mapping[str, Any], all_keys: Sequence[tuple[str, ...]]
) -> Sequence[tuple[str, ...]]:
    """In the part of the body that is there already, in its spelling; else the first."""
    there = [keys for keys in all_keys if len(keys) > 1 and keys[0] in request]
    return (there or all_keys)[:1]


def _set(value: Any, keys: Sequence[str], most: int) -> Any:
    if not keys:
        return most
    inner = value if isinstance(value, dict) else {}
    return {**inner, keys[0]: _set(inner.get(keys[0]), keys[1:], most)}
