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
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import orjson

from engine.storage.journal import ENDED, FOLDER
from engine.storage.leases import close_journal
from engine.storage.postgres import Connection, Database
from engine.storage.records import Written, forget_positions, write_records

_CHUNK = 256 << 10


@dataclass(slots=True)
class Adopted:
    interrupted: int = 0
    torn: int = 0
    written: Written = field(default_factory=Written)


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


async def adopt_dead_journals(
    home: Path, own_id: str, database: Database, grace_usd: Decimal = Decimal(0)
) -> Adopted:
    """Take over every dead journal of this home, and free what its worker had leased.

    Raises DependencyAway; what is not done then stays.
    """
    adopted = Adopted()
    folder = home / FOLDER
    for lock in sorted(folder.glob("*.lock")):
        if lock.stem == own_id:
            continue
        with _try_lock(lock) as taken:
            if taken:
                await _Adoption(folder, lock.stem, database, grace_usd).run(adopted)
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


@dataclass(frozen=True, slots=True)
class _Adoption:
    """One dead journal, whose lock is held."""

    folder: Path
    journal_id: str
    database: Database
    grace_usd: Decimal

    async def run(self, adopted: Adopted) -> None:
        files = _list_files(self.folder, self.journal_id)
        reading = _Reading()
        position = 0
        for file in files:
            done = await _find_position(self.database, file.name)
            position = 0
            for chunk in _read_chunks(file):
                records = await asyncio.to_thread(reading.read_chunk, chunk)
                position += len(chunk)
                if position > done:
                    adopted.written.add(await self._write(records, file.name, position))
        interrupted = [
            orjson.dumps(record | {"status": "interrupted"}) for record in reading.open_calls.values()
        ]
        if interrupted:
            adopted.written.add(await self._write(interrupted, files[-1].name, position))
        adopted.interrupted += len(interrupted)
        adopted.torn += reading.torn
        await self.database.run(self._finish)
        for file in files:
            file.unlink()

    async def _write(self, records: list[bytes], name: str, position: int) -> Written:
        write = partial(
            write_records, records=records, file=name, position=position, grace_usd=self.grace_usd
        )
        return await self.database.run(write)

    async def _finish(self, connection: Connection) -> None:
        """All of it is written: what the worker had leased is free, and its positions are of no use."""
        async with connection.transaction():
            await close_journal(connection, self.journal_id, self.grace_usd)
            files = [file.name for file in _list_files(self.folder, self.journal_id)]
            await forget_positions(connection, files)


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
