"""The shipped providers: all are there, each shows what it does, and the engine knows none of them."""

import io
import re
import tokenize
from pathlib import Path

import pytest

from engine.config.files import find_library
from engine.config.snapshot import Provider, Snapshot
from engine.config.yamltree import parse_document
from tests.config.conftest import Folder

ROOT = find_library()
FILES = sorted((ROOT / "providers.d").glob("*.yaml"))
NAMES = [file.stem for file in FILES]
FACTS = ROOT.parent / "shared/reference/providers/facts.yaml"
SWITCHED_OFF = {"aimo", "alpaca-network", "modelz"}
NEEDS_NO_KEY = {"sim"}
ENGLISH = {"near", "together"}
"""Providers whose names are words that code is written in: they must not be a text of their own."""


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory, parsed: Path) -> Snapshot:
    return Folder(tmp_path_factory.mktemp("bare"), parsed=parsed).load({})


@pytest.fixture(scope="module")
def equipped(tmp_path_factory: pytest.TempPathFactory, parsed: Path) -> Snapshot:
    """Every variable that a shipped provider cannot do without is set."""
    wanted = {name for file in FILES for name in re.findall(r"\$\{([A-Z0-9_]+)\}", file.read_text())}
    environ = {name: "http://127.0.0.1:9/v1" if "URL" in name else "value" for name in wanted}
    return Folder(tmp_path_factory.mktemp("equipped"), parsed=parsed, environ=environ).load({})


@pytest.mark.skipif(not FACTS.exists(), reason="the facts are not in the repository")
def test_every_provider_of_the_facts_has_a_file() -> None:
    known = re.findall(r"^([a-z0-9-]+):$", FACTS.read_text(), re.MULTILINE)
    assert len(known) >= 45 and set(known) <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_provider_is_not_configured_without_its_key(name: str, shipped: Snapshot) -> None:
    provider = shipped.providers[name]
    if name in NEEDS_NO_KEY:
        return
    assert provider.reason
    assert provider.enabled is (name not in SWITCHED_OFF)
    if provider.enabled:
        assert not provider.configured and "$" not in provider.reason


@pytest.mark.parametrize("name", sorted(set(NAMES) - SWITCHED_OFF - NEEDS_NO_KEY))
def test_a_provider_with_its_variables_set_is_configured(name: str, equipped: Snapshot) -> None:
    provider = equipped.providers[name]
    assert (provider.configured, provider.reason) == (True, ""), provider.reason
    assert provider.base_url.startswith("http") and "{{" not in provider.base_url


@pytest.mark.parametrize("file", FILES, ids=NAMES)
def test_a_provider_shows_what_it_is_sent_and_what_is_read_of_it(file: Path) -> None:
    if file.stem in SWITCHED_OFF | NEEDS_NO_KEY:
        return
    examples = parse_document(file.read_bytes()).tree["examples"]
    assert any("sends" in example for example in examples)
    assert any("reads" in example for example in examples)


def test_file_and_provider_have_one_name() -> None:
    assert [parse_document(file.read_bytes()).tree["provider"] for file in FILES] == NAMES


def test_the_engine_contains_no_providers_name_and_no_providers_host(shipped: Snapshot) -> None:
    """But for the simulator, which plays providers and may say whom."""
    hosts = {_host(provider) for provider in shipped.providers.values()} - {""}
    words = {name for name in NAMES if name not in ENGLISH | NEEDS_NO_KEY}
    pattern = re.compile("|".join(rf"(?<![a-z0-9]){re.escape(word)}(?![a-z0-9])" for word in words | hosts))
    played = ROOT / "engine/upstream/simulator"
    for file in sorted(file for file in (ROOT / "engine").rglob("*.py") if played not in file.parents):
        for line, text in _list_code(file):
            found = pattern.search(text.lower()) or (text[:1] in "\"'" and text.strip("\"'") in ENGLISH)
            assert not found, f"{file.relative_to(ROOT)}:{line}: {text}"


def _host(provider: Provider) -> str:
    return (
        re.sub(r"^https?://|[:/].*$", "", provider.base_url) if "127.0.0.1" not in provider.base_url else ""
    )


def _list_code(file: Path) -> list[tuple[int, str]]:
    """Names and texts of a file; comments and docstrings may speak of anybody."""
    tokens = list(tokenize.generate_tokens(io.StringIO(file.read_text()).readline))
    code = []
    for before, token in zip([None, *tokens], tokens, strict=False):
        alone = before is None or before.type in (
            *(tokenize.NEWLINE, tokenize.NL, tokenize.INDENT, tokenize.DEDENT, tokenize.COMMENT),
        )
        if token.type == tokenize.NAME or token.type == tokenize.STRING and not alone:
            code.append((token.start[0], token.string))
    return code
