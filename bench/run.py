"""The whole benchmark: starts the upstream and the systems, runs every phase, writes bench/results/.

python -m bench.run --rounds 5 [--quick] [--systems gatewayz,sglang-router] [--soak] [--scale]

The exit code is 1 when a call failed or the gateway did not start; a missed budget is written down, not punished.
"""

import argparse
import contextlib
import dataclasses
import datetime
import os
import pathlib
import platform
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

from bench.cases import CONNECTIONS, Case, make_cases, make_distinct_case, make_paced_case
from bench.measure import ROOT, measure_load, measure_tree, run_load
from bench.report import show_number, write_report
from bench.scale import fill_keys, measure_scale
from bench.summary import REFERENCE, SUBJECT, summarise
from bench.systems import SYSTEMS, Gatewayz, System, Upstream

_PACED_STREAMS = 500


class Bench:
    """One run: what is running, what was measured."""

    def __init__(self, options: argparse.Namespace, folder: pathlib.Path) -> None:
        self.options = options
        self.folder = folder
        self.phase_s: float = options.phase_s or (0.8 if options.quick else 2.5)
        self.phases: list[dict[str, Any]] = []
        self.skipped: dict[str, str] = {}
        self.versions: dict[str, str] = {}
        self.extras: dict[str, Any] = {"idle": {}, "after": {}}

    def make(self, name: str, upstream: int) -> System | None:
        """The system, ready to be started; None, with the reason kept, when it cannot run here."""
        system = SYSTEMS[name](self.folder, upstream)
        reason = system.missing()
        if reason:
            self.skipped[name] = reason
            say(f"{name}: skipped, {reason}")
            return None
        self.versions[name] = system.version()
        return system

    @contextlib.contextmanager
    def started(self, names: list[str], upstream: int) -> Iterator[list[System]]:
        """The systems of `names` that can run, started, with their idle memory noted; stopped in the end."""
        systems: list[System] = []
        try:
            for name in names:
                system = self.make(name, upstream)
                if system and self.start(system):
                    systems.append(system)
            yield systems
        finally:
            for system in systems:
                if system.pid:
                    self.extras["after"][system.name] = describe_memory(system)
                system.stop()

    def start(self, system: System) -> bool:
        try:
            system.start()
        except (RuntimeError, OSError) as error:
            self.skipped[system.name] = str(error)
            say(f"{system.name}: {error}")
            system.stop()
            return False
        if system.pid:
            time.sleep(1)
            self.extras["idle"][system.name] = describe_memory(system)
        return True

    def run_rounds(self, systems: list[System], rounds: int, phase_s: float) -> None:
        """Case by case, all systems side by side, in an order that turns with every round."""
        for number in range(rounds):
            order = systems if number % 2 == 0 else systems[::-1]
            for case in self.options.cases:
                for connections in CONNECTIONS:
                    for system in order:
                        if not case.only or system.name in case.only:
                            self.run_phase(system, case, connections, number, phase_s)

    def run_phase(
        self, system: System, case: Case, connections: int, number: int, phase_s: float
    ) -> dict[str, Any]:
        plan = case.plan(system.port, system.key, connections)
        run_load(plan | {"duration_s": system.warm_s})
        figures = measure_load(plan | {"duration_s": phase_s}, system.pid, system.marker)
        phase = {"system": system.name, "case": case.name, "connections": connections, "round": number}
        self.phases.append(phase | figures)
        say(
            f"round {number + 1} {case.name:7} {connections:3} {system.name:14}"
            f" {figures['calls_per_s']:9,.0f}/s  cpu {show_number(figures.get('cpu_us')):>8} µs"
            f"  p50 {figures['whole_ms']['p50']:8.3f}  p99 {figures['whole_ms']['p99']:8.3f} ms"
            + (f"  FAILED {figures['failed']} {figures['failures']}" if figures["failed"] else "")
        )
        return figures

    def run_paced(self, systems: list[System]) -> None:
        """500 streams at 50 chunks/s at once: how late is a chunk after it left the upstream?"""
        chunks = 100 if self.options.quick else 500
        case = make_paced_case(chunks)
        paced = self.extras.setdefault("paced", {})
        for system in systems:
            plan = case.plan(system.port, system.key, _PACED_STREAMS, calls=_PACED_STREAMS)
            figures = measure_load(plan, system.pid, system.marker)
            paced[system.name] = {
                "streams": _PACED_STREAMS,
                "chunks": chunks,
                "nominal_s": chunks / 50,
                **figures,
            }
            say(
                f"paced   {system.name:14} lag p50 {figures['lag_ms']['p50']} p99 {figures['lag_ms']['p99']} ms,"
                f" whole p99 {figures['whole_ms']['p99'] / 1000:.2f} s of {chunks / 50:g},"
                f" core {show_number(figures.get('cpu_share'))}, failed {figures['failed']} {figures['failures']}"
            )

    def run_soak(self, system: Gatewayz, calls: int) -> None:
        """Calls with distinct keys, models and tags, then as many with distinct unknown keys: memory stays flat."""
        case = make_distinct_case()
        keys = fill_keys(system, calls)
        unknown = {"Authorization": "Bearer gw_live_" + "x" * 37 + "~~~~~~"}
        marks = []
        batch = calls // 10
        for start in range(0, calls, batch):
            known = [
                {"Authorization": f"Bearer {key}", "x-tags": "team=t~~~~~~,feature=f~~~~~~"}
                for key in keys[start : start + batch]
            ]
            plan = case.plan(system.port, system.key, 64, calls=batch, first_number=start)
            served = run_load(plan | {"headers": known})
            refused = run_load(plan | {"headers": [unknown], "accept_status": [401]})
            memory = describe_memory(system)
            marks.append({"calls": start + batch, "failed": served["failed"] + refused["failed"], **memory})
            say(
                f"soak    {start + batch:7,} calls  worker {memory['worker_mib']} MiB"
                f"  {served['failures']} {refused['failures']}"
            )
        growth = round(marks[-1]["worker_mib"] / marks[1]["worker_mib"], 3)
        self.extras["soak"] = {
            "growth": growth,
            "failed": sum(mark["failed"] for mark in marks),
            "marks": marks,
        }


