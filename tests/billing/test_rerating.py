"""Calls priced anew: the ledger gets the difference once, nothing that was written changes."""

# ruff: noqa: F811 - fixtures of storage are arguments here
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from psycopg.types.json import Jsonb

from engine.billing.rerating import Rerate, Rerater
from engine.config.schema_prices import PricesFile
from engine.config.snapshot import Snapshot
from engine.storage.ledger import grant, read_balance
from engine.storage.ledger_reading import verify_ledger
from engine.storage.postgres import Connection
from engine.storage.users import get_or_create_user
from tests.config.conftest import Folder, folder, parsed, provider
from tests.storage.conftest import (  # noqa: F401 - fixtures
    connection,
    database_url,
    home,
    server_url,
)

__all__ = ["folder", "parsed"]
USD = Decimal
NOW = datetime.now(UTC)
MODELS = """
models:
  small: {price: {input: "1", output: "2"}, targets: [{provider: alpha, model: s}]}
  large: {price: {input: "10", output: "20"}, targets: [{provider: alpha, model: l}]}
"""


def load(folder: Folder, **prices: str) -> Snapshot:
    """Books that charge so much for 1M input tokens of `small`."""
    books = {
        f"policies.d/prices/{name}.yaml": f"prices: {name}\nmodels: {{small: {{price: {{input: '{price}'}}}}}}\n"
        for name, price in prices.items()
    }
    return folder.load({"providers.d/a.yaml": provider(), "models.d/m.yaml": MODELS, **books})


async def record(connection: Connection, call_id: str, payer: str, **said: Any) -> None:
    """A call of a million tokens that was charged 1 USD, as the gateway writes it down."""
    facts = {
        "model": "s",
        "listed": "small",
        "cost": USD(1),
        "prepaid": True,
        "at": NOW - timedelta(hours=1),
        **said,
    }
    await connection.execute(
        "INSERT INTO call_records (id, started_at, user_id, provider, model, status, tokens, cost_usd, pricing)"
        " VALUES (%s, %s, %s, 'alpha', %s, 'ok', %s, %s, %s)",
        (call_id, facts["at"], payer.partition(":")[2], facts["model"],
         Jsonb({"input": 1_000_000, "output": 0}), facts["cost"], Jsonb({"listed": facts["listed"]})),
    )  # fmt: skip
    await connection.execute(
        "SELECT charge_payers(ARRAY[%s], 'api_usage', ARRAY[%s], ARRAY[%s], ARRAY[%s::numeric], 0)",
        (f"call:{call_id}", payer, facts["prepaid"], facts["cost"]),
    )


async def rerate(snapshot: Snapshot, connection: Connection, book: str, *, dry: bool = False) -> Rerate:
    rerater = Rerater(snapshot, snapshot.declared(PricesFile)[book])
    return await rerater.run(connection, NOW - timedelta(days=1), NOW, dry=dry)


@pytest.fixture
async def payer(connection: Connection) -> str:
    payer = f"user:{await get_or_create_user(connection, 'a@b.c')}"
    async with connection.transaction():
        await grant(connection, payer, USD(10), ref="p", kind="purchase", source="house:purchases")
    return payer


async def find_credit(connection: Connection, payer: str) -> Decimal:
    assert not (await verify_ledger(connection)).problems
    return (await read_balance(connection, payer)).credit_usd


async def test_the_difference_is_booked_once_and_a_repeat_does_nothing(
    folder: Folder,
    connection: Connection,
    payer: str,
) -> None:
    snapshot = load(folder, cheap="0.25", dear="3")
    await record(connection, "one", payer)
    assert await find_credit(connection, payer) == 9
    first = await rerate(snapshot, connection, "cheap")
    assert (first.adjusted, first.lowered_usd, first.raised_usd) == (1, USD("0.75"), 0)
    assert await find_credit(connection, payer) == USD("9.75")
    again = await rerate(snapshot, connection, "cheap")
    assert (again.adjusted, again.repeated) == (0, 1)
    assert await find_credit(connection, payer) == USD("9.75")
    dearer = await rerate(snapshot, connection, "dear")
    assert (dearer.adjusted, dearer.raised_usd) == (1, USD("2.75"))
    assert await find_credit(connection, payer) == 7


async def test_a_rehearsal_says_the_same_and_books_nothing(
    folder: Folder,
    connection: Connection,
    payer: str,
) -> None:
    snapshot = load(folder, cheap="0.25")
    await record(connection, "one", payer)
    told = await rerate(snapshot, connection, "cheap", dry=True)
    assert told.lowered_usd == USD("0.75") and await find_credit(connection, payer) == 9
    assert await rerate(snapshot, connection, "cheap") == told


async def test_who_pays_later_owes_less_or_more(folder: Folder, connection: Connection) -> None:
    snapshot = load(folder, cheap="0.25")
    later = f"user:{await get_or_create_user(connection, 'later@b.c')}"
    await record(connection, "one", later, prepaid=False)
    await rerate(snapshot, connection, "cheap")
    row = await (
        await connection.execute("SELECT balance_usd FROM ledger_accounts WHERE id = %s", (f"owed:{later}",))
    ).fetchone()
    assert row is not None and row[0] == USD("-0.25")
    assert await find_credit(connection, later) == 0


async def test_what_a_payer_does_not_have_any_more_is_the_houses_loss(
    folder: Folder,
    connection: Connection,
    payer: str,
) -> None:
    snapshot = load(folder, dear="50")
    await record(connection, "one", payer)
    await rerate(snapshot, connection, "dear")
    assert await find_credit(connection, payer) == 0


async def test_calls_outside_of_the_book_or_the_days_stay_and_are_counted(
    folder: Folder,
    connection: Connection,
    payer: str,
) -> None:
    snapshot = load(folder, cheap="0.25")
    await record(connection, "other", payer, listed="large", model="l")
    await record(connection, "gone", payer, listed="gone", model="g")
    await record(connection, "old", payer, at=NOW - timedelta(days=2))
    told = await rerate(snapshot, connection, "cheap")
    assert (told.calls, told.uncovered, told.unknown, told.adjusted) == (2, 1, 1, 0)
    assert await find_credit(connection, payer) == 7


async def test_the_records_themselves_stay_as_they_are(
    folder: Folder,
    connection: Connection,
    payer: str,
) -> None:
    await record(connection, "one", payer)
    await rerate(load(folder, cheap="0.25"), connection, "cheap")
    row = await (await connection.execute("SELECT cost_usd FROM call_records WHERE id = 'one'")).fetchone()
    assert row is not None and row[0] == 1
