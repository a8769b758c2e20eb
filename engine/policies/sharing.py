"""Everything by which one worker shares out what the gateway has: the queue, the edge, guests, and limits of callers.

Built once in app.py, which hands its `stages` to admission and its `edge` to identity.
"""

import time
from collections.abc import Callable
from typing import Any

from engine.call import GUEST, Call
from engine.config.networks import Networks
from engine.config.snapshot import Limit, Snapshot
from engine.policies.admission import LimitStage, Stage
from engine.policies.edge import Edge
from engine.policies.guests import Guests
from engine.policies.limits import Limiter
from engine.policies.queueing import QueueStage
from engine.policies.quotas import find_quota
from engine.policies.refusals import LimitReached
from engine.policies.shared_limits import SharedLimiter
from engine.storage.limit_alerts import LimitAlerts
from engine.storage.limit_settings import LimitSettings
from engine.storage.postgres import Database
from engine.storage.redis import Redis


class Sharing:
    def __init__(
        self,
        database: Database,
        limiter: Limiter | SharedLimiter,
        read_snapshot: Callable[[], Snapshot],
        seal: Callable[[bytes], str],
        observe_wait: Callable[[str, float], None],
    ) -> None:
        clock, self._limiter, self._read_snapshot = time.monotonic, limiter, read_snapshot
        self._alerts = LimitAlerts()
        self.queue = QueueStage(clock, read_snapshot().server.workers, observe_wait, find_priority)
        self.edge = Edge(limiter, read_snapshot, clock)
        self.guests = Guests(seal)
        self._limits = LimitStage(limiter, clock, self.guests.limit, self._note_refusal)
        self._settings = LimitSettings(database, self._apply, self._alerts)
        self.stages: tuple[Stage, ...] = (self.queue, self.guests, self._limits)

    def start(self) -> None:
        self._settings.start()

    async def stop(self) -> None:
        await self._settings.stop()

    def describe(self, redis: Redis | None) -> dict[str, Any]:
        """What this worker knows now, for administrators."""
        limiter, workers = self._limiter, self._read_snapshot().server.workers
        if isinstance(limiter, SharedLimiter):
            workers = limiter.members
            limiter = limiter.local
        return {
            "redis": "none" if redis is None else "ok" if redis.available else "away",
            "workers": workers,
            "identities": limiter.count_identities(),
            "queue": {"active": self.queue.active, "queued": self.queue.queued},
            "edge": self.edge.describe(),
        }

    def _apply(self, each_key: Limit | None, allowed: Networks) -> None:
        self._limits.key_limit, self.edge.allowed = each_key, allowed

    def _note_refusal(self, call: Call, error: LimitReached) -> None:
        reached, caller = error.reached, call.caller
        if reached is not None and caller is not None:
            facts = (error.code or "", reached.scope, reached.kind, reached.size_s, reached.number)
            self._alerts.note((caller.key_id, caller.user_id, *facts))


def find_priority(call: Call) -> str:
    """The class of a call by the plan of who pays; the environment's administrator goes first, guests go last."""
    caller = call.caller
    if caller is None or caller.role == GUEST:
        return "background"
    return "critical" if caller.unlimited else find_quota(call).priority
