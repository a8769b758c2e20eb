"""Ids of calls: unique over workers and restarts, and in the order of time, so that records sort by id."""

import os
import secrets


class CallIds:
    """`call_` + 12 hex digits of milliseconds + 20 hex digits that no other process has."""

    __slots__ = ("_count", "_process")

    def __init__(self) -> None:
        self._process = os.urandom(6).hex()
        self._count = 0

    def make(self, now: float) -> str:
        self._count = (self._count + 1) & 0xFFFFFFFF
        return f"call_{int(now * 1000):012x}{self._process}{self._count:08x}"


def make_request_id() -> str:
    """For requests that are no calls."""
    return f"req_{secrets.token_hex(12)}"
