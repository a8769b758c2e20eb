"""The audit log: who changed what, when and from where. Nothing in it is ever changed.

An event is written in the transaction that does what it tells, so neither is there without the other. Each row carries
a seal over its content and the seal before it, made with a key of the ring: whoever can write to the database and has
no ring cannot change, insert or take out a row unseen. Rows cut off at the end are seen by who noted the last seal.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, LiteralString

import orjson

from engine.errors import InvalidRequest
from engine.storage.postgres import Connection
from engine.storage.secrets import KeyRing

MOST_PER_PAGE = 1000
_CHUNK = 2000
_MOST_AGENT = 200
_EQUAL: dict[str, LiteralString] = {
    "action": "action = %s",
    "subject": "subject = %s",
    "owner": "owner = %s",
    "since": "at >= %s",
    "until": "at < %s",
}
FILTERS = frozenset(_EQUAL)


@dataclass(frozen=True, slots=True)
class Actor:
    """Who did it: a key of a user, or a person at the command line."""

    user_id: str
    key_id: str = ""
    address: str = ""
    agent: str = ""


COMMAND = Actor("command")


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that was done to a `subject` (a key's id, `config` ...) that belongs to `owner`. Without secrets."""

    action: str
    subject: str
    owner: str = ""
    before: Mapping[str, Any] | None = None
    after: Mapping[str, Any] | None = None


async def write_event(connection: Connection, ring: KeyRing, by: Actor, event: Event) -> None:
    """Add an event. In a transaction: the row lock of the change counter makes one chain of all writers' rows."""
    await connection.execute("SELECT n FROM change_counter FOR UPDATE")
    row = await (
        await connection.execute("SELECT seq, seal FROM audit_log ORDER BY seq DESC LIMIT 1")
    ).fetchone()
    seq, previous = (row[0], row[1]) if row is not None else (0, "")
    content = write_content(by, event, datetime.now(UTC))
    await connection.execute(
        "INSERT INTO audit_log (seq, content, seal) VALUES (%s, %s, %s)",
        (seq + 1, content, ring.seal(join(seq + 1, previous, content))),
    )


def write_content(by: Actor, event: Event, now: datetime) -> str:
    document = {
        "at": format_time(now),
        "action": event.action,
        "subject": event.subject,
        "owner": event.owner,
        "by": {"user_id": by.user_id, "key_id": by.key_id, "address": by.address, "agent": _clean(by.agent)},
        "before": event.before,
        "after": event.after,
    }
    return orjson.dumps(document, option=orjson.OPT_SORT_KEYS, default=str).decode()


def _clean(agent: str) -> str:
    return "".join(letter for letter in agent[:_MOST_AGENT] if letter.isprintable())


def format_time(moment: datetime) -> str:
    """In one form for all rows, so that times compare as text."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def join(seq: int, previous: str, content: str) -> bytes:
    return f"{seq}\n{previous}\n{content}".encode()


async def list_events(
    connection: Connection, filters: Mapping[str, Any], limit: int = 100, before: int | None = None
) -> tuple[list[dict[str, Any]], bool]:
    """Newest first, those that all filters name, and whether there are more."""
    conditions: list[LiteralString] = ["true"]
    values: list[Any] = []
    for name, value in filters.items():
        if name not in _EQUAL:
            raise InvalidRequest(f"there is no filter {name}", param=name)
        conditions.append(_EQUAL[name])
        values.append(format_time(value) if isinstance(value, datetime) else value)
    if before is not None:
        conditions.append("seq < %s")
        values.append(before)
    where = " AND ".join(conditions)
    rows = await (
        await connection.execute(
            f"SELECT seq, content FROM audit_log WHERE {where} ORDER BY seq DESC LIMIT %s",
            (*values, min(limit, MOST_PER_PAGE) + 1),
        )
    ).fetchall()
    return [{"seq": seq, **orjson.loads(content)} for seq, content in rows[:limit]], len(rows) > limit


@dataclass(frozen=True, slots=True)
class Verdict:
    """What `verify_chain` found: how many rows hold together, the last seal, and the first row that does not."""

    rows: int
    head: str
    broken_at: int | None = None
    reason: str = ""
    has_expected: bool = True


async def verify_chain(connection: Connection, ring: KeyRing, expected: str = "") -> Verdict:
    """Check every row from the first. `expected` is a seal noted earlier that must still be in the chain."""
    rows, previous, found = 0, "", not expected
    while True:
        page = await (
            await connection.execute(
                "SELECT seq, content, seal FROM audit_log WHERE seq > %s ORDER BY seq LIMIT %s",
                (rows, _CHUNK),
            )
        ).fetchall()
        for seq, content, seal in page:
            if seq != rows + 1:
                return Verdict(rows, previous, rows + 1, "it is missing", found)
            if not ring.is_sealed(join(seq, previous, content), seal):
                return Verdict(rows, previous, seq, "its seal does not fit, or its ring entry is gone", found)
            rows, previous = seq, seal
            found = found or seal == expected
        if not page:
            return Verdict(rows, previous, has_expected=found)
