"""Users' own keys at providers: encrypted with the key ring where they are stored, opened when an API key is learned.

Each change is one of the owner, so every worker forgets the owner's API keys within a second and learns them anew.
"""

import logging
from collections.abc import Mapping
from secrets import token_hex
from typing import Any, LiteralString

from cryptography.fernet import InvalidToken

from engine.call import OwnKeys
from engine.config.snapshot import Credential
from engine.errors import LimitExceeded
from engine.secret import Secret
from engine.storage.audit import Actor, Event, write_event
from engine.storage.postgres import Connection, count_change
from engine.storage.secrets import KeyRing

log = logging.getLogger(__name__)

MOST_PER_USER = 100
_SET: LiteralString = (
    "INSERT INTO user_provider_keys (user_id, provider, id, sealed, last4) VALUES (%s, %s, %s, %s, %s)"
    " ON CONFLICT (user_id, provider) DO UPDATE SET id = excluded.id, sealed = excluded.sealed,"
    " last4 = excluded.last4, updated_at = now()"
)


def open_own_keys(ring: KeyRing, sealed: Mapping[str, Any] | None) -> OwnKeys | None:
    """The credentials in `{provider: [id, sealed text]}`. One that no entry of the ring opens is left out."""
    if not sealed:
        return None
    credentials: dict[str, Credential] = {}
    for provider, (key_id, text) in sealed.items():
        try:
            secret = ring.decrypt(text.encode())
        except InvalidToken:
            log.error("a user's key at %s cannot be read: no entry of the key ring fits", provider)
            continue
        # The id is in the name because request heads are remembered by it.
        credentials[provider] = Credential(f"{provider}#{key_id}", secret, owned=True)
    return OwnKeys(sealed, credentials)


async def set_provider_key(
    connection: Connection, ring: KeyRing, user_id: str, provider: str, secret: Secret, by: Actor
) -> None:
    """Store a user's key at a provider in place of the one before."""
    last4 = secret.reveal()[-4:]
    sealed = ring.encrypt(secret).decode()
    async with connection.transaction():
        await _note_change(connection, user_id)
        row = await (
            await connection.execute(
                "SELECT count(*) FROM user_provider_keys WHERE user_id = %s AND provider <> %s",
                (user_id, provider),
            )
        ).fetchone()
        if row is not None and row[0] >= MOST_PER_USER:
            raise LimitExceeded(
                f"a user may have {MOST_PER_USER} keys at providers", code="key_creation_limit"
            )
        await connection.execute(_SET, (user_id, provider, f"own_{token_hex(8)}", sealed, last4))
        event = Event("provider_key.set", provider, user_id, after={"last4": last4})
        await write_event(connection, ring, by, event)


async def delete_provider_key(
    connection: Connection, ring: KeyRing, user_id: str, provider: str, by: Actor
) -> bool:
    async with connection.transaction():
        await _note_change(connection, user_id)
        row = await (
            await connection.execute(
                "DELETE FROM user_provider_keys WHERE user_id = %s AND provider = %s RETURNING last4",
                (user_id, provider),
            )
        ).fetchone()
        if row is not None:
            event = Event("provider_key.delete", provider, user_id, before={"last4": row[0]})
            await write_event(connection, ring, by, event)
    return row is not None


async def list_provider_keys(connection: Connection, user_id: str) -> list[dict[str, Any]]:
    rows = await (
        await connection.execute(
            "SELECT provider, last4, created_at, updated_at FROM user_provider_keys WHERE user_id = %s"
            " ORDER BY provider",
            (user_id,),
        )
    ).fetchall()
    return [
        {
            "provider_slug": provider,
            "api_key": f"...{last4}",
            "created_at": created_at.isoformat(),
            "updated_at": updated_at.isoformat(),
        }
        for provider, last4, created_at, updated_at in rows
    ]


async def _note_change(connection: Connection, user_id: str) -> None:
    n = await count_change(connection)
    await connection.execute("UPDATE users SET changed_n = %s WHERE id = %s", (n, user_id))
