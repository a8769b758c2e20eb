"""Passwords as argon2id hashes, made a few at a time in threads, so that a flood of sign-ins takes
neither the memory nor the loop.

Checking against nobody's password takes the same work as checking against somebody's.
"""

import asyncio
import unicodedata
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from os import urandom
from typing import TypeVar

from cryptography.exceptions import InvalidKey
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from engine.errors import DependencyAway
from engine.secret import Secret

Made = TypeVar("Made")
MEMORY_KIB, PASSES, LANES = 19 * 1024, 2, 1
"""OWASP's numbers for argon2id; a stored hash names its own, and is made anew when they are others."""
_SALT_BYTES, _HASH_BYTES = 16, 32
_AT_ONCE = 2
_MOST_WAITING = 60
"""Some seconds of work; who comes behind them is told to come again."""


class Passwords:
    """One per worker."""

    def __init__(self, at_once: int = _AT_ONCE, most_waiting: int = _MOST_WAITING) -> None:
        self._at_once, self._most_waiting = at_once, most_waiting
        self._threads = ThreadPoolExecutor(at_once, thread_name_prefix="argon2id")
        self._open = 0
        self._nobodys = ""
        self.made = 0
        """Hashes computed so far, right or wrong."""

    async def hash(self, password: Secret) -> str:
        """What is stored of a password. Raises DependencyAway when too many are being hashed."""
        return await self._run(partial(_hash, password))

    async def check(self, password: Secret, stored: str | None) -> bool:
        """Whether it is the password of this hash; None is nobody's, and no password fits."""
        if not self._nobodys:
            self._nobodys = await self._run(partial(_hash, Secret(urandom(16).hex())))
        fits = await self._run(partial(_check, password, stored or self._nobodys))
        return fits and stored is not None

    async def _run(self, work: Callable[[], Made]) -> Made:
        if self._open >= self._most_waiting:
            raise DependencyAway("Too many people sign in at once.", code="sign_in_busy", retry_after_s=2)
        self._open += 1
        self.made += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        finally:
            self._open -= 1

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


def is_outdated(stored: str) -> bool:
    """Whether a hash was made with other numbers than today's."""
    return not stored.startswith(f"$argon2id$v=19$m={MEMORY_KIB},t={PASSES},p={LANES}$")


def _spell(password: Secret) -> bytes:
    """One spelling for what looks the same on different keyboards."""
    return unicodedata.normalize("NFKC", password.reveal()).encode()


def _hash(password: Secret) -> str:
    kdf = Argon2id(
        salt=urandom(_SALT_BYTES), length=_HASH_BYTES, iterations=PASSES, lanes=LANES, memory_cost=MEMORY_KIB
    )
    return str(kdf.derive_phc_encoded(_spell(password)))


def _check(password: Secret, stored: str) -> bool:
    try:
        Argon2id.verify_phc_encoded(_spell(password), stored)
    except InvalidKey:
        return False
    return True
