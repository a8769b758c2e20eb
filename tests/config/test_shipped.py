"""What the product ships loads without a problem or a warning, and its prices are exact."""

from pathlib import Path

from engine.config.endpoints import list_traits
from engine.config.files import TreeCache, find_library, find_sources, hash_bytes, prebuild
from tests.config.conftest import Folder


def test_the_shipped_library_loads_without_a_warning(folder: Folder) -> None:
    snapshot = folder.load({})
    assert snapshot.warnings == ()
    assert set(snapshot.surfaces) >= {"chat", "completions", "embeddings", "rerank", "moderations"}


def test_every_shipped_model_has_a_price_on_every_target(folder: Folder) -> None:
    for model in folder.load({}).models.values():
        assert all(target.price is not None for target in model.targets), model.name


def test_every_shipped_leaf_is_touched_by_an_example(folder: Folder) -> None:
    folder.load({})
    loader = folder.loader()
    loader.prepare(loader.read(), run_examples=True)
    assert [str(problem) for problem in loader.list_untouched(shipped=True)] == []


def test_prebuilt_trees_are_what_parsing_gives(tmp_path: Path) -> None:
    library = find_library()
    assert prebuild(library, tmp_path) > 10
    cache = TreeCache(tmp_path / "home" / "cache", tmp_path)
    for source in find_sources(library, (), library).sources:
        content = Path(source.path).read_bytes()
        found = cache.load(hash_bytes(content))
        assert found is not None
        parsed = cache.parse(hash_bytes(content), content)
        assert (found.tree, found.marks_json, found.refs) == (parsed.tree, parsed.marks_json, parsed.refs)


def test_every_trait_of_a_shipped_model_is_one_of_its_wire(folder: Folder) -> None:
    targets = [target for model in folder.load({}).models.values() for target in model.targets]
    assert targets
    for target in targets:
        assert set(target.traits) <= set(list_traits(target.provider.endpoints)), target.name
