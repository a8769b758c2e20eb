"""PostgreSQL goes away under load: known keys go on, unknown ones get 503, and no record is lost or doubled."""

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.fernet import Fernet

from engine.storage.embedded import EmbeddedDatabase
from tests.chaos.traffic import (
    Load,
    ask,
    list_records,
    list_workers,
    report,
    run_keys,
    wait_until,
)
from tests.harness import Gateway, Simulator, running, write_files
from tests.homes import lend_database

NOTICED_S = 6.5
STRANGER = "gw_live_" + "x" * 43


def write_config(folder: Path, simulator: str) -> None:
    files = {
        "gateway.yaml": "limits: {without_redis: divide}\nsimulator: {enabled: false}\n",
        "providers.d/far.yaml": (
            f"provider: far\nformat: openai-chat\nbase_url: {simulator}/v1\nallow_private: true\n"
            "auth: {bearer: key-far1}\n"
        ),
        "models.d/m.yaml": (
            "models:\n"
            "  stream: {price: {input: '1', output: '2'}, "
            "targets: [{provider: far, model: sim/tokens@20+chunk-ms@10}]}\n"
            "  plain: {price: {input: '1', output: '2'}, targets: [{provider: far, model: sim/tokens@5}]}\n"
        ),
    }
    write_files(folder, files)


def read_readiness(gateway: Gateway) -> tuple[int, dict[str, Any]]:
    response = httpx.get(gateway.url + "/health/ready", timeout=5)
    return response.status_code, response.json()


def ask_now(gateway: Gateway, key: str) -> tuple[int, str]:
    answer = asyncio.run(ask(gateway.port, "plain", key=key))
    return answer.status, answer.text


def ask_every_worker(gateway: Gateway, key: str, times: int = 12) -> set[int]:
    """Statuses over so many connections that every worker had one."""

    async def many() -> list[int]:
        return [
            answer.status
            for answer in await asyncio.gather(*(ask(gateway.port, "plain", key=key) for _ in range(times)))
        ]

    return set(asyncio.run(many()))


class Outage:
    """What goes away and comes back."""

    def __init__(self, end: Callable[[], None], heal: Callable[[], None]) -> None:
        self.end, self.heal = end, heal


def find_postmaster(home: Path) -> int:
    return int((home / "postgres/postmaster.pid").read_text().split()[0])


def list_servers(home: Path) -> list[int]:
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.readlink(f"/proc/{name}/cwd") == str(home / "postgres"):
                found.append(int(name))
        except OSError:
            continue
    return found


def freeze(home: Path) -> Outage:
    """The server hangs: connections open, nothing answers."""
    stopped: list[int] = []

    def end() -> None:
        stopped.extend(list_servers(home))
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)

    def heal() -> None:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)

    return Outage(end, heal)


def kill_for_a_while(home: Path) -> Outage:
    """The server dies and cannot come back until something is put right."""
    control = home / "postgres/global/pg_control"

    def end() -> None:
        control.rename(control.with_suffix(".away"))
        os.kill(find_postmaster(home), signal.SIGKILL)

    def heal() -> None:
        control.with_suffix(".away").rename(control)

    return Outage(end, heal)


