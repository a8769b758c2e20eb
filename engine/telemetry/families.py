"""Every metric by name: what it counts, its labels, and how the values of several workers become one.

A dump is `{family name: [[label values], value]...}`, JSON-able; a histogram's value is `[bucket counts,
sum]`. Counters and histograms add up; a gauge says by `merge` what several workers' values mean together.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from engine.wire.usage import CLASSES

Dump = dict[str, list[list[Any]]]

CALL_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0)
FIRST_TOKEN_BUCKETS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0)
QUEUE_BUCKETS = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
TOKEN_CLASSES = CLASSES
PAIRS_KEPT = 500
OTHER = "other"
TARGET = ("provider", "model")


@dataclass(frozen=True, slots=True)
class Family:
    name: str
    kind: str
    """counter, gauge or histogram."""
    help: str
    labels: tuple[str, ...] = ()
    merge: str = "sum"
    buckets: tuple[float, ...] = ()


def _counter(name: str, help: str, *labels: str) -> Family:
    return Family(name, "counter", help, labels)


def _gauge(name: str, merge: str, help: str, *labels: str) -> Family:
    return Family(name, "gauge", help, labels, merge)


FAMILIES: Mapping[str, Family] = {
    family.name: family
    for family in (
        _counter("gatewayz_calls_total", "Calls that ended, by HTTP status.", "surface", "status"),
        Family(
            "gatewayz_call_seconds",
            "histogram",
            "Seconds from the door to the last byte, of calls that a target answered.",
            TARGET,
            buckets=CALL_BUCKETS,
        ),
        Family(
            "gatewayz_first_token_seconds",
            "histogram",
            "Seconds from the door to the first content of a streamed answer.",
            TARGET,
            buckets=FIRST_TOKEN_BUCKETS,
        ),
        _counter("gatewayz_tokens_total", "Tokens by class; the classes do not overlap.", *TARGET, "class"),
        _counter(
            "gatewayz_units_total",
            "Images, seconds, characters, searches and whatever else is not tokens.",
            *TARGET,
            "unit",
        ),
        _counter("gatewayz_cost_usd_total", "US dollars that calls cost.", *TARGET),
        _counter("gatewayz_unpriced_tokens_total", "Tokens served without a price.", *TARGET),
        _counter("gatewayz_estimated_calls_total", "Calls whose usage no provider reported.", *TARGET),
        _counter("gatewayz_attempts_total", "Upstream requests by how they ended.", *TARGET, "outcome"),
        _counter("gatewayz_refusals_total", "Calls refused before any upstream was asked, by code.", "code"),
        _counter("gatewayz_stream_events_dropped_total", "Upstream stream events that were not valid."),
        _counter("gatewayz_config_refusals_total", "Configurations that were not taken."),
        _counter("gatewayz_log_lines_dropped_total", "Log lines lost because the output was too slow."),
        _counter(
            "gatewayz_stored_answers_total",
            "Answers to be kept for clients, by what became of them.",
            "outcome",
        ),
        _counter(
            "gatewayz_provider_state_total",
            "Tool calls whose signatures and reasoning are kept for clients that cannot carry them, by what became "
            "of them.",
            "outcome",
        ),
        _gauge(
            "gatewayz_credit_usd",
            "sum",
            "US dollars of credit that workers have leased, and what of it running calls hold: the most that is "
            "out of reach while a dead worker's lease is not closed.",
            "state",
        ),
        _counter("gatewayz_credit_refusals_total", "Calls refused for want of credit, by code.", "code"),
        _counter(
            "gatewayz_written_off_usd_total", "US dollars that calls cost beyond what their payers had."
        ),
        _counter("gatewayz_budget_alerts_total", "Shares of budgets that were reached."),
        _counter("gatewayz_mails_total", "Tries to send a mail, by what became of them.", "outcome"),
        _counter("gatewayz_payment_events_total", "Events of Stripe, by what became of them.", "outcome"),
        _counter(
            "gatewayz_payment_flags_total",
            "Payments that were not as they were asked for, by what is odd.",
            "flag",
        ),
        _counter("gatewayz_process_cpu_seconds_total", "CPU seconds of the workers."),
        _gauge("gatewayz_payment_findings", "max", "Differences between Stripe's books and ours."),
        _gauge("gatewayz_calls_in_progress", "sum", "Calls between the door and their settlement."),
        _gauge("gatewayz_upstream_connections", "sum", "Connections to providers.", "state"),
        _gauge(
            "gatewayz_breaker_state", "max", "0 closed, 1 half open, 2 open; the worst worker's.", *TARGET
        ),
        _gauge("gatewayz_journal_records", "sum", "Call records on their way to the database.", "state"),
        _gauge("gatewayz_dependency_up", "min", "1 while every worker reaches it.", "name"),
        _gauge("gatewayz_limit_identities", "sum", "Identities whose use is remembered.", "scope"),
        _gauge("gatewayz_queue_active", "sum", "Calls that hold a place of the queue; 0 while it is off."),
        _gauge("gatewayz_queue_queued", "sum", "Calls that wait for one."),
        Family(
            "gatewayz_queue_wait_seconds",
            "histogram",
            "Seconds that calls which were let in had waited, by class.",
            ("priority",),
            buckets=QUEUE_BUCKETS,
        ),
        _gauge("gatewayz_config_revision_info", "max", "1 for each revision in force.", "revision"),
        _gauge("gatewayz_workers", "sum", "Worker processes that answered."),
        _gauge("gatewayz_process_resident_bytes", "sum", "Resident memory of the workers."),
    )
}


def merge_dumps(dumps: Iterable[Mapping[str, list[list[Any]]]]) -> Dump:
    """One dump for the whole gateway: at most PAIRS_KEPT provider+model pairs, the rest as `other`."""
    merged: dict[str, dict[tuple[str, ...], Any]] = {name: {} for name in FAMILIES}
    for dump in dumps:
        for name, rows in dump.items():
            if name in FAMILIES:
                _merge_rows(FAMILIES[name], merged[name], rows)
    _fold_rare_pairs(merged)
    return {name: [[list(labels), value] for labels, value in rows.items()] for name, rows in merged.items()}


def keep_counters(dump: Mapping[str, list[list[Any]]]) -> Dump:
    """What stays true of a worker that is gone: merge it in, or the gateway's counters run backwards."""
    return {name: rows for name, rows in dump.items() if name in FAMILIES and FAMILIES[name].kind != "gauge"}


