"""Does a call cost the same with many keys and many models? Three gateways side by side, turn by turn."""

import pathlib
import statistics
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from bench.cases import make_cases
from bench.measure import ROOT, measure_load, run_load
from bench.systems import Gatewayz, plain_environ

ACTIVE_KEYS = 1_000


class FewOfBoth(Gatewayz):
    name = "few"
    models, keys = 5, 10


class ManyKeys(Gatewayz):
    """100,000 keys are stored; 1,000 of them call in turn."""

    name = "many-keys"
    models, keys = 5, 100_000


class ManyModels(Gatewayz):
    name = "many-models"
    models, keys = 5_000, 10


def measure_scale(
    folder: pathlib.Path, upstream: int, rounds: int, phase_s: float, say: Callable[[str], None]
) -> dict[str, Any]:
    """CPU per plain call at 64 connections, and the medians of the ratios to the small gateway of each round."""
    systems = [kind(folder, upstream) for kind in (FewOfBoth, ManyKeys, ManyModels)]
    try:
        plans = {}
        for system in systems:
            system.start()
            plans[system.name] = make_plan(system)
        figures: dict[str, list[float]] = {system.name: [] for system in systems}
        failed = 0
        for number in range(rounds):
            for system in systems if number % 2 == 0 else systems[::-1]:
                plan = plans[system.name] | {"duration_s": phase_s}
                found = measure_load(plan, system.pid, system.marker)
                figures[system.name].append(found["cpu_us"])
                failed += found["failed"]
                say(
                    f"scale   {system.name:12} cpu {found['cpu_us']} µs, failed {found['failed']} {found['failures']}"
                )
    finally:
        for system in systems:
            system.stop()
    return {
        "cpu_us": figures,
        "failed": failed,
        "ready_after_s": {system.name: system.ready_after_s for system in systems},
        "keys_ratio": divide(figures["many-keys"], figures["few"]),
        "models_ratio": divide(figures["many-models"], figures["few"]),
    }


def make_plan(system: Gatewayz) -> dict[str, Any]:
    """A plan whose calls rotate over the keys that are in use and, with many models, over all of them."""
    keys = fill_keys(system, system.keys)[:ACTIVE_KEYS]
    (plain,) = (case for case in make_cases() if case.name == "plain")
    names = ["bench-plain", *system.more_models()]
    plan = plain.plan(system.port, "", 64)
    plan["headers"] = [{"Authorization": f"Bearer {key}"} for key in keys]
    plan["bodies"] = [plain.body.replace("bench-plain", name) for name in names]
    run_load(plan | {"calls": 2 * max(len(keys), len(names))})
    return plan


def fill_keys(system: Gatewayz, number: int) -> list[str]:
    """Store `number` more keys in a running gateway's database and return their texts."""
    filled = subprocess.run(
        [sys.executable, "-m", "bench.fill_keys", str(number)],
        cwd=ROOT,
        env=plain_environ() | {"GATEWAYZ_HOME": str(system.marker)},
        capture_output=True,
        text=True,
    )
    if filled.returncode:
        raise RuntimeError(f"keys could not be stored: {filled.stderr[-2000:]}")
    return filled.stdout.split()


def divide(above: list[float], below: list[float]) -> float:
    return round(statistics.median(a / b for a, b in zip(above, below, strict=True)), 3)
