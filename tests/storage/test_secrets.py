"""The key ring and what is derived from it."""

import hashlib
import hmac
import os
import threading
from base64 import urlsafe_b64encode
from pathlib import Path

import pytest
from cryptography.fernet import Fernet

from engine.config.settings import KEY_FORMAT
from engine.secret import Secret
from engine.storage.interfaces import StorageRefused
from engine.storage.secrets import ENVIRONMENTS, KeyedHash, KeyRing, generate_key, is_guessable, load_keyring

FIRST, SECOND = Fernet.generate_key().decode(), Fernet.generate_key().decode()


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_a_new_key_has_the_format_and_is_never_the_same(environment: str):
    made = {generate_key(environment) for _ in range(100)}
    assert len(made) == 100
    assert all(KEY_FORMAT.fullmatch(key) and key.startswith(f"gw_{environment}_") for key in made)


def test_the_keyed_hash_is_hmac_sha256():
    for length in (0, 1, 51, 64, 1000):
        key, message = os.urandom(32), os.urandom(length)
        assert KeyedHash(key).digest(message) == hmac.new(key, message, hashlib.sha256).digest()


def test_a_key_hashed_under_an_old_entry_is_found_after_rotation():
    key = generate_key()
    old, rotated = KeyRing(Secret(FIRST)), KeyRing(Secret(f"{SECOND}, {FIRST}"))
    assert old.hash_key(key) in list(rotated.hash_under_all(key))
    assert rotated.hash_key(key) != old.hash_key(key)
    assert [entry.id for entry in rotated.entries][1] == old.newest.id


def test_a_seal_is_broken_by_any_change_and_by_another_ring():
    ring = KeyRing(Secret(FIRST))
    seal = ring.seal(b"content")
    assert ring.is_sealed(b"content", seal)
    assert KeyRing(Secret(f"{SECOND},{FIRST}")).is_sealed(b"content", seal)
    assert not ring.is_sealed(b"Content", seal)
    assert not ring.is_sealed(b"content", seal[:-1] + ("0" if seal[-1] != "0" else "1"))
    assert not KeyRing(Secret(SECOND)).is_sealed(b"content", seal)


def test_a_secret_is_encrypted_and_read_back():
    ring = KeyRing(Secret(FIRST))
    stored = ring.encrypt(Secret("sk-provider"))
    assert b"sk-provider" not in stored
    assert KeyRing(Secret(f"{SECOND},{FIRST}")).decrypt(stored).reveal() == "sk-provider"


@pytest.mark.parametrize(
    "text", ["", " , ", "short", f"{FIRST},nonsense"], ids=["nothing", "commas", "short", "one of two"]
)
def test_a_ring_that_is_none_is_refused_without_showing_it(text: str):
    with pytest.raises(StorageRefused) as refused:
        KeyRing(Secret(text))
    assert FIRST not in str(refused.value) and "GATEWAYZ_KEYRING" in str(refused.value)


@pytest.mark.parametrize(
    "key",
    [
        bytes(32),
        b"\xff" * 32,
        bytes(range(32)),
        bytes(range(64, 0, -2)),
        b"abcd\x80" * 6 + b"ab",
        b"change me, this is no random key",
        b"0123456789abcdef0123456789abcdef",
    ],
)
def test_a_ring_that_somebody_could_guess_is_refused(key: bytes):
    text = urlsafe_b64encode(key).decode()
    with pytest.raises(StorageRefused, match="no random key") as refused:
        KeyRing(Secret(f"{FIRST},{text}"))
    assert text not in str(refused.value)


def test_a_random_ring_is_never_taken_for_a_guessable_one():
    assert not any(is_guessable(os.urandom(32)) for _ in range(20_000))


def test_an_embedded_start_makes_a_private_ring_once(home: Path):
    made = load_keyring(home, None, embedded=True)
    assert (home / "keyring").stat().st_mode & 0o777 == 0o600
    assert load_keyring(home, None, embedded=True).newest.id == made.newest.id
    assert load_keyring(home, Secret(FIRST), embedded=True).newest.id == KeyRing(Secret(FIRST)).newest.id


def test_two_first_starts_at_once_agree_on_one_ring(home: Path):
    found: list[str] = []
    threads = [
        threading.Thread(target=lambda: found.append(load_keyring(home, None, embedded=True).newest.id))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8 and len(set(found)) == 1
    assert [path.name for path in home.iterdir()] == ["keyring"]


def test_a_database_url_needs_a_ring_of_its_own(home: Path):
    with pytest.raises(StorageRefused, match="required with DATABASE_URL"):
        load_keyring(home, None, embedded=False)
