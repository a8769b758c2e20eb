"""Writes a run down: JSON with everything, Markdown tables and an SVG chart for people."""

import html
import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any

from bench.cases import CONNECTIONS, make_cases
from bench.systems import SYSTEMS

_COLOURS = {"gatewayz": "#0b7285", "direct": "#adb5bd"}


def write_report(run: Mapping[str, Any], folder: pathlib.Path) -> list[pathlib.Path]:
    """results/<date>.{json,md,svg} and the same as latest.*"""
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        "json": json.dumps(run, indent=1) + "\n",
        "md": render_markdown(run),
        "svg": render_chart(run),
    }
    stamp = run["began_at"].replace(":", "").replace("-", "")[:13]
    written = []
    for suffix, text in texts.items():
        for stem in (stamp, "latest"):
            path = folder / f"{stem}.{suffix}"
            path.write_text(text)
            written.append(path)
    return written


def show_number(value: Any, digits: int = 3) -> str:
    if value is None:
        return "–"
    if isinstance(value, Mapping):
        low, high = show_number(value["low"], digits), show_number(value["high"], digits)
        return f"{show_number(value['median'], digits)} ({low}–{high})"
    number = float(value)
    if number == 0 or math.isnan(number):
        return "0" if number == 0 else "–"
    places = max(0, digits - 1 - math.floor(math.log10(abs(number))))
    return f"{number:,.{min(places, 3)}f}"


def show_table(head: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|---" + "|--:" * (len(head) - 1) + "|"]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows]) + "\n"


def render_markdown(run: Mapping[str, Any]) -> str:
    """The whole run on one page: budgets first, then ratios, then every row."""
    summary, machine = run["summary"], run["machine"]
    titles = {case.name: case.title for case in make_cases()}
    verdicts = {True: "met", False: "**missed**", None: "not measured"}
    parts = [
        f"# Benchmark of {run['began_at'][:16].replace('T', ' ')} UTC\n",
        f"{machine['cpu']}, {machine['cores']} cores, Linux {machine['kernel']}, Python {machine['python']}; "
        f"{run['rounds']} rounds of {run['phase_s']:g} s per phase. Everything runs on this one machine: the "
        "load, the upstream and the system. CPU is that of the system's whole process tree, its database "
        "included.\n",
        "## Budgets\n",
        show_table(
            ["budget", "measured", "limit", ""],
            [
                [row["budget"], show_number(row["measured"]), row["limit"], verdicts[row["met"]]]
                for row in summary["budgets"]
            ],
        ),
        "## CPU per call: gatewayz divided by\n",
        "Median of the ratios of the rounds (lowest–highest).\n",
        show_table(
            ["case", "connections", "to", "ratio", "rounds"],
            [
                [
                    titles[row["case"]],
                    str(row["connections"]),
                    row["to"],
                    show_number(row),
                    str(row["rounds"]),
                ]
                for row in summary["ratios"]
            ],
        ),
    ]
    for case in make_cases():
        for connections in CONNECTIONS:
            rows = [r for r in summary["rows"] if (r["case"], r["connections"]) == (case.name, connections)]
            rows.sort(key=lambda row: list(SYSTEMS).index(row["system"]))
            if rows:
                parts.append(f"## {case.title}, {connections} connection{'s' * (connections > 1)}\n")
                parts.append(show_table(_HEAD, [show_row(row, run) for row in rows]))
    parts.append("## Memory, MiB\n")
    parts.append(render_memory(run))
    for name, value in run["extras"].items():
        if name not in ("idle", "after"):
            parts.append(f"## {name}\n\n```json\n{json.dumps(value, indent=1)}\n```\n")
    if run["skipped"]:
        parts.append("## Not measured\n")
        parts.append("\n".join(f"- {name}: {reason}" for name, reason in run["skipped"].items()) + "\n")
    return "\n".join(parts)


_HEAD = [
    "system",
    "calls/s",
    "CPU µs",
    "of it database",
    "p50 ms",
    "p99 ms",
    "added p50",
    "added p99",
    "failed",
]


def show_row(row: Mapping[str, Any], run: Mapping[str, Any]) -> list[str]:
    version = run["versions"].get(row["system"], "")
    return [
        f"{row['system']} {version}".strip(),
        *(show_number(row[name]) for name in _ROW),
        str(row["failed"]) if not row["failed"] else f"**{row['failed']}**",
    ]


_ROW = ("calls_per_s", "cpu_us", "database_cpu_us", "p50_ms", "p99_ms", "added_p50_ms", "added_p99_ms")


def render_memory(run: Mapping[str, Any]) -> str:
    rows = []
    for system, idle in run["extras"]["idle"].items():
        after = run["extras"]["after"].get(system, {})
        figures = [idle.get("worker_mib"), after.get("worker_mib"), idle.get("memory_mib")]
        figures += [after.get("memory_mib"), after.get("database_mib"), idle.get("ready_after_s")]
        rows.append([system, *map(show_number, figures)])
    head = [
        "system",
        "largest process idle",
        "after",
        "tree idle",
        "after",
        "database after",
        "ready after s",
    ]
    return show_table(head, rows)


def render_chart(run: Mapping[str, Any]) -> str:
    """CPU per call at 64 connections, one panel per case, on a logarithmic scale."""
    panels = []
    for case in make_cases():
        bars = [
            (row["system"], row["cpu_us"])
            for row in run["summary"]["rows"]
            if row["case"] == case.name and row["connections"] == CONNECTIONS[-1] and row["cpu_us"]
        ]
        if bars:
            panels.append((case.title, sorted(bars, key=lambda bar: bar[1])))
    height = 46 + sum(34 + 24 * len(bars) for _, bars in panels)
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 760 {height}" width="760" height="{height}"',
        ' font-family="system-ui,sans-serif" font-size="13">',
        '<rect width="100%" height="100%" fill="#fff"/>',
        '<text x="16" y="26" font-size="16" font-weight="600">CPU per call, microseconds '
        f"({CONNECTIONS[-1]} connections, logarithmic)</text>",
    ]
    y = 46
    for title, bars in panels:
        y += 20
        out.append(f'<text x="16" y="{y}" font-weight="600">{html.escape(title)}</text>')
        y += 8
        for system, value in bars:
            out += render_bar(system, value, y, max(number for _, number in bars))
            y += 24
        y += 6
    return "\n".join([*out, "</svg>"]) + "\n"


def render_bar(system: str, value: float, y: int, most: float) -> list[str]:
    share = math.log10(max(value, 1.01)) / math.log10(max(most, 10))
    width = max(2, round(460 * share))
    colour = _COLOURS.get(system, "#868e96")
    return [
        f'<text x="140" y="{y + 14}" text-anchor="end">{html.escape(system)}</text>',
        f'<rect x="148" y="{y}" width="{width}" height="18" rx="3" fill="{colour}"/>',
        f'<text x="{154 + width}" y="{y + 14}">{value:,.0f}</text>',
    ]
