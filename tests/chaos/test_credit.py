"""Money under load: parallel callers, workers that are killed, a database that goes away. Each answer is paid once."""

import asyncio
import contextlib
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest
from cryptography.fernet import Fernet

from engine.storage.embedded import EmbeddedDatabase
from tests.chaos.test_database_away import External, freeze
from tests.chaos.traffic import ask, list_simulated, list_workers, report, run_keys, wait_until
from tests.harness import Gateway, Simulator, clean_environment, running, write_files

OUTPUT = 20
PRICE = Decimal("0.0005")
"""Of one token that is written; the prompt costs nothing, so that the true cost is known."""
COST = OUTPUT * PRICE
HOLD = 5 * COST
SERVES_AFTER_S = 1.5
"""Since a worker was there first."""


def write_config(folder: Path, simulator: Simulator) -> None:
    write_files(
        folder,
        {
            "gateway.yaml": "limits: {without_redis: divide}\nsimulator: {enabled: false}\n"
            "telemetry: {log_calls: false}\n",
            "providers.d/near.yaml": f"provider: near\nformat: openai-chat\nbase_url: {simulator.url}/v1\n"
            "allow_private: true\nauth: {bearer: key-near}\n",
            "models.d/m.yaml": "models:\n  priced:\n    price: {input: '0', output: '500'}\n"
            f"    targets: [{{provider: near, model: sim/tokens@{OUTPUT}+chunk-ms@5}}]\n",
        },
    )


class House:
    """One database, one simulator, any number of gateways on them."""

    def __init__(self, folder: Path, gateways: int, workers: int) -> None:
        self.external = External(folder / "elsewhere")
        self.environ = {
            "DATABASE_URL": self.external.url,
            "GATEWAYZ_KEYRING": Fernet.generate_key().decode(),
        }
        self.simulator = Simulator(folder)
        self.gateways = []
        for number in range(gateways):
            write_config(folder / f"g{number}", self.simulator)
            self.gateways.append(Gateway(folder / f"g{number}", workers=workers, **self.environ))

    def make_key(self, credit: str) -> str:
        made = run_keys(
            self.gateways[0], "create", "--name", "k", "--user", "a@b.c", "--credit", credit, **self.environ
        )
        return str(made["key"])

    def query(self, text: str) -> Any:
        with psycopg.connect(self.external.url) as connection:
            row = connection.execute(text).fetchone()
        assert row is not None
        return row[0]

    def read_spent(self) -> Decimal:
        spent = self.query(
            "SELECT coalesce(sum(balance_usd), 0) FROM ledger_accounts WHERE id = 'house:usage'"
        )
        return Decimal(spent)

    def read_paid_calls(self) -> dict[str, Decimal]:
        """What was paid for each call, by its id; a call that was paid twice would be here with the double."""
        with psycopg.connect(self.external.url) as connection:
            rows = connection.execute(
                "SELECT substr(m.ref, 6), sum(e.amount_usd) FROM ledger_movements m"
                " JOIN ledger_entries e ON e.movement_id = m.id"
                " WHERE m.kind = 'api_usage' AND e.account = 'house:usage' GROUP BY m.ref"
            ).fetchall()
        return dict(rows)

    def await_dead_leases_closed(self, within_s: float = 20.0) -> None:
        """Until only workers that live have leases."""
        living = sum(len(list_workers(gateway)) for gateway in self.gateways)
        wait_until(lambda: self.query("SELECT count(*) FROM lease_workers") <= living, within_s)

    def await_rest(self, within_s: float = 15.0) -> None:
        """Until what was called is posted and nothing is leased to calls that run."""
        before, until = Decimal(-1), time.monotonic() + within_s
        while time.monotonic() < until:
            spent = self.read_spent()
            if spent == before and not self.query("SELECT count(*) FROM open_holds"):
                return
            before = spent
            time.sleep(1)
        raise AssertionError("the ledger does not come to rest")

    def verify(self) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "engine.cli", "ledger", "verify"],
            env=clean_environment(**self.environ, GATEWAYZ_HOME=str(self.gateways[0].folder / "cli")),
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr


