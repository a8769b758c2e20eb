"""One person behind several accounts: addresses that reach one mailbox, and proven identities, as keyed hashes.

The hashes say nothing to who has only the database, and stay when an account is erased. Their key is random, kept
encrypted, and outlives entries of the key ring.
"""

import hashlib
import hmac
import secrets
import unicodedata

from engine.secret import Secret
from engine.storage.postgres import Connection
from engine.storage.secrets import KeyRing

_WITHOUT_DOTS = {"gmail.com": "gmail.com", "googlemail.com": "gmail.com"}


def normalise_address(address: str) -> str:
    """One spelling for all that reach one mailbox: case, `+tags`, and dots where they mean nothing."""
    local, _, domain = unicodedata.normalize("NFKC", address).strip().casefold().rpartition("@")
    domain = domain.rstrip(".")
    local = local.partition("+")[0] or local
    if domain in _WITHOUT_DOTS:
        local, domain = local.replace(".", ""), _WITHOUT_DOTS[domain]
    return f"{local}@{domain}"


async def list_marks(
    connection: Connection, ring: KeyRing, user_id: str, *, proven: bool = True
) -> frozenset[bytes]:
    """What a user is known by: the address (with `proven` only one that was proven) and identities."""
    rows = await (
        await connection.execute(
            "SELECT 'address', u.email FROM users u WHERE u.id = %(user)s AND u.email <> ''"
            " AND (u.email_verified OR NOT %(proven)s)"
            " UNION SELECT i.provider, i.subject FROM identities i WHERE i.user_id = %(user)s",
            {"user": user_id, "proven": proven},
        )
    ).fetchall()
    key = await _get_or_make_key(connection, ring) if rows else b""
    return frozenset(
        make_mark(key, kind, normalise_address(text) if kind == "address" else text) for kind, text in rows
    )


def make_mark(key: bytes, kind: str, text: str) -> bytes:
    return hmac.new(key, f"{kind}\0{text}".encode(), hashlib.sha256).digest()


async def is_one_person(connection: Connection, ring: KeyRing, one: str, other: str) -> bool:
    """Whether two users share an address or an identity."""
    marks = await list_marks(connection, ring, one, proven=False)
    return bool(marks & await list_marks(connection, ring, other, proven=False))


async def _get_or_make_key(connection: Connection, ring: KeyRing) -> bytes:
    select = "SELECT sealed FROM person_key"
    row = await (await connection.execute(select)).fetchone()
    if row is None:
        sealed = ring.encrypt(Secret(secrets.token_urlsafe(32))).decode()
        await connection.execute(
            "INSERT INTO person_key (sealed) VALUES (%s) ON CONFLICT DO NOTHING", (sealed,)
        )
        row = await (await connection.execute(select)).fetchone()
    assert row is not None, "it was made above, by this or another transaction"
    return ring.decrypt(row[0].encode()).reveal().encode()
