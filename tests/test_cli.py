"""Which room brings which command, and what starting one of them imports."""

import argparse
import subprocess
import sys

import pytest

from engine.cli import ROOMS, build_parser, main


def list_commands(parser: argparse.ArgumentParser) -> list[str]:
    (actions,) = (found for found in parser._actions if isinstance(found, argparse._SubParsersAction))
    return list(actions.choices)


def test_the_table_names_every_command_and_the_room_that_brings_it() -> None:
    assert sorted(list_commands(build_parser())) == sorted(ROOMS)
    for command, room in ROOMS.items():
        assert command in list_commands(build_parser([room]))


@pytest.mark.parametrize("words", [["--help"], []], ids=["asked", "no command"])
def test_help_shows_every_command(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(words)
    said = capsys.readouterr()
    assert all(command in said.out for command in ROOMS) if words else "COMMAND" in said.err


def test_a_command_that_is_not_there_is_refused_with_those_that_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as refused:
        main(["sevre"])
    said = capsys.readouterr().err
    assert refused.value.code == 2 and all(command in said for command in ROOMS)


def test_serve_imports_nothing_that_only_its_children_or_other_commands_need() -> None:
    code = (
        "import sys, engine.cli as cli; cli.build_parser([cli.ROOMS['serve']]);"
        " print([name for name in ('httpx', 'uvicorn', 'engine.catalog', 'engine.gateway', 'engine.upstream.simulator')"
        " if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_a_worker_imports_redis_and_stripe_only_where_they_are_configured() -> None:
    code = "import sys, engine.worker; print([name for name in ('redis', 'stripe') if name in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
