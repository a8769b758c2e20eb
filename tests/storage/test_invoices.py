"""Invoices: each month goes on from the one before, to the last decimal."""

from datetime import UTC, datetime
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from engine.storage.invoices import find_month, list_months, number_invoice, read_invoice
from engine.storage.ledger import grant, set_allowance, take_back
from engine.storage.postgres import Connection
from engine.storage.users import get_or_create_user

USD = Decimal


async def back_date(connection: Connection, ref: str, moment: str) -> None:
    """As if it had happened then."""
    await connection.execute("SET session_replication_role = replica")
    await connection.execute(
        "UPDATE ledger_movements SET created_at = %s WHERE ref = %s", (datetime.fromisoformat(moment), ref)
    )
    await connection.execute("SET session_replication_role = origin")


async def test_a_closing_balance_is_the_next_opening_one_and_kinds_add_up(connection: Connection) -> None:
    payer = f"user:{await get_or_create_user(connection, 'invoiced@b.c')}"
    house = {"kind": "purchase", "source": "house:purchases"}
    async with connection.transaction():
        await grant(connection, payer, USD("10.000000000001"), ref="p1", **house)
        await set_allowance(connection, payer, USD(15), ref="a1", kind="subscription_renewal")
        await take_back(
            connection, payer, USD("0.1234567"), ref="call:1", kind="api_usage", target="house:usage"
        )
        await grant(connection, payer, USD(5), ref="p2", **house)
    for ref in ("p1", "a1", "call:1"):
        await back_date(connection, ref, "2026-09-30T23:59:59.999+00:00")
    await back_date(connection, "p2", "2026-10-01T00:00:00+00:00")
    assert await list_months(connection, payer) == ["2026-10", "2026-09"]
    first, second = [await read_invoice(connection, payer, month) for month in ("2026-09", "2026-10")]
    assert first.opening_usd == 0
    assert {kind: amount for kind, amount, _ in first.movements} == {
        "purchase": USD("10.000000000001"),
        "subscription_renewal": USD(15),
        "api_usage": USD("-0.1234567"),
    }
    assert second.opening_usd == first.closing_usd == USD("24.876543300001")
    assert second.closing_usd == USD("29.876543300001")


async def test_somebody_elses_movements_are_on_no_invoice(connection: Connection) -> None:
    mine, theirs = [f"user:{await get_or_create_user(connection, f'{name}@b.c')}" for name in ("me", "you")]
    async with connection.transaction():
        await grant(connection, theirs, USD(10), ref="p", kind="purchase", source="house:purchases")
    assert await list_months(connection, mine) == []
    assert (await read_invoice(connection, mine, f"{datetime.now(UTC):%Y-%m}")).closing_usd == 0


@given(st.integers(2000, 2100), st.integers(1, 12))
def test_a_month_ends_where_the_next_begins(year: int, month: int) -> None:
    _, until = find_month(f"{year}-{month:02}")
    assert find_month(f"{until:%Y-%m}")[0] == until and until.day == 1


def test_the_number_of_an_invoice_tells_payers_and_months_apart_and_stays() -> None:
    assert number_invoice("user:1", "2026-10") == number_invoice("user:1", "2026-10")
    asked = [(payer, month) for payer in ("user:1", "team:1") for month in ("2026-10", "2026-11")]
    assert len({number_invoice(*each) for each in asked}) == 4
