"""JSON logs, one object per line, that never make the loop wait.

A line is rendered where it happens (about 2.5 µs for a call's record; a thread that rendered them cost as
much CPU and held the interpreter's lock in bursts) and written by a thread in batches. When the output is too
slow, lines are dropped and counted. A `Log` belongs to one process: make it after the fork, close it last.
"""

import atexit
import logging
import os
import select
import threading
import time
import traceback
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson

from engine.secret import Secret
from engine.telemetry.redaction import mask_line

CAPACITY_LINES = 10_000
FLUSH_EVERY_S = 0.1
CLOSE_WITHIN_S = 2.0
BATCH_LINES = 500
LONGEST_TEXT = 8_000
STDERR = 2
LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
FOREIGN_LOGGERS = ("uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi")


class Log:
    """`log.info("config.loaded", revision=...)`: an event's name (noun.past_participle) and its facts."""

    def __init__(
        self,
        *,
        path: Path | None = None,
        level: str = "info",
        capacity: int = CAPACITY_LINES,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        """`path` None means stderr. `facts` stand in every line, such as the worker's number."""
        self.dropped = 0
        self._told = 0
        self._level = LEVELS[level]
        self._capacity = capacity
        self._constant = b"," + orjson.dumps(facts, default=render_fact)[1:-1] if facts else b""
        self._finished = b',"level":"info"%b,"event":"call.finished",' % self._constant
        self._fd = STDERR if path is None else os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)
        self._lines: deque[bytes] = deque()
        self._second = -1
        self._second_text = b""
        self._waiting = threading.Event()
        self._closing = threading.Event()
        self._writer = threading.Thread(target=self._write_batches, name="log-writer", daemon=True)
        self._writer.start()
        atexit.register(self.close)

    def debug(self, event: str, /, **facts: Any) -> None:
        if self._level <= 10:
            self.add_line("debug", event, facts)

    def info(self, event: str, /, **facts: Any) -> None:
        if self._level <= 20:
            self.add_line("info", event, facts)

    def warning(self, event: str, /, **facts: Any) -> None:
        if self._level <= 30:
            self.add_line("warning", event, facts, masked=True)

    def error(self, event: str, /, **facts: Any) -> None:
        """A fact may be an exception: its traceback is written."""
        self.add_line("error", event, facts, masked=True)

    def finish_call(self, record: Mapping[str, Any], written: bytes = b"") -> None:
        """The line of one call, from its record (read now, not kept) or from the JSON `written` of it already."""
        if self._level > 20 or self._is_full():
            return
        rendered = written or _render_facts(record)
        if "error" in record:
            rendered = mask_line(rendered)
        self._queue(b'{"at":"%b"%b%b\n' % (self._stamp(), self._finished, rendered[1:]))

    def add_line(self, level: str, event: str, facts: Mapping[str, Any], *, masked: bool = False) -> None:
        """Queue one line; drop it when the writer is too far behind."""
        if not self._is_full():
            self._queue(self._render_line(level, event, facts, masked=masked))

    def _is_full(self) -> bool:
        full = len(self._lines) >= self._capacity
        self.dropped += full
        return full

    def _queue(self, line: bytes) -> None:
        self._lines.append(line)
        if not self._waiting.is_set():
            self._waiting.set()

    def close(self) -> None:
        """Write what is queued, for at most CLOSE_WITHIN_S. Later lines are lost. Safe to repeat."""
        atexit.unregister(self.close)
        self._closing.set()
        self._waiting.set()
        self._writer.join(CLOSE_WITHIN_S)
        if self._fd > STDERR and not self._writer.is_alive():
            os.close(self._fd)
            self._fd = -1

    def _render_line(self, level: str, event: str, facts: Mapping[str, Any], *, masked: bool) -> bytes:
        rendered = _render_facts(facts)
        if masked:
            rendered = mask_line(rendered)
        return b'{"at":"%b","level":"%b"%b,"event":%b%b%b\n' % (
            self._stamp(),
            level.encode(),
            self._constant,
            orjson.dumps(event),
            b"," if len(rendered) > 2 else b"",
            rendered[1:],
        )

    def _stamp(self) -> bytes:
        now = time.time()
        second = int(now)
        if second != self._second:
            self._second_text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second)).encode()
            self._second = second
        return b"%b.%03dZ" % (self._second_text, int((now - second) * 1000))

    def _write_batches(self) -> None:
        while not self._closing.is_set():
            self._waiting.wait()
            self._closing.wait(FLUSH_EVERY_S)  # lets a batch gather
            self._waiting.clear()
            while self._lines:
                count = min(BATCH_LINES, len(self._lines))
                self._write_batch([self._lines.popleft() for _ in range(count)])
        self._write_batch([])

    def _write_batch(self, lines: list[bytes]) -> None:
        """The lines, after a word about those that were lost since the last batch that got through."""
        lost = self.dropped - self._told
        if lost:
            notice = self._render_line("warning", "log.lines_dropped", {"lines": lost}, masked=False)
            lines.insert(0, notice)
        if self._write_whole(b"".join(lines)):
            self._told += lost
        else:
            self.dropped += len(lines) - bool(lost)

    def _write_whole(self, batch: bytes) -> bool:
        rest = memoryview(batch)
        while rest:
            try:
                rest = rest[os.write(self._fd, rest) :]
            except BlockingIOError:  # whoever started us may have made stderr non-blocking
                select.select([], [self._fd], [], 1.0)
            except OSError:  # the reader is gone or the disk is full: a log must not end the gateway
                return False
        return True


