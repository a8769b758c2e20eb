"""Encrypting anew, under the newest entry of the key ring, everything that is stored encrypted.

Hashes of API keys cannot be made anew without the keys: each is when its key is used next, and until then needs the
entry that it was made with.
"""

from dataclasses import dataclass
from typing import LiteralString

from cryptography.fernet import InvalidToken

from engine.storage.audit import COMMAND, Event, write_event
from engine.storage.postgres import Connection, count_change
from engine.storage.secrets import KeyRing

_CHUNK = 500


@dataclass(slots=True)
class Rotated:
    """What was done, what no entry opens, and what still needs an older entry."""

    provider_keys: int = 0
    states: int = 0
    mails: int = 0
    unreadable: int = 0
    api_keys_under_older_entries: int = 0


async def encrypt_anew(connection: Connection, ring: KeyRing) -> Rotated:
    """May be done at any time, twice, and beside running gateways that have the same ring."""
    done = Rotated()
    await _renew_provider_keys(connection, ring, done)
    await _renew_states(connection, ring, done)
    await _renew_mails(connection, ring, done)
    await _renew_person_key(connection, ring, done)
    row = await (
        await connection.execute(
            "SELECT count(*) FROM api_keys WHERE ring_id <> %s AND revoked_at IS NULL", (ring.newest.id,)
        )
    ).fetchone()
    done.api_keys_under_older_entries = row[0] if row is not None else 0
    async with connection.transaction():
        after = {"provider_keys": done.provider_keys, "states": done.states, "ring_id": ring.newest.id}
        await write_event(connection, ring, COMMAND, Event("keyring.rotate", "keyring", after=after))
    return done


async def _renew_provider_keys(connection: Connection, ring: KeyRing, done: Rotated) -> None:
    behind = ""
    while True:
        async with connection.transaction():
            n = await count_change(connection)
            rows = await (
                await connection.execute(
                    "SELECT id, sealed, user_id FROM user_provider_keys WHERE id > %s ORDER BY id LIMIT %s",
                    (behind, _CHUNK),
                )
            ).fetchall()
            for key_id, sealed, user_id in rows:
                renewed = _renew(ring, sealed.encode(), done)
                if renewed is None:
                    continue
                await connection.execute(
                    "UPDATE user_provider_keys SET sealed = %s WHERE id = %s", (renewed.decode(), key_id)
                )
                await connection.execute("UPDATE users SET changed_n = %s WHERE id = %s", (n, user_id))
                done.provider_keys += 1
        if len(rows) < _CHUNK:
            return
        behind = rows[-1][0]


_STATES: LiteralString = (
    "SELECT key_id, call_id, state FROM provider_state WHERE (key_id, call_id) > (%s, %s)"
    " ORDER BY key_id, call_id LIMIT %s FOR UPDATE"
)


async def _renew_states(connection: Connection, ring: KeyRing, done: Rotated) -> None:
    behind = ("", "")
    while True:
        async with connection.transaction():
            rows = await (await connection.execute(_STATES, (*behind, _CHUNK))).fetchall()
            for key_id, call_id, state in rows:
                renewed = _renew(ring, bytes(state), done)
                if renewed is not None:
                    await connection.execute(
                        "UPDATE provider_state SET state = %s WHERE key_id = %s AND call_id = %s",
                        (renewed, key_id, call_id),
                    )
                    done.states += 1
        if len(rows) < _CHUNK:
            return
        behind = rows[-1][:2]


async def _renew_mails(connection: Connection, ring: KeyRing, done: Rotated) -> None:
    behind = 0
    while True:
        async with connection.transaction():
            rows = await (
                await connection.execute(
                    "SELECT id, sealed FROM mail_outbox WHERE sealed IS NOT NULL AND id > %s"
                    " ORDER BY id LIMIT %s FOR UPDATE",
                    (behind, _CHUNK),
                )
            ).fetchall()
            for mail_id, sealed in rows:
                renewed = _renew(ring, bytes(sealed), done)
                if renewed is not None:
                    await connection.execute(
                        "UPDATE mail_outbox SET sealed = %s WHERE id = %s", (renewed, mail_id)
                    )
                    done.mails += 1
        if len(rows) < _CHUNK:
            return
        behind = rows[-1][0]


async def _renew_person_key(connection: Connection, ring: KeyRing, done: Rotated) -> None:
    """The key of the marks by which a person is known again (storage/persons.py)."""
    async with connection.transaction():
        row = await (await connection.execute("SELECT sealed FROM person_key FOR UPDATE")).fetchone()
        renewed = _renew(ring, row[0].encode(), done) if row is not None else None
        if renewed is not None:
            await connection.execute("UPDATE person_key SET sealed = %s", (renewed.decode(),))


def _renew(ring: KeyRing, sealed: bytes, done: Rotated) -> bytes | None:
    try:
        return ring.renew(sealed)
    except InvalidToken:
        done.unreadable += 1
        return None