async def live_through(
    gateway: Gateway, outage: Outage, key: str, seconds: float, kills: bool, per_second: float = 20
) -> dict[str, Any]:
    """An outage under load; what callers saw."""
    calls: list[dict[str, Any]] = [
        {"model": "stream", "stream": True, "key": key},
        {"model": "plain", "key": key},
    ]
    strangers: list[tuple[float, int]] = []
    readiness: list[tuple[float, str]] = []
    born_in_outage: set[int] = set()
    async with Load(gateway.port, per_second, calls) as load:
        await asyncio.sleep(1)
        outage.end()
        began, before = time.monotonic(), set(list_workers(gateway))
        if kills:
            await asyncio.sleep(1.5)
            os.kill(min(before), signal.SIGKILL)
        while time.monotonic() - began < seconds:
            at = time.monotonic() - began
            strangers.append((at, (await ask(gateway.port, "plain", key=STRANGER)).status))
            readiness.append((at, (await asyncio.to_thread(read_readiness, gateway))[1]["status"]))
            await asyncio.sleep(0.25)
        born_in_outage = set(list_workers(gateway)) - before
        outage.heal()
        await asyncio.sleep(1)
    failed = [answer for _, _, answer in load.answers if not answer.done]
    cut = [answer for answer in failed if answer.status in (0, 200)]
    assert len(cut) == len(failed), [answer for answer in failed if answer.status not in (0, 200)][:3]
    assert bool(cut) <= kills, "only a killed worker may cut its own calls"
    # A server that hangs is known to be away when it has not answered for NOTICED_S.
    assert {status for _, status in strangers} == {503}, strangers
    late = NOTICED_S if seconds > NOTICED_S else 2
    assert {status for at, status in readiness if at > late} == {"degraded"}, readiness
    if kills:
        assert born_in_outage
    return {
        "calls": len(load.answers),
        "cut_by_the_kill": len(cut),
        "strangers": dict(Counter(status for _, status in strangers)),
        "answers": [answer for _, _, answer in load.answers],
    }


def is_ok_everywhere(gateway: Gateway) -> bool:
    return {read_readiness(gateway)[1]["status"] for _ in range(8)} == {"ok"}


def judge_afterwards(gateway: Gateway, answers: list[Any]) -> float:
    """Readiness is ok again, and every answer has exactly one record; the seconds until that was so."""
    wanted = {answer.request_id for answer in answers if answer.status == 200}
    began = time.monotonic()
    wait_until(lambda: is_ok_everywhere(gateway), 20, "not ready again")
    back_s = time.monotonic() - began
    wait_until(
        lambda: wanted <= {record["request_id"] for record in list_records(gateway)},
        10,
        "records are missing",
    )
    records = list_records(gateway)
    counts = Counter(record["request_id"] for record in records)
    assert set(counts.values()) == {1}
    done = {answer.request_id for answer in answers if answer.done}
    assert {record["status"] for record in records if record["request_id"] in done} == {"ok"}
    return back_s


def prove_keys_change_at_once(gateway: Gateway, key_id: str, key: str, **environ: str) -> None:
    made = run_keys(gateway, "create", "--name", "fresh", **environ)
    assert ask_every_worker(gateway, made["key"]) == {200}, "a new key works at once"
    assert ask_every_worker(gateway, key) == {200}
    run_keys(gateway, "revoke", key_id, **environ)
    time.sleep(1.0)
    assert ask_every_worker(gateway, key) == {401}, "a revoked key is refused everywhere within a second"


def await_key_cache(gateway: Gateway, made: dict[str, Any]) -> None:
    """A key in use is written down for workers to come within five seconds."""
    file = gateway.folder / "home/keys.cache"

    def is_written() -> bool:
        assert ask_every_worker(gateway, made["key"]) == {200}
        return file.exists() and made["id"].encode() in file.read_bytes()

    wait_until(is_written, 10, "keys.cache does not hold the key")


@pytest.mark.parametrize(
    ("how", "seconds", "kills"),
    [
        (kill_for_a_while, 4.0, True),
        pytest.param(freeze, 9.0, False, marks=pytest.mark.slow),
        pytest.param(freeze, 40.0, True, marks=[pytest.mark.slow, pytest.mark.timeout(240)]),
        pytest.param(kill_for_a_while, 45.0, True, marks=[pytest.mark.slow, pytest.mark.timeout(240)]),
    ],
)
def test_the_embedded_database_goes_away_under_load(
    tmp_path: Path, how: Callable[[Path], Outage], seconds: float, kills: bool
) -> None:
    simulator = Simulator(tmp_path)
    write_config(tmp_path, simulator.url)
    gateway = Gateway(tmp_path, workers=2)
    with running(simulator, gateway):
        made = run_keys(gateway, "create", "--name", "known")
        await_key_cache(gateway, made)
        outage = how(tmp_path / "home")
        found = asyncio.run(live_through(gateway, outage, made["key"], seconds, kills))
        back_s = judge_afterwards(gateway, found.pop("answers"))
        report(f"embedded-away[{how.__name__}, {seconds:g} s]", **found, ok_again_after_s=back_s)
        prove_keys_change_at_once(gateway, made["id"], made["key"])


