"""Writing call records into the database: any number of lines in one statement, each call once.

The lines are the journal's own JSON and go as one parameter: PostgreSQL reads them, this process does not, and
there is no staging table that has to be emptied.
"""

import logging
from collections.abc import Sequence
from typing import Any, LiteralString

import orjson
import psycopg

from engine.storage.calls import FIELDS
from engine.storage.postgres import Connection

log = logging.getLogger(__name__)

_WRITERS_LOCK = 0x67770002
_INSERT: LiteralString = f"""
INSERT INTO call_records ({FIELDS})
SELECT r.id, r.request_id, to_timestamp(r.started_at), r.key_id, r.user_id, r.surface, r.requested_model,
    r.model, r.provider, coalesce(r.attempts, '[]'), r.status, r.http_status, coalesce(r.tokens, '{{}}'),
    r.usage_source, coalesce(r.cost_usd, 0), r.first_token_ms, r.total_ms, coalesce(r.tags, '{{}}'), r.error,
    r.config_revision, coalesce(r.stream, false), coalesce(r.rescued_by, '[]'), coalesce(r.damaged, 0),
    coalesce(r.pricing, '{{}}')
FROM jsonb_to_recordset(%s::jsonb) AS r (
    id text, request_id text, started_at double precision, key_id text, user_id text, surface text,
    requested_model text, model text, provider text, attempts jsonb, status text, http_status integer,
    tokens jsonb, usage_source text, cost_usd numeric, first_token_ms double precision,
    total_ms double precision, tags jsonb, error text, config_revision text, stream boolean,
    rescued_by jsonb, damaged integer, pricing jsonb)
ON CONFLICT (id) DO NOTHING
"""
_REMEMBER = (
    "INSERT INTO journal_positions (file, position) VALUES (%s, %s)"
    " ON CONFLICT (file) DO UPDATE SET position = excluded.position, written_at = now()"
)


async def write_records(
    connection: Connection, records: Sequence[bytes], file: str, position: int
) -> list[bytes]:
    """Write records (JSON objects) and the position up to which `file` is done, in one transaction.

    Returns the records that the database does not take as they are (a number out of range, a lone
    surrogate): they hold nobody else up, and the position passes them.
    """
    if any(b"\\u0000" in record for record in records):
        records = [_clean(record) for record in records]
    try:
        await _write(connection, records, file, position)
    except (psycopg.DataError, psycopg.IntegrityError):
        refused = [record for record in records if not await _takes(connection, _clean(record))]
        await _write(connection, (), file, position)
        return refused
    return []


async def forget_positions(connection: Connection, files: Sequence[str]) -> None:
    """Forget how far files were done that are gone now."""
    await connection.execute("DELETE FROM journal_positions WHERE file = ANY(%s)", (list(files),))


async def _write(connection: Connection, records: Sequence[bytes], file: str, position: int) -> None:
    async with connection.transaction():
        if records:
            # One writer at a time, so that records are numbered in the order in which they are committed.
            await connection.execute("SELECT pg_advisory_xact_lock(%s)", (_WRITERS_LOCK,))
            await connection.execute(
                _INSERT, ((b"[" + b",".join(records) + b"]").decode("utf-8", "replace"),)
            )
        await connection.execute(_REMEMBER, (file, position))


async def _takes(connection: Connection, record: bytes) -> bool:
    try:
        async with connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock(%s)", (_WRITERS_LOCK,))
            await connection.execute(_INSERT, (f"[{record.decode('utf-8', 'replace')}]",))
    except (psycopg.DataError, psycopg.IntegrityError) as error:
        log.error("a call record is refused by the database: %s", str(error).partition("\n")[0])
        return False
    return True


def _clean(record: bytes) -> bytes:
    """The same record without NULs, which PostgreSQL has no place for; a record that is no JSON stays as it
    is.
    """
    try:
        return orjson.dumps(_drop_nul(orjson.loads(record)))
    except orjson.JSONDecodeError:
        return record


def _drop_nul(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace("\0", "")
    if isinstance(value, list):
        return [_drop_nul(item) for item in value]
    if isinstance(value, dict):
        return {_drop_nul(name): _drop_nul(item) for name, item in value.items()}
    return value
