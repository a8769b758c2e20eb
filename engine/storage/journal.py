"""The journal of one worker: what it began and how that ended, written down before anybody is told.

Each record is one JSON line, `["begun", {...}]` or `["ended", {...}]`, appended with one `write` and no
await, so that no cancellation can split it. A killed process loses nothing; a power cut at most the last
`fsync_ms`. The file belongs to whoever holds the flock on `<journal>.lock`: when the worker is dead,
another one takes it over.
"""

import errno
import fcntl
import json
import logging
import os
import secrets
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from engine.storage.home import make_folder, open_private
from engine.storage.interfaces import JournalAway

log = logging.getLogger(__name__)

FOLDER = "journal"
BEGUN = b'["begun",'
ENDED = b'["ended",'
_MOST_KEPT = 50_000
_MOST_RECENT = 500
_sync_data = getattr(os, "fdatasync", os.fsync)  # macOS has no fdatasync


@dataclass(slots=True)
class JournalFile:
    """One file of a journal; `size` is what was appended, `flushed` what the database has."""

    path: Path
    descriptor: int
    size: int = 0
    flushed: int = 0
    recent: list[bytes] | None = field(default_factory=list)
    """The ended records (JSON objects) behind `flushed`, so that nobody needs to read them back; None: only the file
    has them all."""


class Journal:
    """Implements CallJournal. `open` and `close` belong to the worker's life."""

    def __init__(self, home: Path, *, fsync_ms: int = 100, rotate_bytes: int = 64 << 20) -> None:
        self.folder = make_folder(home, FOLDER)
        self.id = f"{time.strftime('%Y%m%dT%H%M%S')}-{os.getpid()}-{secrets.token_hex(4)}"
        self.files: list[JournalFile] = []
        """Oldest first; the last one is being written."""
        self.open_calls: dict[str, dict[str, Any]] = {}
        self.begun = 0
        self.ended = 0
        self.lost = 0
        """Ended records given up because the disk took nothing for too long."""
        self.sync_failures = 0
        self._home = home
        self._fsync_s = fsync_ms / 1000
        self._rotate_bytes = rotate_bytes
        self._kept: list[bytes] = []
        self._lock = -1
        self._number = 0
        self._wake = threading.Event()
        self._dirty = False
        self._closing = False
        self._syncer = threading.Thread(target=self._sync_often, name="journal-sync", daemon=True)

    @property
    def kept(self) -> int:
        """Ended records in memory, waiting for the disk."""
        return len(self._kept)

    def open(self) -> None:
        # Locked under another name first: nobody may find the lock while it is free.
        unseen = self.folder / f".{self.id}.lock"
        self._lock = open_private(self._home, unseen, os.O_RDWR)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        unseen.rename(self.folder / f"{self.id}.lock")
        self._add_file()
        self._syncer.start()

    def close(self) -> None:
        """Make what was written durable and let go. What is not flushed yet is taken over by another
        worker.
        """
        self.retry_kept()
        self._closing = True
        self._wake.set()
        self._syncer.join()
        for file in self.files:
            os.close(file.descriptor)
        self.files.clear()
        os.close(self._lock)

    def discard(self) -> None:
        """Remove a journal that the database has wholly. Only before `close`."""
        for file in self.files:
            file.path.unlink()
        (self.folder / f"{self.id}.lock").unlink()

    def append_begun(self, record: dict[str, Any]) -> None:
        """Note that the upstream will be asked. Raises JournalAway when the disk does not take it."""
        try:
            self._write(_write_line("begun", record))
        except OSError as error:
            raise JournalAway("Calls cannot be recorded at the moment.", retry_after_s=5) from error
        self.begun += 1
        self.open_calls[record["id"]] = record

    def append_ended(self, record: dict[str, Any]) -> bytes:
        """Note how a call ended. Never raises: what the disk does not take is kept and tried again.

        Returns the record as it was written, a JSON object, for whoever writes it elsewhere.
        """
        line = _write_line("ended", record)
        ended = line[len(ENDED) : -2]
        self.ended += 1
        self.open_calls.pop(record["id"], None)
        try:
            self._write(line, ended)
        except OSError as error:
            self._keep(line, error)
        return ended

    def retry_kept(self) -> None:
        """Write what the disk did not take before, as far as it goes."""
        while self._kept:
            try:
                self._write(self._kept[0], self._kept[0][len(ENDED) : -2])
            except OSError:
                return
            del self._kept[0]

    def _write(self, line: bytes, ended: bytes = b"") -> None:
        file = self.files[-1]
        written = os.write(file.descriptor, line)
        if written != len(line):
            os.ftruncate(file.descriptor, file.size)
            raise OSError(errno.ENOSPC, "the disk took a part of the line")
        file.size += written
        if ended and file.recent is not None:
            file.recent.append(ended)
            if len(file.recent) > _MOST_RECENT:
                file.recent = None
        if not self._dirty:
            self._dirty = True
            self._wake.set()
        if file.size >= self._rotate_bytes:
            self._rotate()

    def _keep(self, line: bytes, error: OSError) -> None:
        if not self._kept:
            log.error("the journal is not written, records wait in memory: %s", error)
        if len(self._kept) >= _MOST_KEPT:
            self.lost += 1
        else:
            self._kept.append(line)

    def _rotate(self) -> None:
        """Go on in a new file, which also gets the calls still open, so that the old one can be dropped."""
        try:
            self._add_file()
            self._carry_over(self.files[-1])
        except OSError as error:
            log.error("the journal goes on in its full file: %s", error)
            self._rotate_bytes *= 2

    def _carry_over(self, file: JournalFile) -> None:
        lines = b"".join(_write_line("begun", record) for record in self.open_calls.values())
        file.size = os.write(file.descriptor, lines) if lines else 0
        if file.size != len(lines):
            self.files.remove(file)
            file.path.unlink()
            os.close(file.descriptor)
            raise OSError(errno.ENOSPC, "the disk took a part of the open calls")

    def _add_file(self) -> None:
        self._number += 1
        path = self.folder / f"{self.id}.{self._number:06}.jsonl"
        self.files.append(
            JournalFile(path, open_private(self._home, path, os.O_WRONLY | os.O_APPEND | os.O_EXCL))
        )

    def drop_flushed(self) -> list[str]:
        """Remove full files that the database has; their names."""
        dropped = []
        while len(self.files) > 1 and self.files[0].flushed >= self.files[0].size:
            file = self.files.pop(0)
            file.path.unlink(missing_ok=True)
            os.close(file.descriptor)
            dropped.append(file.path.name)
        return dropped

    def _sync_often(self) -> None:
        while not self._closing:
            self._wake.wait()
            self._wake.clear()
            self._dirty = False
            self._sync()
            if not self._closing:
                time.sleep(self._fsync_s)
        self._sync()

    def _sync(self) -> None:
        for file in self.files[-2:]:
            try:
                _sync_data(file.descriptor)
            except OSError as error:
                if error.errno == errno.EBADF:  # flushed to the database and removed meanwhile
                    continue
                self.sync_failures += 1
                log.error("the journal is not synced: %s", error)


def _write_line(kind: str, record: dict[str, Any]) -> bytes:
    try:
        return orjson.dumps((kind, record), default=str, option=orjson.OPT_APPEND_NEWLINE)
    except TypeError:  # a lone surrogate or a number beyond 64 bits, from a client or a provider
        return json.dumps((kind, record), default=str, separators=(",", ":")).encode() + b"\n"
