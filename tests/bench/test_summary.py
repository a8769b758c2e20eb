"""Ratios are taken round by round, and a budget that nothing measured is neither met nor missed."""

import xml.etree.ElementTree
from typing import Any

from bench.report import render_chart, render_markdown, show_number
from bench.summary import add_latency, compare, summarise


def phase(system: str, number: int, cpu_us: float, p99: float = 1.0) -> dict[str, Any]:
    figures = {
        "calls_per_s": 1000.0,
        "whole_ms": {"p50": 0.5, "p99": p99},
        "first_ms": {"p50": 0.5, "p99": p99},
    }
    place = {"system": system, "case": "plain", "connections": 64, "round": number}
    return {**place, "cpu_us": cpu_us, "database_cpu_us": 0.0, "failed": 0, **figures}


def test_ratio_is_the_median_of_the_rounds_ratios_not_the_ratio_of_the_medians() -> None:
    phases = [phase("gatewayz", n, cpu) for n, cpu in enumerate((100, 300, 120))]
    phases += [phase("sglang-router", n, cpu) for n, cpu in enumerate((100, 100, 60))]
    assert compare(phases, "plain", 64, "cpu_us", "sglang-router") == {
        "median": 2.0,
        "low": 1.0,
        "high": 3.0,
        "rounds": 3,
    }


def test_peer_measured_once_stands_for_every_round() -> None:
    phases = [phase("gatewayz", 0, 100), phase("gatewayz", 1, 200), phase("litellm", 0, 10_000)]
    ratio = compare(phases, "plain", 64, "cpu_us", "litellm")
    assert ratio and (ratio["low"], ratio["high"]) == (0.01, 0.02)


def test_added_latency_is_taken_from_the_direct_call_of_the_same_round() -> None:
    phases = [phase("direct", 0, 0, p99=1), phase("direct", 1, 0, p99=5)]
    phases += [phase("gatewayz", 0, 0, p99=2), phase("gatewayz", 1, 0, p99=6)]
    added = add_latency(phases, "gatewayz", "plain", 64, "whole_ms.p99")
    assert added and (added["low"], added["high"]) == (1.0, 1.0)


def test_budget_is_met_missed_or_unmeasured() -> None:
    phases = [phase("gatewayz", 0, 300), phase("sglang-router", 0, 100), phase("litellm", 0, 15_000)]
    budgets = {row["budget"]: row["met"] for row in summarise(phases, {})["budgets"]}
    assert budgets["CPU of a plain answer / sglang-router"] is False
    assert budgets["LiteLLM's CPU of a plain answer / ours"] is True
    assert budgets["idle RSS of a worker, MiB"] is None


def test_page_and_chart_are_written_from_one_phase() -> None:
    phases = [phase("gatewayz", 0, 300), phase("sglang-router", 0, 100)]
    extras = {"idle": {"gatewayz": {"worker_mib": 80.0}}, "after": {}}
    run = {
        "began_at": "2026-01-02T03:04:05+00:00",
        "machine": {"cpu": "cpu", "cores": 2, "kernel": "6", "python": "3.11"},
        "rounds": 1,
        "phase_s": 2.5,
        "versions": {"gatewayz": "0.1.0"},
        "skipped": {"nginx": "not installed"},
        "extras": extras,
        "summary": summarise(phases, extras),
    }
    page = render_markdown(run)
    assert "| plain answer | 64 | sglang-router | 3.00 (3.00–3.00) | 1 |" in page
    assert "nginx: not installed" in page
    assert xml.etree.ElementTree.fromstring(render_chart(run)).tag.endswith("svg")


def test_numbers_are_shown_with_three_digits() -> None:
    assert [show_number(value) for value in (0, 0.01234, 1.2345, 123.4, 12345.6, None)] == [
        "0",
        "0.012",
        "1.23",
        "123",
        "12,346",
        "–",
    ]