@contextmanager
def open_house(folder: Path, gateways: int, workers: int) -> Iterator[House]:
    house = House(folder, gateways, workers)
    try:
        with running(house.simulator, *house.gateways):
            yield house
    finally:
        asyncio.run(house.external.server.stop())


class Callers:
    """Callers in this process: each answer by its status, and the ids of the whole ones."""

    def __init__(self, house: House, key: str) -> None:
        self.ports = [gateway.port for gateway in house.gateways]
        self.key = key
        self.statuses: Counter[str] = Counter()
        self.delivered: list[str] = []
        self.refused: list[str] = []
        """What those who got a 402 were told."""

    async def ask(self) -> str:
        """One call; what came of it: a status, with its code when it is no good, `cut`, or `broke`."""
        port = random.choice(self.ports)
        answer = await ask(port, "priced", key=self.key, max_tokens=5 * OUTPUT, stream=True)
        outcome = str(answer.status)
        if answer.status == 0:
            outcome = "broke"
        elif answer.done:
            self.delivered.append(answer.request_id)
        elif answer.status == 200 or not answer.whole:
            outcome = "cut"
        else:
            error = answer.json()["error"]
            outcome += f" {error['code']}"
            if answer.status == 402:
                self.refused.append(error["message"])
        self.statuses[outcome] += 1
        return outcome

    async def run(self, callers: int, goes_on: Any) -> None:
        """So many callers at once, each until `goes_on` says no to what it heard."""

        async def loop() -> None:
            while goes_on(await self.ask()):
                await asyncio.sleep(random.uniform(0.05, 0.4))

        await asyncio.gather(*(loop() for _ in range(callers)))


@pytest.mark.parametrize(
    "callers_at_once",
    [pytest.param(200, id="short"), pytest.param(1000, id="long", marks=pytest.mark.slow)],
)
@pytest.mark.timeout(600)
def test_callers_at_once_on_eight_workers_spend_a_dollar_and_not_more(
    tmp_path: Path, callers_at_once: int
) -> None:
    with open_house(tmp_path, gateways=2, workers=4) as house:
        callers = Callers(house, house.make_key("1"))

        def goes_on(outcome: str) -> bool:
            return outcome.startswith("429")  # each has one call, which it repeats

        began = time.monotonic()
        asyncio.run(callers.run(callers_at_once, goes_on))
        seconds = time.monotonic() - began
        house.await_rest()
        spent = house.read_spent()
        report(f"credit-dollar[{callers_at_once}]", spent=spent, seconds=seconds, **callers.statuses)
        assert set(callers.statuses) <= {"200", "429 credit_in_use", "402 insufficient_credits"}
        assert callers.statuses["200"] + callers.statuses["402 insufficient_credits"] == callers_at_once
        assert spent == len(callers.delivered) * COST
        assert Decimal("0.95") <= spent <= 1, (spent, callers.statuses)
        # Whoever was refused for good was told a balance that is no hold any more: it never rises here.
        assert callers.refused and max(map(read_balance, callers.refused)) < HOLD
        assert len(list_simulated(house.simulator)) == len(callers.delivered)
        house.verify()


def read_balance(refusal: str) -> Decimal:
    """What a 402 says there is."""
    found = re.search(r"the balance is ([0-9.]+) USD", refusal)
    assert found, refusal
    return Decimal(found[1])


async def kill_workers(house: House, callers: Callers, kills: int, at_once: int = 24) -> None:
    """Callers that never stop while one serving worker after another is killed at a random moment of its answers."""
    killed = delivered = 0
    first_seen: dict[int, float] = {}

    def goes_on(outcome: str) -> bool:
        return killed < kills

    calling = asyncio.create_task(callers.run(at_once, goes_on))
    while killed < kills:
        await asyncio.sleep(random.uniform(0.02, 0.4))
        now = time.monotonic()
        workers = await asyncio.to_thread(list_workers, random.choice(house.gateways))
        serving = [pid for pid in workers if now - first_seen.setdefault(pid, now) > SERVES_AFTER_S]
        if serving and len(callers.delivered) > delivered:  # else nothing is under load
            with contextlib.suppress(ProcessLookupError):
                os.kill(random.choice(serving), signal.SIGKILL)
                killed, delivered = killed + 1, len(callers.delivered)
    await calling


