"""What the simulator remembers: each request it saw, how often it was tried, since when a model is down.

Memory is bounded: the last 20,000 calls and attempts, and 32 MB of bodies.
"""

from collections import Counter, OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from engine.upstream.simulator.dialog import Ask

KEPT_CALLS = 20_000
KEPT_BODIES_BYTES = 32 * 1024 * 1024
LONGEST_BODY_BYTES = 64 * 1024
KEPT_MODELS = 10_000
_HIDDEN = ("authorization", "x-api-key", "api-key", "x-goog-api-key")


@dataclass(slots=True)
class Seen:
    """One request and what became of it."""

    seq: int
    at: float
    began: float
    method: str
    path: str
    headers: list[tuple[bytes, bytes]]
    connection: int
    body: bytes | None
    body_bytes: int
    json: bool = False
    model: str = ""
    authorization: str = ""
    attempt: int = 0
    stream: bool = False
    status: int | None = None
    outcome: str = "running"
    tokens_sent: int = 0
    first_byte_s: float | None = None
    ended_s: float | None = None
    counts: dict[str, int] | None = None

    def as_record(self) -> dict[str, Any]:
        closed = self.outcome == "client_closed"
        return {
            "seq": self.seq,
            "at": self.at,
            "method": self.method,
            "path": self.path,
            "model": self.model,
            "authorization": self.authorization[-4:],
            "attempt": self.attempt,
            "stream": self.stream,
            "status": self.status,
            "outcome": self.outcome,
            "client_closed_after_ms": _as_ms(self.ended_s) if closed else None,
            "first_byte_after_ms": _as_ms(self.first_byte_s),
            "ended_after_ms": _as_ms(self.ended_s),
            "tokens_sent": self.tokens_sent,
            "usage": self.counts,
            "connection": self.connection,
            "headers": {name.decode("latin-1"): _show_header(name, value) for name, value in self.headers},
            "body_bytes": self.body_bytes,
            "body": self._show_body(),
        }

    def _show_body(self) -> Any:
        if self.body is None:
            return None
        return orjson.Fragment(self.body) if self.json else self.body.decode("utf-8", "replace")


def _as_ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 2)


def _show_header(name: bytes, value: bytes) -> str:
    shown = value.decode("latin-1")
    return f"***{shown[-4:]}" if name.decode("latin-1") in _HIDDEN else shown


@dataclass(slots=True)
class Book:
    """All state of one simulator."""

    calls: deque[Seen] = field(default_factory=lambda: deque(maxlen=KEPT_CALLS))
    by_model: Counter[str] = field(default_factory=Counter)
    seen: int = 0
    running: int = 0
    connections: int = 0
    accepted: int = 0
    _bodies: deque[Seen] = field(default_factory=deque)
    _bodies_bytes: int = 0
    _attempts: OrderedDict[tuple[str, str, int], int] = field(default_factory=OrderedDict)
    _first_calls: OrderedDict[tuple[str, str], float] = field(default_factory=OrderedDict)
    _cached: OrderedDict[tuple[str, str, int], None] = field(default_factory=OrderedDict)

    def write_down(self, seen: Seen) -> None:
        """Begin the record of a request."""
        self.calls.append(seen)
        self.running += 1
        if seen.body is None:
            return
        if len(seen.body) > LONGEST_BODY_BYTES:
            seen.body = None
            return
        self._bodies.append(seen)
        self._bodies_bytes += len(seen.body)
        while self._bodies_bytes > KEPT_BODIES_BYTES or len(self._bodies) > KEPT_CALLS:
            oldest = self._bodies.popleft()
            self._bodies_bytes -= len(oldest.body or b"")
            oldest.body = None

    def keep_body(self, seen: Seen, fields: Mapping[str, Any]) -> None:
        """It was understood: JSON is shown as it came, a form as its fields."""
        seen.json = True
        if seen.body is not None and not seen.body.lstrip().startswith(b"{"):
            self._bodies_bytes -= len(seen.body)
            seen.body = orjson.dumps(fields)
            self._bodies_bytes += len(seen.body)

    def end(self, seen: Seen, outcome: str, now: float) -> None:
        """End it, once."""
        if seen.ended_s is None:
            seen.outcome = outcome
            seen.ended_s = now - seen.began
            self.running -= 1

    def count_attempt(self, seen: Seen, digest: int) -> int:
        """How often this key has asked this model this, from 1."""
        place = (seen.authorization, seen.model, digest)
        number = self._attempts.pop(place, 0) + 1
        self._attempts[place] = number
        if len(self._attempts) > KEPT_CALLS:
            self._attempts.popitem(last=False)
        if seen.model in self.by_model or len(self.by_model) < KEPT_MODELS:
            self.by_model[seen.model] += 1
        seen.attempt = number
        return number

    def is_down(self, seen: Seen, for_s: float) -> bool:
        """Whether less time has passed since this key's first call to the model."""
        first = self._first_calls.setdefault((seen.authorization, seen.model), seen.began)
        if len(self._first_calls) > KEPT_CALLS:
            self._first_calls.popitem(last=False)
        return seen.began < first + for_s

    def use_cache(self, seen: Seen, ask: Ask) -> None:
        """Read the longest marked beginning that this key has sent before; write what is new up to the last."""
        places = [((seen.authorization, seen.model, mark.digest), mark.tokens) for mark in ask.marks]
        ask.cached = max((tokens for place, tokens in places if place in self._cached), default=0)
        ask.cache_written = max((tokens for _, tokens in places), default=0) - ask.cached
        for place, _ in places:
            self._cached[place] = None
        while len(self._cached) > KEPT_CALLS:
            self._cached.popitem(last=False)

    def list_calls(self, after: int, limit: int, model: str | None) -> dict[str, Any]:
        """The calls after a number, oldest first, as many as `limit`."""
        records: list[dict[str, Any]] = []
        for seen in self.calls:
            if len(records) >= limit:
                break
            if seen.seq > after and (model is None or seen.model == model):
                records.append(seen.as_record())
        return {"calls": records, "last": records[-1]["seq"] if records else after, "seen": self.seen}

    def forget(self) -> None:
        """Empty the log and the state; calls in flight go on and keep counting as running."""
        for kept in (
            self.calls,
            self._bodies,
            self._attempts,
            self._first_calls,
            self._cached,
            self.by_model,
        ):
            kept.clear()
        self._bodies_bytes = 0

    def as_stats(self) -> dict[str, Any]:
        return {
            "connections": self.connections,
            "running": self.running,
            "calls": self.seen,
            "by_model": dict(self.by_model),
        }
