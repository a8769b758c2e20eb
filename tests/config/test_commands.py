"""`gatewayz check` and `gatewayz schema` as a shell sees them."""

import argparse
import json
from pathlib import Path

import pytest

from engine.config import commands
from engine.config.schema import KINDS, write_json_schema
from tests.config.conftest import Folder, provider

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _in_a_home(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.loader()
    monkeypatch.setenv("GATEWAYZ_HOME", str(folder.path / "home"))


def run(*words: str) -> int:
    parser = argparse.ArgumentParser()
    commands.register(parser.add_subparsers())
    args = parser.parse_args(words)
    code: int = args.run(args)
    return code


def test_check_of_a_good_folder_is_0_and_says_nothing_on_stdout(
    folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    folder.write({"gateway.yaml": "", "providers.d/a.yaml": provider()})
    assert run("check", "-c", str(folder.path / "gateway.yaml")) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[-1].startswith("ok: ")


def test_check_of_a_bad_folder_is_1_with_every_problem_on_its_own_line(
    folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    folder.write({"gateway.yaml": "a: 1\nb: 2\n"})
    assert run("check", "-c", str(folder.path / "gateway.yaml")) == 1
    out, err = capsys.readouterr()
    assert out == "gateway.yaml:1:1 a: unknown key\ngateway.yaml:2:1 b: unknown key\n"
    assert err == "refused: 2 problems\n"


def test_check_speaks_json(folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    folder.write({"gateway.yaml": "a: 1\nb: 2\n"})
    assert run("check", "-c", str(folder.path / "gateway.yaml"), "--format", "json") == 1
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert rows[1] == {"file": "gateway.yaml", "line": 2, "column": 1, "path": "b", "message": "unknown key"}
    assert len(rows) == 2


@pytest.mark.parametrize("kind", KINDS)
def test_the_schemas_that_files_point_at_are_fresh(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("schema", kind) == 0
    assert capsys.readouterr().out == (ROOT / f"docs/schema/{kind}.json").read_text()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "format"])
def test_every_key_has_a_sentence_for_editors(kind: str) -> None:
    schema = json.loads(write_json_schema(kind))
    for part in (schema, *schema.get("$defs", {}).values()):
        for name, key in part.get("properties", {}).items():
            assert key.get("description"), name
        assert part.get("additionalProperties") is not True or part["title"] in (
            "UsageFrom",
            "FormatOverride",
        )


def test_every_shipped_file_points_its_editor_at_a_schema_that_is_there() -> None:
    files = [
        ROOT / "gateway.yaml",
        *(
            path
            for folder in ("providers.d", "models.d", "policies.d")
            for path in (ROOT / folder).rglob("*.yaml")
        ),
    ]
    for file in files:
        line = file.read_text().partition("\n")[0]
        target = line.removeprefix("# yaml-language-server: $schema=")
        assert target != line, file
        assert (file.parent / target).resolve().is_file(), file
