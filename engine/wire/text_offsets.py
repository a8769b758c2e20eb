"""Places in a text counted in bytes of UTF-8, as some wires count them, and in characters, as most do."""

from collections.abc import Mapping
from typing import Any

BYTE_PLACES = (("start_byte", "start"), ("end_byte", "end"))


def count_bytes_before(text: Any, characters: Any = None) -> Any:
    """How many bytes the first characters of the text take."""
    if not isinstance(text, str) or not isinstance(characters, int):
        return None
    return len(text[:characters].encode("utf-8", "surrogatepass"))


def count_characters_before(text: str, size: int) -> int:
    """How many characters stand in the first bytes of the text."""
    if text.isascii():
        return min(size, len(text))
    return len(text.encode("utf-8", "surrogatepass")[:size].decode("utf-8", "ignore"))


def place_citations(citations: list[Any], text: str) -> list[Any]:
    """The citations of a text; those that say their place in bytes say it in characters."""
    return [_place(citation, text) for citation in citations]


def place_in_whole(parts: Any, last_only: Any = False) -> list[Any]:
    """The citations of texts that are told as one, with their places in it; one without a place is about its text."""
    texts = [part for part in parts or () if part.get("type") == "text"]
    placed, before = list[Any](), 0
    for number, part in enumerate(texts):
        said = part.get("text") or ""
        for citation in part.get("citations") or () if not last_only or number == len(texts) - 1 else ():
            start, end = citation.get("start"), citation.get("end")
            if not isinstance(start, int) or not isinstance(end, int):
                start, end = 0, len(said)
            placed.append({**citation, "start": before + start, "end": before + end})
        before += len(said)
    return placed


def _place(citation: Any, text: str) -> Any:
    if not isinstance(citation, Mapping) or not ("start_byte" in citation or "end_byte" in citation):
        return citation
    placed = {name: value for name, value in citation.items() if not name.endswith("_byte")}
    for counted, name in BYTE_PLACES:
        if isinstance(citation.get(counted), int):
            placed[name] = count_characters_before(text, citation[counted])
    return placed
