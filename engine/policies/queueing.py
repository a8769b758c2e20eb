"""The stage of admission that lets so many calls run at once and has the others wait their turn (fair_queue.py).

It comes before all other stages: who waits holds no place under any limit. Who goes away while waiting is out of the
queue at once, and a place that was given to somebody who has just gone is passed on.
"""

import asyncio
from collections.abc import Callable
from fnmatch import fnmatchcase
from functools import lru_cache
from math import ceil, inf

from engine.call import Call
from engine.config.schema_queue import QueueFile
from engine.config.snapshot import Policy
from engine.errors import ServerOverloaded
from engine.policies.fair_queue import CLASSES, FairQueue, Waiter
from engine.policies.refusals import HeaderPairs

LONGEST_RETRY_S = 60.0
_SMOOTH = 0.1
_LEVELS = {name: level for level, name in enumerate(CLASSES)}

Woken = asyncio.Future[None]


class QueuePlace:
    __slots__ = ("_since", "_stage")

    def __init__(self, stage: "QueueStage", since: float) -> None:
        self._stage, self._since = stage, since

    def leave(self, call: Call) -> None:
        self._stage.free(self._since)


class QueueStage:
    """Counts the calls that run in this process. `workers`: how many share a gateway's number."""

    def __init__(
        self,
        clock: Callable[[], float],
        workers: int = 1,
        observe_wait: Callable[[str, float], None] = lambda priority, seconds: None,
        find_priority: Callable[[Call], str] = lambda call: "",
    ) -> None:
        self._clock, self._workers = clock, workers
        self._observe_wait, self._find_priority = observe_wait, find_priority
        self._queue: FairQueue[Woken] = FairQueue()
        self._rule: QueueFile | None = None
        self._most: float = inf
        self._held_s = 1.0
        """How long calls hold their place, as a moving average."""
        self.active = 0

    @property
    def queued(self) -> int:
        return len(self._queue)

    async def enter(self, call: Call, policy: Policy, headers: HeaderPairs) -> QueuePlace | None:
        """Raises ServerOverloaded when the queue is full, or when it took too long."""
        rule = call.snapshot.declared(QueueFile).get("default")
        if rule is None or rule.active is None:
            if self._rule is not None:
                self._adopt(None)
            return None
        if rule is not self._rule:
            self._adopt(rule)
        if self.active < self._most and not self._queue:
            self.active += 1
        else:
            await self._wait(call, rule)
        return QueuePlace(self, self._clock())

    def free(self, since: float) -> None:
        """A place that was taken at `since` is free: the next one in the queue has it."""
        self._held_s += _SMOOTH * (self._clock() - since - self._held_s)
        self.active -= 1
        self._wake()

    async def _wait(self, call: Call, rule: QueueFile) -> None:
        caller, level, began = call.caller, self._find_level(call, rule), self._clock()
        key = caller.key_id if caller is not None else ""
        self._make_room(key, rule)
        loop = asyncio.get_running_loop()
        woken: Woken = loop.create_future()
        waiter = self._queue.join(woken, key, level, began)
        timer = loop.call_later(rule.wait_s, self._put_out, waiter, f"no place in {rule.wait_s:g} s")
        self._wake()
        try:
            await woken
        except BaseException:
            if not woken.cancelled() and woken.exception() is None:  # it was let in, and is gone
                self.active -= 1
                self._wake()
            elif woken.cancelled():
                self._queue.leave(waiter)
            raise
        finally:
            timer.cancel()
        self._observe_wait(CLASSES[level], self._clock() - began)

    def _make_room(self, key: str, rule: QueueFile) -> None:
        if len(self._queue) < max(1, rule.queued // self._workers):
            return
        waiter = self._queue.find_giving_way(key)
        if waiter is None:
            raise self._overloaded("the queue is full")
        self._put_out(waiter, "the queue is full and others have fewer calls in it")

    def _put_out(self, waiter: Waiter[Woken], why: str) -> None:
        if not waiter.caller.done():
            self._queue.leave(waiter)
            waiter.caller.set_exception(self._overloaded(why))

    def _wake(self) -> None:
        while self.active < self._most:
            age_s = self._rule.age_s if self._rule is not None else inf
            waiter = self._queue.take(self._clock(), age_s)
            if waiter is None:
                return
            if not waiter.caller.done():
                self.active += 1
                waiter.caller.set_result(None)

    def _adopt(self, rule: QueueFile | None) -> None:
        """Another configuration is in force: who waits goes by it from now on."""
        self._rule = rule
        most = rule.active if rule is not None else None
        self._most = inf if most is None else max(1, most // self._workers)
        self._wake()

    def _overloaded(self, why: str) -> ServerOverloaded:
        """Until about so many calls have ended as wait."""
        seconds = self._held_s * (len(self._queue) + 1) / max(self.active, 1)
        return ServerOverloaded(
            f"the gateway is busy: {why}", retry_after_s=ceil(min(max(seconds, 1.0), LONGEST_RETRY_S))
        )

    def _find_level(self, call: Call, rule: QueueFile) -> int:
        level = _LEVELS[self._find_priority(call) or rule.priority]
        fast = call.model is not None and is_fast(call.model.name, rule.fast_models)
        return max(0, level - call.stream - fast)


@lru_cache(4096)
def is_fast(model: str, globs: tuple[str, ...]) -> bool:
    return any(fnmatchcase(model, glob) for glob in globs)
