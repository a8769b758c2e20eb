"""What the journal keeps when processes die and disks fill up."""

import os
import resource
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import orjson
import pytest

from engine.storage.interfaces import JournalAway
from engine.storage.journal import Journal
from tests.storage.records import begin, end

ROOT = Path(__file__).parents[2]


@pytest.fixture
def journal(home: Path):
    opened = Journal(home)
    opened.open()
    yield opened
    opened.close()


def read_lines(home: Path) -> list[list]:
    files = sorted((home / "journal").glob("*.jsonl"))
    return [orjson.loads(line) for file in files for line in file.read_bytes().splitlines()]


def test_a_call_is_two_lines(journal: Journal, home: Path):
    begun = begin()
    journal.append_begun(begun)
    assert journal.open_calls == {begun["id"]: begun}
    journal.append_ended(end(begun))
    assert read_lines(home) == [["begun", begun], ["ended", end(begun)]]
    assert journal.open_calls == {}


def test_text_that_is_not_unicode_and_huge_numbers_are_written(journal: Journal, home: Path):
    journal.append_ended(end(begin(), error="\ud800", tokens={"input": 2**70}))
    ((kind, _),) = [orjson.loads(line.replace(b"\\ud800", b"")) for line in _raw(home)]
    assert kind == "ended"


def _raw(home: Path) -> list[bytes]:
    return [line for file in (home / "journal").glob("*.jsonl") for line in file.read_bytes().splitlines()]


def test_its_files_are_private(journal: Journal, home: Path):
    assert {path.stat().st_mode & 0o777 for path in (home / "journal").iterdir()} == {0o600}


def test_a_full_file_is_followed_by_another_that_has_the_open_calls(home: Path):
    journal = Journal(home, rotate_bytes=2000)
    journal.open()
    long_one = begin()
    journal.append_begun(long_one)
    while len(journal.files) < 3:
        journal.append_ended(end(begin()))
    last = journal.files[-1].path.read_bytes().splitlines()
    assert orjson.loads(last[0]) == ["begun", long_one]
    for file in journal.files:
        assert file.size == file.path.stat().st_size
        file.flushed = file.size
    journal.drop_flushed()
    assert len(list((home / "journal").glob("*.jsonl"))) == 1
    journal.append_ended(end(long_one))
    journal.close()


@pytest.fixture
def small_disk():
    """No file may grow beyond 4 KB: the kernel answers EFBIG, or takes a part of a write, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, ignored)


def test_a_full_disk_refuses_what_begins_and_keeps_what_ended(journal: Journal, home: Path, small_disk):
    begun = begin()
    journal.append_begun(begun)
    small_disk(1500)
    with pytest.raises(JournalAway) as away:
        for _ in range(10):
            journal.append_begun(begin())
    assert away.value.status == 503
    journal.append_ended(end(begun))
    assert journal.kept == 1
    assert all(len(line) == 2 for line in read_lines(home)), "a part of a line was left in the file"
    small_disk(1 << 20)
    journal.retry_kept()
    assert journal.kept == 0
    assert read_lines(home)[-1] == ["ended", end(begun)]


WORKER = textwrap.dedent("""
    import os, sys
    from pathlib import Path
    from engine.storage.journal import Journal
    from tests.storage.records import begin, end
    journal = Journal(Path(sys.argv[1]))
    journal.open()
    while True:
        begun = begin()
        journal.append_begun(begun)
        os.write(1, f"begun {begun['id']}\\n".encode())
        journal.append_ended(end(begun))
        os.write(1, f"ended {begun['id']}\\n".encode())
""")


def run_worker_until_killed(home: Path, after_s: float = 0.3) -> dict[str, list[str]]:
    """What a worker said it had written when it was killed in the middle of its work."""
    worker = subprocess.Popen([sys.executable, "-c", WORKER, str(home)], stdout=subprocess.PIPE, cwd=ROOT)
    assert worker.stdout is not None
    first = worker.stdout.readline()
    deadline = time.monotonic() + after_s
    lines = [first]
    os.set_blocking(worker.stdout.fileno(), True)
    while time.monotonic() < deadline:
        lines.append(worker.stdout.readline())
    worker.kill()
    lines += worker.stdout.readlines()
    worker.wait()
    worker.stdout.close()
    said: dict[str, list[str]] = {"begun": [], "ended": []}
    for line in lines:
        if line.endswith(b"\n"):
            kind, call_id = line.decode().split()
            said[kind].append(call_id)
    return said


def test_a_killed_worker_loses_nothing_that_it_had_written(home: Path):
    said = run_worker_until_killed(home)
    found = read_lines(home)
    assert len(said["ended"]) > 10
    for kind in ("begun", "ended"):
        assert set(said[kind]) <= {record["id"] for written, record in found if written == kind}


def test_the_disk_is_asked_to_keep_it_soon_after_a_write(journal: Journal):
    synced: list[float] = []
    original = journal._sync
    journal._sync = lambda: (original(), synced.append(time.monotonic()))  # type: ignore[method-assign]
    wrote = time.monotonic()
    journal.append_begun(begin())
    while not synced and time.monotonic() - wrote < 2:
        time.sleep(0.005)
    assert synced[0] - wrote < 0.5
    assert journal.sync_failures == 0
