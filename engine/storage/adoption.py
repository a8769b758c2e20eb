"""Journals whose worker is dead: what it ended is written, what it only began becomes `interrupted`.

A journal is dead when its flock is free. Whoever gets the lock reads all of its files in order, and removes
them in the end; a second one finds the lock taken, or nothing.
"""

import asyncio
import contextlib
import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import orjson

from engine.storage.journal import ENDED, FOLDER
from engine.storage.postgres import Connection, Database
from engine.storage.records import forget_positions, write_records

_CHUNK = 256 << 10


@dataclass(slots=True)
class Adopted:
    interrupted: int = 0
    torn: int = 0
    refused: list[bytes] = field(default_factory=list)


@dataclass(slots=True)
class _Reading:
    """What has been read of a dead journal so far: the calls that began and did not end yet."""

    open_calls: dict[str, dict[str, Any]] = field(default_factory=dict)
    torn: int = 0

    def read_chunk(self, chunk: bytes) -> list[bytes]:
        """The ended records of some lines."""
        return [record for line in chunk.split(b"\n") if line and (record := self._read_line(line))]

    def _read_line(self, line: bytes) -> bytes | None:
        try:
            kind, record = orjson.loads(line)
            call_id = record["id"]
        except (ValueError, KeyError, TypeError):
            self.torn += 1
            return None
        if kind == "begun":
            self.open_calls[call_id] = record
            return None
        self.open_calls.pop(call_id, None)
        return line[len(ENDED) : -1]


async def adopt_dead_journals(home: Path, own_id: str, database: Database) -> Adopted:
    """Take over every dead journal of this home. Raises DependencyAway; what is not done then stays."""
    adopted = Adopted()
    folder = home / FOLDER
    for lock in sorted(folder.glob("*.lock")):
        if lock.stem == own_id:
            continue
        with _try_lock(lock) as taken:
            if taken:
                await _adopt(folder, lock.stem, database, adopted)
                lock.unlink(missing_ok=True)
    return adopted


@contextlib.contextmanager
def _try_lock(lock: Path) -> Iterator[bool]:
    try:
        descriptor = os.open(lock, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        yield False
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        yield False
    else:
        yield True
    finally:
        os.close(descriptor)


async def _adopt(folder: Path, journal_id: str, database: Database, adopted: Adopted) -> None:
    files = _list_files(folder, journal_id)
    reading = _Reading()
    position = 0
    for file in files:
        done = await _find_position(database, file.name)
        position = 0
        for chunk in _read_chunks(file):
            records = await asyncio.to_thread(reading.read_chunk, chunk)
            position += len(chunk)
            if position > done:
                adopted.refused += await _write(database, records, file.name, position)
    interrupted = [orjson.dumps(record | {"status": "interrupted"}) for record in reading.open_calls.values()]
    if interrupted:
        adopted.refused += await _write(database, interrupted, files[-1].name, position)
    adopted.interrupted += len(interrupted)
    adopted.torn += reading.torn
    await database.run(partial(forget_positions, files=[file.name for file in files]))
    for file in files:
        file.unlink()


def _list_files(folder: Path, journal_id: str) -> list[Path]:
    return sorted(folder.glob(f"{journal_id}.*.jsonl"))


def _read_chunks(path: Path) -> Iterator[bytes]:
    """Whole lines; the end of a last line that was torn comes as it is."""
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            yield chunk if chunk.endswith(b"\n") else chunk + file.readline()


async def _find_position(database: Database, name: str) -> int:
    async def select(connection: Connection) -> int:
        found = await connection.execute("SELECT position FROM journal_positions WHERE file = %s", (name,))
        row = await found.fetchone()
        return int(row[0]) if row else 0

    return await database.run(select)


async def _write(database: Database, records: list[bytes], name: str, position: int) -> list[bytes]:
    return await database.run(partial(write_records, records=records, file=name, position=position))
