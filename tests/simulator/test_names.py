import argparse
from pathlib import Path

import pytest

from engine.upstream.simulator.commands import register
from engine.upstream.simulator.names import BEHAVIOURS, NameRefused, list_names, parse_name


def test_a_name_is_behaviours_joined_by_plus() -> None:
    script = parse_name("sim/cut@40+tokens@60+latency@50ms")
    assert dict(script.parts) == {"cut": 40, "tokens": 60, "latency": 0.05}
    assert script.breaks == "cut"


def test_numbers_default_and_units_count() -> None:
    assert parse_name("sim/slow-first-token").parts["slow-first-token"] == 20
    assert parse_name("sim/chunk-ms@20").parts["chunk-ms"] == pytest.approx(0.02)
    assert parse_name("sim/large@2").parts["large"] == 2048
    assert parse_name("sim/429@5s").parts["429"] == 5


def test_then_ok_is_healthy_on_even_attempts_and_keeps_the_rest() -> None:
    script = parse_name("sim/429-then-ok+tokens@5")
    assert script.on_attempt(1).status == 429
    assert script.on_attempt(1).parts["429"] == 2
    assert script.on_attempt(2).status is None
    assert script.on_attempt(2).parts["tokens"] == 5
    assert script.on_attempt(3).status == 429


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("gpt-4o", "does not exist"),
        ("sim/ech", "did you mean echo"),
        ("sim/echo@5", "takes no number"),
        ("sim/cut@5s", "takes count"),
        ("sim/", "not written"),
        ("sim/cut+", "not written"),
        ("sim/echo-then-ok", "no behaviour"),
    ],
)
def test_what_is_not_in_the_language_is_refused_with_the_reason(name: str, said: str) -> None:
    with pytest.raises(NameRefused, match=said):
        parse_name(name)


def test_every_listed_name_can_be_asked_for() -> None:
    for name, _ in list_names():
        parse_name(name)


def test_every_behaviour_stands_in_the_documentation() -> None:
    page = Path("docs/simulator.md").read_text()
    for behaviour in BEHAVIOURS.values():
        if behaviour.name.isdecimal():
            assert f"`{behaviour.name}`" in page
        else:
            assert f"| `{behaviour.example or behaviour.name}` | {behaviour.what}" in page


def test_the_command_is_simulate_and_its_run_is_a_function() -> None:
    parser = argparse.ArgumentParser()
    register(parser.add_subparsers())
    options = parser.parse_args(["simulate", "--port", "0"])
    assert options.port == 0
    assert callable(options.run)