def render_fact(fact: Any) -> Any:
    """What JSON does not know, as text. A Secret is three asterisks."""
    if isinstance(fact, Secret):
        return "***"
    if isinstance(fact, BaseException):
        return "".join(traceback.format_exception(fact))[-LONGEST_TEXT:]
    if isinstance(fact, bytes):
        return fact.decode("utf-8", "replace")[:LONGEST_TEXT]
    if isinstance(fact, set | frozenset | deque):
        return list(fact)
    if isinstance(fact, Mapping):
        return dict(fact)
    return str(fact)[:LONGEST_TEXT]


def _render_facts(facts: Mapping[str, Any]) -> bytes:
    try:
        return orjson.dumps(facts, default=render_fact, option=orjson.OPT_NON_STR_KEYS)
    except TypeError:  # half a surrogate pair, an integer beyond 64 bits, a cycle: never lose the line for it
        return orjson.dumps({"unprintable": ascii(facts)[:LONGEST_TEXT]})


class StdlibHandler(logging.Handler):
    """Records of the standard library's logging (uvicorn, psycopg ...) as lines of a `Log`, masked."""

    def __init__(self, log: Log) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        facts = {"logger": record.name, "message": _read_message(record)}
        if record.exc_info and record.exc_info[1] is not None:
            facts["error"] = "".join(traceback.format_exception(record.exc_info[1]))[-LONGEST_TEXT:]
        self._log.add_line(_name_level(record.levelno), "library.logged", facts, masked=True)


def _read_message(record: logging.LogRecord) -> str:
    with suppress(TypeError, ValueError, KeyError):  # a library's format and arguments may not fit
        return record.getMessage()[:LONGEST_TEXT]
    return str(record.msg)[:LONGEST_TEXT]


def _name_level(number: int) -> str:
    return next((name for name, floor in reversed(LEVELS.items()) if number >= floor), "debug")


def route_library_logs(log: Log, level: str = "info") -> None:
    """Everything that libraries log, and Python's warnings, into `log`. Call it once per process."""
    root = logging.getLogger()
    root.handlers = [StdlibHandler(log)]
    root.setLevel(LEVELS[level])
    for name in FOREIGN_LOGGERS:
        logger = logging.getLogger(name)
        logger.handlers = []
        logger.propagate = True
    logging.captureWarnings(True)
