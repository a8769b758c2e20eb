from pathlib import Path

from engine.telemetry.families import FAMILIES, TOKEN_CLASSES

DOCS = Path(__file__).parents[2] / "docs" / "metrics.md"
PROMISED = {
    "gatewayz_calls_in_progress": (),
    "gatewayz_upstream_connections": ("state",),
    "gatewayz_calls_total": ("surface", "status"),
    "gatewayz_config_revision_info": ("revision",),
    "gatewayz_config_refusals_total": (),
    "gatewayz_journal_records": ("state",),
    "gatewayz_dependency_up": ("name",),
    "gatewayz_stream_events_dropped_total": (),
}


def test_the_documentation_describes_every_metric_as_it_is() -> None:
    documented = [line for line in DOCS.read_text().splitlines() if line.startswith("| `gatewayz_")]
    declared = [
        f"| `{family.name}` | {family.kind} | {', '.join(f'`{label}`' for label in family.labels) or '–'} "
        f"| {family.merge} | {family.help} |"
        for family in FAMILIES.values()
    ]
    assert documented == declared


def test_the_documentation_names_every_token_class() -> None:
    text = DOCS.read_text()
    assert all(f"`{name}`" in text for name in TOKEN_CLASSES)


def test_the_metrics_that_others_rely_on_have_their_labels() -> None:
    assert {name: FAMILIES[name].labels for name in PROMISED} == PROMISED


def test_names_say_their_kind() -> None:
    for family in FAMILIES.values():
        assert (family.kind == "counter") == family.name.endswith("_total")
        assert (family.kind == "histogram") == bool(family.buckets)
        assert list(family.buckets) == sorted(set(family.buckets))
