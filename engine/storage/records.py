"""Writing call records into the database: any number in one statement, each once, with what it costs whom.

The lines are the journal's own JSON and go as one parameter: PostgreSQL reads them, this process does not, and
there is no staging table that has to be emptied.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, LiteralString

import orjson
import psycopg
from psycopg.types.json import Jsonb

from engine.storage.calls import FIELDS
from engine.storage.leases import open_lent
from engine.storage.outbox import queue_mail
from engine.storage.postgres import Connection

log = logging.getLogger(__name__)

_LENT = b'"lent":true'
_NUL = b"\\u0000"
_WRITERS_LOCK = 0x67770002
_INSERT: LiteralString = f"""
-- One writer at a time, so that records are numbered in the order in which they are committed.
WITH given AS MATERIALIZED (SELECT %(records)s AS records FROM pg_advisory_xact_lock(%(lock)s)),
stored AS (INSERT INTO call_records ({FIELDS})
SELECT r.id, r.request_id, to_timestamp(r.started_at), r.key_id, r.user_id, r.surface, r.requested_model,
    r.model, r.provider, coalesce(r.attempts, '[]'), r.status, r.http_status, coalesce(r.tokens, '{{}}'),
    r.usage_source, coalesce(r.cost_usd, 0), r.first_token_ms, r.total_ms, coalesce(r.tags, '{{}}'), r.error,
    r.config_revision, coalesce(r.stream, false), coalesce(r.rescued_by, '[]'), coalesce(r.damaged, 0),
    coalesce(r.pricing, '{{}}')
FROM given CROSS JOIN LATERAL jsonb_to_recordset(given.records) AS r (
    id text, request_id text, started_at double precision, key_id text, user_id text, surface text,
    requested_model text, model text, provider text, attempts jsonb, status text, http_status integer,
    tokens jsonb, usage_source text, cost_usd numeric, first_token_ms double precision,
    total_ms double precision, tags jsonb, error text, config_revision text, stream boolean,
    rescued_by jsonb, damaged integer, pricing jsonb)
ON CONFLICT (id) DO NOTHING RETURNING id),
remembered AS (INSERT INTO journal_positions (file, position) SELECT %(file)s::text, %(position)s::bigint FROM given
    WHERE %(position)s::bigint IS NOT NULL
    ON CONFLICT (file) DO UPDATE SET position = excluded.position, written_at = now())
SELECT posted.* FROM given CROSS JOIN LATERAL post_calls(
    given.records, (SELECT coalesce(array_agg(id), '{{}}') FROM stored), %(grace)s) AS posted
