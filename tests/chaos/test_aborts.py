"""Clients that leave at every moment of a call: afterwards nothing is held, and each call has one record."""

import asyncio
import contextlib
import itertools
import random
import socket
import struct
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.traffic import (
    ask,
    count_descriptors,
    count_simulated,
    list_records,
    list_simulated,
    list_workers,
    percentile,
    read_gauges,
    report,
    run_keys,
    wait_until,
    write_request,
)
from tests.harness import Gateway, Simulator, running, write_files

MODELS = {
    "waits": "sim/slow-headers@30s",
    "thinks": "sim/slow-first-token@30s",
    "refuses": "sim/503",
    "streams": "sim/tokens@400+chunk-ms@20",
    "short": "sim/tokens@6+chunk-ms@5",
    "plain": "sim/slow@30s",
    "quick": "sim/tokens@6",
}
SLOTS = 320
POLICY = f"""
policy: held
extends: default
limits:
  key:
    concurrency: {SLOTS}
    burst: 1000000
    requests: {{minute: 1000000, hour: 1000000, day: 1000000}}
    tokens: {{minute: 1000000000}}
retry: {{max: 5, backoff: {{first_s: 5, factor: 2, jitter: 0, max_s: 5}}}}
breaker: {{failures: 1000000, min_requests: 1000000}}
"""
KINDS = (
    "body",
    "headers",
    "thinking",
    "back-off",
    "first-byte",
    "mid-stream",
    "last-byte",
    "plain",
    "plain-last",
)


@contextmanager
def gateway_with_limits(folder: Path) -> Iterator[tuple[Gateway, Simulator, str]]:
    simulator = Simulator(folder)
    files = {
        "policies.d/held.yaml": POLICY,
        "gateway.yaml": "telemetry: {log_calls: false}\n",
        "providers.d/far.yaml": (
            f"provider: far\nformat: openai-chat\nbase_url: {simulator.url}/v1\nallow_private: true\n"
            "auth: {bearer: key-far1}\n"
        ),
    }
    for name, target in MODELS.items():
        files[f"models.d/{name}.yaml"] = (
            f"models: {{{name}: {{policy: held, price: {{input: '1', output: '2'}}, "
            f"targets: [{{provider: far, model: {target}}}]}}}}\n"
        )
    write_files(folder, files)
    gateway = Gateway(folder)
    with running(simulator, gateway):
        key = run_keys(gateway, "create", "--name", "leaver")["key"]
        yield gateway, simulator, key


