"""Work that is asked for first and fetched later: what is kept of it, and how far it is. No clock of its own."""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

KEPT_JOBS = 10_000


@dataclass(slots=True)
class Job:
    """One piece of work. It waits for a third of its time, runs for the rest, and is then done or failed."""

    id: str
    model: str
    asked: Mapping[str, Any]
    result: Mapping[str, Any]
    takes_s: float
    fails: bool = False
    counts: Mapping[str, int] = field(default_factory=dict)
    host: str = ""
    began: float = 0.0
    cancelled: bool = False

    def stage(self, now: float) -> str:
        """waiting, running, done, failed or cancelled."""
        if self.cancelled:
            return "cancelled"
        gone = now - self.began
        if gone >= self.takes_s:
            return "failed" if self.fails else "done"
        return "waiting" if gone < self.takes_s / 3 else "running"


@dataclass(slots=True)
class Jobs:
    """The latest ones."""

    kept: OrderedDict[str, Job] = field(default_factory=OrderedDict)

    def begin(self, job: Job, now: float) -> None:
        job.began = now
        self.kept[job.id] = job
        if len(self.kept) > KEPT_JOBS:
            self.kept.popitem(last=False)
