"""Change a few top-level members of a JSON object and leave every other byte as the client wrote it.

The client's bytes are kept because re-writing them would change what we do not understand: number spelling, key
order, escapes. Where the bytes are ambiguous (a key written twice or with escapes) the parsed value is written anew,
so that nobody can smuggle a second `model` past the first.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import orjson

from engine.wire.json_text import write_json

_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[{}\[\]:,]', re.DOTALL)
_ESCAPED_LETTER = re.compile(rb"\\u00[4567]")


LARGE_BODY_BYTES = 64 * 1024
_BYTES_PER_QUOTE, _NAME_BYTES = 512, 48


class _Dropped:
    """The mark for a member that is to be left out."""

    def __repr__(self) -> str:
        return "DROPPED"


DROPPED = _Dropped()


class _Member(NamedTuple):
    start: int
    """Of the key's opening quote."""
    value_start: int
    end: int
    """Behind the value."""


def edit_members(body: bytes, parsed: Mapping[str, Any], edits: Mapping[str, Any]) -> bytes:
    """`body` (which parses to `parsed`) with each member of `edits` set, or left out where it is DROPPED."""
    if not edits:
        return body
    if _has_escaped_letters(body):
        return _write_anew(parsed, edits)
    present = {name: value for name, value in edits.items() if name in parsed}
    added = {name: value for name, value in edits.items() if name not in parsed and value is not DROPPED}
    if present:
        edited = _replace_only_string(body, parsed, present) or _replace_members(body, parsed, present)
        if edited is None:
            return _write_anew(parsed, edits)
        body = edited
    return _append_members(body, added) if added else body


def may_name_twice(body: bytes, name: bytes) -> bool:
    """Whether a key might stand in the body twice, or in escapes: who reads the first would read another value."""
    return list_names(body).count(b'"' + name + b'"') != 1 or _has_escaped_letters(body)


def list_names(body: bytes) -> bytes:
    """What of a body has to be looked through for a quoted name or a word: all of it, or of a large one with few quotes
    (an image) only what stands behind each quote: from quote to quote is fifty times as fast as through base64."""
    if len(body) < LARGE_BODY_BYTES:
        return body
    most, found, end = len(body) // _BYTES_PER_QUOTE, 0, 0
    pieces: list[bytes] = []
    at = body.find(b'"')
    while at >= 0:
        found += 1
        if found > most:
            return body
        pieces += (b"\n", body[at : at + _NAME_BYTES]) if at > end else (body[end : at + _NAME_BYTES],)
        end = at + _NAME_BYTES
        at = body.find(b'"', at + 1)
    return b"".join(pieces)


def _has_escaped_letters(body: bytes) -> bool:
    """A backslash is looked for first: it goes through an image's base64 fifty times as fast."""
    return b"\\" in body and _ESCAPED_LETTER.search(body) is not None


def _replace_only_string(body: bytes, parsed: Mapping[str, Any], edits: Mapping[str, Any]) -> bytes | None:
    """The common case at memchr speed: one text member whose key occurs once in the whole body."""
    if len(edits) != 1:
        return None
    ((name, value),) = edits.items()
    key = orjson.dumps(name)
    if value is DROPPED or list_names(body).count(key) != 1:
        return None
    start = body.find(b'"', body.find(key) + len(key))
    end = body.find(b'"', start + 1) + 1
    between = body[body.find(key) + len(key) : start].strip()
    if between != b":" or not end or _literal(body[start:end]) != parsed[name]:
        return None
    return body[:start] + write_json(value) + body[end:]


def _literal(text: bytes) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return None


def _replace_members(body: bytes, parsed: Mapping[str, Any], edits: Mapping[str, Any]) -> bytes | None:
    """Replace or cut members found by a full scan; None when a key stands there twice."""
    members = _find_members(body)
    if members is None or len(members) != len(parsed) or not all(name in members for name in edits):
        return None
    dropped = {name for name, value in edits.items() if value is DROPPED}
    if dropped:
        kept = [name for name in members if name not in dropped]
        pieces = [_member_bytes(body, name, members[name], edits) for name in kept]
        return b"{" + b",".join(pieces) + b"}"
    for name in sorted(edits, key=lambda name: -members[name].start):
        member = members[name]
        body = body[: member.value_start] + write_json(edits[name]) + body[member.end :]
    return body


def _member_bytes(body: bytes, name: str, member: _Member, edits: Mapping[str, Any]) -> bytes:
    if name in edits:
        return orjson.dumps(name) + b":" + write_json(edits[name])
    return body[member.start : member.end]


def _find_members(body: bytes) -> dict[str, _Member] | None:
    members: dict[str, _Member] = {}
    depth, key, key_start, value_start, last_end = 0, None, 0, 0, 0
    for token in _TOKEN.finditer(body):
        mark = token.group()
        if mark in b"{[":
            depth += 1
        elif depth == 1 and mark == b":" and key is None:
            key, value_start = _literal(body[key_start:last_end]), token.end()
        elif depth == 1 and mark in (b",", b"}"):
            if key is not None:
                if key in members:
                    return None
                members[key] = _trimmed(body, key_start, value_start, token.start())
            key = None
            depth -= mark == b"}"
        elif mark in b"}]":
            depth -= 1
        elif depth == 1 and key is None and mark[:1] == b'"':
            key_start, last_end = token.start(), token.end()
    return members


def _trimmed(body: bytes, start: int, value_start: int, end: int) -> _Member:
    value = body[value_start:end]
    lead = len(value) - len(value.lstrip())
    return _Member(start, value_start + lead, value_start + len(value.rstrip()))


def _append_members(body: bytes, added: Mapping[str, Any]) -> bytes:
    end = body.rindex(b"}")
    comma = b"" if body[:end].rstrip().endswith(b"{") else b","
    return body[:end] + comma + write_json(dict(added))[1:-1] + body[end:]


def _write_anew(parsed: Mapping[str, Any], edits: Mapping[str, Any]) -> bytes:
    merged = {**parsed, **edits}
    return write_json({name: value for name, value in merged.items() if value is not DROPPED})
