"""People are told what they want to know, once."""

import asyncio
from datetime import UTC, datetime

import psycopg

from engine.config.schema_commerce import NoticesFile
from engine.storage.notices import Month, send_reports, tell_balances, tell_ends, write_preferences
from engine.storage.plan_terms import put_on_plan
from engine.storage.postgres import Connection
from tests.commerce.conftest import give, make_user, spend

RULES = NoticesFile(notices="default")


async def list_mails(connection: Connection) -> list[str]:
    rows = await connection.execute("SELECT template || ' ' || address FROM mail_outbox ORDER BY id")
    return [row[0] for row in await rows.fetchall()]


async def test_a_balance_is_told_when_it_falls_and_not_again_within_a_day(connection: Connection) -> None:
    payer = f"user:{await make_user(connection, 'alice')}"
    told = []
    for number, (what, amount) in enumerate(
        [("buy", "20"), ("spend", "16"), ("spend", "1"), ("buy", "20"), ("spend", "20"), ("spend", "99")]
    ):
        if what == "buy":
            await give(connection, payer, amount, f"p{number}")
        else:
            await spend(connection, payer, amount, f"c{number}", pot="credit")
        told.append(await tell_balances(connection, RULES))
    assert told == [0, 1, 0, 0, 0, 1]
    await connection.execute("UPDATE balance_notices SET low_told_at = now() - interval '25 hours'")
    await give(connection, payer, "20", "p9")
    await tell_balances(connection, RULES)
    await spend(connection, payer, "17", "c9", pot="credit")
    assert await tell_balances(connection, RULES) == 1
    assert await list_mails(connection) == ["low_balance alice@b.c"] * 3


async def test_many_workers_at_once_tell_it_once(connection: Connection, database_url: str) -> None:
    payer = f"user:{await make_user(connection, 'alice')}"
    await give(connection, payer, "1", "p")

    async def look() -> int:
        async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as own:
            return await tell_balances(own, RULES)

    assert sum(await asyncio.gather(*(look() for _ in range(20)))) == 1


async def test_who_wants_no_mail_gets_none_and_thresholds_are_ones_own(connection: Connection) -> None:
    alice, bob = await make_user(connection, "alice"), await make_user(connection, "bob")
    for user in (alice, bob):
        await give(connection, f"user:{user}", "20", f"p:{user}")
    await write_preferences(connection, alice, {"email_notifications": False})
    await write_preferences(connection, bob, {"low_balance_usd": 30})
    await tell_balances(connection, RULES)
    assert await list_mails(connection) == ["low_balance bob@b.c"]


async def test_ends_of_trials_and_plans_are_told_before_and_once(connection: Connection) -> None:
    alice, bob, carol = [await make_user(connection, name) for name in ("alice", "bob", "carol")]
    for user, hours in ((alice, 12), (bob, -1), (carol, 60)):
        await connection.execute(
            "INSERT INTO trials (user_id, trial, ends_at, credit_usd, tokens, requests)"
            " VALUES (%s, 'default', now() + %s * interval '1 hour', 5, 1, 1)",
            (user, hours),
        )
    async with connection.transaction():
        soon = datetime.now(UTC).replace(microsecond=0)
        await put_on_plan(
            connection, f"user:{carol}", "pro", source="admin", ends_at=soon.replace(year=soon.year + 1)
        )
    await connection.execute("UPDATE plan_terms SET ends_at = now() + interval '3 days'")
    assert [await tell_ends(connection, RULES) for _ in range(2)] == [3, 0]
    assert sorted(await list_mails(connection)) == [
        "subscription_expiring carol@b.c",
        "trial_expired bob@b.c",
        "trial_expiring alice@b.c",
    ]


async def test_a_month_is_reported_once_to_whom_it_had_calls(connection: Connection) -> None:
    alice, _ = await make_user(connection, "alice"), await make_user(connection, "bob")
    month = Month(datetime(2026, 10, 1, tzinfo=UTC), datetime(2026, 11, 1, tzinfo=UTC))
    for day, cost in ((1, "0.1"), (31, "0.2")):
        await connection.execute(
            "INSERT INTO call_records (id, started_at, user_id, model, attempts, status, tokens, cost_usd)"
            " VALUES (%s, %s, %s, 'm', '[{}]', 'ok', '{\"input\": 2, \"output\": 3}', %s)",
            (f"c{day}", datetime(2026, 10, day, 5, tzinfo=UTC), alice, cost),
        )
    assert [await send_reports(connection, RULES, month) for _ in range(2)] == [1, 0]
    row = await (await connection.execute("SELECT data FROM mail_outbox")).fetchone()
    assert row is not None
    assert (row[0]["requests"], row[0]["tokens"], row[0]["cost_usd"]) == (2, 10, "0.300000000000")
