"""From the measured phases to medians, ratios per round, added latency and the verdict on each budget. Pure."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Phase = Mapping[str, Any]

SUBJECT, REFERENCE, SLOW_PEER = "gatewayz", "sglang-router", "litellm"
BUSY = 64


def pick(phases: Iterable[Phase], **wanted: Any) -> list[Phase]:
    return [phase for phase in phases if all(phase.get(name) == value for name, value in wanted.items())]


def find_value(phase: Phase, path: str) -> float | None:
    """`whole_ms.p99` of a phase."""
    value: Any = phase
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return None if value is None else float(value)


def find_median(phases: Iterable[Phase], path: str) -> float | None:
    values = [value for phase in phases if (value := find_value(phase, path)) is not None]
    return statistics.median(values) if values else None


def spread(values: list[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(values), 3),
        "low": round(min(values), 3),
        "high": round(max(values), 3),
        "rounds": len(values),
    }


def compare(
    phases: Sequence[Phase], case: str, connections: int, path: str, other: str
) -> dict[str, float] | None:
    """gatewayz divided by `other`, round by round; a peer measured in fewer rounds stands for the missing ones."""
    theirs = pick(phases, system=other, case=case, connections=connections)
    ratios = []
    for ours in pick(phases, system=SUBJECT, case=case, connections=connections):
        beside = pick(theirs, round=ours["round"]) or theirs
        above, below = find_value(ours, path), find_median(beside, path)
        if above and below:
            ratios.append(above / below)
    return spread(ratios) if ratios else None


def add_latency(
    phases: Sequence[Phase], system: str, case: str, connections: int, path: str
) -> dict[str, float] | None:
    """What `system` adds to the direct call's figure, in ms, round by round."""
    added = []
    for phase in pick(phases, system=system, case=case, connections=connections):
        direct = pick(phases, system="direct", case=case, connections=connections, round=phase["round"])
        above, below = find_value(phase, path), find_value(direct[0], path) if direct else None
        if above is not None and below is not None:
            added.append(above - below)
    return spread(added) if added else None


def summarise(phases: Sequence[Phase], extras: Mapping[str, Any]) -> dict[str, Any]:
    """One row per system, case and number of connections, then the ratios and the budgets."""
    rows = []
    for system, case, connections in sorted(
        {(phase["system"], phase["case"], phase["connections"]) for phase in phases if phase["round"] >= 0}
    ):
        chosen = pick(phases, system=system, case=case, connections=connections)
        row = {"system": system, "case": case, "connections": connections, "rounds": len(chosen)}
        for name, path in (
            ("calls_per_s", "calls_per_s"),
            ("cpu_us", "cpu_us"),
            ("database_cpu_us", "database_cpu_us"),
            ("p50_ms", "whole_ms.p50"),
            ("p99_ms", "whole_ms.p99"),
            ("first_p50_ms", "first_ms.p50"),
            ("first_p99_ms", "first_ms.p99"),
        ):
            value = find_median(chosen, path)
            row[name] = None if value is None else round(value, 3)
        row["failed"] = sum(phase["failed"] for phase in chosen)
        for name, path in (("added_p50_ms", "whole_ms.p50"), ("added_p99_ms", "whole_ms.p99")):
            row[name] = add_latency(phases, system, case, connections, path) if system != "direct" else None
        rows.append(row)
    ratios = [
        {"case": case, "connections": connections, "to": other, "what": path, **ratio}
        for other in (REFERENCE, "nginx", SLOW_PEER)
        for case, connections in sorted({(row["case"], row["connections"]) for row in rows})
        for path in ("cpu_us",)
        if (ratio := compare(phases, case, connections, path, other))
    ]
    return {"rows": rows, "ratios": ratios, "budgets": judge(phases, ratios, extras)}


def judge(
    phases: Sequence[Phase], ratios: Sequence[Phase], extras: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Every budget with what was measured; `met` is None where nothing was."""
    found = {(ratio["to"], ratio["case"], ratio["connections"]): ratio["median"] for ratio in ratios}

    def less_than(peer: str, case: str) -> float | None:
        ratio = found.get((peer, case, BUSY))
        return round(1 / ratio, 1) if ratio else None

    added = add_latency(phases, SUBJECT, "plain", 1, "whole_ms.p99")
    idle = extras.get("idle", {}).get(SUBJECT, {})
    paced = extras.get("paced", {}).get(SUBJECT)
    soak, scale = extras.get("soak"), extras.get("scale")
    checks = [
        ("CPU of a plain answer / sglang-router", found.get((REFERENCE, "plain", BUSY)), "<=", 2.5),
        ("CPU of a 100-chunk stream / sglang-router", found.get((REFERENCE, "stream", BUSY)), "<=", 1.1),
        ("added p99 at one connection, ms", added and added["median"], "<=", 2.0),
        ("LiteLLM's CPU of a plain answer / ours", less_than(SLOW_PEER, "plain"), ">=", 25),
        ("LiteLLM's CPU of a 100-chunk stream / ours", less_than(SLOW_PEER, "stream"), ">=", 80),
        ("idle RSS of a worker, MiB", idle.get("worker_mib"), "<=", 120),
        (
            "500 streams at 50 chunks/s: p99 lag behind the upstream, ms",
            paced and paced["lag_ms"]["p99"],
            "<=",
            100,
        ),
        ("RSS after 100,000 distinct calls / after 20,000", soak and soak["growth"], "<=", 1.05),
        ("CPU per call with 100,000 keys / with 10", scale and scale["keys_ratio"], "<=", 1.1),
        ("CPU per call with 5,000 models / with 5", scale and scale["models_ratio"], "<=", 1.1),
    ]
    return [
        {
            "budget": name,
            "measured": value,
            "limit": f"{sign} {limit:g}",
            "met": None if value is None else (value <= limit if sign == "<=" else value >= limit),
        }
        for name, value, sign, limit in checks
    ]
