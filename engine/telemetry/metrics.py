"""One worker's metrics: plain numbers that cost about a microsecond to change, read as a whole by `dump()`.

The supervisor merges the workers' dumps and renders them. Provider+model pairs are bounded: the busiest stay,
the others become `other`, so that model names which callers make up cannot grow memory.
"""

import resource
import sys
import time
from bisect import bisect_left
from collections.abc import Callable, Mapping
from decimal import Decimal
from pathlib import Path

from engine.telemetry.exposition import CONTENT_TYPE, render_dump
from engine.telemetry.families import (
    CALL_BUCKETS,
    FAMILIES,
    FIRST_TOKEN_BUCKETS,
    OTHER,
    PAIRS_KEPT,
    QUEUE_BUCKETS,
    TOKEN_CLASSES,
    Dump,
    keep_counters,
    merge_dumps,
)
from engine.wire.usage import CLASSES, Usage

_INPUT, _OUTPUT = CLASSES.index("input"), CLASSES.index("output")
_PARTS = tuple((place, name) for place, name in enumerate(CLASSES) if name not in ("input", "output"))

__all__ = ["CONTENT_TYPE", "Dump", "Metrics", "keep_counters", "merge_dumps", "render_dump"]

LONGEST_LABEL = 200
FADE = 0.9

Labels = str | tuple[str, ...]
Reading = float | Mapping[Labels, float]
"""A gauge's value, or its values by label value (a tuple when the family has several labels)."""


class Pair:
    """What one provider+model did."""

    __slots__ = (
        "call_sum_s",
        "calls",
        "cost_usd",
        "estimated",
        "first_sum_s",
        "first_tokens",
        "outcomes",
        "recent",
        "score",
        "tokens",
        "units",
        "unpriced",
    )

    def __init__(self) -> None:
        self.calls = [0] * (len(CALL_BUCKETS) + 1)
        self.call_sum_s = 0.0
        self.first_tokens = [0] * (len(FIRST_TOKEN_BUCKETS) + 1)
        self.first_sum_s = 0.0
        self.tokens = [0] * len(TOKEN_CLASSES)
        self.units: dict[str, float] = {}
        self.cost_usd = 0.0
        self.unpriced = 0
        self.estimated = 0
        self.outcomes: dict[str, int] = {}
        self.recent = 0
        self.score = 0.0

    def count_tokens(self, usage: Usage) -> None:
        counts = self.tokens
        counts[_INPUT] += usage.input
        counts[_OUTPUT] += usage.output
        if usage.prompt != usage.input or usage.completion != usage.output:
            for place, name in _PARTS:
                counts[place] += getattr(usage, name)
        for unit, count in usage.units.items():
            self.units[unit] = self.units.get(unit, 0) + float(count)
        if usage.estimated:
            self.estimated += 1

    def absorb(self, other: "Pair") -> None:
        self.calls = [a + b for a, b in zip(self.calls, other.calls, strict=True)]
        self.call_sum_s += other.call_sum_s
        self.first_tokens = [a + b for a, b in zip(self.first_tokens, other.first_tokens, strict=True)]
        self.first_sum_s += other.first_sum_s
        self.tokens = [a + b for a, b in zip(self.tokens, other.tokens, strict=True)]
        self.cost_usd += other.cost_usd
        self.unpriced += other.unpriced
        self.estimated += other.estimated
        for unit, units in other.units.items():
            self.units[unit] = self.units.get(unit, 0) + units
        for outcome, count in other.outcomes.items():
            self.outcomes[outcome] = self.outcomes.get(outcome, 0) + count


