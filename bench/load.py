"""The load: keep-alive connections, each sending the next call when the last is whole; all answers are checked.

One process per run; reads a plan (JSON) on stdin, prints the figures (JSON) on stdout.

    python -m bench.load < plan.json
"""

import asyncio
import dataclasses
import json
import math
import random
import re
import sys
import time
from collections.abc import Sequence
from typing import cast

import httptools
import uvloop

_NUMBER = b"~~~~~~"
_STAMP = re.compile(rb"@(\d+)@")


@dataclasses.dataclass(slots=True)
class Plan:
    """What to send where. `bodies` and `headers` rotate; `~~~~~~` in them becomes the number of the call."""

    port: int
    path: str
    connections: int
    bodies: list[str]
    headers: list[dict[str, str]]
    duration_s: float = 0
    calls: int = 0
    stream: bool = False
    chunks: int = 0
    accept_status: tuple[int, ...] = (200,)
    first_number: int = 0


@dataclasses.dataclass(slots=True)
class Tally:
    """What came back. Times in seconds."""

    sent: int = 0
    whole_s: list[float] = dataclasses.field(default_factory=list)
    first_s: list[float] = dataclasses.field(default_factory=list)
    lag_s: list[float] = dataclasses.field(default_factory=list)
    failed: dict[str, int] = dataclasses.field(default_factory=dict)
    last_at: float = 0

    def fail(self, reason: str) -> None:
        self.failed[reason] = self.failed.get(reason, 0) + 1


def build_requests(plan: Plan) -> list[bytes]:
    """Every request as bytes, ready to write."""
    built = []
    for number in range(max(len(plan.bodies), len(plan.headers))):
        body = plan.bodies[number % len(plan.bodies)].encode()
        headers = {
            "Host": f"127.0.0.1:{plan.port}",
            "Accept": "application/json",
            "Content-Type": "application/json",
            "User-Agent": "OpenAI/Python 2.0.0",
            "X-Stainless-Lang": "python",
            "X-Stainless-Async": "async:asyncio",
            "X-Stainless-Retry-Count": "0",
            **plan.headers[number % len(plan.headers)],
            "Content-Length": str(len(body)),
        }
        head = (
            f"POST {plan.path} HTTP/1.1\r\n" + "".join(f"{k}: {v}\r\n" for k, v in headers.items()) + "\r\n"
        )
        built.append(head.encode() + body)
    return built


class Run:
    """The state that all connections of one run share."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.requests = build_requests(plan)
        self.tally = Tally()
        self.over = False
        self.numbered = _NUMBER in self.requests[0]
        self.paced = plan.stream and "bench-paced-" in plan.bodies[0]

    def next_request(self) -> bytes | None:
        """None when the run is over."""
        if self.over or (self.plan.calls and self.tally.sent >= self.plan.calls):
            return None
        number = self.plan.first_number + self.tally.sent
        self.tally.sent += 1
        request = self.requests[number % len(self.requests)]
        return request.replace(_NUMBER, b"%06d" % number) if self.numbered else request


class Client(asyncio.Protocol):
    """One connection. It opens again when the server closed it; that is only a failure inside a call."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.loop = asyncio.get_running_loop()
        self.done = self.loop.create_future()
        self.transport: asyncio.Transport | None = None
        self.in_call = False

    async def open(self) -> None:
        await self.loop.create_connection(lambda: self, "127.0.0.1", self.run.plan.port)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's class does not derive from it
        self.begin_call()

    def begin_call(self) -> None:
        request = self.run.next_request()
        if request is None:
            self.finish()
            return
        assert self.transport is not None
        self.parser = httptools.HttpResponseParser(self)
        self.body: list[bytes] = []
        self.first_at = 0.0
        self.in_call = True
        self.began_at = time.perf_counter()
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        if self.run.paced:
            now = time.monotonic_ns()
            self.run.tally.lag_s.extend((now - int(stamp)) / 1e9 for stamp in _STAMP.findall(data))
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError as error:
            self.run.tally.fail(f"not HTTP: {error}")
            assert self.transport is not None
            self.transport.abort()

    def on_body(self, body: bytes) -> None:
        if not self.body:
            self.first_at = time.perf_counter()
        self.body.append(body)

    def on_message_complete(self) -> None:
        now = time.perf_counter()
        self.in_call = False
        tally = self.run.tally
        reason = self.find_fault(self.parser.get_status_code(), b"".join(self.body))
        if reason:
            tally.fail(reason)
        else:
            tally.whole_s.append(now - self.began_at)
            tally.first_s.append(self.first_at - self.began_at)
            tally.last_at = now
        assert self.transport is not None
        if self.parser.should_keep_alive():
            self.begin_call()
        else:
            self.transport.close()

    def find_fault(self, status: int, body: bytes) -> str | None:
        """Why this answer does not count, or None: a broken answer must not look fast."""
        if status not in self.run.plan.accept_status:
            return f"status {status}: {body[:200].decode(errors='replace')}"
        if status == 200 and self.run.plan.stream:
            events = body.count(b"data: ")
            if b"data: [DONE]" not in body[-32:] or events < self.run.plan.chunks:
                return f"stream of {events} events without an end"
        elif status == 200 and b'"usage"' not in body:
            return "answer without usage"
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        if self.in_call:
            self.run.tally.fail(f"connection lost inside a call: {exc}")
            self.in_call = False
        if not self.done.done():
            if self.run.over:
                self.finish()
            else:
                self.loop.create_task(self.open())

    def finish(self) -> None:
        if not self.done.done():
            self.done.set_result(None)
        if self.transport is not None:
            self.transport.close()


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that `share` of all values do not exceed; NaN of none."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else math.nan


def in_ms(values: Sequence[float]) -> dict[str, float]:
    return {
        name: round(percentile(values, share) * 1000, 3)
        for name, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("max", 1.0))
    }


def describe(run: Run, began_at: float) -> dict[str, object]:
    tally = run.tally
    seconds = max(tally.last_at - began_at, 1e-9)
    return {
        "calls": len(tally.whole_s),
        "failed": sum(tally.failed.values()),
        "failures": dict(sorted(tally.failed.items(), key=lambda item: -item[1])[:5]),
        "seconds": round(seconds, 3),
        "calls_per_s": round(len(tally.whole_s) / seconds, 1),
        "whole_ms": in_ms(tally.whole_s),
        "first_ms": in_ms(tally.first_s),
        **({"lag_ms": in_ms(tally.lag_s), "stamps": len(tally.lag_s)} if run.paced else {}),
    }


async def run_plan(plan: Plan) -> dict[str, object]:
    """Open the connections, run until the time or the number of calls is up, wait for the last answers."""
    run = Run(plan)
    clients = [Client(run) for _ in range(plan.connections)]
    began_at = time.perf_counter()
    for number, client in enumerate(clients):
        await client.open()
        if run.paced and number % 10 == 9:
            await asyncio.sleep(random.uniform(0, 0.02))
    if plan.duration_s:
        asyncio.get_running_loop().call_later(plan.duration_s, setattr, run, "over", True)
    await asyncio.wait_for(asyncio.gather(*(client.done for client in clients)), plan.duration_s + 900)
    return describe(run, began_at)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(uvloop.run(run_plan(Plan(**json.load(sys.stdin))))) + "\n")
