"""What everything in this folder shares: a client that measures must not be what holds a call up."""

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def settled_memory() -> Iterator[None]:
    """What is loaded stays: a full collection of this process takes 150 ms, in which no answer is read."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