class Metrics:
    """The corridor calls `count_*` and `observe_*`; what has a state of its own is watched at dump time."""

    def __init__(self) -> None:
        self._calls: dict[tuple[str, int], int] = {}
        self._refusals: dict[str, int] = {}
        self._pairs: dict[tuple[str, str], Pair] = {}
        self._other = Pair()
        self._events_dropped = 0
        self._config_refusals = 0
        self._waits: dict[str, tuple[list[int], list[float]]] = {}
        self._watched: dict[str, Callable[[], Reading]] = {}

    def count_call(self, surface: str, status: int) -> None:
        key = (surface, status)
        self._calls[key] = self._calls.get(key, 0) + 1

    def observe_call(
        self,
        provider: str,
        model: str,
        total_s: float,
        first_token_s: float | None,
        tokens: Usage,
        cost: Decimal,
    ) -> None:
        """A call that `provider` answered with its `model`. Cost becomes a float here, and only here."""
        pair = self._pairs.get((provider, model)) or self._open_pair(provider, model)
        pair.recent += 1
        pair.calls[bisect_left(CALL_BUCKETS, total_s)] += 1
        pair.call_sum_s += total_s
        if first_token_s is not None:
            pair.first_tokens[bisect_left(FIRST_TOKEN_BUCKETS, first_token_s)] += 1
            pair.first_sum_s += first_token_s
        pair.count_tokens(tokens)
        pair.cost_usd += float(cost)

    def count_attempt(self, provider: str, model: str, outcome: str) -> None:
        pair = self._pairs.get((provider, model)) or self._open_pair(provider, model)
        pair.recent += 1
        pair.outcomes[outcome] = pair.outcomes.get(outcome, 0) + 1

    def count_unpriced(self, provider: str, model: str, tokens: int) -> bool:
        """Whether these are the first of the target."""
        pair = self._pairs.get((provider, model)) or self._open_pair(provider, model)
        pair.unpriced += tokens
        return pair.unpriced == tokens

    def count_refusal(self, code: str) -> None:
        self._refusals[code] = self._refusals.get(code, 0) + 1

    def count_event_dropped(self, events: int = 1) -> None:
        self._events_dropped += events

    def observe_wait(self, priority: str, seconds: float) -> None:
        """A call of this class was let out of the queue."""
        if priority not in self._waits:
            self._waits[priority] = ([0] * (len(QUEUE_BUCKETS) + 1), [0.0])
        counts, total = self._waits[priority]
        counts[bisect_left(QUEUE_BUCKETS, seconds)] += 1
        total[0] += seconds

    def count_config_refusal(self) -> None:
        self._config_refusals += 1

    def watch(self, family: str, read: Callable[[], Reading]) -> None:
        """Ask `read` for a family's value or values at each dump. A second reader replaces the first."""
        if family not in FAMILIES:
            raise KeyError(f"no metric {family!r}: declare it in engine/telemetry/families.py")
        self._watched[family] = read

    def dump(self) -> Dump:
        """Everything, JSON-able; about a millisecond with 500 busy pairs."""
        if len(self._pairs) > PAIRS_KEPT:
            self._fold_pairs()
        dump: Dump = {
            "gatewayz_calls_total": [
                [[surface, str(status)], n] for (surface, status), n in self._calls.items()
            ],
            "gatewayz_refusals_total": [[[code], n] for code, n in self._refusals.items()],
            "gatewayz_stream_events_dropped_total": [[[], self._events_dropped]],
            "gatewayz_config_refusals_total": [[[], self._config_refusals]],
            "gatewayz_queue_wait_seconds": [
                [[priority], [list(counts), total[0]]] for priority, (counts, total) in self._waits.items()
            ],
            "gatewayz_workers": [[[], 1]],
            "gatewayz_process_resident_bytes": [[[], read_resident_bytes()]],
            "gatewayz_process_cpu_seconds_total": [[[], time.process_time()]],
        }
        self._dump_pairs(dump)
        for family, read in self._watched.items():
            dump[family] = _list_readings(read())
        return dump

    def _open_pair(self, provider: str, model: str) -> Pair:
        if len(model) > LONGEST_LABEL:
            return self._other
        if len(self._pairs) >= 2 * PAIRS_KEPT:
            self._fold_pairs()
        pair = self._pairs[provider, model] = Pair()
        return pair

    def _fold_pairs(self) -> None:
        """Keep the busiest; what was busy before the last fold counts FADE times as much at each."""
        for pair in self._pairs.values():
            pair.score = pair.score * FADE + pair.recent
            pair.recent = 0
        ranked = sorted(self._pairs, key=lambda key: self._pairs[key].score, reverse=True)
        for key in ranked[PAIRS_KEPT:]:
            self._other.absorb(self._pairs.pop(key))

    def _dump_pairs(self, dump: Dump) -> None:
        families = [name for name, family in FAMILIES.items() if family.labels[:2] == ("provider", "model")]
        dump.update({name: [] for name in families})
        for (provider, model), pair in self._pairs.items():
            _dump_pair(dump, [provider, model], pair)
        _dump_pair(dump, [OTHER, OTHER], self._other)


def _dump_pair(dump: Dump, labels: list[str], pair: Pair) -> None:
    if any(pair.calls):
        dump["gatewayz_call_seconds"].append([labels, [list(pair.calls), pair.call_sum_s]])
        dump["gatewayz_cost_usd_total"].append([labels, pair.cost_usd])
    if any(pair.first_tokens):
        dump["gatewayz_first_token_seconds"].append([labels, [list(pair.first_tokens), pair.first_sum_s]])
    for name, tokens in zip(TOKEN_CLASSES, pair.tokens, strict=True):
        if tokens:
            dump["gatewayz_tokens_total"].append([[*labels, name], tokens])
    for unit, units in pair.units.items():
        dump["gatewayz_units_total"].append([[*labels, unit], units])
    for outcome, count in pair.outcomes.items():
        dump["gatewayz_attempts_total"].append([[*labels, outcome], count])
    if pair.unpriced:
        dump["gatewayz_unpriced_tokens_total"].append([labels, pair.unpriced])
    if pair.estimated:
        dump["gatewayz_estimated_calls_total"].append([labels, pair.estimated])


def _list_readings(reading: Reading) -> list[list[object]]:
    if isinstance(reading, Mapping):
        return [
            [[labels] if isinstance(labels, str) else list(labels), value]
            for labels, value in reading.items()
        ]
    return [[[], reading]]


def read_resident_bytes() -> int:
    """Resident memory now; where /proc is missing, its highest value so far."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * resource.getpagesize()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
