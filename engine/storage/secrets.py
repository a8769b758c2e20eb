"""The key ring, and what is derived from it: the hashes of API keys, seals, and encryption at rest.

An API key is stored as HMAC-SHA256 under a key that HKDF derives from one ring entry, whose id is stored
beside it. Older entries stay readable, so that a ring is rotated by putting a new entry in front.
"""

import hashlib
import hmac
import os
import secrets
from base64 import urlsafe_b64decode
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.fernet import Fernet, MultiFernet
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from engine.config.settings import KEY_FORMAT
from engine.secret import Secret
from engine.storage.home import open_private, write_private
from engine.storage.interfaces import StorageRefused

KEYRING_FILE = "keyring"
ENVIRONMENTS = ("live", "test", "staging", "dev")
_BLOCK = 64
_FEWEST_DIFFERENT = 16
"""Of 32 random bytes."""

is_key = KEY_FORMAT.fullmatch


class KeyedHash:
    """HMAC-SHA256 with the key's two blocks hashed beforehand: half the time of `hmac.digest`."""

    __slots__ = ("_inner", "_outer")

    def __init__(self, key: bytes) -> None:
        padded = key.ljust(_BLOCK, b"\0")
        self._inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in padded))
        self._outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in padded))

    def digest(self, message: bytes) -> bytes:
        inner = self._inner.copy()
        inner.update(message)
        outer = self._outer.copy()
        outer.update(inner.digest())
        return outer.digest()


@dataclass(frozen=True, slots=True)
class RingEntry:
    id: str
    keys: KeyedHash = field(repr=False)
    seal: bytes = field(repr=False)
    sessions: bytes = field(repr=False)
    """Signs session tokens."""
    receipts: bytes = field(repr=False)
    """The seed of the key that signs receipts."""


class KeyRing:
    """The entries of GATEWAYZ_KEYRING, newest first."""

    def __init__(self, text: Secret) -> None:
        parts = [part.strip() for part in text.reveal().split(",") if part.strip()]
        if not parts:
            raise StorageRefused("GATEWAYZ_KEYRING is empty: it needs at least one Fernet key")
        self._fernet = MultiFernet([_read_fernet(part, number) for number, part in enumerate(parts, 1)])
        self.entries = tuple(_derive_entry(urlsafe_b64decode(part)) for part in parts)
        self.newest = self.entries[0]

    def hash_key(self, key_text: str) -> bytes:
        """What is stored of a key: its hash under the newest entry."""
        return self.newest.keys.digest(key_text.encode())

    def hash_under_all(self, key_text: str) -> Iterator[bytes]:
        """The hashes that a stored key may have, the newest entry's first."""
        message = key_text.encode()
        for entry in self.entries:
            yield entry.keys.digest(message)

    def seal(self, content: bytes) -> str:
        """A signature that only a holder of this ring can make."""
        return f"{self.newest.id}:{hmac.new(self.newest.seal, content, hashlib.sha256).hexdigest()}"

    def is_sealed(self, content: bytes | memoryview, seal: str) -> bool:
        ring_id, _, given = seal.partition(":")
        for entry in self.entries:
            if entry.id == ring_id:
                return hmac.compare_digest(hmac.new(entry.seal, content, hashlib.sha256).hexdigest(), given)
        return False

    def encrypt(self, secret: Secret) -> bytes:
        return self._fernet.encrypt(secret.reveal().encode())

    def renew(self, stored: bytes) -> bytes:
        """The same secret encrypted under the newest entry. Raises InvalidToken."""
        return self._fernet.rotate(stored)

    def decrypt(self, stored: bytes) -> Secret:
        return Secret(self._fernet.decrypt(stored).decode())


def generate_key(environment: str = "live") -> str:
    """A new API key: the environment's prefix and 43 url-safe characters (256 random bits)."""
    return f"gw_{environment}_{secrets.token_urlsafe(32)}"


def load_keyring(home: Path, given: Secret | None, *, embedded: bool) -> KeyRing:
    """The ring of GATEWAYZ_KEYRING, else of the home's file, which an embedded database's first start
    makes.
    """
    if given is not None:
        return KeyRing(given)
    file = home / KEYRING_FILE
    if not file.exists():
        if not embedded:
            raise StorageRefused(
                "GATEWAYZ_KEYRING is required with DATABASE_URL: "
                "every gateway on one database needs the same ring"
            )
        _make_keyring(home)
    descriptor = open_private(home, file, os.O_RDONLY)
    with open(descriptor) as opened:
        return KeyRing(Secret(opened.read()))


def _make_keyring(home: Path) -> None:
    """Two at once agree: the file appears whole, and the second one's is thrown away."""
    beside = f".keyring.{os.getpid()}.{secrets.token_hex(4)}"
    write_private(home, beside, Fernet.generate_key() + b"\n")
    try:
        os.link(home / beside, home / KEYRING_FILE)
    except FileExistsError:
        pass
    finally:
        os.unlink(home / beside)


def _read_fernet(part: str, number: int) -> Fernet:
    try:
        fernet = Fernet(part)
    except ValueError:
        raise StorageRefused(
            f"entry {number} of GATEWAYZ_KEYRING is not a Fernet key (32 bytes in url-safe base64)"
        ) from None
    if is_guessable(urlsafe_b64decode(part)):
        raise StorageRefused(
            f"entry {number} of GATEWAYZ_KEYRING is no random key; "
            "`openssl rand -base64 32 | tr '+/' '-_'` writes one"
        )
    return fernet


def is_guessable(key: bytes) -> bool:
    """Whether 32 bytes were typed, counted or repeated. Of random ones less than one in 10**12 looks like that."""
    steps = {(after - before) % 256 for before, after in zip(key, key[1:], strict=False)}
    is_text = all(0x20 <= byte < 0x7F for byte in key)
    return is_text or len(steps) < _FEWEST_DIFFERENT or len(set(key)) < _FEWEST_DIFFERENT


def _derive_entry(master: bytes) -> RingEntry:
    return RingEntry(
        id=_derive(master, b"gatewayz ring id", 4).hex(),
        keys=KeyedHash(_derive(master, b"gatewayz api keys", 32)),
        seal=_derive(master, b"gatewayz seals", 32),
        sessions=_derive(master, b"gatewayz sessions", 32),
        receipts=_derive(master, b"gatewayz receipts", 32),
    )


def _derive(master: bytes, purpose: bytes, length: int) -> bytes:
    made: Any = HKDF(algorithm=SHA256(), length=length, salt=None, info=purpose).derive(master)
    return bytes(made)