def describe_memory(system: System) -> dict[str, Any]:
    assert system.pid
    usage = dataclasses.asdict(measure_tree(system.pid, system.marker))
    return usage | {"ready_after_s": system.ready_after_s}


def describe_machine() -> dict[str, Any]:
    cpuinfo = pathlib.Path("/proc/cpuinfo").read_text()
    model = next(
        (line.partition(":")[2].strip() for line in cpuinfo.splitlines() if "model name" in line), "?"
    )
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "kernel": platform.release().partition("-")[0],
        "python": platform.python_version(),
        "load_before": os.getloadavg()[0],
    }


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="short phases, for a look; no figures to keep")
    parser.add_argument("--phase-s", type=float, default=0.0, help="seconds of one measured phase")
    parser.add_argument(
        "--systems", default=",".join(SYSTEMS), help="comma-separated, of: " + ", ".join(SYSTEMS)
    )
    parser.add_argument("--cases", default=",".join(case.name for case in make_cases()))
    parser.add_argument("--soak", action="store_true", help="memory over 100,000 distinct calls")
    parser.add_argument("--soak-calls", type=int, default=100_000)
    parser.add_argument("--scale", action="store_true", help="cost with 100,000 keys and with 5,000 models")
    parser.add_argument("--no-paced", action="store_true")
    parser.add_argument("--results", type=pathlib.Path, default=ROOT / "bench" / "results")
    options = parser.parse_args()
    options.systems = [name for name in SYSTEMS if name in options.systems.split(",")]
    options.cases = [case for case in make_cases() if case.name in options.cases.split(",")]
    return options


def run_all(bench: Bench) -> None:
    """The side-by-side rounds first; LiteLLM, whose idle work would disturb them, alone after they are over."""
    options = bench.options
    upstream = Upstream(bench.folder, 0)
    upstream.start()
    try:
        together = [name for name in options.systems if name != "litellm"]
        with bench.started(together, upstream.port) as systems:
            bench.run_rounds(systems, options.rounds, bench.phase_s)
            if not options.no_paced:
                bench.run_paced([s for s in systems if s.name in ("direct", SUBJECT, REFERENCE)])
            for system in systems:
                if options.soak and isinstance(system, Gatewayz):
                    bench.run_soak(system, options.soak_calls)
        if options.scale:
            bench.extras["scale"] = measure_scale(
                bench.folder, upstream.port, options.rounds, bench.phase_s, say
            )
        if "litellm" in options.systems:
            with bench.started(["litellm"], upstream.port) as systems:
                bench.run_rounds(systems, 1, max(2.0, bench.phase_s * 2))
    finally:
        upstream.stop()


def main() -> int:
    options = read_options()
    began_at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    machine = describe_machine()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        os.chmod(folder, 0o755)
        bench = Bench(options, pathlib.Path(folder))
        run_all(bench)
    run = {
        "began_at": began_at,
        "machine": machine,
        "rounds": options.rounds,
        "phase_s": bench.phase_s,
        "quick": options.quick,
        "versions": bench.versions,
        "skipped": bench.skipped,
        "extras": bench.extras,
        "summary": summarise(bench.phases, bench.extras),
        "phases": bench.phases,
    }
    for row in run["summary"]["budgets"]:
        say(f"{row['budget']}: {show_number(row['measured'])} (limit {row['limit']})")
    for path in write_report(run, options.results):
        print(path)
    extras = [bench.extras.get(name, {}) for name in ("soak", "scale")]
    broken = any(figures.get("failed") for figures in bench.phases + extras)
    return 1 if broken or SUBJECT in bench.skipped else 0


if __name__ == "__main__":
    sys.exit(main())
