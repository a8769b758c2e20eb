"""Reloads in the supervisor, with a loader that the test controls."""

import asyncio
import threading
from types import SimpleNamespace

import pytest

from engine.errors import ConfigRefused, Problem
from engine.serve.reloading import Reloader

PROBLEM = Problem("a.yaml", 3, 7, "targets[0]", "no provider")


class Loader:
    """Each `read` takes what is in `content`; `gate` lets a test hold a read up."""

    def __init__(self):
        self.content, self.reads = "one", 0
        self.gate = threading.Event()
        self.gate.set()

    def read(self):
        self.reads += 1
        content = self.content
        self.gate.wait(5)
        return {"version": content}

    def prepare(self, manifest, previous=None, *, run_examples):
        assert run_examples
        if manifest["version"] == "refused":
            raise ConfigRefused([PROBLEM])
        if manifest["version"] == "broken":
            raise OSError("the disk is gone")
        return SimpleNamespace(version=manifest["version"], warnings=("careful",))


@pytest.fixture
async def loaded():
    loader = Loader()
    reloader = Reloader(loader)
    spread = []

    async def note():
        spread.append(reloader.manifest["version"])

    reloader.spread = note
    await reloader.load_first()
    return SimpleNamespace(loader=loader, reloader=reloader, spread=spread)


async def test_what_changed_is_spread_and_what_did_not_is_not(loaded):
    assert await loaded.reloader.reload() == 200 and loaded.spread == []
    loaded.loader.content = "two"
    assert await loaded.reloader.reload() == 200 and loaded.spread == ["two"]
    document = loaded.reloader.describe([{"pid": 1, "revision": "two"}])
    assert document["revision"] == "two" and document["warnings"] == ["careful"]


async def test_a_refused_configuration_is_remembered_until_a_good_one_comes(loaded):
    loaded.loader.content = "refused"
    assert await loaded.reloader.reload() == 422
    document = loaded.reloader.describe([])
    assert document["revision"] == "one" and loaded.reloader.refusals == 1 and loaded.spread == []
    assert document["last_refusal"]["problems"] == [
        {"file": "a.yaml", "line": 3, "column": 7, "path": "targets[0]", "message": "no provider"}
    ]
    loaded.loader.content = "one"
    assert await loaded.reloader.reload() == 200
    assert loaded.reloader.describe([])["last_refusal"] is None


async def test_an_unforeseen_fault_is_a_refusal_and_not_the_end(loaded):
    loaded.loader.content = "broken"
    assert await loaded.reloader.reload() == 422
    assert "the disk is gone" in loaded.reloader.describe([])["last_refusal"]["problems"][0]["message"]
    loaded.loader.content = "two"
    assert await loaded.reloader.reload() == 200


async def test_requests_during_a_reload_share_the_next_one(loaded):
    loaded.loader.gate.clear()
    loaded.loader.content = "two"
    first = asyncio.create_task(loaded.reloader.reload())
    await asyncio.sleep(0.02)
    loaded.loader.content = "three"
    later = [asyncio.create_task(loaded.reloader.reload()) for _ in range(5)]
    await asyncio.sleep(0.02)
    loaded.loader.gate.set()
    assert await asyncio.gather(first, *later) == [200] * 6
    assert loaded.loader.reads == 3 and loaded.spread == ["two", "three"]


async def test_polling_reloads_when_something_has_changed(loaded):
    answers = iter([False, True])
    loaded.loader.content = "two"
    polling = asyncio.create_task(loaded.reloader.poll(lambda: next(answers, False)))
    async with asyncio.timeout(10):
        while not loaded.spread:
            await asyncio.sleep(0.05)
    polling.cancel()
    assert loaded.spread == ["two"] and loaded.loader.reads == 2
