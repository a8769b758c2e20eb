"""Providers that take a request as a job and are asked for its result later, as a format's `poll` section says it.

    poll:
      status: $.status_url          # in the answer to the request: where to ask how the job stands
      state: $.status               # in what is found there
      done: [COMPLETED]
      failed: [FAILED]
      result: $.response_url        # where the result is; left out: what was found is the result
      cancel: $.cancel_url          # where a job is ended that nobody waits for any more
      cancel_method: PUT
      every_s: 0.5
      give_up_s: 300

An answer without a `status` address is the result itself.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engine.wire.declared import Problems, as_scalars, compile_paths
from engine.wire.paths import Getter

KEYS = ("status", "state", "done", "failed", "result", "cancel", "cancel_method", "every_s", "give_up_s")
_METHODS = ("GET", "POST", "PUT", "DELETE")
_PATHS = ("status", "state", "result", "cancel")


@dataclass(frozen=True, slots=True)
class JobPoll:
    """What to ask, and what the answers mean."""

    _paths: Mapping[str, list[Getter]]
    done: frozenset[str]
    failed: frozenset[str]
    cancel_method: str
    every_s: float
    give_up_s: float

    def find_url(self, what: str, *docs: Any) -> str | None:
        """The address `what` (status, result, cancel) in the first of these documents that has it."""
        for doc in docs:
            for read in self._paths[what]:
                if isinstance(found := read(doc), str) and found:
                    return found
        return None

    def judge(self, doc: Any) -> str:
        """done, failed or open."""
        states = {str(read(doc)) for read in self._paths["state"]}
        return "done" if states & self.done else "failed" if states & self.failed else "open"


def compile_poll(raw: Mapping[str, Any], problems: Problems) -> JobPoll | None:
    if not raw:
        return None
    for key in raw:
        if key not in KEYS:
            problems.append((("poll", key), f"one of {', '.join(KEYS)} is expected"))
    for key in ("status", "state", "done"):
        if key not in raw:
            problems.append((("poll",), f"needs `{key}`"))
    if raw.get("cancel_method", "POST") not in _METHODS:
        problems.append((("poll", "cancel_method"), f"one of {', '.join(_METHODS)} is expected"))
    return JobPoll(
        {key: compile_paths(raw.get(key), ("poll", key), problems) for key in _PATHS},
        frozenset(map(str, as_scalars(raw.get("done"), ("poll", "done"), problems))),
        frozenset(map(str, as_scalars(raw.get("failed"), ("poll", "failed"), problems))),
        str(raw.get("cancel_method", "POST")),
        _read_seconds(raw, "every_s", 1.0, problems),
        _read_seconds(raw, "give_up_s", 300.0, problems),
    )


def _read_seconds(raw: Mapping[str, Any], key: str, default: float, problems: Problems) -> float:
    value = raw.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.01 <= value <= 86_400:
        problems.append((("poll", key), "a number of seconds is expected"))
        return default
    return float(value)
