"""Reloads under constant load on the very things that change: nobody who asks for what stays ever notices."""

import asyncio
import json
import multiprocessing
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from engine.config.reload import ConfigWatch, Loader
from engine.config.settings import read_settings
from tests.chaos.traffic import (
    Load,
    admin,
    ask,
    ask_admin,
    list_workers,
    percentile,
    read_rss_mib,
    report,
)
from tests.harness import Gateway, Simulator, clean_environment, running, write_files

STAYS: list[dict[str, Any]] = [
    {"model": "steady", "stream": True},
    {"model": "steady"},
    {"model": "long", "stream": True},
]
GUESTS = ("visiting", "visiting-2")
COMES_AND_GOES: list[dict[str, Any]] = [{"model": "guest", "stream": True}]


def replace_file(path: Path, text: str | None) -> None:
    """In one step, as an editor or a mounted volume does it; None removes it."""
    if text is None:
        path.unlink(missing_ok=True)
        return
    beside = path.with_suffix(".new")
    beside.write_text(text)
    os.replace(beside, path)


class Reader:
    """Reads the configuration's revision in a process of its own, so that nothing here delays the clients."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))

    async def read_revision(self) -> str:
        return await asyncio.get_running_loop().run_in_executor(self.pool, read_revision, self.folder)


def read_revision(folder: Path) -> str:
    return make_loader(folder).read()["version"]


@cache
def make_loader(folder: Path) -> Loader:
    settings = read_settings(config=folder / "gateway.yaml", home=folder / "reader")
    return Loader(settings, clean_environment())


class Configuration:
    """Files that are changed, broken, renamed, deleted and brought back, round after round."""

    def __init__(self, folder: Path, simulator: str) -> None:
        self.folder, self.simulator = folder, simulator
        write_files(folder, {"gateway.yaml": "limits: {without_redis: divide}\n"})
        for kind in ("providers.d", "models.d", "policies.d"):
            (folder / kind).mkdir(exist_ok=True)
        self.write_good(0)
        self.write_guest("guest", "visiting")

    def path(self, name: str) -> Path:
        return self.folder / name

    def provider(self, name: str, number: int) -> str:
        return (
            f"provider: {name}\nformat: openai-chat\nbase_url: {self.simulator}/v1\nallow_private: true\n"
            f"auth: {{bearer: key-{name}}}\nheaders: {{x-number: 'n{number}'}}\n"
        )

    def models(self, number: int) -> str:
        return (
            "models:\n"
            f"  steady: {{policy: busy, price: {{input: '1', output: '{1 + number}'}}, "
            "targets: [{provider: alpha, model: sim/tokens@8}]}\n"
            f"  long: {{policy: busy, price: {{input: '1', output: '{1 + number}'}}, "
            "targets: [{provider: alpha, model: sim/tokens@30+chunk-ms@20}]}\n"
        )

    def policy(self, number: int) -> str:
        return f"policy: busy\nextends: default\nassume_output_tokens: {1000 + number}\n"

    def write_good(self, number: int) -> None:
        replace_file(self.path("providers.d/alpha.yaml"), self.provider("alpha", number))
        replace_file(self.path("models.d/steady.yaml"), self.models(number))
        replace_file(self.path("policies.d/busy.yaml"), self.policy(number))

    def write_guest(self, model: str | None, provider: str) -> None:
        for name in GUESTS:
            text = self.provider(name, 0) if model and name == provider else None
            replace_file(self.path(f"providers.d/{name}.yaml"), text)
        text = (
            f"models: {{{model}: {{policy: busy, price: {{input: '1', output: '1'}}, "
            f"targets: [{{provider: {provider}, model: sim/tokens@30+chunk-ms@20}}]}}}}\n"
            if model
            else None
        )
        replace_file(self.path("models.d/guest.yaml"), text)

    def break_something(self, number: int) -> None:
        alpha, steady, busy = "providers.d/alpha.yaml", "models.d/steady.yaml", "policies.d/busy.yaml"
        kinds = [
            lambda: replace_file(self.path(alpha), "provider: alpha\nformat: [openai-chat\n"),
            lambda: replace_file(self.path(alpha), None),
            lambda: replace_file(self.path(alpha), self.provider("alpha-renamed", number)),
            lambda: replace_file(self.path(steady), self.models(number).replace("alpha", "alhpa")),
            lambda: replace_file(self.path(steady), self.models(number).replace("targets", "tragets")),
            lambda: replace_file(self.path(busy), "policy: busy\nextends: busier\n"),
            lambda: replace_file(self.path(busy), self.policy(number) + "retry: {max: many}\n"),
            lambda: replace_file(self.path(busy), None),
            lambda: replace_file(self.path(steady), "\t- {\n"),
        ]
        kinds[number % len(kinds)]()


@contextmanager
def gateway_with_files(folder: Path, workers: int) -> Iterator[tuple[Gateway, Configuration, Simulator]]:
    simulator = Simulator(folder)
    (folder / "config").mkdir()
    configuration = Configuration(folder / "config", simulator.url)
    gateway = Gateway(folder / "config", workers=workers)
    with running(simulator, gateway):
        yield gateway, configuration, simulator


async def fetch_config(gateway: Gateway) -> dict[str, Any]:
    answer = await ask_admin(gateway.port, "/admin/config")
    assert answer.status == 200, answer
    document: dict[str, Any] = answer.json()
    return document


async def trigger(gateway: Gateway, number: int) -> tuple[str, int]:
    """Start a reload in one of the three ways; the admin's way tells its status."""
    way = ("admin", "signal", "poll")[number % 3]
    if way == "admin":
        return way, (await ask_admin(gateway.port, "/admin/config/reload", "POST")).status
    if way == "signal":
        os.kill(gateway.process.pid, signal.SIGHUP)
    return way, 0


