"""Changing API keys that exist: rotating and revoking them. Each change is seen by every worker within a second."""

from dataclasses import dataclass
from typing import Any, LiteralString

from engine.secret import Secret
from engine.storage.issuing import IssuedKey
from engine.storage.postgres import Connection, count_change
from engine.storage.secrets import KeyRing, generate_key

MOST_AT_ONCE = 500
_ACTIVE: LiteralString = (
    "SELECT id, name, role, environment FROM api_keys"
    " WHERE revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())"
    " AND (%(id)s::text IS NULL OR id = %(id)s) AND (%(user_id)s::text IS NULL OR user_id = %(user_id)s)"
    " AND (%(environment)s::text IS NULL OR environment = %(environment)s)"
    " ORDER BY created_at, id LIMIT %(most)s"
)
_REPLACE: LiteralString = (
    "UPDATE api_keys SET hash = %(hash)s, ring_id = %(ring_id)s, last4 = %(last4)s, changed_n = %(n)s,"
    " updated_at = now(), replaced_hash = CASE WHEN %(grace_s)s > 0 THEN hash END,"
    " replaced_until = CASE WHEN %(grace_s)s > 0 THEN now() + make_interval(secs => %(grace_s)s) END"
    " WHERE id = %(id)s"
)


@dataclass(frozen=True, slots=True)
class Which:
    """Which keys are meant: those to which all that is named applies."""

    id: str | None = None
    user_id: str | None = None
    environment: str | None = None


async def rotate_keys(
    connection: Connection, ring: KeyRing, which: Which, grace_s: float = 0.0
) -> list[IssuedKey]:
    """Give keys new texts; the old ones stay valid for `grace_s`. A text that was older than that ends now.

    Id, rules, limits and what was used stay. Revoked and expired keys are left alone.
    """
    async with connection.transaction():
        n = await count_change(connection)
        asked: dict[str, Any] = {
            "id": which.id,
            "user_id": which.user_id,
            "environment": which.environment,
            "most": MOST_AT_ONCE,
        }
        rows = await (await connection.execute(_ACTIVE, asked)).fetchall()
        return [await _replace_text(connection, ring, row, grace_s, n) for row in rows]


async def _replace_text(
    connection: Connection, ring: KeyRing, row: tuple[Any, ...], grace_s: float, n: int
) -> IssuedKey:
    key_id, name, role, environment = row
    text = generate_key(environment)
    values = {"id": key_id, "hash": ring.hash_key(text), "ring_id": ring.newest.id, "last4": text[-4:]}
    await connection.execute(_REPLACE, values | {"grace_s": float(grace_s), "n": n})
    return IssuedKey(key_id, Secret(text), name, role, text[-4:])


async def revoke_key(connection: Connection, key_id: str) -> bool:
    """Revoke a key for good; False when there is none of that id. Doing it twice keeps the first moment."""
    async with connection.transaction():
        n = await count_change(connection)
        found = await connection.execute(
            "UPDATE api_keys SET revoked_at = coalesce(revoked_at, now()), updated_at = now(), changed_n = %s"
            " WHERE id = %s",
            (n, key_id),
        )
    return found.rowcount == 1
