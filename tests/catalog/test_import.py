"""`gatewayz models import`: from a selection and a price list to models.d."""

import json
from pathlib import Path
from typing import Any

import pytest

from engine.cli import main
from engine.config.files import find_library
from engine.config.yamltree import parse_document

SHARED = find_library().parent / "shared/data/model_prices.json"
PRICES = {
    "gpt-x": {"mode": "chat", "input_cost_per_token": 1e-06, "output_cost_per_token": 2e-06, "max_input_tokens": 1000,
              "max_output_tokens": 500, "supports_reasoning": True, "supports_assistant_prefill": True},
    "groq/gpt-x": {"mode": "chat", "input_cost_per_token": 3e-06, "output_cost_per_token": 4e-06,
                   "max_input_tokens": 900, "max_output_tokens": 500},
}  # fmt: skip
PROVIDERS = 'providers: {openai: ["{model}"], groq: ["groq/{model}"], nobody: ["{model}"], openrouter: []}'
TEAM = """
owned_by: team
models:
  x-large:
    aliases: [team/x-large]
    can: [web_search]
    targets:
      openai: gpt-x
      groq: {model: gpt-x, traits: {replays_reasoning: true}}
      openrouter: team/gpt-x
      nobody: gpt-x
"""


def run_import(folder: Path, team: str = TEAM, prices: dict[str, Any] = PRICES) -> int:
    (folder / "catalog").mkdir()
    (folder / "out").mkdir()
    (folder / "catalog/providers.yaml").write_text(PROVIDERS)
    (folder / "catalog/team.yaml").write_text(team)
    (folder / "prices.json").write_text(json.dumps(prices))
    arguments = [
        "--prices",
        f"{folder}/prices.json",
        "--out",
        f"{folder}/out",
        "--selection",
        f"{folder}/catalog",
    ]
    return main(["models", "import", *arguments])


def test_a_chosen_model_is_written_with_what_the_list_knows(tmp_path: Path) -> None:
    assert run_import(tmp_path) == 0
    document = parse_document((tmp_path / "out/team.yaml").read_bytes())
    assert document.tree == {
        "models": {
            "x-large": {
                "aliases": ["team/x-large"],
                "capabilities": ["chat", "reasoning", "web_search"],
                "limits": {"context": 1000, "output": 500},
                "price": {"input": "1.00", "output": "2.00"},
                "timeouts": {"first_token_s": 120},
                "prefill": True,
                "owned_by": "team",
                "targets": [
                    {"provider": "openai", "model": "gpt-x"},
                    {
                        "provider": "groq",
                        "model": "gpt-x",
                        "limits": {"context": 900, "output": 500},
                        "price": {"input": "3.00", "output": "4.00"},
                        "traits": {"replays_reasoning": True},
                    },
                    {"provider": "openrouter", "model": "team/gpt-x"},
                ],
            }
        }
    }


def test_a_target_without_a_price_is_told_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_import(tmp_path, TEAM.replace("groq: {model: gpt-x", "groq: {model: gpt-y")) == 1
    assert "x-large: no price for groq/gpt-y" in capsys.readouterr().err
    assert list((tmp_path / "out").iterdir()) == []


def test_a_mistake_of_the_selection_is_told_with_its_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_import(tmp_path, TEAM.replace("aliases:", "alias:")) == 1
    assert (
        'team.yaml:5:5 models.x-large.alias: unknown key (did you mean "aliases"?)' in capsys.readouterr().err
    )


def test_a_model_that_nobody_serves_is_left_out(tmp_path: Path) -> None:
    assert run_import(tmp_path, "models: {m: {targets: {nobody: gpt-x}}}") == 0
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.skipif(not SHARED.exists(), reason="the price list is not here")
def test_the_shipped_models_are_what_the_import_writes(tmp_path: Path) -> None:
    assert main(["models", "import", "--prices", str(SHARED), "--out", str(tmp_path)]) == 0
    shipped = find_library() / "models.d"
    stale = [
        path.name for path in tmp_path.iterdir() if path.read_bytes() != (shipped / path.name).read_bytes()
    ]
    assert stale == [], "run `gatewayz models import`"
