"""SIGTERM with calls that would last longer than the drain: announced, refused, ended in-band, settled, exit 0."""

import asyncio
import signal
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.chaos.traffic import Answer, ask, list_processes, list_records, report
from tests.harness import Gateway, Simulator, read_events, running, write_files

MODELS = {
    "endless": "sim/tokens@5000+chunk-ms@20",
    "slow": "sim/slow@60s",
    "thinks": "sim/slow-first-token@60s",
    "brief": "sim/tokens@50+chunk-ms@20",
}


def write_config(folder: Path, simulator: str, announce_s: float, finish_s: float) -> None:
    files = {
        "gateway.yaml": (
            f"server: {{drain: {{announce_s: {announce_s}, finish_s: {finish_s}}}}}\n"
            "limits: {without_redis: divide}\n"
        ),
        "providers.d/far.yaml": (
            f"provider: far\nformat: openai-chat\nbase_url: {simulator}/v1\nallow_private: true\n"
            "auth: {bearer: key-far1}\n"
        ),
    }
    for name, target in MODELS.items():
        files[f"models.d/{name}.yaml"] = (
            f"models: {{{name}: {{price: {{input: '1', output: '2'}}, "
            f"targets: [{{provider: far, model: {target}}}]}}}}\n"
        )
    write_files(folder, files)


async def try_ready(gateway: Gateway) -> int:
    async with httpx.AsyncClient() as client:
        try:
            return (await client.get(gateway.url + "/health/ready", timeout=2)).status_code
        except httpx.TransportError:
            return 0


async def open_calls(gateway: Gateway) -> dict[str, asyncio.Task[Answer]]:
    calls: dict[str, dict[str, Any]] = {
        "endless": {"stream": True},
        "slow": {"stream": False},
        "thinks": {"stream": True},
    }
    tasks = {
        f"{model}-{number}": asyncio.create_task(ask(gateway.port, model, **options))
        for model, options in calls.items()
        for number in range(3)
    }
    await asyncio.sleep(0.5)
    return tasks


async def leave_with_open_calls(gateway: Gateway) -> tuple[dict[str, Answer], list[tuple[float, int]], float]:
    """The answers of all open calls, what readiness said when, and how long the process took to leave."""
    tasks = await open_calls(gateway)
    gateway.process.send_signal(signal.SIGTERM)
    began, readiness = time.monotonic(), []
    await asyncio.sleep(0.3)
    tasks["brief"] = asyncio.create_task(ask(gateway.port, "brief", stream=True))  # the port is still open
    while time.monotonic() - began < 2.0:
        readiness.append((time.monotonic() - began, await try_ready(gateway)))
        await asyncio.sleep(0.1)
    answers = {name: await task for name, task in tasks.items()}
    code = await asyncio.to_thread(gateway.process.wait, 20)
    assert code == 0
    return answers, readiness, time.monotonic() - began


def judge_answers(answers: dict[str, Answer]) -> None:
    assert answers["brief"].done, answers["brief"]
    for number in range(3):
        endless = answers[f"endless-{number}"]
        events = read_events(endless.text)
        assert endless.status == 200 and endless.whole
        assert [bool(event.get("error")) for event in events] == [False] * (len(events) - 1) + [True]
        assert events[-1]["error"]["code"] == "shutting_down"
        for name in ("slow", "thinks"):
            refused = answers[f"{name}-{number}"]
            assert refused.status == 503 and refused.whole, refused
            assert refused.json()["error"]["code"] == "shutting_down" and "retry-after" in refused.headers


def judge_records(gateway: Gateway, answers: dict[str, Answer]) -> None:
    records = {record["request_id"]: record for record in list_records(gateway)}
    assert len(records) == len(answers)
    for name, answer in answers.items():
        record = records[answer.request_id]
        assert record["status"] == ("ok" if name == "brief" else "interrupted"), record
        delivered = name.startswith(("brief", "endless"))
        assert (Decimal(record["cost_usd"]) > 0) == delivered, record


@pytest.mark.parametrize("workers", [2])
def test_sigterm_announces_refuses_ends_in_band_settles_and_exits_0(tmp_path: Path, workers: int) -> None:
    simulator = Simulator(tmp_path)
    write_config(tmp_path, simulator.url, 1, 2)
    gateway = Gateway(tmp_path, workers=workers)
    with running(simulator):
        gateway.await_ready()
        answers, readiness, left_s = asyncio.run(leave_with_open_calls(gateway))
        gateway.log.close()
        judge_answers(answers)
        assert all(status == 503 for at, status in readiness if 0.15 < at < 0.9), readiness
        assert all(status == 0 for at, status in readiness if at > 1.3), readiness
        assert 2.9 < left_s < 6
        report("sigterm", left_after_s=left_s, readiness=[status for _, status in readiness])
        again = Gateway(tmp_path, workers=workers)
        with running(again):
            judge_records(again, answers)


def test_a_second_sigterm_ends_open_calls_at_once(tmp_path: Path) -> None:
    simulator = Simulator(tmp_path)
    write_config(tmp_path, simulator.url, 0, 60)
    gateway = Gateway(tmp_path)

    async def leave() -> dict[str, Answer]:
        tasks = await open_calls(gateway)
        gateway.process.send_signal(signal.SIGTERM)
        await asyncio.sleep(0.5)
        assert not any(task.done() for task in tasks.values())
        gateway.process.send_signal(signal.SIGTERM)
        return {name: await task for name, task in tasks.items()}

    with running(simulator):
        gateway.await_ready()
        answers = asyncio.run(leave())
        began = time.monotonic()
        assert gateway.process.wait(10) == 0
        assert time.monotonic() - began < 4
        gateway.log.close()
        assert {answer.status for name, answer in answers.items() if "endless" not in name} == {503}
        assert all(answer.whole for answer in answers.values())
        assert not [command for _, command in list_processes().values() if str(tmp_path / "home") in command]


def test_sigterm_while_other_workers_still_start_lets_calls_finish(tmp_path: Path) -> None:
    simulator = Simulator(tmp_path)
    write_config(tmp_path, simulator.url, 0, 10)
    gateway = Gateway(tmp_path, workers=4)

    async def leave() -> Answer:
        call = asyncio.create_task(ask(gateway.port, "brief", stream=True))
        await asyncio.sleep(0.1)
        gateway.process.send_signal(signal.SIGTERM)
        return await call

    with running(simulator):
        gateway.await_ready()
        assert asyncio.run(leave()).done
        assert gateway.process.wait(15) == 0
        gateway.log.close()
