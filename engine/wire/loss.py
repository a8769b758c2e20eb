"""What a format cannot say of a chat, told from the format's own request template.

A kind of part or tool whose name does not occur in the template (as a case of a `$switch`, in an `of_type(...)`) has no
place in the dialect; so has an image by URL where the format's `media` says that images are data: it is left out
before the template sees it. What a template leaves out only for some targets is not seen here.
"""

import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

SOURCES = ("url", "data", "file_id", "text")
"""The keys of a part that hold its content, or say where it is."""
Media = Mapping[str, frozenset[str]]
"""The sources from which a dialect takes parts of a kind; `https://` and the like: URLs that begin so;
`data:text/`: data of media types that begin so."""

_WORD = re.compile(r"[a-z_]{3,}")


def find_words(tree: Any, fragments: Mapping[str, Any]) -> frozenset[str]:
    """Every word that a template and the fragments it uses are made of."""
    words: set[str] = set()
    used: set[str] = set()
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, Mapping):
            name = node.get("$use")
            if isinstance(name, str) and name not in used:
                used.add(name)
                waiting.append(fragments.get(name))
            waiting.extend(value for key, value in node.items() if key != "$use")
            words.update(key for key in node if isinstance(key, str))
        elif isinstance(node, list):
            waiting.extend(node)
        elif isinstance(node, str) and ("'" in node or '"' in node):
            words.update(_WORD.findall(node))
    return frozenset(words)


def find_lost_kinds(
    chat: Mapping[str, Any], words: frozenset[str], issuer: str, media: Media = MappingProxyType({})
) -> set[str]:
    """Pointers (with `*` for indexes) to the kinds of parts and tools that these words cannot name."""
    lost: set[str] = set()
    for turn in chat.get("turns") or ():
        for part in turn.get("parts") or ():
            kind = part.get("type")
            if kind not in words or (kind == "native" and part.get("issuer") != issuer):
                lost.add(f"turns/*/parts/*/{kind}")
            elif media and (kind in media or part.get("parts")):
                lost.update(f"turns/*/parts/*/{name}" for name in _find_lost_sources(part, media))
    for tool in chat.get("tools") or ():
        kind = tool.get("type") or "function"
        if kind not in words and kind != "function" or (kind == "native" and tool.get("issuer") != issuer):
            lost.add(f"tools/*/{kind}")
    return lost


def is_source(name: str) -> bool:
    """Whether a row of `media` may name it."""
    return name in SOURCES or name.endswith("://") or name.startswith("data:")


def leave_out_media(chat: Mapping[str, Any], media: Media) -> Mapping[str, Any]:
    """The chat without the parts that `media` does not take; a turn of nothing else goes, too."""
    if not any(_find_lost_sources(part, media) for turn in chat["turns"] for part in turn.get("parts") or ()):
        return chat
    kept = ({**turn, "parts": _keep_taken(turn.get("parts") or (), media)} for turn in chat["turns"])
    return {**chat, "turns": [turn for turn in kept if turn["parts"]]}


def _keep_taken(parts: Iterable[Mapping[str, Any]], media: Media) -> list[dict[str, Any]]:
    kept = (dict(part) for part in parts if _lost_source(part, media) is None)
    return [
        {**part, "parts": _keep_taken(part["parts"], media)} if part.get("parts") else part for part in kept
    ]


def _find_lost_sources(part: Mapping[str, Any], media: Media) -> list[str]:
    """`image/url` of a part, or of one in a tool's result, whose only source the dialect does not take."""
    if part.get("type") not in media and not part.get("parts"):
        return []
    lost = ((inner, _lost_source(inner, media)) for inner in (part, *(part.get("parts") or ())))
    return [f"{inner['type']}/{source}" for inner, source in lost if source is not None]


def _lost_source(part: Mapping[str, Any], media: Media) -> str | None:
    """Where the part's content is, when the dialect takes none of its sources."""
    taken = media.get(part.get("type", ""))
    given = [source for source in SOURCES if part.get(source) is not None] if taken is not None else []
    if taken is None or not given or not taken.isdisjoint(given):
        return None
    said = {"url": str(part.get("url") or ""), "data": f"data:{part.get('media_type') or ''}"}
    beginnings = tuple(source for source in taken if ":" in source)
    return None if any(said.get(name, "").startswith(beginnings) for name in given) else given[0]
