"""What `gatewayz check` says of files that are wrong: every problem with its place, never a trace, never a hang."""

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.cli import main
from tests.harness import clean_environment, write_files

GOOD = "provider: p\nformat: openai-chat\nbase_url: https://p.example/v1\n"
MODEL = (
    "models: {{m: {{price: {{input: '1', output: '2'}}, targets: [{{provider: {provider}, model: x}}]}}}}\n"
)
BOMB = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join('*' + before for _ in range(10))}]\n"
    for before, name in zip("abcdefghi", "bcdefghij", strict=True)
)


Check = Callable[[Path], tuple[int, str]]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def check(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Check:
    """`gatewayz check` in a folder: its exit code and what it says."""

    def run(folder: Path) -> tuple[int, str]:
        monkeypatch.chdir(folder)
        for name in [name for name in os.environ if name not in clean_environment()]:
            monkeypatch.delenv(name)
        monkeypatch.setenv("GATEWAYZ_HOME", str(home))
        code = main(["check"])
        said = capsys.readouterr()
        return code, said.out + said.err

    return run


CASES = {
    "duplicate-key": ({"providers.d/p.yaml": GOOD + "format: other\n"}, r"p\.yaml:4:1 .*format"),
    "same-name-twice": ({"providers.d/p.yaml": GOOD, "providers.d/q.yaml": GOOD}, r"q\.yaml:1:\d+ .*p\.yaml"),
    "not-yaml": ({"providers.d/p.yaml": "provider: [\n"}, r"p\.yaml:\d+:\d+ "),
    "tab": ({"providers.d/p.yaml": "provider:\tp\n\tformat: x\n"}, r"p\.yaml:\d+:\d+ "),
    "not-utf8": ({}, r"p\.yaml"),
    "a-list": ({"providers.d/p.yaml": "- provider\n"}, r"p\.yaml:1:1 "),
    "bomb": ({"providers.d/p.yaml": BOMB}, r"p\.yaml"),
    "python-object": (
        {"providers.d/p.yaml": "provider: !!python/object/apply:os.system [id]\n"},
        r"p\.yaml:1:\d+ ",
    ),
    "deep": ({"providers.d/p.yaml": "provider: " + "[" * 3000 + "]" * 3000}, r"p\.yaml"),
    "cyclic-alias": ({"providers.d/p.yaml": "provider: p\nheaders: &h\n  x: *h\n"}, r"p\.yaml"),
    "extends-itself": ({"policies.d/x.yaml": "policy: x\nextends: x\n"}, r"x\.yaml:2:\d+ extends"),
    "extends-in-a-circle": (
        {f"policies.d/{one}.yaml": f"policy: {one}\nextends: {two}\n" for one, two in ("ab", "bc", "ca")},
        r"[abc]\.yaml:2:\d+ extends",
    ),
    "extends-nobody": (
        {"policies.d/x.yaml": "policy: x\nextends: defualt\n"},
        r"x\.yaml:2:\d+ extends.*default",
    ),
    "unknown-key": ({"providers.d/p.yaml": GOOD + "base_urll: x\n"}, r"p\.yaml:4:1 base_urll.*base_url"),
    "missing-variable": (
        {"policies.d/x.yaml": "policy: x\nkeepalive_s: ${NOT_THERE}\n"},
        r"x\.yaml:2:\d+ keepalive_s.*NOT_THERE",
    ),
    "missing-file": (
        {"policies.d/x.yaml": "policy: x\nkeepalive_s: ${file:/not/there}\n"},
        r"x\.yaml:2:\d+ keepalive_s.*/not/there",
    ),
    "wrong-reference": ({"policies.d/x.yaml": "policy: x\nkeepalive_s: ${not a name}\n"}, r"x\.yaml:2:\d+ "),
    "unknown-provider": (
        {"providers.d/p.yaml": GOOD, "models.d/m.yaml": MODEL.format(provider="opnai")},
        r"m\.yaml:1:\d+ .*openai",
    ),
    "points-at-itself": (
        {
            "providers.d/p.yaml": GOOD.replace("https://p.example", "http://127.0.0.1:8000")
            + "allow_private: true\n"
        },
        r"p\.yaml:3:\d+ base_url.*gateway",
    ),
    "private-address": (
        {"providers.d/p.yaml": GOOD.replace("p.example", "169.254.169.254")},
        r"p\.yaml:3:\d+ base_url.*allow_private",
    ),
    "userinfo": (
        {"providers.d/p.yaml": GOOD.replace("p.example", "u:pw@p.example")},
        r"p\.yaml:3:\d+ base_url",
    ),
    "not-a-url": (
        {"providers.d/p.yaml": GOOD.replace("https://p.example", "p.example")},
        r"p\.yaml:3:\d+ base_url",
    ),
    "template": (
        {
            "providers.d/_formats/f.yaml": "format: f\nextends: openai-chat\nrequest: {model: '{{ target.model'}\n"
        },
        r"f\.yaml:3:\d+ request",
    ),
    "template-reaches-out": (
        {
            "providers.d/_formats/f.yaml": "format: f\nextends: openai-chat\n"
            "request: {model: \"{{ ''.__class__.__mro__[1].__subclasses__() }}\"}\n"
        },
        r"f\.yaml:3:\d+ request",
    ),
    "directive": (
        {"providers.d/_formats/f.yaml": "format: f\nextends: openai-chat\nrequest: {model: {$esch: x}}\n"},
        r"f\.yaml:3:\d+ request",
    ),
    "failing-example": (
        {
            "providers.d/p.yaml": GOOD
            + "examples:\n  - given: {model: m, messages: [{role: user, content: hi}]}\n"
            "    sends: {body: {model: other, messages: [{role: user, content: hi}]}}\n"
        },
        r"p\.yaml:[5-6]:\d+ examples\[0\]",
    ),
    "negative-price": (
        {
            "providers.d/p.yaml": GOOD,
            "models.d/m.yaml": MODEL.format(provider="p").replace("'1'", "'-1'"),
        },
        r"m\.yaml:1:\d+ .*price",
    ),
    "price-that-is-no-number": (
        {"providers.d/p.yaml": GOOD, "models.d/m.yaml": MODEL.format(provider="p").replace("'1'", "NaN")},
        r"m\.yaml:1:\d+ .*price",
    ),
    "clock-without-end": (
        {"policies.d/x.yaml": "policy: x\ntimeouts: {idle_s: .inf}\n"},
        r"x\.yaml:2:\d+ .*idle_s",
    ),
    "failure-of-no-kind": (
        {"policies.d/x.yaml": "policy: x\nretry: {on: [teapot]}\n"},
        r"x\.yaml:2:\d+ .*retry",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_wrong_is_told_with_its_place(tmp_path: Path, check: Check, name: str) -> None:
    files, told = CASES[name]
    write_files(tmp_path, files)
    if name == "not-utf8":
        (tmp_path / "providers.d").mkdir()
        (tmp_path / "providers.d/p.yaml").write_bytes(b"provider: \xff\xfe\n")
    code, said = check(tmp_path)
    assert code == 1, said
    assert "Traceback" not in said
    assert re.search(told, said), said[:2000]
    assert len(said) < 20_000


def test_all_problems_are_told_at_once(tmp_path: Path, check: Check) -> None:
    write_files(
        tmp_path,
        {
            "providers.d/p.yaml": GOOD + "nonsense: 1\nstream_usage: maybe\n",
            "policies.d/x.yaml": "policy: x\nrescue: pray\n",
            "models.d/m.yaml": MODEL.format(provider="nobody"),
        },
    )
    lines = check(tmp_path)[1].splitlines()
    for place in ("p.yaml:4:", "p.yaml:5:", "x.yaml:2:", "m.yaml:1:"):
        assert any(place in line for line in lines), lines
