import time
from decimal import Decimal
from functools import partial
from typing import Any

import orjson
import pytest
from prometheus_client.parser import text_string_to_metric_families

from engine.telemetry.families import CALL_BUCKETS, FAMILIES, OTHER, PAIRS_KEPT
from engine.telemetry.metrics import Metrics, keep_counters, merge_dumps, read_resident_bytes, render_dump
from engine.wire.usage import CLASSES, Usage

USAGE = Usage(input=100, cached_input=7, output=30, reasoning=11)


def answer(metrics: Metrics, provider: str, model: str, total_s: float = 0.2, times: int = 1) -> None:
    for _ in range(times):
        metrics.observe_call(provider, model, total_s, 0.1, USAGE, Decimal("0.25"))


def scrape(*workers: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """The samples that Prometheus would read, by name and labels, after the trip through JSON."""
    dumps = [orjson.loads(orjson.dumps(worker.dump())) for worker in workers]
    text = render_dump(merge_dumps(dumps)).decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(samples: dict[Any, float], family: str, **labels: str) -> float | None:
    return samples.get((family, tuple(sorted(labels.items()))))


def test_a_scrape_shows_what_the_corridor_counted() -> None:
    metrics = Metrics()
    metrics.count_call("chat", 200)
    metrics.count_call("chat", 200)
    metrics.count_call("embeddings", 429)
    answer(metrics, "acme", "large", total_s=0.3)
    metrics.count_attempt("acme", "large", "ok")
    metrics.count_attempt("acme", "large", "timeout:first_token")
    metrics.count_unpriced("acme", "large", 5)
    metrics.count_refusal("rate_limit_exceeded")
    metrics.count_event_dropped()
    metrics.count_config_refusal()
    seen = scrape(metrics)
    target = {"provider": "acme", "model": "large"}
    assert value(seen, "gatewayz_calls_total", surface="chat", status="200") == 2
    assert value(seen, "gatewayz_calls_total", surface="embeddings", status="429") == 1
    assert value(seen, "gatewayz_call_seconds_bucket", le="0.25", **target) == 0
    assert value(seen, "gatewayz_call_seconds_bucket", le="0.5", **target) == 1
    assert value(seen, "gatewayz_call_seconds_bucket", le="+Inf", **target) == 1
    assert value(seen, "gatewayz_call_seconds_sum", **target) == pytest.approx(0.3)
    assert value(seen, "gatewayz_first_token_seconds_count", **target) == 1
    assert value(seen, "gatewayz_cost_usd_total", **target) == 0.25
    assert value(seen, "gatewayz_attempts_total", outcome="timeout:first_token", **target) == 1
    assert value(seen, "gatewayz_unpriced_tokens_total", **target) == 5
    assert value(seen, "gatewayz_refusals_total", code="rate_limit_exceeded") == 1
    assert value(seen, "gatewayz_stream_events_dropped_total") == 1
    assert value(seen, "gatewayz_config_refusals_total") == 1


def test_every_token_class_is_counted_under_its_own_name() -> None:
    metrics, counts = Metrics(), {name: 10 + index for index, name in enumerate(CLASSES)}
    metrics.observe_call("acme", "large", 1.0, None, Usage(**counts, estimated=True), Decimal(0))
    seen = scrape(metrics)
    for name, count in counts.items():
        labels = {"provider": "acme", "model": "large", "class": name}
        assert value(seen, "gatewayz_tokens_total", **labels) == count
    assert value(seen, "gatewayz_estimated_calls_total", provider="acme", model="large") == 1
    assert value(seen, "gatewayz_first_token_seconds_count", provider="acme", model="large") is None


def test_a_time_on_a_bound_belongs_to_the_bucket_of_that_bound() -> None:
    metrics = Metrics()
    for bound in CALL_BUCKETS:
        answer(metrics, "acme", "large", total_s=bound)
    seen = scrape(metrics)
    for number, bound in enumerate(CALL_BUCKETS, 1):
        labels = {"le": str(bound), "provider": "acme", "model": "large"}
        assert value(seen, "gatewayz_call_seconds_bucket", **labels) == number


def test_counters_and_histograms_of_workers_add_up_and_gauges_follow_their_rule() -> None:
    one, two = Metrics(), Metrics()
    for metrics, connections, reachable, breaker in ((one, 3.0, 1.0, 2.0), (two, 4.0, 0.0, 1.0)):
        metrics.count_call("chat", 200)
        answer(metrics, "acme", "large")
        metrics.watch("gatewayz_calls_in_progress", lambda: 5)
        metrics.watch("gatewayz_upstream_connections", partial(dict, busy=connections))
        metrics.watch("gatewayz_dependency_up", partial(dict, database=reachable))
        metrics.watch("gatewayz_breaker_state", partial(dict, [(("acme", "large"), breaker)]))
        metrics.watch("gatewayz_config_revision_info", lambda: {"abc": 1})
    seen = scrape(one, two)
    assert value(seen, "gatewayz_calls_total", surface="chat", status="200") == 2
    assert value(seen, "gatewayz_call_seconds_count", provider="acme", model="large") == 2
    assert value(seen, "gatewayz_calls_in_progress") == 10
    assert value(seen, "gatewayz_upstream_connections", state="busy") == 7
    assert value(seen, "gatewayz_dependency_up", name="database") == 0
    assert value(seen, "gatewayz_breaker_state", provider="acme", model="large") == 2
    assert value(seen, "gatewayz_config_revision_info", revision="abc") == 1
    assert value(seen, "gatewayz_workers") == 2


def test_merging_leaves_the_dumps_as_they_were() -> None:
    metrics = Metrics()
    answer(metrics, "acme", "large")
    dump = metrics.dump()
    before = orjson.dumps(dump)
    merge_dumps([dump, dump, dump])
    assert orjson.dumps(dump) == before


def test_what_a_dead_worker_counted_stays_and_its_gauges_go() -> None:
    metrics = Metrics()
    metrics.count_call("chat", 200)
    metrics.watch("gatewayz_calls_in_progress", lambda: 5)
    kept = keep_counters(metrics.dump())
    assert "gatewayz_calls_in_progress" not in kept and "gatewayz_workers" not in kept
    assert kept["gatewayz_calls_total"] == [[["chat", "200"], 1]]


def test_model_names_that_callers_make_up_do_not_grow_memory_and_nothing_is_lost() -> None:
    metrics = Metrics()
    answer(metrics, "acme", "busy", times=50)
    for number in range(5000):
        answer(metrics, "acme", f"made-up-{number}")
        metrics.count_attempt("acme", f"made-up-{number}", "404")
    answer(metrics, "acme", "x" * 5000)
    dump = metrics.dump()
    assert len(dump["gatewayz_call_seconds"]) == PAIRS_KEPT + 1
    seen = scrape(metrics)
    assert value(seen, "gatewayz_call_seconds_count", provider="acme", model="busy") == 50
    counts = [n for (name, _), n in seen.items() if name == "gatewayz_call_seconds_count"]
    assert sum(counts) == 5051
    other = {"provider": OTHER, "model": OTHER}
    assert (value(seen, "gatewayz_call_seconds_count", **other) or 0) > 4000
    costs = [n for (name, _), n in seen.items() if name == "gatewayz_cost_usd_total"]
    assert sum(costs) == 5051 * 0.25


def test_what_became_other_stays_there_so_that_no_counter_runs_backwards() -> None:
    metrics, last = Metrics(), 0.0
    for burst in range(4):
        for number in range(700):
            answer(metrics, "acme", f"model-{burst}-{number}", times=1 + number % 3)
        rows = merge_dumps([metrics.dump()])["gatewayz_cost_usd_total"]
        other = next(cost for labels, cost in rows if labels == [OTHER, OTHER])
        assert other > last
        last = other


def test_workers_with_different_models_merge_to_the_busiest_pairs() -> None:
    workers = [Metrics(), Metrics()]
    for index, metrics in enumerate(workers):
        for number in range(400):
            answer(metrics, f"p{index}", f"m{number}", times=2 if number < 200 else 1)
            metrics.count_attempt(f"p{index}", f"m{number}", "ok")
    merged = merge_dumps(metrics.dump() for metrics in workers)
    pairs = {tuple(labels) for labels, _ in merged["gatewayz_call_seconds"]}
    assert len(pairs) == PAIRS_KEPT + 1
    assert {(f"p{index}", f"m{number}") for index in range(2) for number in range(200)} < pairs
    assert sum(sum(counts) for _, (counts, _) in merged["gatewayz_call_seconds"]) == 2 * 600


def test_a_label_with_quotes_and_newlines_survives_the_text_format() -> None:
    metrics, model = Metrics(), 'a"b\\c\nd é'
    answer(metrics, "acme", model)
    assert value(scrape(metrics), "gatewayz_cost_usd_total", provider="acme", model=model) == 0.25


def test_a_dump_of_a_newer_worker_with_unknown_families_is_merged_without_them() -> None:
    assert "gatewayz_future" not in merge_dumps([{"gatewayz_future": [[[], 1]]}])


def test_only_declared_families_can_be_watched() -> None:
    with pytest.raises(KeyError, match="families"):
        Metrics().watch("gatewayz_typo", lambda: 1)


def test_every_family_is_announced_before_it_has_a_value() -> None:
    text = render_dump(merge_dumps([])).decode()
    for name in FAMILIES:
        assert f"# HELP {name} " in text


def test_resident_memory_is_that_of_a_python_process() -> None:
    assert 5_000_000 < read_resident_bytes() < 4_000_000_000


def test_one_observation_costs_microseconds() -> None:
    metrics, cost = Metrics(), Decimal("0.0001")
    fastest = 1.0
    for _ in range(5):
        began = time.process_time()
        for _ in range(2000):
            metrics.observe_call("acme", "large", 0.3, 0.1, USAGE, cost)
        fastest = min(fastest, (time.process_time() - began) / 2000)
    assert fastest < 10e-6
