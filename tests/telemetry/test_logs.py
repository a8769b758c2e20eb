import logging
import os
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pytest

from engine.secret import Secret
from engine.telemetry.logs import Log, route_library_logs

KEY = "gw_live_AbCdEfGh0123456789ijklMNOP4567qrstUVWXyz012"
RECORD = {"id": "call_1", "status": "ok", "cost_usd": "0.000123", "tokens": {"input": 3}, "error": None}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "gateway.log"


@pytest.fixture
def log(path: Path) -> Iterator[Log]:
    log = Log(path=path, facts={"worker": 2})
    yield log
    log.close()


@contextmanager
def libraries_routed(log: Log) -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    route_library_logs(log)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        root.handlers = handlers
        root.setLevel(level)


def read(path: Path) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in path.read_bytes().splitlines()]


def test_a_line_has_time_level_event_constant_facts_and_its_own(log: Log, path: Path) -> None:
    log.info("config.loaded", revision="abc", seconds=0.5)
    log.close()
    (line,) = read(path)
    at = line.pop("at")
    assert line == {
        "level": "info",
        "worker": 2,
        "event": "config.loaded",
        "revision": "abc",
        "seconds": 0.5,
    }
    assert len(at) == 24 and at.endswith("Z") and abs(int(at[:4]) - time.gmtime().tm_year) <= 1


def test_an_event_without_facts_is_a_whole_object(log: Log, path: Path) -> None:
    log.info("server.started")
    log.close()
    assert read(path)[0]["event"] == "server.started"


def test_the_line_of_a_call_is_its_record(log: Log, path: Path) -> None:
    record = dict(RECORD)
    log.finish_call(record)
    record["status"] = "changed later"
    log.close()
    (line,) = read(path)
    assert {name: line[name] for name in RECORD} == RECORD
    assert line["event"] == "call.finished"


def test_lines_below_the_level_are_not_written(path: Path) -> None:
    log = Log(path=path, level="warning")
    log.debug("a.b")
    log.info("a.b")
    log.finish_call(RECORD)
    log.warning("kept.one")
    log.error("kept.two")
    log.close()
    assert [line["event"] for line in read(path)] == ["kept.one", "kept.two"]


def test_lines_are_written_without_waiting_for_the_close(log: Log, path: Path) -> None:
    log.info("a.b")
    deadline = time.monotonic() + 5
    while not path.read_bytes() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert read(path)[0]["event"] == "a.b"


def test_secrets_are_asterisks_at_every_depth_and_level(log: Log, path: Path) -> None:
    log.info("provider.added", auth={"keys": [Secret("canary-7f3a")]}, secret=Secret("canary-7f3a"))
    log.error("provider.failed", key=Secret("canary-7f3a"), message=f"refused {KEY}")
    log.finish_call({**RECORD, "error": f"Incorrect API key: {KEY}"})
    log.close()
    text = path.read_text()
    assert "canary" not in text and KEY[12:] not in text
    assert read(path)[1]["message"] == "refused gw_live_***"


def test_facts_of_any_type_make_a_line(log: Log, path: Path) -> None:
    cycle: list[Any] = []
    cycle.append(cycle)
    log.info("a.b", cost=Decimal("1.50"), names={"x"}, raw=b"\xff", path=Path("/x"), by={1: "int key"})
    for odd in ("\ud800", 2**80, cycle, float("nan")):
        log.info("odd.fact", fact=odd)
    log.close()
    lines = read(path)
    assert (lines[0]["cost"], lines[0]["names"], lines[0]["path"]) == ("1.50", ["x"], "/x")
    assert lines[0]["by"] == {"1": "int key"}
    assert len(lines) == 5


def test_an_exception_is_written_with_its_traceback(log: Log, path: Path) -> None:
    try:
        raise ValueError(f"bad {KEY}")
    except ValueError as error:
        log.error("call.broke", error=error)
    log.close()
    text = read(path)[0]["error"]
    assert "test_logs.py" in text and "ValueError: bad gw_live_***" in text


def test_a_slow_reader_costs_lines_which_are_counted_and_never_time() -> None:
    reader, writer = os.pipe()
    log = Log(path=Path(f"/dev/fd/{writer}"), capacity=200)
    os.close(writer)
    slowest = 0.0
    for number in range(5000):
        began = time.perf_counter()
        log.info("a.b", number=number, padding="x" * 500)
        slowest = max(slowest, time.perf_counter() - began)
        if number % 100 == 0:
            time.sleep(0.001)
    assert log.dropped > 0 and slowest < 0.5
    received: list[bytes] = []
    drain = threading.Thread(target=read_all, args=(reader, received))
    drain.start()
    time.sleep(0.3)
    log.close()
    drain.join(5)
    lines = [orjson.loads(line) for line in b"".join(received).splitlines()]
    told = sum(line["lines"] for line in lines if line["event"] == "log.lines_dropped")
    assert told == log.dropped == 5000 - sum(line["event"] == "a.b" for line in lines)


def read_all(fd: int, received: list[bytes]) -> None:
    while piece := os.read(fd, 65536):
        received.append(piece)
    os.close(fd)


def test_a_reader_that_is_gone_does_not_end_the_process() -> None:
    reader, writer = os.pipe()
    log = Log(path=Path(f"/dev/fd/{writer}"))
    os.close(writer)
    os.close(reader)
    log.info("a.b")
    log.close()
    assert log.dropped == 1


def test_lines_written_just_before_the_exit_are_there() -> None:
    code = "from engine.telemetry.logs import Log\nlog = Log()\nfor n in range(3000): log.info('a.b', n=n)\n"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=30, check=True)
    assert [orjson.loads(line)["n"] for line in ended.stderr.splitlines()] == list(range(3000))


def test_closing_twice_is_closing_once(log: Log) -> None:
    log.close()
    log.close()


def test_what_libraries_log_becomes_masked_lines(log: Log, path: Path) -> None:
    with libraries_routed(log):
        logging.getLogger("uvicorn.error").info("started %s", "here")
        logging.getLogger("uvicorn.access").debug("not at this level")
        logging.getLogger("psycopg.probe").warning("cannot reach postgresql://app:hunter2@db/x")
        logging.getLogger("broken").error("two %s %s", "one")
        try:
            raise RuntimeError(f"with {KEY}")
        except RuntimeError:
            logging.getLogger("asyncio").exception("task failed")
    log.close()
    lines = read(path)
    assert [(line["level"], line["logger"], line["message"]) for line in lines] == [
        ("info", "uvicorn.error", "started here"),
        ("warning", "psycopg.probe", "cannot reach postgresql://app:***@db/x"),
        ("error", "broken", "two %s %s"),
        ("error", "asyncio", "task failed"),
    ]
    assert "RuntimeError: with gw_live_***" in lines[3]["error"]


def test_warnings_of_python_become_lines(log: Log, path: Path) -> None:
    with warnings.catch_warnings(), libraries_routed(log):
        warnings.simplefilter("always")
        warnings.warn("old thing", DeprecationWarning, stacklevel=1)
    log.close()
    assert "old thing" in read(path)[0]["message"]


def test_the_line_of_a_call_costs_microseconds(log: Log) -> None:
    fastest = 1.0
    for _ in range(5):
        began = time.process_time()
        for _ in range(1000):
            log.finish_call(RECORD)
        fastest = min(fastest, (time.process_time() - began) / 1000)
    assert fastest < 20e-6
