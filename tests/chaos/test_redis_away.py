"""Two gateways on one Redis and one PostgreSQL: limits hold for both together, whatever becomes of Redis."""

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.fernet import Fernet

from engine.policies.shared_limits import BEAT_EVERY_S, LEASE_S
from engine.storage.embedded import EmbeddedDatabase
from tests.chaos.traffic import Answer, Load, ask, list_family, read_gauges, report, run_keys, wait_until
from tests.harness import Gateway, Simulator, running, write_files
from tests.homes import lend_database
from tests.valkey import Valkey, valkey

MODELS = {  # name: (limits, what the simulator is asked for)
    "counted": ("{key: {requests: {hour: 240}}, system: {requests: {hour: 100000}}}", "sim/tokens@3"),
    "outlived": ("{key: {requests: {hour: 100}, tokens: {hour: 1000000}, concurrency: 50}}", "sim/tokens@3"),
    "weighed": ("{user: {tokens: {hour: 12000}}}", "sim/tokens@40"),
    "held": ("{key: {concurrency: 3}}", "sim/tokens@2000+chunk-ms@50"),
    "free": ("{}", "sim/tokens@3"),
}
MOST_LONGER_S = 0.1


@dataclass
class Pair:
    a: Gateway
    b: Gateway
    redis: Valkey
    key: str

    @property
    def ports(self) -> tuple[int, int]:
        return self.a.port, self.b.port


def write_config(folder: Path, redis: Valkey, simulator: Simulator) -> None:
    models = "models:\n"
    files = {
        "gateway.yaml": f"redis: {redis.url}\nsimulator: {{enabled: false}}\ntelemetry: {{log_calls: false}}\n",
        "providers.d/near.yaml": (
            f"provider: near\nformat: openai-chat\nbase_url: {simulator.url}/v1\nallow_private: true\n"
            "auth: {bearer: key-near}\n"
        ),
    }
    for name, (limits, target) in MODELS.items():
        files[f"policies.d/{name}.yaml"] = f"policy: {name}\nextends: default\nlimits: {limits}\n"
        models += (
            f"  {name}: {{policy: {name}, price: {{input: '1', output: '2'}}, "
            f"targets: [{{provider: near, model: {target}}}]}}\n"
        )
    write_files(folder, files | {"models.d/m.yaml": models})


@pytest.fixture(scope="module")
def gateways(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Gateway, Gateway, Valkey, dict[str, str]]]:
    tmp_path = tmp_path_factory.mktemp("pair")
    database = EmbeddedDatabase(lend_database(tmp_path / "database"))
    environ = {
        "DATABASE_URL": asyncio.run(database.start()),
        "GATEWAYZ_KEYRING": Fernet.generate_key().decode(),
    }
    with ExitStack() as stack:
        stack.callback(lambda: asyncio.run(database.stop()))
        (tmp_path / "valkey").mkdir()
        redis = stack.enter_context(valkey(tmp_path / "valkey"))
        simulator = Simulator(tmp_path)
        pair = []
        for name in "ab":
            write_config(tmp_path / name, redis, simulator)
            pair.append(Gateway(tmp_path / name, **environ))
        stack.enter_context(running(simulator, *pair))
        yield pair[0], pair[1], redis, environ


@pytest.fixture
def pair(gateways: tuple[Gateway, Gateway, Valkey, dict[str, str]]) -> Pair:
    """Both, with a key of this test's own that both know."""
    a, b, redis, environ = gateways
    made = run_keys(a, "create", "--name", "k", **environ)
    for gateway in (a, b):
        wait_until(lambda gateway=gateway: read_redis(gateway) == "ok", 10)
        assert asyncio.run(ask(gateway.port, "free", key=made["key"])).done
    time.sleep(2 * BEAT_EVERY_S)  # so that each knows of the other
    return Pair(a, b, redis, made["key"])


def read_redis(gateway: Gateway) -> str:
    state: str = httpx.get(gateway.url + "/health/ready", timeout=5).json()["redis"]
    return state


async def hammer(pair: Pair, model: str, until_refused: int) -> list[Answer]:
    """Eight callers, four before each gateway, until so many refusals have come."""
    answers: list[Answer] = []

    async def call(port: int) -> None:
        while sum(answer.status == 429 for answer in answers) < until_refused:
            answers.append(await ask(port, model, key=pair.key, max_tokens=60))

    await asyncio.gather(*(call(pair.ports[at % 2]) for at in range(8)))
    return answers


