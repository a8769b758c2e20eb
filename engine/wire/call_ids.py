"""Ids of tool calls: made to fit a dialect's alphabet and length, and made what they were when they come back.

An id that does not fit is written in base64 behind a prefix, so that nothing has to be remembered; one too long for
that is derived, the same each time.
"""

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as NotBase64
from functools import lru_cache
from hashlib import blake2b
from typing import Any

FITTED = "fit_"


def fit_id(value: Any, longest: int = 64, prefix: str = "call_", allowed: str = "A-Za-z0-9_-") -> Any:
    """The id itself when it fits a dialect's alphabet and length, else one that stands for it, the same each time."""
    if not isinstance(value, str):
        return None
    if 0 < len(value) <= longest and _compile_alphabet(allowed).fullmatch(value):
        return value
    fitted = FITTED + urlsafe_b64encode(value.encode("utf-8", "surrogatepass")).decode().rstrip("=")
    if len(FITTED) < len(fitted) <= longest and _compile_alphabet(allowed).fullmatch(fitted):
        return fitted
    return derive_id(value, prefix, longest)


@lru_cache(maxsize=64)
def _compile_alphabet(allowed: str) -> re.Pattern[str]:
    return re.compile(f"[{allowed}]+")


def restore_id(value: Any) -> Any:
    """What `fit_id` was given; any other id is itself."""
    if not isinstance(value, str) or not value.startswith(FITTED):
        return value
    packed = value.removeprefix(FITTED)
    try:
        found = urlsafe_b64decode(packed + "=" * (-len(packed) % 4)).decode("utf-8", "surrogatepass")
    except (NotBase64, ValueError):
        return value
    return found if fit_id(found) == value else value


def derive_id(value: Any, prefix: str = "", longest: int = 64, salt: Any = "") -> str:
    """An id that is always the same for the same value."""
    digest = blake2b(f"{value}\0{salt}".encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
    return (prefix + digest)[:longest]