"""
_WAIT_FOR_WRITERS = "SELECT pg_advisory_xact_lock(%s)"
_REMEMBER = (
    "INSERT INTO journal_positions (file, position) VALUES (%s, %s)"
    " ON CONFLICT (file) DO UPDATE SET position = excluded.position, written_at = now()"
)


@dataclass(frozen=True, slots=True)
class BudgetReached:
    """A budget has reached a share at which somebody is told."""

    purse: str
    share: Decimal
    spent_usd: Decimal
    limit_usd: Decimal
    owner: str


@dataclass(slots=True)
class Written:
    """What came of writing some records."""

    refused: list[bytes] = field(default_factory=list)
    """Those that the database does not take as they are (a number out of range, a lone surrogate)."""
    written_off_usd: Decimal = Decimal(0)
    alerts: list[BudgetReached] = field(default_factory=list)

    def add(self, other: "Written") -> None:
        self.refused += other.refused
        self.written_off_usd += other.written_off_usd
        self.alerts += other.alerts


async def write_records(
    connection: Connection,
    records: Sequence[bytes],
    file: str,
    position: int,
    grace_usd: Decimal = Decimal(0),
) -> Written:
    """Write records (JSON objects), what they cost, and the position up to which `file` is done, in one transaction.

    Records that are refused hold nobody else up, and the position passes them.
    """
    try:
        return await _write(connection, records, file, position, grace_usd)
    except (psycopg.DataError, psycopg.IntegrityError):
        written = Written()
        for record in records:
            written.add(await _write_one(connection, _clean(record), grace_usd))
        written.refused = [record for record in records if _clean(record) in written.refused]
        await _write(connection, (), file, position, grace_usd)
        return written


async def forget_positions(connection: Connection, files: Sequence[str]) -> None:
    """Forget how far files were done that are gone now."""
    await connection.execute("DELETE FROM journal_positions WHERE file = ANY(%s)", (list(files),))


async def _write(
    connection: Connection, records: Sequence[bytes], file: str, position: int, grace_usd: Decimal
) -> Written:
    if not records:
        await connection.execute(_REMEMBER, (file, position))
        return Written()
    text = b"[" + b",".join(records) + b"]"
    if _may_hold_nul(text):
        text = b"[" + b",".join([_clean(record) for record in records]) + b"]"
    async with connection.transaction():
        return await _insert(connection, text, file, position, grace_usd)


async def _insert(
    connection: Connection, text: bytes, file: str, position: int | None, grace_usd: Decimal
) -> Written:
    """`text` is a list of records as JSON; without a position none is remembered."""
    if _LENT in text:
        await connection.execute(_WAIT_FOR_WRITERS, (_WRITERS_LOCK,))
        await open_lent(connection, text)
    asked = {"records": Jsonb(text, bytes), "lock": _WRITERS_LOCK, "grace": grace_usd}
    rows = await (await connection.execute(_INSERT, asked | {"file": file, "position": position})).fetchall()
    written = Written()
    for purse, share, spent, most, owner, lost in rows:
        written.written_off_usd += lost
        if purse is not None:
            alert = BudgetReached(purse, share, spent, most, owner)
            written.alerts.append(alert)
            await _queue_alert(connection, alert)
    return written


async def _queue_alert(connection: Connection, alert: BudgetReached) -> None:
    """A mail to the owner of a budget, once for each share of each span."""
    kind, _, name = alert.owner.partition(":")
    rows = await connection.execute(
        "SELECT id, email FROM users WHERE active AND id = CASE WHEN %(kind)s = 'user' THEN %(name)s END"
        " UNION ALL SELECT u.id, u.email FROM team_members m JOIN users u ON u.id = m.user_id"
        " WHERE u.active AND m.role = 'owner' AND m.team_id = CASE WHEN %(kind)s = 'team' THEN %(name)s END",
        {"kind": kind, "name": name},
    )
    _, _, whose, whom, every, manner, *_ = alert.purse.split(":")
    data = {
        "budget": f"{whose} {whom}, {every}",
        "percent": int(alert.share * 100),
        "spent_usd": f"{alert.spent_usd.normalize():f}",
        "limit_usd": f"{alert.limit_usd.normalize():f}",
        "hard": manner == "hard",
    }
    for user_id, address in await rows.fetchall():
        ref = f"{alert.purse}:{alert.limit_usd:f}:{alert.share}:{user_id}"
        await queue_mail(connection, "budget_alert", address, data, ref=ref, user_id=user_id)


async def _write_one(connection: Connection, record: bytes, grace_usd: Decimal) -> Written:
    try:
        async with connection.transaction():
            return await _insert(connection, b"[" + record + b"]", "", None, grace_usd)
    except (psycopg.DataError, psycopg.IntegrityError) as error:
        log.error("a call record is refused by the database: %s", str(error).partition("\n")[0])
        return Written(refused=[record])


def _may_hold_nul(text: bytes) -> bool:
    return b"\\" in text and _NUL in text  # one letter is found far faster than six


def _clean(record: bytes) -> bytes:
    """The same record without NULs, which PostgreSQL has no place for; of one that is no JSON every byte that is no
    UTF-8 is replaced.
    """
    try:
        return orjson.dumps(_drop_nul(orjson.loads(record)))
    except orjson.JSONDecodeError:
        return record.decode("utf-8", "replace").encode()


def _drop_nul(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace("\0", "")
    if isinstance(value, list):
        return [_drop_nul(item) for item in value]
    if isinstance(value, dict):
        return {_drop_nul(name): _drop_nul(item) for name, item in value.items()}
    return value
