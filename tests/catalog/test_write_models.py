"""What is written is read back as it was."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from engine.catalog.write_models import _write
from engine.config.yamltree import parse_document

WORDS = st.text(st.characters(codec="ascii", categories=["L", "N", "P", "S", "Zs"]), max_size=12)
KEYS = st.from_regex(r"[a-z][a-z0-9_.-]{0,8}", fullmatch=True).filter(
    lambda word: word not in ("null", "true", "false")
)
LEAVES = st.none() | st.booleans() | st.integers(-(2**40), 2**40) | WORDS
TREES = st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(KEYS, inner), max_leaves=12)


@given(TREES)
def test_a_value_survives_being_written(value: Any) -> None:
    document = parse_document(f"key: {_write(value)}\n".encode())
    assert (document.problems, document.tree) == ((), {"key": value})
