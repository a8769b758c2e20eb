"""The database of the tests of storage, and people in it."""

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from engine.storage.ledger import grant, take_back
from engine.storage.ledger_reading import verify_ledger
from engine.storage.postgres import Connection
from engine.storage.users import get_or_create_user
from tests.storage.conftest import (  # noqa: F401 - fixtures
    connection,
    database,
    database_url,
    home,
    ring,
    server_url,
)

USD = Decimal


def read_cases(name: str) -> list[Any]:
    """The cases of a table, each with its name as id."""
    cases = YAML(typ="safe").load((Path(__file__).parent / f"{name}.yaml").read_text())
    return [pytest.param(case, id=case["case"]) for case in cases]


async def make_user(connection: Connection, name: str) -> str:  # noqa: F811
    return await get_or_create_user(connection, f"{name}@b.c")


async def give(connection: Connection, payer: str, amount: str, ref: str) -> None:  # noqa: F811
    async with connection.transaction():
        await grant(connection, payer, USD(amount), ref=ref, kind="purchase", source="house:purchases")


async def spend(connection: Connection, payer: str, amount: str, ref: str, pot: str = "allowance") -> None:  # noqa: F811
    """As calls do."""
    async with connection.transaction():
        await take_back(
            connection, payer, USD(amount), ref=ref, kind="api_usage", target="house:usage", pot=pot
        )


async def assert_ledger_holds(connection: Connection) -> None:  # noqa: F811
    verdict = await verify_ledger(connection)
    assert verdict.problems == () and verdict.sum_usd == 0
