"""The load generator against the upstream, over real sockets: what counts as an answer and what does not."""

import asyncio
import json
import socket
import sys
from collections.abc import AsyncIterator

import pytest_asyncio

from bench.cases import Case, make_cases, make_paced_case
from bench.load import Plan, run_plan
from bench.measure import ROOT, measure_tree


@pytest_asyncio.fixture
async def upstream() -> AsyncIterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.upstream", str(port), cwd=ROOT
    )
    for _ in range(200):
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            break
        except OSError:
            await asyncio.sleep(0.02)
    yield port
    process.terminate()
    await process.wait()


async def load(case: Case, port: int, connections: int, **changes: object) -> dict[str, object]:
    plan = case.plan(port, "key", connections, **changes)
    return await run_plan(Plan(**json.loads(json.dumps(plan))))


async def test_every_case_is_answered_whole_over_one_and_many_connections(upstream: int) -> None:
    for case in make_cases():
        for connections in (1, 8):
            figures = await load(case, upstream, connections, calls=16)
            assert (figures["calls"], figures["failed"]) == (16, 0), (case.name, figures)


async def test_paced_stream_takes_its_time_and_tells_the_lag_of_each_chunk(upstream: int) -> None:
    figures = await load(make_paced_case(20), upstream, 5, calls=5)
    assert figures["failed"] == 0
    assert figures["stamps"] == 5 * 20
    assert 0.3 < figures["seconds"] < 3  # type: ignore[operator]


async def test_stream_with_fewer_events_than_promised_is_a_failure(upstream: int) -> None:
    _, stream, *_ = make_cases()
    figures = await load(stream, upstream, 1, calls=1, chunks=1000)
    assert (figures["calls"], figures["failed"]) == (0, 1)


async def test_number_of_the_call_stands_where_the_plan_has_its_mark(upstream: int) -> None:
    plain = make_cases()[0]
    body = plain.body.replace("bench-plain", "bench-m~~~~~~")
    figures = await load(plain, upstream, 1, calls=3, bodies=[body], first_number=41)
    assert (figures["calls"], figures["failed"]) == (3, 0)


async def test_cpu_and_memory_of_a_tree_count_its_children() -> None:
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'sum(range(4 * 10**7)); input()'])"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, stdin=asyncio.subprocess.PIPE, cwd=ROOT
    )
    for _ in range(300):
        usage = measure_tree(process.pid)
        if usage.processes == 2 and usage.cpu_s >= 0.1:
            break
        await asyncio.sleep(0.02)
    assert (usage.processes, usage.cpu_s >= 0.1, usage.worker_mib > 3) == (2, True, True)
    await process.communicate(b"\n")
