"""The queue as calls meet it: places are never lost, and nobody who left is waited for."""

import asyncio
import time
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.call import Call, Caller
from engine.config.schema_queue import QueueFile
from engine.errors import ServerOverloaded
from engine.policies.queueing import QueuePlace, QueueStage
from tests.policies.test_admission import make_call
from tests.routing.things import make_model, make_policy, make_target

POLICY = make_policy()


def make_queued(key: str = "k", *, stream: bool = False, model: str = "m", **rule: Any) -> Call:
    call = make_call(Caller(key, "user_1"))
    queue = QueueFile.model_validate({"queue": "default", **rule})
    call.snapshot = replace(call.snapshot, things={"queue": {"default": queue}})
    call.stream, call.model = stream, make_model(model, make_target("p"))
    return call


class Queue:
    """A stage, and one rule for all its calls."""

    def __init__(self, **rule: Any) -> None:
        self.waits: list[tuple[str, float]] = []
        self.stage = QueueStage(time.monotonic, observe_wait=lambda *wait: self.waits.append(wait))
        self.snapshot = make_queued(**rule).snapshot

    def call(self, key: str = "k", **facts: Any) -> Call:
        call = make_queued(key, **facts)
        call.snapshot = self.snapshot
        return call

    async def enter(self, key: str = "k", **facts: Any) -> QueuePlace:
        place = await self.stage.enter(self.call(key, **facts), POLICY, [])
        assert place is not None
        return place

    def start(self, key: str = "k", **facts: Any) -> asyncio.Task[QueuePlace]:
        return asyncio.get_running_loop().create_task(self.enter(key, **facts))


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_without_a_number_nobody_is_counted() -> None:
    stage = QueueStage(time.monotonic)
    assert await stage.enter(make_queued(), POLICY, []) is None
    assert await stage.enter(make_call(), POLICY, []) is None
    assert (stage.active, stage.queued) == (0, 0)


async def test_so_many_run_and_the_next_has_the_place_of_the_first_that_ends() -> None:
    queue = Queue(active=2)
    first, _ = await queue.enter(), await queue.enter()
    waiting = queue.start()
    await settle()
    assert (queue.stage.active, queue.stage.queued, waiting.done()) == (2, 1, False)
    first.leave(queue.call())
    await waiting
    assert (queue.stage.active, queue.stage.queued) == (2, 0)
    assert [priority for priority, _ in queue.waits] == ["medium"]


async def test_a_full_queue_and_a_long_wait_are_refused_with_the_time_to_come_back() -> None:
    queue = Queue(active=1, queued=1, wait_s=0.05)
    await queue.enter()
    waiting = queue.start()
    await settle()
    with pytest.raises(ServerOverloaded) as refused:
        await queue.enter()
    assert (refused.value.status, refused.value.code) == (503, "server_overload")
    assert refused.value.retry_after_s is not None and refused.value.retry_after_s >= 1
    with pytest.raises(ServerOverloaded, match=r"no place in 0\.05 s"):
        await waiting
    assert (queue.stage.active, queue.stage.queued) == (1, 0)


async def test_a_key_that_fills_the_queue_gives_way_to_others() -> None:
    queue = Queue(active=1, queued=4)
    running = await queue.enter("greedy")
    greedy = [queue.start("greedy") for _ in range(4)]
    await settle()
    other = queue.start("other")
    await settle()
    assert [task.done() for task in greedy] == [False, False, False, True]
    assert isinstance(greedy[-1].exception(), ServerOverloaded)
    running.leave(queue.call())
    await settle()
    running = greedy[0].result()
    running.leave(queue.call())
    assert await other, "one of greedy's, then the other's"
    for task in greedy[1:3]:
        task.cancel()
    await asyncio.gather(*greedy, return_exceptions=True)


async def test_a_caller_who_leaves_frees_its_place_in_the_queue_at_once() -> None:
    queue = Queue(active=1, queued=1)
    await queue.enter()
    for _ in range(20):
        leaving = queue.start()
        await settle()
        leaving.cancel()
        await settle()
        assert (leaving.cancelled(), queue.stage.queued) == (True, 0)


async def test_a_place_given_to_somebody_who_has_just_gone_is_passed_on() -> None:
    queue = Queue(active=1)
    running = await queue.enter()
    leaving, next_one = queue.start("a"), queue.start("b")
    await settle()
    running.leave(queue.call())  # wakes the first ...
    leaving.cancel()  # ... who is gone before it can run
    await settle()
    assert leaving.cancelled() and await next_one
    assert queue.stage.active == 1


async def test_streamed_calls_and_small_models_go_one_class_up() -> None:
    queue = Queue(active=1)
    running = await queue.enter()
    facts: list[dict[str, Any]] = [
        {},
        {"stream": True},
        {"model": "gpt-4o-mini"},
        {"stream": True, "model": "x-mini"},
    ]
    tasks = [queue.start(f"k{at}", **each) for at, each in enumerate(facts)]
    await settle()
    while queue.stage.queued:
        running.leave(queue.call())
        await settle()
    assert Counter(priority for priority, _ in queue.waits) == {"medium": 1, "high": 2, "critical": 1}
    await asyncio.gather(*tasks)


async def test_a_new_number_is_in_force_for_those_who_wait() -> None:
    queue = Queue(active=1)
    await queue.enter()
    waiting = [queue.start() for _ in range(3)]
    await settle()
    queue.snapshot = make_queued(active=3).snapshot
    last = queue.start()
    await settle()
    assert [task.done() for task in (*waiting, last)] == [True, True, False, False]
    assert await queue.stage.enter(make_queued(), POLICY, []) is None  # switched off
    await asyncio.gather(*waiting, last)


@given(st.lists(st.sampled_from(["come", "end", "cancel", "both"]), max_size=60), st.integers(1, 4))
@settings(max_examples=50, deadline=None)
def test_no_place_and_no_wake_up_is_ever_lost(steps: list[str], active: int) -> None:
    async def live() -> None:
        queue = Queue(active=active, queued=10_000, wait_s=60)
        waiting: list[asyncio.Task[QueuePlace]] = []
        running: list[QueuePlace] = []

        def gather() -> None:
            for task in [task for task in waiting if task.done()]:
                waiting.remove(task)
                if not task.cancelled():
                    running.append(task.result())

        for at, step in enumerate(steps):
            if step == "come":
                waiting.append(queue.start(f"k{at % 3}"))
            if step in ("end", "both") and running:
                running.pop().leave(queue.call())
            if step in ("cancel", "both") and waiting:
                waiting[at % len(waiting)].cancel()
            await settle()
            gather()
            assert queue.stage.active == len(running) == min(active, len(running) + len(waiting))
            assert queue.stage.queued == len(waiting)
        while running:
            running.pop().leave(queue.call())
            await settle()
            gather()
        assert (queue.stage.active, queue.stage.queued, waiting) == (0, 0, [])

    asyncio.run(live())
