"""The journal's disk is full: new calls are refused in clear words, what has begun ends and is not lost."""

import asyncio
import os
import resource
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.traffic import (
    Answer,
    ask,
    list_records,
    list_workers,
    read_gauges,
    report,
    wait_until,
)
from tests.harness import Gateway, Simulator, running, write_files

Disk = tuple[Callable[[Gateway], None], Callable[[Gateway], None]]


def fill_with_ballast(folder: Path) -> None:
    with (folder / "ballast").open("wb", buffering=0) as file:
        for size in (65536, 512, 1):
            try:
                while file.write(b"\0" * size):
                    continue
            except OSError:
                continue


@pytest.fixture(params=["tmpfs", "limit"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    """How to fill the disk under the journal of a gateway, and how to make room again."""
    if request.param == "limit":
        yield (lambda gateway: limit_files(gateway, 0), lambda gateway: limit_files(gateway, None))
        return
    folder = tmp_path / "home/journal"
    folder.mkdir(parents=True, mode=0o700)
    (tmp_path / "home").chmod(0o700)
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m,mode=0700", "none", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("needs the right to mount")
    yield (lambda _: fill_with_ballast(folder), lambda _: (folder / "ballast").unlink())
    subprocess.run(["umount", "-l", str(folder)], check=True)


def limit_files(gateway: Gateway, beyond: int | None) -> None:
    """From now on no file of a worker grows; None: every file may."""
    journals = (gateway.folder / "home/journal").glob("*.jsonl")
    size = max(file.stat().st_size for file in journals)
    soft = size + beyond if beyond is not None else resource.RLIM_INFINITY
    for pid in list_workers(gateway):
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (soft, resource.RLIM_INFINITY))


def write_config(folder: Path, simulator: str) -> None:
    write_files(
        folder,
        {
            "gateway.yaml": "telemetry: {log_calls: false}\n",
            "providers.d/far.yaml": (
                f"provider: far\nformat: openai-chat\nbase_url: {simulator}/v1\nallow_private: true\n"
                "auth: {bearer: key-far1}\n"
            ),
            "models.d/m.yaml": (
                "models:\n"
                "  long: {price: {input: '1', output: '2'}, "
                "targets: [{provider: far, model: sim/tokens@100+chunk-ms@20}]}\n"
                "  plain: {price: {input: '1', output: '2'}, targets: [{provider: far, model: sim/tokens@5}]}\n"
            ),
        },
    )


async def live_through(
    gateway: Gateway, fill: Callable[[], None], free: Callable[[], None]
) -> dict[str, Any]:
    """Streams that begin before the disk is full and end while it is, calls in between and after."""
    before = [await ask(gateway.port, "plain") for _ in range(5)]
    begun = [asyncio.create_task(ask(gateway.port, "long", stream=True)) for _ in range(10)]
    await asyncio.sleep(0.7)
    fill()
    # The last block of the journal's file still takes a few lines.
    while (answer := await ask(gateway.port, "plain")).done and len(before) < 20:
        before.append(answer)
    refused = [answer] + [await ask(gateway.port, "plain") for _ in range(4)]
    begun_answers = await asyncio.gather(*begun)
    waiting = await asyncio.to_thread(read_gauges, gateway)
    free()
    freed, answer = time.monotonic(), Answer()
    while not answer.done and time.monotonic() - freed < 5:
        answer = await ask(gateway.port, "plain")
    return {
        "before": before,
        "refused": refused,
        "begun": begun_answers,
        "after": [answer],
        "again_after_s": time.monotonic() - freed,
        "pending": waiting['gatewayz_journal_records{state="pending"}'],
    }


def test_a_full_disk_refuses_new_calls_and_loses_no_ended_one(tmp_path: Path, disk: Disk) -> None:
    simulator = Simulator(tmp_path)
    write_config(tmp_path, simulator.url)
    gateway = Gateway(tmp_path)
    with running(simulator, gateway):
        found = asyncio.run(live_through(gateway, lambda: disk[0](gateway), lambda: disk[1](gateway)))
        asked_upstream = len(simulator.list_calls())
        for answer in found["refused"]:
            assert answer.status == 503 and answer.whole, answer
            assert answer.headers["retry-after"] and "recorded" in answer.json()["error"]["message"]
        whole = [*found["before"], *found["begun"], *found["after"]]
        assert all(answer.done for answer in whole), [answer for answer in whole if not answer.done][:2]
        wanted = {answer.request_id for answer in whole}
        wait_until(
            lambda: wanted <= {record["request_id"] for record in list_records(gateway)},
            5,
            "records are lost",
        )
        records = [record for record in list_records(gateway) if record["attempts"]]
        assert len(records) == asked_upstream == len(whole), "a refused call asks nobody"
        assert {record["status"] for record in records} == {"ok"}
        gauges = read_gauges(gateway)
        assert not gauges.get('gatewayz_journal_records{state="lost"}')
        assert found["pending"] >= 10
        report("disk-full", pending_while_full=found["pending"], serves_again_after_s=found["again_after_s"])