def test_a_killed_postmaster_is_back_with_every_record_and_nobody_noticed(tmp_path: Path) -> None:
    simulator = Simulator(tmp_path)
    write_config(tmp_path, simulator.url)
    gateway = Gateway(tmp_path)

    async def kill_thrice(key: str) -> list[Any]:
        calls: list[dict[str, Any]] = [
            {"model": "stream", "stream": True, "key": key},
            {"model": "plain", "key": key},
        ]
        async with Load(gateway.port, 30, calls) as load:
            for _ in range(3):
                await asyncio.sleep(0.7)
                os.kill(find_postmaster(tmp_path / "home"), signal.SIGKILL)
                await asyncio.sleep(0.8)
        return [answer for _, _, answer in load.answers]

    with running(simulator, gateway):
        key = run_keys(gateway, "create", "--name", "known")["key"]
        assert ask_now(gateway, key)[0] == 200
        answers = asyncio.run(kill_thrice(key))
        assert all(answer.done for answer in answers)
        back_s = judge_afterwards(gateway, answers)
        report("postmaster-kill-9[3]", calls=len(answers), failed=0, ok_again_after_s=back_s)


class External:
    """A PostgreSQL that belongs to nobody's gateway."""

    def __init__(self, folder: Path) -> None:
        self.server = EmbeddedDatabase(lend_database(folder))
        self.url = asyncio.run(self.server.start())

    def stop(self) -> None:
        process = self.server._process
        assert process is not None
        process.send_signal(signal.SIGQUIT)
        process.wait(10)

    def start(self) -> None:
        asyncio.run(EmbeddedDatabase._launch(self.server))


@pytest.mark.parametrize(
    "seconds", [3.5, pytest.param(60.0, marks=[pytest.mark.slow, pytest.mark.timeout(240)])]
)
def test_an_external_database_goes_away_under_load_and_a_gateway_starts_without_it(
    tmp_path: Path, seconds: float
) -> None:
    simulator = Simulator(tmp_path)
    write_config(tmp_path, simulator.url)
    external = External(tmp_path / "elsewhere")
    environ: dict[str, Any] = {
        "DATABASE_URL": external.url,
        "GATEWAYZ_KEYRING": Fernet.generate_key().decode(),
    }
    gateway = Gateway(tmp_path, workers=2, **environ)

    async def restart_in_outage(outage: Outage, key: str) -> dict[str, Any]:
        return await live_through(gateway, outage, key, seconds, True)

    try:
        with running(simulator, gateway):
            made = run_keys(gateway, "create", "--name", "known", **environ)
            await_key_cache(gateway, made)
            healed: list[float] = []
            outage = Outage(external.stop, lambda: healed.append(time.monotonic()))
            found = asyncio.run(restart_in_outage(outage, made["key"]))
            answers = found.pop("answers")

            assert gateway.stop() == 0, "it leaves in order without its database"
            gateway = Gateway(tmp_path, workers=2, **environ).await_ready()
            started_s = gateway.ready_after_s
            try:
                assert ask_every_worker(gateway, made["key"]) == {200}
                assert ask_now(gateway, STRANGER)[0] == 503
                assert read_readiness(gateway)[1]["status"] == "degraded"
                external.start()
                back_s = judge_afterwards(gateway, answers)
                report(
                    f"external-away[{seconds:g} s]",
                    **found,
                    started_without_it_in_s=started_s,
                    ok_again_after_s=back_s,
                )
                prove_keys_change_at_once(gateway, made["id"], made["key"], **environ)
            finally:
                gateway.stop()
    finally:
        asyncio.run(external.server.stop())