class Leaver:
    """One client that goes away at a chosen moment, with FIN or RST."""

    def __init__(self, port: int, key: str, kind: str, mark: str) -> None:
        self.port, self.key, self.kind, self.mark = port, key, kind, mark
        self.left_at = 0.0
        """Wall clock."""

    async def run(self) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            await self._come_and_go(reader, writer)
        finally:
            self._leave(writer)

    async def _come_and_go(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        model, stream = {
            "body": ("streams", True),
            "headers": ("waits", True),
            "thinking": ("thinks", True),
            "back-off": ("refuses", True),
            "first-byte": ("streams", True),
            "mid-stream": ("streams", True),
            "last-byte": ("short", True),
            "plain": ("plain", False),
            "plain-last": ("quick", False),
        }[self.kind]
        request = write_request(
            self.port, model, key=self.key, text=self.mark, tags=f"mark={self.mark}", stream=stream
        )
        if self.kind == "body":
            writer.write(request[: -random.randint(1, 60)])
            await asyncio.sleep(random.random() * 0.05)
            return
        writer.write(request)
        if self.kind in ("headers", "thinking", "back-off", "plain"):
            await asyncio.sleep(0.15 + random.random() * 0.3)
            return
        wanted = {
            "first-byte": b"200 OK",
            "mid-stream": b"delta",
            "last-byte": b"finish_reason",
            "plain-last": b"{",
        }
        received = b""
        count = random.randint(2, 12) if self.kind == "mid-stream" else 1
        while received.count(wanted[self.kind]) < count:
            piece = await reader.read(65536)
            if not piece:
                return
            received += piece
        if self.kind == "last-byte":
            return

    def _leave(self, writer: asyncio.StreamWriter) -> None:
        if random.random() < 0.5:
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.left_at = time.time()
        writer.transport.abort()


async def send_leavers(port: int, key: str, count: int, at_once: int) -> list[Leaver]:
    kinds = itertools.cycle(KINDS)
    leavers = [Leaver(port, key, next(kinds), f"leaver-{number}") for number in range(count)]
    gate = asyncio.Semaphore(at_once)

    async def run(leaver: Leaver) -> None:
        async with gate:
            with contextlib.suppress(ConnectionError):
                await leaver.run()

    await asyncio.gather(*(run(leaver) for leaver in leavers))
    return leavers


def find_open(gauges: dict[str, float]) -> dict[str, float]:
    """Everything that is held for a call under way."""
    names = (
        "gatewayz_calls_in_progress",
        'gatewayz_upstream_connections{state="busy"}',
        'gatewayz_upstream_connections{state="connecting"}',
        'gatewayz_journal_records{state="open"}',
    )
    return {name: gauges[name] for name in names if gauges.get(name)}


def abort_many(gateway: Gateway, simulator: Simulator, key: str, count: int, at_once: int) -> None:
    worker = list_workers(gateway)[0]
    asyncio.run(send_leavers(gateway.port, key, min(count, 9), 9))  # pools and caches are warm
    wait_until(lambda: not find_open(read_gauges(gateway)), 10)
    descriptors = count_descriptors(worker) - count_simulated(simulator)["connections"]
    simulator.reset()
    known = {record["id"] for record in list_records(gateway)}

    leavers = asyncio.run(send_leavers(gateway.port, key, count, at_once))
    closed_s = wait_until(
        lambda: not find_open(read_gauges(gateway)), 10, f"still held: {find_open(read_gauges(gateway))}"
    )
    wait_until(lambda: not count_simulated(simulator)["running"], 5)
    left = count_descriptors(worker) - count_simulated(simulator)["connections"]
    assert left <= descriptors + 2, "descriptors are left behind"

    records = [record for record in list_records(gateway) if record["id"] not in known]
    seen = list_simulated(simulator)
    assert len(records) == len({record["id"] for record in records})
    by_status = Counter(record["status"] for record in records)
    by_mark = {record["tags"]["mark"]: record for record in records}
    asked = {read_mark(call) for call in seen}
    assert len(by_mark) == len(records) and asked <= by_mark.keys(), "each call that was asked has one record"
    # On a slow machine a client may leave while its upstream connection is still being made.
    unasked = by_mark.keys() - asked
    kinds = Counter(leaver.kind for leaver in leavers if leaver.mark in unasked)
    assert kinds.keys() <= {"headers", "thinking", "back-off", "plain"}, kinds
    errors = Counter(record["error"] for record in records if record["status"] not in ("aborted", "ok"))
    assert not errors, (by_status, errors)
    lags = measure_lags(leavers, seen)
    report(
        f"aborts[{count}]",
        records=len(records),
        statuses=dict(by_status),
        upstream_calls=len(seen),
        left_before_asking=len(unasked),
        all_held_is_back_after_s=closed_s,
        upstream_saw_close_p50_ms=percentile(lags, 0.5),
        upstream_saw_close_p99_ms=percentile(lags, 0.99),
        upstream_saw_close_max_ms=max(lags),
        descriptors=(descriptors, left),
    )
    assert percentile(lags, 0.99) < 250
    prove_slots_are_free(gateway, key)


def read_mark(call: dict[str, Any]) -> str:
    return str(call["body"]["messages"][-1]["content"])


def measure_lags(leavers: list[Leaver], seen: list[dict[str, Any]]) -> list[float]:
    """Milliseconds from a client's leaving until its upstream call was closed."""
    left = {leaver.mark: leaver.left_at for leaver in leavers}
    lags = []
    for call in seen:
        if call["outcome"] == "client_closed":
            closed_at = call["at"] + call["client_closed_after_ms"] / 1000
            lags.append(max(0.0, (closed_at - left[read_mark(call)]) * 1000))
    return lags


def prove_slots_are_free(gateway: Gateway, key: str) -> None:
    """As many calls as the key may have at once are admitted, and one more is not."""

    async def hold() -> tuple[list[int], int]:
        held = [Holder(gateway.port, key) for _ in range(SLOTS)]
        await asyncio.gather(*(holder.open() for holder in held))
        try:
            wait = asyncio.to_thread(wait_until, lambda: read_open_calls(gateway) >= SLOTS, 10)
            await wait
            one_more = await ask(gateway.port, "short", key=key, stream=True)
            return [holder.writer.transport.is_closing() for holder in held], one_more.status
        finally:
            for holder in held:
                holder.writer.transport.abort()

    closing, one_more = asyncio.run(hold())
    assert not any(closing)
    assert one_more == 429
    wait_until(lambda: not find_open(read_gauges(gateway)), 10)


def read_open_calls(gateway: Gateway) -> float:
    return read_gauges(gateway)["gatewayz_calls_in_progress"]


class Holder:
    """A client that waits for an answer which does not come."""

    writer: asyncio.StreamWriter

    def __init__(self, port: int, key: str) -> None:
        self.port, self.key = port, key

    async def open(self) -> None:
        _, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
        self.writer.write(write_request(self.port, "thinks", key=self.key, stream=True))


def test_clients_that_leave_at_any_moment_leave_nothing_behind(tmp_path: Path) -> None:
    with gateway_with_limits(tmp_path) as (gateway, simulator, key):
        abort_many(gateway, simulator, key, 450, 60)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_ten_thousand_aborted_calls_leave_nothing_behind(tmp_path: Path) -> None:
    with gateway_with_limits(tmp_path) as (gateway, simulator, key):
        abort_many(gateway, simulator, key, 10_000, 150)
