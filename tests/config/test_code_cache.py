"""Compiled templates on disk: what is taken from there, and what never is."""

import os
from pathlib import Path
from types import ModuleType

import pytest

from engine.config.code_cache import CodeCache, hash_compiler
from engine.secret import Secret
from engine.wire.formats import compile_format
from engine.wire.templates import TemplateSet
from tests.config.conftest import Folder
from tests.wire.formats_at_hand import load_tree

FORMATS = Path(__file__).parents[2] / "providers.d/_formats"
NAMES = sorted(file.stem for file in FORMATS.glob("*.yaml"))


@pytest.fixture
def cache(tmp_path: Path) -> CodeCache:
    return CodeCache(tmp_path / "cache")


def render(shelf: CodeCache | None, leaf: object) -> object:
    templates = TemplateSet({"loud": {"text": "{{ word | lower }}!"}}, {"words": {"a": "b"}}, shelf)
    templates.add("it", leaf, ("word",), ())
    return templates.build("it")["it"]("A")


def list_entries(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.code"))


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_format_from_the_cache_is_what_compiling_makes(name: str, cache: CodeCache) -> None:
    tree = load_tree(name)
    made, kept = compile_format(tree, shelf=cache), compile_format(tree, shelf=cache)
    for fact in ("reads", "understands", "words", "tells_estimate", "traits", "media"):
        assert getattr(made, fact) == getattr(kept, fact) == getattr(compile_format(tree), fact)
    assert made._templates.keys() == kept._templates.keys()


def test_what_is_on_the_shelf_is_taken_instead_of_compiling(cache: CodeCache, tmp_path: Path) -> None:
    leaf = {"$use": "loud", "table": "{{ word | lower | mapped('words') }}"}
    assert render(cache, leaf) == {"text": "a!", "table": "b"}
    first = list_entries(tmp_path / "cache")
    render(cache, "{{ word }}, and nothing else")
    (second,) = set(list_entries(tmp_path / "cache")) - set(first)
    first[0].write_bytes(second.read_bytes())
    assert render(cache, leaf) == "A, and nothing else"


def test_another_tree_or_another_table_is_another_entry(cache: CodeCache, tmp_path: Path) -> None:
    for leaf in ("{{ word }}", "{{ word }}", "{{ word | lower }}", ["{{ word }}"]):
        assert render(cache, leaf) == render(None, leaf)
    assert len(list_entries(tmp_path / "cache")) == 3


@pytest.mark.parametrize("harm", ["cut", "other bytes", "others may write it", "others may write the folder"])
def test_an_entry_that_cannot_be_trusted_is_compiled_again(
    harm: str, cache: CodeCache, tmp_path: Path
) -> None:
    cache.keep("key", b"\0" * 100)
    (entry,) = list_entries(tmp_path / "cache")
    assert cache.load("key") == b"\0" * 100
    content = entry.read_bytes()
    if harm == "cut":
        entry.write_bytes(content[:-1])
    elif harm == "other bytes":
        entry.write_bytes(content[:-1] + b"\1")
    else:
        (entry if harm.endswith("it") else entry.parent).chmod(0o777)
    assert cache.load("key") is None


def test_an_entry_of_another_owner_is_not_taken(cache: CodeCache, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    cache.keep("key", b"code")
    os.chown(list_entries(tmp_path / "cache")[0], 65534, 65534)
    assert cache.load("key") is None


def test_a_changed_compiler_finds_nothing_of_the_one_before(tmp_path: Path) -> None:
    module = ModuleType("compiler")
    module.__file__ = str(tmp_path / "compiler.py")
    assert hash_compiler([module]) is None
    (tmp_path / "compiler.py").write_text("one")
    before = hash_compiler([module])
    (tmp_path / "compiler.py").write_text("two")
    assert before and hash_compiler([module]) not in (None, before)


def test_the_least_recently_used_entries_are_dropped(tmp_path: Path) -> None:
    cache = CodeCache(tmp_path / "cache", most=3)
    for number, key in enumerate("abc"):
        cache.keep(key, key.encode())
        for entry in list_entries(tmp_path / "cache"):
            os.utime(entry, (number, number)) if entry.stat().st_mtime > 1e6 else None
    assert cache.load("a") == b"a"
    cache.keep("d", b"d")
    assert [cache.load(key) for key in "abcd"] == [b"a", None, b"c", b"d"]


def test_a_tree_with_a_secret_is_not_written_down(cache: CodeCache, tmp_path: Path) -> None:
    templates = TemplateSet({}, {}, cache)
    templates.add("it", {"key": Secret("sk-hidden")}, (), ())
    with pytest.raises(ValueError, match="Secret"):
        templates.build("it")
    templates = TemplateSet({"unused": {"key": "{{ 1 }}"}}, {"x": {}}, cache)
    templates.add("it", "{{ 1 }}", (), ())
    templates.build("it")
    assert len(list_entries(tmp_path / "cache")) == 1


FORMAT = """
format: talk
operation: chat
path: /talk
request: {word: "${WORD:-none}", model: "{{ target.model }}"}
"""
PROVIDER = """
provider: talker
base_url: https://talk.example/v1
format: {extends: openai-chat, request: {word: "${WORD:-none}"}}
auth: {bearer: "${KEY:-x}"}
"""


@pytest.mark.parametrize(
    ("file", "text"),
    [("providers.d/_formats/talk.yaml", FORMAT), ("providers.d/talker.yaml", PROVIDER)],
    ids=["a format", "a provider's own format"],
)
def test_what_a_reference_held_is_not_written_down(folder: Folder, file: str, text: str) -> None:
    folder.environ = {"WORD": "w-hidden"}
    before = list_entries(folder.parsed) if folder.parsed else []
    folder.load({file: text})
    entries = list_entries(folder.path / "home/cache")
    assert {entry.name for entry in entries} == {entry.name for entry in before}
    assert entries and not any(b"w-hidden" in entry.read_bytes() for entry in entries)
