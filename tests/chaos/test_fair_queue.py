"""One whole gateway with a queue under real load: a flood delays nobody but itself, classes get their shares, and who
leaves is out of the queue.
"""

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from cryptography.fernet import Fernet

from engine.storage.embedded import EmbeddedDatabase
from tests.chaos.traffic import (
    Answer,
    ask,
    count_simulated,
    read_gauges,
    report,
    run_keys,
    wait_until,
    write_request,
)
from tests.harness import Gateway, Simulator, running, write_files

ACTIVE = 10
SHARES = {"critical": 1.0, "high": 0.9, "medium": 0.7, "low": 0.5, "background": 0.3}
MODELS = {"quick": "sim/tokens@5+latency@200ms", "slow": "sim/tokens@5+latency@4s"}


@dataclass
class House:
    gateway: Gateway
    simulator: Simulator
    environ: dict[str, str]

    def make_key(self, name: str, plan: str = "") -> str:
        made = run_keys(self.gateway, "create", "--name", name, "--user", f"{name}@b.c", **self.environ)
        if plan:
            with psycopg.connect(self.environ["DATABASE_URL"]) as connection:
                connection.execute("UPDATE users SET plan = %s WHERE email = %s", (plan, f"{name}@b.c"))
        key: str = made["key"]
        assert asyncio.run(ask(self.gateway.port, "quick", key=key)).done
        return key

    def read_queue(self) -> tuple[float, float]:
        gauges = read_gauges(self.gateway)
        return gauges["gatewayz_queue_active"], gauges["gatewayz_queue_queued"]


def list_files(simulator: Simulator) -> dict[str, str]:
    models = "models:\n" + "".join(
        f"  {name}: {{price: {{input: '1', output: '2'}}, targets: [{{provider: near, model: {target}}}]}}\n"
        for name, target in MODELS.items()
    )
    plans = {f"policies.d/{name}.yaml": f"plan: plan-{name}\npriority: {name}\n" for name in SHARES}
    return plans | {
        "gateway.yaml": "simulator: {enabled: false}\ntelemetry: {log_calls: false}\n",
        "providers.d/near.yaml": (
            f"provider: near\nformat: openai-chat\nbase_url: {simulator.url}/v1\nallow_private: true\n"
            "auth: {bearer: key-near}\n"
        ),
        "policies.d/queue.yaml": (
            f"queue: default\nextends: default\nactive: {ACTIVE}\nqueued: 400\nwait_s: 60\nage_s: 600\n"
        ),
        "models.d/m.yaml": models,
    }


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("queue")
    database = EmbeddedDatabase(folder / "database")
    environ = {
        "DATABASE_URL": asyncio.run(database.start()),
        "GATEWAYZ_KEYRING": Fernet.generate_key().decode(),
    }
    simulator = Simulator(folder)
    try:
        gateway = Gateway(write_files(folder, list_files(simulator)), **environ)
        with running(simulator, gateway):
            yield House(gateway, simulator, environ)
    finally:
        asyncio.run(database.stop())


async def keep_asking(house: House, key: str, until: float, answers: list[Answer]) -> None:
    """One connection after another, each as soon as the last is answered."""
    while time.monotonic() < until:
        answers.append(await ask(house.gateway.port, "quick", key=key))


async def run_tenants(house: House, tenants: dict[str, int], seconds: float) -> dict[str, list[Answer]]:
    """Each key with so many connections at once."""
    answers: dict[str, list[Answer]] = {key: [] for key in tenants}
    until = time.monotonic() + seconds
    asking: list[Awaitable[None]] = [
        keep_asking(house, key, until, answers[key]) for key, count in tenants.items() for _ in range(count)
    ]
    await asyncio.gather(*asking)
    return answers


@pytest.mark.timeout(120)
def test_a_flood_of_two_hundred_connections_delays_one_with_two_by_a_turn(house: House) -> None:
    flood, small = house.make_key("flood"), house.make_key("small")
    alone = asyncio.run(run_tenants(house, {small: 2}, 2.0))[small]
    both = asyncio.run(run_tenants(house, {flood: 200, small: 2}, 10.0))
    usual_s = statistics.median(answer.seconds for answer in alone)
    flooded = statistics.median(answer.seconds for answer in both[flood])
    longest, middle = (pick(answer.seconds for answer in both[small]) for pick in (max, statistics.median))
    report(
        "fair-queue-flood", alone_s=usual_s, small_median_s=middle, small_longest_s=longest,
        flood_median_s=flooded, small_answers=len(both[small]), flood_answers=len(both[flood]),
    )  # fmt: skip
    assert all(answer.done for answers in both.values() for answer in answers)
    assert flooded > 8 * middle
    assert middle <= 3 * usual_s and longest <= flooded / 2
    assert len(both[small]) >= 2 * 10.0 / (3 * usual_s)


@pytest.mark.timeout(120)
def test_classes_get_their_shares_while_everybody_wants_more(house: House) -> None:
    keys = {name: house.make_key(f"of-{name}", f"plan-{name}") for name in SHARES}
    time.sleep(1.0)  # so that the worker knows of the plans
    answers = asyncio.run(run_tenants(house, dict.fromkeys(keys.values(), 40), 15.0))
    # those that were let in while all were waiting: what came after the end drains in the order of the classes
    counts = {name: sum(answer.done for answer in answers[key]) - 40 for name, key in keys.items()}
    told = {name: count / counts["critical"] for name, count in counts.items()}
    report("fair-queue-classes", **counts)
    assert all(answer.status == 200 for given in answers.values() for answer in given)
    for name, share in SHARES.items():
        assert told[name] == pytest.approx(share, rel=0.2), (counts, told)


async def leave_all(house: House, key: str, count: int) -> None:
    """So many callers of a model that takes four seconds, who hang up while they wait."""
    request = write_request(house.gateway.port, "slow", key=key)
    writers = []
    for _ in range(count):
        _, writer = await asyncio.open_connection("127.0.0.1", house.gateway.port)
        writer.write(request)
        await writer.drain()
        writers.append(writer)
    await wait_for(lambda: house.read_queue() == (ACTIVE, count))
    for writer in writers:
        writer.close()


async def wait_for(true: Callable[[], Any]) -> float:
    return await asyncio.to_thread(wait_until, true, 3.0)


@pytest.mark.timeout(120)
def test_a_caller_who_leaves_the_queue_frees_the_place_in_it(house: House) -> None:
    holder, leaver, next_ = (house.make_key(name) for name in ("holder", "leaver", "next"))
    before = count_simulated(house.simulator)["calls"]

    async def live() -> tuple[list[Answer], Answer, float]:
        held = [asyncio.create_task(ask(house.gateway.port, "slow", key=holder)) for _ in range(ACTIVE)]
        await wait_for(lambda: house.read_queue()[0] == ACTIVE)
        await leave_all(house, leaver, 50)
        gone_s = await wait_for(lambda: house.read_queue() == (ACTIVE, 0))
        answer = await ask(house.gateway.port, "quick", key=next_)
        return await asyncio.gather(*held), answer, gone_s

    held, answer, gone_s = asyncio.run(live())
    after = count_simulated(house.simulator)["calls"]
    report("fair-queue-left", gone_after_s=gone_s, next_waited_s=answer.seconds)
    assert all(each.done for each in held) and answer.done
    assert gone_s < 2.0  # gauges are gathered once a second
    assert answer.seconds < 6.0
    assert after - before == ACTIVE + 1
    wait_until(lambda: house.read_queue() == (0, 0), 3.0)
