"""Opaque state that the simulator hands out and knows again: whose it is, and what it was said of.

Nothing is remembered: a signature is a keyed digest, so that one which was altered, cut or made elsewhere is seen.
"""

import base64
import binascii
import hashlib

_KEY = b"the simulator signs what it thinks"
_SIZE = 24


def sign(issuer: str, said: str) -> str:
    """A signature of `said` in the name of one wire; it looks like nothing."""
    return base64.b64encode(_digest(issuer, said)).decode()


def is_ours(issuer: str, said: str, signature: object) -> bool:
    """Whether the signature was made here, for this, and has come back as it was."""
    try:
        given = base64.b64decode(str(signature).replace("-", "+").replace("_", "/"), validate=True)
    except (binascii.Error, ValueError):
        return False
    return given == _digest(issuer, said)


def _digest(issuer: str, said: str) -> bytes:
    text = f"{issuer}\n{said}".encode("utf-8", "surrogatepass")
    return issuer[:3].encode() + hashlib.blake2b(text, key=_KEY, digest_size=_SIZE).digest()
