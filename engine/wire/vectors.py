"""Vectors of embeddings as lists of numbers and as base64 of little-endian 32-bit floats, one into the other."""

import sys
from array import array
from base64 import b64decode, b64encode
from binascii import Error as NotBase64
from typing import Any


def pack_floats(vector: Any) -> Any:
    """Base64 of a list of numbers; a text is taken to be that already, anything else is nothing."""
    if isinstance(vector, str):
        return vector
    try:
        return b64encode(_order_bytes(array("f", vector)).tobytes()).decode()
    except (TypeError, OverflowError):
        return None


def unpack_floats(vector: Any) -> Any:
    """The numbers of a base64 text; whatever is no such text is itself."""
    if not isinstance(vector, str):
        return vector
    try:
        return _order_bytes(array("f", b64decode(vector, validate=True))).tolist()
    except (NotBase64, ValueError):
        return vector


def _order_bytes(numbers: "array[float]") -> "array[float]":
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers
