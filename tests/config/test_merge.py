from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from engine.wire.templates import merge_trees

KEYS = st.sampled_from("abc")
LEAVES = st.integers(0, 3) | st.lists(st.integers(0, 3), max_size=2)
TREES = st.recursive(
    st.dictionaries(KEYS, LEAVES, max_size=3),
    lambda inner: st.dictionaries(KEYS, LEAVES | inner, max_size=3),
    max_leaves=8,
)


@given(TREES, TREES)
def test_every_leaf_of_the_upper_tree_is_in_the_result(base: dict[str, Any], over: dict[str, Any]) -> None:
    merged = merge_trees(base, over)
    for path, value in _leaves(over):
        assert _find(merged, path) == value


@given(TREES, TREES)
def test_a_leaf_of_the_lower_tree_stays_unless_something_is_laid_over_it(
    base: dict[str, Any], over: dict[str, Any]
) -> None:
    merged = merge_trees(base, over)
    for path, value in _leaves(base):
        if not _is_covered(over, path):
            assert _find(merged, path) == value


@given(TREES)
def test_merging_a_tree_over_nothing_or_itself_changes_nothing(tree: dict[str, Any]) -> None:
    assert merge_trees({}, tree) == tree
    assert merge_trees(tree, {}) == tree
    assert merge_trees(tree, tree) == tree


@given(TREES, TREES)
def test_neither_tree_is_changed(base: dict[str, Any], over: dict[str, Any]) -> None:
    before = (repr(base), repr(over))
    merge_trees(base, over)
    assert (repr(base), repr(over)) == before


def _leaves(tree: Any, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    if not isinstance(tree, dict):
        return [(path, tree)]
    return [leaf for key, value in tree.items() for leaf in _leaves(value, (*path, key))]


def _find(tree: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        tree = tree[key]
    return tree


def _is_covered(over: Any, path: tuple[str, ...]) -> bool:
    for key in path:
        if not isinstance(over, dict):
            return True
        if key not in over:
            return False
        over = over[key]
    return True
