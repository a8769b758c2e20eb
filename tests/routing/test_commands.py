"""`gatewayz explain`: which rule decided, the way of the name, who is asked and who is not."""

import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from engine.cli import main
from tests.homes import lend_parsed_files

FILES = {
    "gateway.yaml": "include: {builtin: false}",
    "providers.d/a.yaml": "provider: alpha\nformat: openai-chat\nbase_url: https://a.example.com\nauth: {bearer: k}\n",
    "providers.d/b.yaml": "provider: beta\nformat: openai-chat\nbase_url: https://b.example.com\n"
    "auth: {bearer: '${NO_KEY}'}\npassthrough: true\n",
    "models.d/m.yaml": """
models:
  large:
    aliases: [team/large]
    limits: {output: 1000}
    price: {input: "1", output: "2", reasoning: "3"}
    targets: [{provider: alpha, model: big}, {provider: beta, model: big}]
  words:
    capabilities: [embeddings]
    price: {input: "1"}
    targets: [{provider: alpha, model: w}]
  ranks:
    capabilities: [rerank]
    price: {per_search: "0.002"}
    targets: [{provider: alpha, model: r}]
""",
    "models.d/n.yaml": "names: ours\naliases: {best: old-1}\nrules:\n  - {match: 'old-*', use: large, why: retired}\n",
}  # fmt: skip


class Explained(SimpleNamespace):
    code: int
    out: str
    err: str


@pytest.fixture
def explain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    lend_parsed_files(tmp_path / "home")
    monkeypatch.setenv("GATEWAYZ_HOME", str(tmp_path / "home"))

    def run(*arguments: str, body: str = "") -> Explained:
        monkeypatch.setattr(
            sys, "stdin", SimpleNamespace(isatty=lambda: False, buffer=io.BytesIO(body.encode()))
        )
        code = main(["explain", *arguments, "-c", str(tmp_path / "gateway.yaml")])
        captured = capsys.readouterr()
        return Explained(code=code, out=captured.out, err=captured.err)

    return run


def test_a_listed_name_needs_one_line_and_its_targets(explain: Any) -> None:
    shown = explain("large")
    assert shown.code == 0
    assert shown.out.splitlines() == [
        "large -> large (models.d lists it; strategy failover, policy default)",
        "  1. alpha: big (weight 1; at most 0.003001 USD)",
        "  -  beta: big (left out: environment variable NO_KEY is not set)",
    ]


def test_every_step_of_a_rename_is_shown_with_its_place(explain: Any) -> None:
    assert explain("best").out.splitlines()[1:4] == [
        "  best -> old-1 (an alias, models.d/n.yaml:2:11)",
        "  old-1 -> large (rule old-*: retired, models.d/n.yaml:4:5)",
        "  large -> large (models.d lists it)",
    ]


def test_the_same_is_one_json_object(explain: Any) -> None:
    document = json.loads(explain("best", "--format", "json").out)
    assert document["model"] == "large"
    assert [(step["name"], step["use"]) for step in document["steps"]] == [
        ("best", "old-1"),
        ("old-1", "large"),
        ("large", "large"),
    ]
    assert document["at_most_usd"] == document["targets"][0]["at_most_usd"] == "0.003001"


def test_the_most_it_could_cost_follows_the_request(explain: Any) -> None:
    body = json.dumps({"max_tokens": 10, "messages": [{"role": "user", "content": "x" * 400}]})
    assert json.loads(explain("large", "--format", "json", body=body).out)["at_most_usd"] == "0.00013"


def test_who_is_left_out_is_told_also_when_nobody_is_asked(explain: Any) -> None:
    shown = explain("beta/other")
    assert shown.code == 1
    assert "  -  beta: other (left out: environment variable NO_KEY is not set)" in shown.out
    assert "provider not configured" in shown.err


def test_the_operation_is_what_the_model_is_for(explain: Any) -> None:
    assert json.loads(explain("words", "--format", "json").out)["operation"] == "embeddings"
    shown = explain("ranks")
    assert (shown.code, "alpha: r (left out: does not serve rerank)" in shown.out) == (1, True)


def test_a_name_that_nobody_has_is_told_with_names_like_it(explain: Any) -> None:
    shown = explain("larger")
    assert (shown.code, shown.out) == (1, "")
    assert "did you mean 'large'" in shown.err


@pytest.mark.parametrize("body", ["nope", "[1]", '"text"'])
def test_what_is_no_request_is_told_in_a_sentence(explain: Any, body: str) -> None:
    said = explain("large", body=body)
    assert (said.code, said.out) == (1, "") and "standard input" in said.err