async def await_outcome(gateway: Gateway, before: dict[str, Any], expected: str | None) -> dict[str, Any]:
    """The first document of /admin/config after this change; it tells the truth or this fails."""
    until = time.monotonic() + 5
    while time.monotonic() < until:
        document = await fetch_config(gateway)
        if expected is None and document["last_refusal"] not in (None, before["last_refusal"]):
            assert document["revision"] == before["revision"], "a refused configuration changed something"
            return document
        if {document["revision"], *(worker["revision"] for worker in document["workers"])} == {expected}:
            assert document["last_refusal"] is None, "what is on disk is in force, yet a refusal is shown"
            return document
        await asyncio.sleep(0.01)
    raise AssertionError(f"{expected}: {document}")


async def run_rounds(gateway: Gateway, configuration: Configuration, rounds: int) -> dict[str, Any]:
    """`rounds` reloads: good and broken ones take turns, the guest leaves and comes back."""
    took: dict[str, list[float]] = {"admin": [], "signal": [], "poll": []}
    refused_s: list[float] = []
    rss: list[float] = []
    workers = list_workers(gateway)
    reader = Reader(configuration.folder)
    await reader.read_revision()
    for number in range(rounds):
        before = await fetch_config(gateway)
        broken = number % 2 == 1
        began = time.monotonic()
        if broken:
            configuration.break_something(number // 2)
        else:
            write_next_good(configuration, number)
        way, status = await trigger(gateway, number)
        document = await await_outcome(gateway, before, None if broken else await reader.read_revision())
        assert status in (0, 422 if broken else 200), document
        (refused_s if broken else took[way]).append(time.monotonic() - began)
        assert [worker["pid"] for worker in document["workers"]] == workers
        assert {worker["revision"] for worker in document["workers"]} == {document["revision"]}
        if number % 50 == 0:
            rss.append(max(read_rss_mib(pid) for pid in (*workers, gateway.process.pid)))
    reader.pool.shutdown()
    return {"took": took, "refused_s": refused_s, "rss": rss}


def write_next_good(configuration: Configuration, number: int) -> None:
    configuration.write_good(number + 1)
    if number % 20 == 4:
        configuration.write_guest("guest-renamed", "visiting")
    elif number % 20 == 8:
        configuration.write_guest("guest", "visiting-2")
    elif number % 20 == 12:
        configuration.write_guest(None, "visiting")
    elif number % 20 == 16:
        configuration.write_guest("guest", "visiting")


async def soak(gateway: Gateway, configuration: Configuration, rounds: int, per_second: float) -> None:
    calls = [*STAYS, *STAYS, *COMES_AND_GOES]
    await asyncio.gather(*(ask(gateway.port, **call) for call in calls))
    async with Load(gateway.port, per_second, calls) as load:
        await asyncio.sleep(min(10.0, 2 + rounds / 50))
        changed_at = time.monotonic()
        found = await run_rounds(gateway, configuration, rounds)
    for model in ("steady", "long"):
        failures = load.failures(model)
        assert not failures, failures[:3]
    for answer in load.failures("guest"):
        assert answer.status == 404 and answer.json()["error"]["code"] == "model_not_found", answer
    plain = [(at, answer.seconds) for at, call, answer in load.answers if call == {"model": "steady"}]
    calm = [seconds for at, seconds in plain if at < changed_at]
    busy = [seconds for at, seconds in plain if at >= changed_at]
    took = found["took"]
    report(
        f"reloads[{rounds}]",
        requests=len(load.answers),
        failed=0,
        calm_p50_ms=percentile(calm, 0.5) * 1000,
        calm_p99_ms=percentile(calm, 0.99) * 1000,
        busy_p50_ms=percentile(busy, 0.5) * 1000,
        busy_p99_ms=percentile(busy, 0.99) * 1000,
        live_admin_p50_ms=percentile(took["admin"], 0.5) * 1000,
        live_signal_p50_ms=percentile(took["signal"], 0.5) * 1000,
        live_poll_p50_ms=percentile(took["poll"], 0.5) * 1000,
        live_max_ms=max(sum(took.values(), [])) * 1000,
        refused_p50_ms=percentile(found["refused_s"], 0.5) * 1000,
        rss_mib=[round(value) for value in found["rss"]],
    )
    assert max(sum(took.values(), [])) < 2, "every worker has a change within two seconds"
    if len(found["rss"]) > 8:
        settled = found["rss"][len(found["rss"]) // 4]
        assert found["rss"][-1] < settled + 16, found["rss"]


@pytest.mark.parametrize("workers", [2])
def test_reloads_under_load_fail_no_request_for_a_model_that_stays(tmp_path: Path, workers: int) -> None:
    with gateway_with_files(tmp_path, workers) as (gateway, configuration, _):
        asyncio.run(soak(gateway, configuration, 40, 20))


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("workers", [1, 2])
def test_a_thousand_reloads_under_load_fail_no_request_and_keep_no_memory(
    tmp_path: Path, workers: int
) -> None:
    with gateway_with_files(tmp_path, workers) as (gateway, configuration, _):
        asyncio.run(soak(gateway, configuration, 1000, 40))


def test_a_changed_provider_answers_for_the_next_call(tmp_path: Path) -> None:
    """What a reload said is in force is what the upstream sees."""
    with gateway_with_files(tmp_path, 1) as (gateway, configuration, simulator):
        for number in (5, 6, 7):
            replace_file(
                configuration.path("providers.d/alpha.yaml"), configuration.provider("alpha", number)
            )
            document = admin(gateway, "/admin/config/reload", "POST")
            assert document.status_code == 200, document.text
            answer = asyncio.run(ask(gateway.port, "steady"))
            assert answer.done, answer
            assert answer.headers["x-config-revision"] == document.json()["revision"][:12]
            assert simulator.list_calls()[-1]["headers"]["x-number"] == f"n{number}"
            assert json.loads(answer.body)["usage"]["completion_tokens"] == 8


@pytest.fixture
def eager_threads() -> Iterator[None]:
    """Threads take turns so often that every gap is hit."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def flip_guest(configuration: Configuration, number: int) -> None:
    """Its files go and come; they are there in the end unless the number is a multiple of three."""
    for each in range(number, number + 5):
        configuration.write_guest(None, "visiting")
        time.sleep(random.random() * 0.002)
        configuration.write_guest("guest", GUESTS[each % 2])
    if number % 3 == 0:
        configuration.write_guest(None, "visiting")


@pytest.mark.usefixtures("eager_threads")
def test_a_folder_that_changes_while_it_is_read_is_read_again(tmp_path: Path) -> None:
    """Files vanish and appear between the listing and the reading: the next look finds out."""
    configuration = Configuration(tmp_path / "config", "http://127.0.0.1:9")
    loader, names = make_loader(configuration.folder), GUESTS
    watch, looks = ConfigWatch(loader), 0
    for number in range(3000):  # a folder that takes a while to list, after the one that changes
        (configuration.path("models.d") / f"{number}.txt").touch()
    loader.read()
    for number in range(100):
        change = threading.Thread(target=flip_guest, args=(configuration, number))
        change.start()
        while change.is_alive():
            manifest = loader.read()
        change.join()
        for _ in range(3):
            if watch.changed():
                looks += 1
                manifest = loader.read()
        assert not manifest["problems"], manifest["problems"]
        listed = {file["name"] for file in manifest["files"]} & {f"providers.d/{name}.yaml" for name in names}
        assert listed == (set() if number % 3 == 0 else {f"providers.d/{names[number % 2]}.yaml"})
    assert looks
