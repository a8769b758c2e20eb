"""`keys.cache` in GATEWAYZ_HOME: the keys that workers knew last, for a worker born while the database is
away.

It holds hashes of keys, and users' own keys at providers encrypted, and is sealed with a key derived from the ring: a
file that somebody changed is not read. Workers merge what they know into it, one at a time under a flock.
"""

import fcntl
import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from engine.call import Caller
from engine.storage.home import open_private, write_private
from engine.storage.key_rules import compile_bounds, pack_budgets, unpack_budgets
from engine.storage.provider_keys import open_own_keys
from engine.storage.secrets import KeyRing
from engine.storage.trial_terms import read_terms, write_terms

log = logging.getLogger(__name__)

CACHE_FILE = "keys.cache"
MOST_KEYS = 10_000
_FRONT, _END = b'{"layout":8,"keys":[', b"null]}"
"""Between them each row has a line, which ends with a comma, so that a row can be kept without being read."""
_HASHED = len('["') + 64 + len('"')
"""So much of a row is its hash."""


class KnownKey(NamedTuple):
    """A key as it was when the change counter stood at `n`."""

    hash: bytes
    caller: Caller
    n: int


class KeyCacheFile:
    def __init__(self, home: Path, ring: KeyRing) -> None:
        self._home = home
        self._ring = ring

    def load(self) -> list[KnownKey]:
        """What the file holds; nothing unless a holder of the ring wrote it as it is."""
        return [_read_row(_read_line(line), self._ring) for line in self._read_lines()]

    def _read_lines(self) -> list[bytes]:
        try:
            content = (self._home / CACHE_FILE).read_bytes()
        except FileNotFoundError:
            return []
        except OSError as error:
            log.warning("keys.cache is not read: %s", error)
            return []
        seal, *lines = content.split(b"\n")
        body = memoryview(content)[len(seal) + 1 :]
        if not self._ring.is_sealed(body, seal.decode("ascii", "replace")):
            log.warning("keys.cache is not read: its seal is not from this key ring or it was changed")
            return []
        return lines[1:-1] if lines[0] == _FRONT else []

    def merge(self, learned: Iterable[KnownKey], dropped: Mapping[str, int]) -> None:
        """Add what was learned to what the file holds, without what was `dropped` (key id -> n) since."""
        lock = open_private(self._home, self._home / f"{CACHE_FILE}.lock", os.O_RDWR)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            # Rows stay as they are written: 10,000 of them as lists and texts were 30 MiB each time, and the more is
            # made of them the longer the loop's thread waits.
            new = {
                b'["%b"' % key.hash.hex().encode(): orjson.dumps(_write_row(key)) + b"," for key in learned
            }
            kept = [
                line
                for line in self._read_lines()
                if line[:_HASHED] not in new and (not dropped or _is_current(line, dropped))
            ]
            body = b"\n".join([_FRONT, *[*kept, *new.values()][-MOST_KEYS:], _END])
            write_private(self._home, CACHE_FILE, self._ring.seal(body).encode(), b"\n", body)
        finally:
            os.close(lock)


def _read_line(line: bytes) -> list[Any]:
    row: list[Any] = orjson.loads(line[: -len(",")])
    return row


def _is_current(line: bytes, dropped: Mapping[str, int]) -> bool:
    _, n, key_id, *_ = _read_line(line)
    return bool(n >= dropped.get(key_id, n))


def _write_row(key: KnownKey) -> list[Any]:
    who = key.caller
    return [
        key.hash.hex(),
        key.n,
        who.key_id,
        who.user_id,
        who.role,
        who.name,
        who.last4,
        who.models,
        sorted(who.scopes),
        who.expires_at,
        who.environment,
        who.scoped_models,
        dict(who.bounds.rules) if who.bounds is not None else {},
        dict(who.own_keys.sealed) if who.own_keys is not None else {},
        pack_budgets(who.budgets),
        who.team_id,
        who.plan,
        who.prepaid,
        who.owner_role,
        who.status,
        write_terms(who.trial),
    ]


def _read_row(row: list[Any], ring: KeyRing) -> KnownKey:
    hashed, n, key_id, user_id, role, name, last4, models, scopes, expires_at, *rest = row
    environment, scoped_models, rules, own_keys, budgets, *rest = rest
    team_id, plan, prepaid, owner_role, status, trial = rest
    caller = Caller(
        key_id=key_id,
        user_id=user_id,
        role=role,
        name=name,
        last4=last4,
        environment=environment,
        models=tuple(models) if models is not None else None,
        scopes=frozenset(scopes),
        scoped_models=tuple(scoped_models) if scoped_models is not None else None,
        expires_at=expires_at,
        bounds=compile_bounds(rules),
        own_keys=open_own_keys(ring, own_keys),
        budgets=unpack_budgets(budgets),
        team_id=team_id,
        plan=plan,
        prepaid=prepaid,
        owner_role=owner_role,
        status=status,
        trial=read_terms(trial),
    )
    return KnownKey(bytes.fromhex(hashed), caller, n)
