"""The outbox as whoever sends sees it: a mail is claimed before it is sent, and what came of it is written down after.

A claim is committed first, so a mail whose sender died in between is found again with its claim run out: it may have
been sent. What happens then is declared, never guessed.
"""

from dataclasses import dataclass
from typing import Any, LiteralString

import orjson
from cryptography.fernet import InvalidToken

from engine.storage.postgres import Connection
from engine.storage.secrets import KeyRing

CLAIM_S = 120.0
"""Longer than any try may last."""
_CLAIM: LiteralString = """
UPDATE mail_outbox m SET claimed_until = now() + make_interval(secs => %(claim_s)s), attempts = m.attempts + 1
FROM (
    SELECT id, claimed_until FROM mail_outbox
    WHERE status IN ('pending', 'failed') AND next_try_at <= now()
        AND (claimed_until IS NULL OR claimed_until < now())
    ORDER BY next_try_at LIMIT %(most)s FOR UPDATE SKIP LOCKED
) was WHERE m.id = was.id
RETURNING m.id, m.ref, m.template, m.address, m.data, m.sealed, m.attempts,
    extract(epoch FROM now() - m.created_at)::float8, was.claimed_until IS NOT NULL
"""


@dataclass(frozen=True, slots=True)
class Claimed:
    """One mail that is ours to send."""

    id: int
    ref: str
    template: str
    address: str
    data: dict[str, Any] | None
    """None when no entry of the key ring opens it."""
    attempts: int
    age_s: float
    was_claimed: bool
    """Somebody claimed it before and did not say what came of it."""


async def claim_mails(connection: Connection, ring: KeyRing, most: int) -> list[Claimed]:
    rows = await (await connection.execute(_CLAIM, {"claim_s": CLAIM_S, "most": most})).fetchall()
    return [
        Claimed(id, ref, template, address, _open(data, sealed, ring), attempts, age_s, was_claimed)
        for id, ref, template, address, data, sealed, attempts, age_s, was_claimed in rows
    ]


def _open(data: Any, sealed: bytes | None, ring: KeyRing) -> dict[str, Any] | None:
    if sealed is None:
        return dict(data) if data is not None else None
    try:
        opened: dict[str, Any] = orjson.loads(ring.decrypt(bytes(sealed)).reveal())
    except InvalidToken:
        return None
    return opened


async def note_sent(connection: Connection, mail: Claimed, sink_id: str) -> None:
    """Sent: what its text was made of is not needed any more."""
    await connection.execute(
        "UPDATE mail_outbox SET status = 'sent', sent_at = now(), claimed_until = NULL, data = NULL,"
        " sealed = NULL, problem = '', sink_id = %s WHERE id = %s",
        (sink_id, mail.id),
    )


async def note_failed(connection: Connection, mail: Claimed, problem: str, again_in_s: float | None) -> None:
    """Not sent: tried again later, or (None) given up, and its data dropped."""
    if again_in_s is None:
        await connection.execute(
            "UPDATE mail_outbox SET status = 'given_up', claimed_until = NULL, data = NULL, sealed = NULL,"
            " problem = %s WHERE id = %s",
            (problem, mail.id),
        )
        return
    await connection.execute(
        "UPDATE mail_outbox SET status = 'failed', claimed_until = NULL, problem = %s,"
        " next_try_at = now() + make_interval(secs => %s) WHERE id = %s",
        (problem, again_in_s, mail.id),
    )


async def count_mails(connection: Connection) -> dict[str, int]:
    """How many mails there are in each state."""
    rows = await (
        await connection.execute("SELECT status, count(*) FROM mail_outbox GROUP BY status")
    ).fetchall()
    return {status: int(count) for status, count in rows}


async def purge_mails(connection: Connection, keep_days: int) -> int:
    """Forget mails that are done since so long. Their refs go with them: reasons are not given twice so late."""
    gone = await connection.execute(
        "DELETE FROM mail_outbox WHERE status IN ('sent', 'given_up')"
        " AND created_at < now() - make_interval(days => %s)",
        (keep_days,),
    )
    return gone.rowcount
