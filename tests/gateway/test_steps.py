"""Calls that come together walk through the corridor in step."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from engine.gateway import CROWD, walk_in_step


class Few:
    """So many calls are under way."""

    def __init__(self, number: int) -> None:
        self.open_calls = range(number)


@pytest.mark.parametrize(
    ("under_way", "order"), [(CROWD, ["in", "out"] * 3), (CROWD + 1, ["in"] * 3 + ["out"] * 3)]
)
async def test_many_wait_for_each_other_and_few_for_nobody(under_way: int, order: list[str]) -> None:
    rooms: Any = Few(under_way)
    plain: Any = SimpleNamespace(stream=False)
    seen: list[str] = []

    async def call() -> None:
        seen.append("in")
        await walk_in_step(plain, rooms)
        seen.append("out")

    await asyncio.gather(*(call() for _ in range(3)))
    assert seen == order
