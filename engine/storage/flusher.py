"""Brings the journal into the database every 100 ms, from memory or its file, and takes over those of dead workers.

The position up to which a file is done is stored in the transaction that writes its records, and a record
that is there already is left alone: whatever is replayed, each call has exactly one record.
"""

import asyncio
import contextlib
import logging
import os
from decimal import Decimal
from functools import partial
from pathlib import Path

import psycopg

from engine.errors import DependencyAway
from engine.storage.adoption import adopt_dead_journals
from engine.storage.home import open_private
from engine.storage.journal import BEGUN, ENDED, FOLDER, Journal, JournalFile
from engine.storage.postgres import Database, cancel_tasks
from engine.storage.records import Written, forget_positions, write_records

log = logging.getLogger(__name__)

_CHUNK = 512 << 10
"""Bytes per transaction: some hundred records, about a millisecond of the loop."""
_ADOPT_EACH_S = 2.0
_LONGEST_PAUSE_S = 2.0
REFUSED_FILE = "refused.jsonl"


class Flusher:
    """The numbers are for `gatewayz_journal_records{state}`."""

    def __init__(self, home: Path, journal: Journal, database: Database, *, interval_s: float = 0.1) -> None:
        self.written = 0
        self.interrupted = 0
        self.torn = 0
        self.refused = 0
        self._done = 0
        self._home = home
        self._journal = journal
        self._database = database
        self._interval_s = interval_s
        self._task: asyncio.Task[None] | None = None
        self._flushing = asyncio.Lock()
        self.grace_usd = Decimal(0)
        """How far below zero a call may take a balance; follows the configuration."""
        self.written_off_usd = Decimal(0)
        self.alerts = 0

    def count_states(self) -> dict[str, int]:
        """Ended records that wait for the database, and what became of the others."""
        return {
            "pending": self._journal.ended - self._journal.lost - self._done,
            "open": len(self._journal.open_calls),
            "written": self.written,
            "interrupted": self.interrupted,
            "torn": self.torn,
            "refused": self.refused,
            "lost": self._journal.lost,
        }

    def start(self) -> None:
        self._task = asyncio.create_task(self._flush_often())

    async def stop(self, within_s: float = 5.0) -> bool:
        """Flush all, close the journal; False when the database did not take it in time (the files then
        stay).
        """
        if self._task is not None:
            await cancel_tasks(self._task)
        done = False
        try:
            async with asyncio.timeout(within_s):
                self._journal.retry_kept()
                await self.flush()
                done = not self._journal.kept and not self._journal.open_calls
        except (TimeoutError, DependencyAway, psycopg.Error) as error:
            log.error("call records wait in the journal for the next start: %s", error)
        if done:
            self._journal.discard()
            with contextlib.suppress(DependencyAway):
                await self._forget([file.path.name for file in self._journal.files])
        self._journal.close()
        return done

    async def flush(self) -> None:
        """Write everything that the journal holds now. Raises DependencyAway.

        What comes while it writes waits for the next time: a transaction for each call would cost more than the call.
        """
        async with self._flushing:
            for file in list(self._journal.files):
                if file.recent is None:
                    await self._flush_file(file)
                elif file.flushed < file.size:
                    await self._flush_recent(file)
            await self._forget(self._journal.drop_flushed())

    async def _flush_recent(self, file: JournalFile) -> None:
        """What is in memory; if that fails, it stands in the file."""
        records, position = file.recent or [], file.size
        file.recent = []
        try:
            await self._write(file, records, position)
        except BaseException:
            file.recent = None
            raise

    async def _flush_file(self, file: JournalFile) -> None:
        until = file.size
        while file.flushed < until:
            chunk = _read_lines(file.path, file.flushed, file.size)
            if not chunk:
                log.error("%s was cut short by somebody else: its records are lost", file.path)
                file.flushed = until
                break
            records, torn = pick_ended(chunk)
            await self._write(file, records, file.flushed + len(chunk))
            self.torn += torn
        if file.flushed == file.size:
            file.recent = []

    async def _write(self, file: JournalFile, records: list[bytes], position: int) -> None:
        if records:
            write = partial(
                write_records,
                records=records,
                file=file.path.name,
                position=position,
                grace_usd=self.grace_usd,
            )
            written = await self._database.run(write)
            self._done += len(records)
            self.written += len(records) - len(written.refused)
            self._note(written)
        file.flushed = position

    async def _forget(self, files: list[str]) -> None:
        if files:
            await self._database.run(partial(forget_positions, files=files))

    def _note(self, written: Written) -> None:
        self.written_off_usd += written.written_off_usd
        self.alerts += len(written.alerts)
        for alert in written.alerts:
            log.warning(
                "%s has reached %d %%: %s of %s USD",
                alert.purse,
                alert.share * 100,
                alert.spent_usd,
                alert.limit_usd,
            )
        self._put_aside(written.refused)

    def _put_aside(self, refused: list[bytes]) -> None:
        self.refused += len(refused)
        if refused:
            descriptor = open_private(
                self._home, self._home / FOLDER / REFUSED_FILE, os.O_WRONLY | os.O_APPEND
            )
            try:
                os.write(descriptor, b"".join(record + b"\n" for record in refused))
            finally:
                os.close(descriptor)

    async def _flush_often(self) -> None:
        pause_s = self._interval_s
        adopted_s = 0.0
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(pause_s)
            try:
                self._journal.retry_kept()
                await self.flush()
                if loop.time() - adopted_s >= _ADOPT_EACH_S and self._database.available:
                    adopted_s = loop.time()
                    await self._adopt()
                pause_s = self._interval_s
            except (DependencyAway, psycopg.Error, OSError) as error:
                if not isinstance(error, DependencyAway):
                    log.error("the journal is not flushed: %s", error)
                pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)

    async def _adopt(self) -> None:
        adopted = await adopt_dead_journals(self._home, self._journal.id, self._database, self.grace_usd)
        self.interrupted += adopted.interrupted
        self.torn += adopted.torn
        self._note(adopted.written)


def pick_ended(chunk: bytes) -> tuple[list[bytes], int]:
    """The ended records of whole lines, as the JSON objects they hold, and how many lines are torn."""
    records = []
    torn = 0
    for line in chunk.split(b"\n"):
        if line.startswith(ENDED) and line.endswith(b"}]"):
            records.append(line[len(ENDED) : -1])
        elif line and not (line.startswith(BEGUN) and line.endswith(b"}]")):
            torn += 1
    return records, torn


def _read_lines(path: Path, begin: int, end: int) -> bytes:
    """Whole lines between two places, about a chunk of them, at least one."""
    with path.open("rb") as file:
        file.seek(begin)
        chunk = file.read(min(_CHUNK, end - begin))
        if not chunk.endswith(b"\n") and len(chunk) < end - begin:
            whole = chunk.rfind(b"\n") + 1
            chunk = chunk[:whole] if whole else chunk + file.readline()
    return chunk
