"""Provider-private state in a client's hands: signatures and encrypted reasoning, each for its issuer alone.

A blob that another than the client's own dialect issued goes out tagged: text that any dialect takes for a blob of its
own (it is base64, in either alphabet), and that says who issued it. When it comes back, the tag is taken off, and
whoever is asked gets the blobs that it issued itself and no others. Pure: nothing is remembered here.
"""

from base64 import b64decode, b64encode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from engine.wire.canonical import BlockAdded, BlockEnded, BlockStarted, Event
from engine.wire.json_text import parse_json, write_json
from engine.wire.splice import list_names

TAG = "gwzForeign01"
"""Whole groups of base64, so that what follows it may be base64 as well."""
FIELDS = ("signature", "redacted")
LOST_REASONING = "turns/*/parts/*/reasoning"

_SEARCHED = b'"' + TAG.encode()
_TO_STANDARD = str.maketrans("-_", "+/")

Part = dict[str, Any]
Chat = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Blob:
    """What one provider wants back as it was. `field` is where it stood in its part, `id` its part's own."""

    issuer: str
    field: str
    value: str
    id: str | None = None


def holds_tags(body: bytes) -> bool:
    """Whether some text in a JSON body begins with a tag."""
    return _SEARCHED in list_names(body)


def write_tag(blob: Blob) -> str:
    """The blob as base64 that says whose it is."""
    packed = write_json([blob.issuer, blob.field, blob.value, blob.id])
    return TAG + b64encode(packed).decode()


def read_tag(text: Any) -> Blob | None:
    """The blob in a tagged text; None when the text has no tag of ours, or was damaged on its way."""
    if not isinstance(text, str) or not text.startswith(TAG):
        return None
    packed = text[len(TAG) :].translate(_TO_STANDARD).rstrip("=")
    try:
        issuer, field, value, id = parse_json(b64decode(packed + "=" * (-len(packed) % 4), validate=True))
    except (ValueError, TypeError):
        return None
    told = isinstance(issuer, str) and field in FIELDS and isinstance(value, str)
    return Blob(issuer, field, value, id if isinstance(id, str) else None) if told else None


def find_blob(part: Mapping[str, Any], native: str) -> Blob | None:
    """The blob of a part. Without a tag it is of the issuer whose blobs are `native` to the client's dialect."""
    for field in FIELDS:
        value = part.get(field)
        if isinstance(value, str) and value:
            if value.startswith(TAG):
                return read_tag(value) or Blob("", field, value)
            return Blob(native, field, value, part.get("id") if part.get("type") == "reasoning" else None)
    return None


# --- in a request


def give_blobs_back(chat: Chat, native: str, issuer: str) -> tuple[Chat, bool]:
    """The chat for a target of this issuer, and whether some reasoning has nothing left to say it with.

    Blobs of the issuer are what they were; those of others are gone, and so is the reasoning that had no text
    beside.
    """
    turns, lost = chat.get("turns") or [], False
    changed: dict[int, Any] = {}
    for place, turn in enumerate(turns):
        parts = turn.get("parts") or ()
        if not _hold_blobs(parts):
            continue
        kept, emptied = _give_back(parts, native, issuer)
        lost = lost or emptied
        changed[place] = {**turn, "parts": kept}
    if not changed:
        return chat, False
    return {**chat, "turns": [changed.get(place, turn) for place, turn in enumerate(turns)]}, lost


def _hold_blobs(parts: Iterable[Part]) -> bool:
    for part in parts:
        if "signature" in part or "redacted" in part:
            return True
    return False


def _give_back(parts: Iterable[Part], native: str, issuer: str) -> tuple[list[Part], bool]:
    kept: list[Part] = []
    lost = False
    for part in parts:
        blob = find_blob(part, native)
        if blob is None:
            kept.append(part)
        elif blob.issuer == issuer:
            tagged = any(str(part.get(field, "")).startswith(TAG) for field in FIELDS)
            kept.append(_restore(part, blob, kept) if tagged else part)
        else:
            bare = _strip(part)
            lost = lost or part.get("type") == "reasoning"
            if bare.get("type") != "reasoning" or bare.get("text"):
                kept.append(bare)
    return kept, lost