def _merge_rows(family: Family, merged: dict[tuple[str, ...], Any], rows: Iterable[Any]) -> None:
    for labels, value in rows:
        key = tuple(labels)
        merged[key] = _join_values(family, merged[key], value) if key in merged else value


def _join_values(family: Family, one: Any, other: Any) -> Any:
    if family.kind == "histogram":
        return [[a + b for a, b in zip(one[0], other[0], strict=True)], one[1] + other[1]]
    if family.merge == "max":
        return max(one, other)
    if family.merge == "min":
        return min(one, other)
    return one + other


def _fold_rare_pairs(merged: dict[str, dict[tuple[str, ...], Any]]) -> None:
    busy: dict[tuple[str, ...], float] = {}
    for labels, value in merged["gatewayz_attempts_total"].items():
        busy[labels[:2]] = busy.get(labels[:2], 0) + value
    for labels, (counts, _) in merged["gatewayz_call_seconds"].items():
        busy[labels] = busy.get(labels, 0) + sum(counts)
    busy.pop((OTHER, OTHER), None)
    if len(busy) <= PAIRS_KEPT:
        return
    kept = set(sorted(busy, key=lambda pair: (-busy[pair], pair))[:PAIRS_KEPT])
    for family in FAMILIES.values():
        if family.labels[:2] == TARGET:
            merged[family.name] = _fold_rows(family, merged[family.name], kept)


def _fold_rows(
    family: Family, rows: dict[tuple[str, ...], Any], kept: set[tuple[str, ...]]
) -> dict[tuple[str, ...], Any]:
    folded: dict[tuple[str, ...], Any] = {}
    for labels, value in rows.items():
        key = labels if labels[:2] in kept else (OTHER, OTHER, *labels[2:])
        folded[key] = _join_values(family, folded[key], value) if key in folded else value
    return folded
