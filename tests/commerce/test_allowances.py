"""Allowances are set once for each period, whatever is told twice, late or in another order."""

import asyncio
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest

from engine.config.schema_plan import PlanFile
from engine.storage.ledger import read_balance
from engine.storage.plan_terms import (
    change_allowance,
    end_plan,
    forfeit_allowance,
    put_on_plan,
    renew_allowance,
)
from engine.storage.postgres import Connection
from engine.storage.renewals import end_expired_plans, renew_due_allowances
from tests.commerce.conftest import USD, assert_ledger_holds, give, make_user, read_cases, spend

PLANS = {
    "pro": PlanFile(plan="pro", allowance_usd=USD(15)),
    "max": PlanFile(plan="max", allowance_usd=USD(150)),
}


async def take_step(connection: Connection, payer: str, step: dict[str, Any], number: int) -> None:
    ((what, how),) = step.items()
    if what == "spend":
        return await spend(connection, payer, how, f"call:{number}")
    if what == "buy":
        return await give(connection, payer, how, f"purchase:{number}")
    async with connection.transaction():
        if what == "renew":
            await put_on_plan(connection, payer, how[0], source="stripe")
            month = datetime(2026, how[2], 28, tzinfo=UTC)
            await renew_allowance(connection, payer, PLANS[how[0]], f"test:{how[1]}", month)
        elif what == "change":
            await put_on_plan(connection, payer, how[0], source="stripe")
            await change_allowance(connection, payer, PLANS[how[0]], f"test:{how[1]}")
        elif what == "forfeit":
            await forfeit_allowance(connection, payer, ref=how, kind="subscription_cancellation")
        else:
            await end_plan(connection, payer, ref=how, kind="subscription_cancellation")
    return None


@pytest.mark.parametrize("case", read_cases("allowances"))
async def test_an_allowance(connection: Connection, case: dict[str, Any]) -> None:
    payer = f"user:{await make_user(connection, 'alice')}"
    for number, step in enumerate(case["steps"]):
        await take_step(connection, payer, step, number)
    balance = await read_balance(connection, payer)
    assert balance.allowance_usd == USD(case["left"])
    assert balance.credit_usd == USD(case.get("credit", "0"))
    if "expired" in case:
        row = await (
            await connection.execute("SELECT balance_usd FROM ledger_accounts WHERE id = 'house:expired'")
        ).fetchone()
        assert row == (USD(case["expired"]),)
    await assert_ledger_holds(connection)


async def test_a_plan_that_ends_falls_back_to_the_one_that_was_to_follow(connection: Connection) -> None:
    user_id = await make_user(connection, "alice")
    payer = f"user:{user_id}"
    async with connection.transaction():
        await put_on_plan(connection, payer, "max", source="admin", falls_back_to="free")
    async with connection.transaction():
        assert await end_plan(connection, payer, ref="e", kind="subscription_cancellation")
    row = await (await connection.execute("SELECT plan FROM users WHERE id = %s", (user_id,))).fetchone()
    assert row == ("free",)


async def test_a_given_plan_is_renewed_each_month_of_its_own_and_ends_with_its_term(
    connection: Connection, database_url: str
) -> None:
    payer = f"user:{await make_user(connection, 'alice')}"
    begun, end = datetime(2026, 1, 31, 12, tzinfo=UTC), datetime(2026, 4, 30, 12, tzinfo=UTC)
    async with connection.transaction():
        await put_on_plan(connection, payer, "pro", source="admin", ends_at=end)
    await connection.execute("UPDATE plan_terms SET started_at = %s", (begun,))
    left = []
    for moment in ("01-31T13", "02-15T00", "02-28T13", "03-01T00", "03-31T13", "04-30T11", "04-30T13"):
        now = datetime.fromisoformat(f"2026-{moment}:00+00:00")

        async def work(now: datetime = now) -> None:
            async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as own:
                await end_expired_plans(own, now)
                await renew_due_allowances(own, PLANS, now)

        await asyncio.gather(*(work() for _ in range(4)))
        left.append((await read_balance(connection, payer)).allowance_usd)
        await spend(connection, payer, "1", f"call:{moment}")
    assert left == [15, 14, 15, 14, 15, 14, 0]
    row = await (
        await connection.execute("SELECT count(*) FROM ledger_movements WHERE kind = 'subscription_renewal'")
    ).fetchone()
    assert row == (3,)
    await assert_ledger_holds(connection)
