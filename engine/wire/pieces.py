"""What came in pieces, put together again.

Clients that keep what a stream brought hand it back as it came: an answer as many texts of a few letters each. Sent on
so to another wire, a model would read them as so many separate things, and a signature would stand beside a part of
what it signs.
"""

from collections.abc import Mapping
from typing import Any


def join_texts(value: Any, *closing: str) -> Any:
    """Neighbours that differ in their `text` alone as one. A key that is `closing` may come with the last of them."""
    joined: list[Any] = []
    for item in value or ():
        if joined and _goes_on(joined[-1], item, closing):
            joined[-1] = {**item, "text": joined[-1]["text"] + item["text"]}
        else:
            joined.append(item)
    return joined or None


def _goes_on(one: Any, other: Any, closing: tuple[str, ...]) -> bool:
    if not (isinstance(one, Mapping) and isinstance(other, Mapping)):
        return False
    if not (isinstance(one.get("text"), str) and isinstance(other.get("text"), str)):
        return False
    rest = {key: value for key, value in other.items() if key != "text" and key not in closing}
    return rest == {key: value for key, value in one.items() if key != "text"}