def _restore(part: Part, blob: Blob, before: list[Part]) -> Part:
    """The part as its issuer wrote it. Some dialects bring a signature back behind the text that it signs."""
    restored = {**_strip(part), **({blob.field: blob.value} if blob.value else {})}
    if part.get("type") != "reasoning":
        return restored
    if blob.id is not None:
        restored["id"] = blob.id
    if blob.field == "redacted":
        return {name: value for name, value in restored.items() if name != "text"}
    texts: list[str] = []
    while not restored.get("text") and before and _is_unsigned(before[-1]):
        texts.insert(0, before.pop().get("text") or "")
    return {**restored, "text": "".join(texts)} if texts else restored


def _is_unsigned(part: Part) -> bool:
    return part.get("type") == "reasoning" and not any(part.get(field) for field in FIELDS)


def _strip(part: Part) -> Part:
    """The part without anything that only its issuer understands."""
    gone = (*FIELDS, "id") if part.get("type") == "reasoning" else FIELDS
    return {name: value for name, value in part.items() if name not in gone}


# --- in an answer


class Tagger:
    """Tags the blobs in the events of one answer. In a tag every blob is a signature: all dialects have those.

    Where the client's dialect signs its reasoning, reasoning that nobody signed is tagged as well: it would be taken
    for a forgery by the dialect's own issuer.
    """

    __slots__ = ("_ids", "_issuer", "_signed", "_signs_all")

    def __init__(self, issuer: str, *, signs_all: bool = False) -> None:
        self._issuer, self._signs_all = issuer, signs_all
        self._ids: dict[tuple[int, int], str] = {}
        self._signed: set[tuple[int, int]] = set()

    def tag(self, events: Iterable[Event]) -> list[Event]:
        tagged: list[Event] = []
        for event in events:
            if isinstance(event, BlockStarted):
                tagged += self._start(event)
            elif isinstance(event, BlockAdded):
                tagged.append(self._add(event) if event.field in FIELDS else event)
            elif isinstance(event, BlockEnded):
                tagged += self._end(event)
            else:
                tagged.append(event)
        return tagged

    def _start(self, event: BlockStarted) -> list[Event]:
        block = event.block
        if event.kind == "reasoning" and isinstance(block.get("id"), str):
            self._ids[event.choice, event.index] = block["id"]
        if not _hold_blobs((block,)) or not any(block.get(field) for field in FIELDS):
            return [event]
        block = self._tag_block(block)
        place = (event.choice, event.index, event.nth, event.kind)
        signature = block.pop("signature", None) if event.kind == "reasoning" else None
        if not signature:
            return [BlockStarted(*place, block)]
        self._signed.add((event.choice, event.index))
        return [BlockStarted(*place, block), BlockAdded(*place, "signature", signature)]

    def _add(self, event: BlockAdded) -> Event:
        if not isinstance(event.value, str):
            return event
        key = (event.choice, event.index)
        self._signed.add(key)
        tag = write_tag(Blob(self._issuer, event.field, event.value, self._ids.get(key)))
        return BlockAdded(event.choice, event.index, event.nth, event.kind, "signature", tag)

    def _end(self, event: BlockEnded) -> list[Event]:
        block = self._tag_block(event.block)
        place = (event.choice, event.index, event.nth, event.kind)
        if not self._signs_all or event.kind != "reasoning" or (event.choice, event.index) in self._signed:
            return [event if block is event.block else BlockEnded(*place, block)]
        tag = block.get("signature") or write_tag(Blob(self._issuer, "signature", "", block.get("id")))
        return [BlockAdded(*place, "signature", tag), BlockEnded(*place, {**block, "signature": tag})]

    def _tag_block(self, block: dict[str, Any]) -> dict[str, Any]:
        blob = find_blob(block, self._issuer) if _hold_blobs((block,)) else None
        if blob is None:
            return block
        bare = {name: value for name, value in block.items() if name not in FIELDS}
        return {**bare, "signature": write_tag(blob)}
