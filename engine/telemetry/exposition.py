"""A dump as Prometheus text. It takes milliseconds: the supervisor does it, never a request loop."""

from collections.abc import Iterator, Mapping
from itertools import accumulate
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from engine.telemetry.families import FAMILIES, Family

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def render_dump(merged: Mapping[str, list[list[Any]]]) -> bytes:
    """The text of a scrape. Every family is there, also the ones that have no value yet."""
    return generate_latest(_DumpCollector(merged))


class _DumpCollector(Collector):
    def __init__(self, dump: Mapping[str, list[list[Any]]]) -> None:
        self._dump = dump

    def collect(self) -> Iterator[Metric]:
        for family in FAMILIES.values():
            yield _fill_family(family, self._dump.get(family.name, []))


def _fill_family(family: Family, rows: list[list[Any]]) -> Metric:
    if family.kind == "histogram":
        return _fill_histogram(family, rows)
    kind = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
    filled = kind(family.name, family.help, labels=family.labels)
    for labels, value in rows:
        filled.add_metric(labels, value)
    if not rows and not family.labels and family.kind == "counter":
        filled.add_metric([], 0)
    return filled


def _fill_histogram(family: Family, rows: list[list[Any]]) -> HistogramMetricFamily:
    filled = HistogramMetricFamily(family.name, family.help, labels=family.labels)
    bounds = [*map(str, family.buckets), "+Inf"]
    for labels, (counts, total) in rows:
        filled.add_metric(labels, list(zip(bounds, accumulate(counts), strict=True)), total)
    return filled