@pytest.mark.parametrize(
    "kills",
    [pytest.param(8, id="short"), pytest.param(200, id="long", marks=pytest.mark.slow)],
)
@pytest.mark.timeout(1200)
def test_a_worker_killed_at_any_moment_leaves_each_answer_paid_once_and_nothing_held(
    tmp_path: Path, kills: int
) -> None:
    with open_house(tmp_path, gateways=2, workers=2) as house:
        callers = Callers(house, house.make_key("100000"))
        asyncio.run(kill_workers(house, callers, kills))
        for gateway in house.gateways:
            wait_until(lambda gateway=gateway: len(list_workers(gateway)) == 2, 30)  # type: ignore[misc]
        house.await_rest()
        house.await_dead_leases_closed()

        paid = house.read_paid_calls()
        missing = [call for call in callers.delivered if paid.get(call) != COST]
        assert not missing, f"{len(missing)} answers of {len(callers.delivered)} are not paid once"
        # What was cut costs nothing, or what was delivered of it; nobody pays what no provider was asked for.
        assert set(paid.values()) <= {number * PRICE for number in range(1, OUTPUT + 1)}
        assert len(paid) <= len(list_simulated(house.simulator))
        assert house.read_spent() == sum(paid.values())
        assert house.query("SELECT coalesce(sum(cost_usd), 0) FROM call_records") == sum(paid.values())
        assert house.query("SELECT balance_usd FROM ledger_accounts WHERE id LIKE 'credit:%'") == (
            100000 - house.read_spent()
        )
        house.verify()
        for gateway in house.gateways:
            assert gateway.stop() == 0
        assert house.query("SELECT count(*) FROM leases") == 0, "something is held for ever"
        assert house.query("SELECT count(*) FROM lease_workers") == 0
        report(f"credit-kills[{kills}]", delivered=len(callers.delivered), **callers.statuses)


@pytest.mark.parametrize(
    ("hangs", "away_s"),
    [
        pytest.param(True, 7, id="hangs"),
        pytest.param(False, 7, id="dies"),
        pytest.param(False, 62, id="dies for a minute", marks=pytest.mark.slow),
        pytest.param(True, 62, id="hangs for a minute", marks=pytest.mark.slow),
    ],
)
@pytest.mark.timeout(300)
def test_while_the_database_is_away_leases_are_spent_and_the_ledger_knows_it_all_afterwards(
    tmp_path: Path, hangs: bool, away_s: float
) -> None:
    with open_house(tmp_path, gateways=2, workers=2) as house:
        callers = Callers(house, house.make_key("100000"))
        ended = False

        def goes_on(outcome: str) -> bool:
            return not ended

        async def live_through() -> Counter[str]:
            nonlocal ended
            calling = asyncio.create_task(callers.run(12, goes_on))
            await asyncio.sleep(2)
            outage = freeze(house.external.server.home) if hangs else None
            (outage.end if outage else house.external.stop)()
            before = Counter(callers.statuses)
            await asyncio.sleep(away_s)
            during = callers.statuses - before
            if outage is not None:
                outage.heal()
            else:
                await EmbeddedDatabase._launch(house.external.server)
            await asyncio.sleep(3)
            ended = True
            await calling
            return during

        during = asyncio.run(live_through())
        assert during["200"], "the leases were not spent"
        assert set(callers.statuses) <= {"200", "503 database_unavailable"}, callers.statuses
        house.await_rest()
        seen = list_simulated(house.simulator)
        produced = sum(call["usage"]["completion_tokens"] for call in seen)
        assert len(seen) == len(callers.delivered)
        assert house.read_spent() == produced * PRICE
        assert house.read_paid_calls() == dict.fromkeys(callers.delivered, COST)
        house.verify()
        report(f"credit-away[{away_s} s]", during=dict(during), delivered=len(callers.delivered))