def test_limits_of_two_gateways_hold_within_two_percent(pair: Pair) -> None:
    answers = asyncio.run(hammer(pair, "counted", 40))
    assert {answer.status for answer in answers} == {200, 429}
    let_in = sum(answer.done for answer in answers)
    assert 240 * 0.98 <= let_in <= 240

    answers = asyncio.run(hammer(pair, "weighed", 200))
    assert {answer.status for answer in answers} == {200, 429}
    used = sum(answer.json()["usage"]["total_tokens"] for answer in answers if answer.done)
    assert 12000 * 0.98 <= used <= 12000 * 1.02
    report("limits-shared", let_in=let_in, of=240, tokens=used, of_tokens=12000)


def restart(redis: Valkey) -> tuple[Callable[[], None], Callable[[], None]]:
    return redis.kill, redis.start


def freeze(redis: Valkey) -> tuple[Callable[[], None], Callable[[], None]]:
    return redis.freeze, redis.thaw


@pytest.mark.parametrize("outage", [restart, freeze])
def test_an_outage_of_redis_under_load_holds_nobody_up_and_multiplies_nothing(
    pair: Pair, outage: Callable[[Valkey], tuple[Callable[[], None], Callable[[], None]]]
) -> None:
    end, heal = outage(pair.redis)
    seen: list[str] = []

    async def live_through() -> list[Load]:
        calls: list[dict[str, Any]] = [
            {"model": "outlived", "key": pair.key},
            {"model": "free", "key": pair.key},
        ]
        async with AsyncExitStack() as stack:
            loads = [await stack.enter_async_context(Load(port, 24, calls)) for port in pair.ports]
            await asyncio.sleep(1.5)
            await asyncio.to_thread(end)
            await asyncio.sleep(1.0)
            seen.append(await asyncio.to_thread(read_redis, pair.b))
            seen.append(
                str((await asyncio.to_thread(read_gauges, pair.b))['gatewayz_dependency_up{name="redis"}'])
            )
            await asyncio.sleep(1.0)
            await asyncio.to_thread(heal)
            await asyncio.sleep(3.0)
            return loads

    loads = asyncio.run(live_through())
    answers = [(call["model"], answer) for load in loads for _, call, answer in load.answers]
    limited = [answer for model, answer in answers if model == "outlived"]
    free = [answer for model, answer in answers if model == "free"]
    statuses = Counter(answer.status for answer in limited)
    let_in, longest_s = statuses[200], max(answer.seconds for answer in limited)
    usual_s = max(answer.seconds for answer in free)
    client_late_s = max(load.late_s for load in loads)
    report(
        f"redis-{outage.__name__}",
        let_in=let_in, of=100, longest_s=longest_s, without_limits_s=usual_s, client_late_s=client_late_s,
    )  # fmt: skip
    assert seen == ["away", "0.0"]
    assert set(statuses) == {200, 429} and all(answer.done for answer in free)
    assert 85 <= let_in <= 102
    assert longest_s <= usual_s + MOST_LONGER_S
    for gateway in (pair.a, pair.b):
        wait_until(lambda gateway=gateway: read_redis(gateway) == "ok", 10)
        assert "redis is away" in gateway.read_log() and "redis is there" in gateway.read_log()


def count_leases(redis: Valkey) -> int:
    with redis.client as client:
        return sum(int(client.zcard(name)) for name in client.keys("*+key:*"))


def test_places_of_a_gateway_that_was_killed_come_back(pair: Pair) -> None:
    """The last one here: it leaves one gateway."""

    async def hold_and_kill() -> float:
        held = [
            asyncio.create_task(ask(pair.a.port, "held", key=pair.key, stream=True, max_tokens=5000))
            for _ in range(3)
        ]
        while count_leases(pair.redis) < 3:
            await asyncio.sleep(0.05)
        for pid in (*list_family(pair.a.process.pid), pair.a.process.pid):
            os.kill(pid, signal.SIGKILL)
        killed = time.monotonic()
        await asyncio.gather(*held)
        while True:
            answer = asyncio.create_task(ask(pair.b.port, "held", key=pair.key, stream=True))
            done, _ = await asyncio.wait({answer}, timeout=1.0)
            if not done:  # it is being answered, slowly
                answer.cancel()
                await asyncio.gather(answer, return_exceptions=True)
                return time.monotonic() - 1.0 - killed
            assert answer.result().status == 429
            await asyncio.sleep(0.1)

    back_s = asyncio.run(hold_and_kill())
    assert back_s < LEASE_S + 2
    report("leases-after-kill-9", back_after_s=back_s)
