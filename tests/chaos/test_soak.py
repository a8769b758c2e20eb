"""Much at once and much in a row: five hundred streams that keep their pace, and memory that stays flat."""

import asyncio
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.traffic import (
    list_workers,
    percentile,
    read_cpu_s,
    read_gauges,
    read_rss_mib,
    report,
    wait_until,
    write_request,
)
from tests.harness import ADMIN_KEY, Gateway, Simulator, running, write_files

EVERY_S = 0.02


def write_config(folder: Path, upstream: str) -> None:
    write_files(
        folder,
        {
            "gateway.yaml": "telemetry: {log_calls: false}\n",
            "providers.d/far.yaml": (
                f"provider: far\nformat: openai-chat\nbase_url: {upstream}/v1\nallow_private: true\n"
                "auth: {bearer: key-far1}\npassthrough: true\nunknown_price: free\n"
            ),
        },
    )


class Ticker:
    """An upstream that sends one stamped chunk per stream every 20 ms, each to all streams that are due."""

    def __init__(self, chunks: int) -> None:
        self.chunks = chunks
        self.server: asyncio.Server
        self.streams: dict[asyncio.StreamWriter, int] = {}
        self.late: list[float] = []
        """How late this upstream itself was, in seconds: a machine that is too slow shows here."""

    async def __aenter__(self) -> "Ticker":
        self.server = await asyncio.start_server(self._take, "127.0.0.1", 0, backlog=2048)
        self._ticking = asyncio.create_task(self._tick())
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._ticking.cancel()
        self.server.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.sockets[0].getsockname()[1]}"

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        await reader.readexactly(length)
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        self.streams[writer] = 0

    async def _tick(self) -> None:
        due = time.monotonic()
        groups = 10  # streams are spread over the interval, as real ones are
        number = 0
        while True:
            due += EVERY_S / groups
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            self.late.append(time.monotonic() - due)
            number += 1
            for writer in [w for i, w in enumerate(list(self.streams)) if i % groups == number % groups]:
                self._send(writer)

    def _send(self, writer: asyncio.StreamWriter) -> None:
        self.streams[writer] += 1
        if self.streams[writer] <= self.chunks:
            delta: dict[str, Any] = {
                "index": 0,
                "delta": {"content": f"{time.monotonic():.6f} "},
                "finish_reason": None,
            }
            writer.write(frame({"id": "x", "object": "chat.completion.chunk", "choices": [delta]}))
            return
        del self.streams[writer]
        end = {"index": 0, "delta": {}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 1, "completion_tokens": self.chunks, "total_tokens": self.chunks + 1}
        writer.write(frame({"id": "x", "object": "chat.completion.chunk", "choices": [end]}))
        writer.write(frame({"id": "x", "object": "chat.completion.chunk", "choices": [], "usage": usage}))
        writer.write(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")
        writer.close()


def frame(doc: Any) -> bytes:
    event = b"data: " + json.dumps(doc, separators=(",", ":")).encode() + b"\n\n"
    return b"%x\r\n%b\r\n" % (len(event), event)


async def follow(port: int, lags: list[float]) -> int:
    """Read one stream; how late each chunk came. Returns the number of chunks."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(write_request(port, "far/ticks", stream=True))
    chunks = 0
    done = False
    async for line in reader:
        done = done or line.startswith(b"data: [DONE]")
        at = line.find(b'"content":"')
        if at > 0:
            chunks += 1
            lags.append(time.monotonic() - float(line[at + 11 :].split(b" ", 1)[0]))
    writer.close()
    assert done
    return chunks


async def stream_at_once(folder: Path, streams: int, chunks: int) -> None:
    async with Ticker(chunks) as ticker:
        write_config(folder, ticker.url)
        gateway = Gateway(folder)
        try:
            await asyncio.to_thread(gateway.await_ready)
            worker, lags = list_workers(gateway)[0], list[float]()
            cpu, began = read_cpu_s(worker), time.monotonic()
            counts = await asyncio.gather(*(follow(gateway.port, lags) for _ in range(streams)))
            seconds, cpu = time.monotonic() - began, read_cpu_s(worker) - cpu
            assert set(counts) == {chunks}
            report(
                f"streams[{streams} x {chunks} chunks at 50/s]",
                seconds=seconds,
                ideal_s=chunks * EVERY_S,
                lag_p50_ms=percentile(lags, 0.5) * 1000,
                lag_p99_ms=percentile(lags, 0.99) * 1000,
                lag_max_ms=max(lags) * 1000,
                upstream_itself_late_p99_ms=percentile(ticker.late, 0.99) * 1000,
                worker_cpu_share=cpu / seconds,
                worker_rss_mib=read_rss_mib(worker),
            )
            quarter = len(lags) // 4
            first, last = percentile(lags[:quarter], 0.9), percentile(lags[-quarter:], 0.9)
            assert last < first + 0.25, "it falls behind"
        finally:
            await asyncio.to_thread(gateway.stop)


def test_a_hundred_streams_at_fifty_chunks_a_second_keep_their_pace(tmp_path: Path) -> None:
    asyncio.run(stream_at_once(tmp_path, 100, 100))


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_five_hundred_streams_at_fifty_chunks_a_second_keep_their_pace(tmp_path: Path) -> None:
    asyncio.run(stream_at_once(tmp_path, 500, 1000))


async def call_distinct(port: int, calls: range, at_once: int) -> dict[int, int]:
    """Calls with a model, a tag and, each third, a key of their own, over kept connections; statuses."""
    statuses: dict[int, int] = {}
    numbers = iter(calls)

    async def work() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
        for number in numbers:
            key = f"gw_live_{number:043d}" if number % 3 == 0 else ADMIN_KEY
            model = f"far/sim/tokens@{number % 50 + 1}+latency@{number / 1e5:.5f}ms"
            model = model if number % 2 else f"far/made-up-{number}"
            request = write_request(port, model, key=key, tags=f"n=t{number}", text=f"{number}")
            writer.write(request.replace(b"connection: close\r\n", b""))
            head = await reader.readuntil(b"\r\n\r\n")
            status = int(head[9:12])
            statuses[status] = statuses.get(status, 0) + 1
            await reader.readexactly(int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0]))
        writer.close()

    await asyncio.gather(*(work() for _ in range(at_once)))
    return statuses


def soak_memory(folder: Path, calls: int, steps: int) -> list[float]:
    simulator = Simulator(folder)
    write_config(folder, simulator.url)
    gateway = Gateway(folder)
    with running(simulator, gateway):
        worker = list_workers(gateway)[0]
        curve, statuses, began = [read_rss_mib(worker)], dict[int, int](), time.monotonic()
        for step in range(steps):
            part = range(step * calls // steps, (step + 1) * calls // steps)
            for status, count in asyncio.run(call_distinct(gateway.port, part, 16)).items():
                statuses[status] = statuses.get(status, 0) + count
            read_gauges(gateway)
            simulator.reset()
            curve.append(read_rss_mib(worker))
        seconds = time.monotonic() - began
        wait_until(lambda: not read_gauges(gateway)["gatewayz_calls_in_progress"], 5)
        report(
            f"memory[{calls} calls]",
            statuses=statuses,
            calls_per_s=calls / seconds,
            rss_mib=[round(value, 1) for value in curve],
            supervisor_rss_mib=read_rss_mib(gateway.process.pid),
        )
        assert set(statuses) == {200, 401, 404}, statuses
    return curve


def test_distinct_models_tags_and_keys_are_answered_each(tmp_path: Path) -> None:
    curve = soak_memory(tmp_path, 3000, 3)
    assert curve[-1] < 150


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_memory_is_flat_after_a_hundred_thousand_distinct_calls(tmp_path: Path) -> None:
    calls = int(os.environ.get("CHAOS_CALLS", "100000"))
    curve = soak_memory(tmp_path, calls, 20)
    # Tables that are bounded fill up first; from then on nothing grows.
    assert curve[-1] < curve[len(curve) // 2] + 6, curve
    assert curve[-1] < 150, curve
