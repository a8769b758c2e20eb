"""A coupon is redeemed by whoever was first, once each, and never more often than it may be."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from engine.storage.audit import Actor
from engine.storage.coupons import CouponRefused, change_coupon, create_coupon, redeem_coupon
from engine.storage.ledger import read_balance
from engine.storage.postgres import Connection
from tests.commerce.conftest import USD, assert_ledger_holds, make_user, read_cases

BY = Actor("alice", "key_1", "203.0.113.7", "curl")
COUPON: dict[str, Any] = {
    "code": "SPRING-5",
    "value_usd": USD(5),
    "scope": "global",
    "type": "promotional",
    "max_uses": 1,
    "assigned_to": None,
    "valid_from": None,
    "valid_until": None,
    "description": "",
    "created_by": "admin",
}


async def redeem(connection: Connection, user: str, code: str = "SPRING-5") -> str:
    try:
        async with connection.transaction():
            await redeem_coupon(connection, user, code, BY)
    except CouponRefused as refusal:
        return str(refusal.code)
    return "ok"


async def make(connection: Connection, **changes: Any) -> str:
    """Times are days from now."""
    for name in ("valid_from", "valid_until"):
        if name in changes:
            changes[name] = datetime.now(UTC) + timedelta(days=int(changes[name]))
    active = changes.pop("active", True)
    coupon = await create_coupon(connection, COUPON | changes)
    if not active:
        await change_coupon(connection, coupon["id"], {"is_active": False})
    return str(coupon["id"])


@pytest.mark.parametrize("case", read_cases("coupons"))
async def test_a_coupon(connection: Connection, case: dict[str, Any]) -> None:
    users = {name: await make_user(connection, name) for name in ("alice", "bob")}
    asked = dict(case["coupon"])
    if "assigned_to" in asked:
        asked["assigned_to"] = users[asked["assigned_to"]]
    await make(connection, **asked)
    for who in case.get("before", ()):
        assert await redeem(connection, users[who]) == "ok"
    before = (await read_balance(connection, f"user:{users['alice']}")).credit_usd
    assert await redeem(connection, users["alice"], case.get("typed", "SPRING-5")) == case["told"]
    after = (await read_balance(connection, f"user:{users['alice']}")).credit_usd
    assert after - before == (5 if case["told"] == "ok" else 0)
    await assert_ledger_holds(connection)


async def redeem_at_once(url: str, users: list[str]) -> list[str]:
    async def one(user: str) -> str:
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as own:
            return await redeem(own, user)

    return await asyncio.gather(*map(one, users))


async def test_of_fifty_at_once_one_gets_the_last_use(connection: Connection, database_url: str) -> None:
    await make(connection)
    users = [await make_user(connection, f"user{number}") for number in range(50)]
    told = await redeem_at_once(database_url, users)
    assert told.count("ok") == 1 and told.count("MAX_USES_EXCEEDED") == 49
    row = await (await connection.execute("SELECT uses FROM coupons")).fetchone()
    balance = await (
        await connection.execute("SELECT balance_usd FROM ledger_accounts WHERE id = 'house:coupons'")
    ).fetchone()
    assert (row, balance) == ((1,), (USD(-5),))
    await assert_ledger_holds(connection)


async def test_one_user_fifty_times_at_once_gets_it_once(connection: Connection, database_url: str) -> None:
    await make(connection, max_uses=50)
    user = await make_user(connection, "alice")
    told = await redeem_at_once(database_url, [user] * 50)
    assert told.count("ok") == 1 and told.count("ALREADY_REDEEMED") == 49
    assert (await read_balance(connection, f"user:{user}")).credit_usd == 5
    row = await (await connection.execute("SELECT uses FROM coupons")).fetchone()
    assert row == (1,)


async def test_the_constraints_decide_even_when_nobody_waits_for_the_counter(connection: Connection) -> None:
    coupon = await make(connection)
    await connection.execute("UPDATE coupons SET uses = max_uses")
    with pytest.raises(psycopg.errors.CheckViolation):
        await connection.execute("UPDATE coupons SET uses = uses + 1 WHERE id = %s", (coupon,))
    with pytest.raises(psycopg.errors.CheckViolation):
        await connection.execute("UPDATE coupons SET assigned_to = 'somebody' WHERE id = %s", (coupon,))


async def test_a_refused_redemption_leaves_nothing_behind(connection: Connection) -> None:
    await make(connection)
    alice, bob = await make_user(connection, "alice"), await make_user(connection, "bob")
    assert await redeem(connection, bob) == "ok"
    assert await redeem(connection, alice) == "MAX_USES_EXCEEDED"
    rows = await (await connection.execute("SELECT user_id FROM coupon_redemptions")).fetchall()
    assert rows == [(bob,)]


async def test_uses_cannot_be_made_fewer_than_were_made(connection: Connection) -> None:
    coupon = await make(connection, max_uses=3)
    for name in ("alice", "bob"):
        assert await redeem(connection, await make_user(connection, name)) == "ok"
    with pytest.raises(CouponRefused):
        await change_coupon(connection, coupon, {"max_uses": 1})
    assert (await change_coupon(connection, coupon, {"max_uses": 2}))["max_uses"] == 2


async def test_who_redeems_one_gets_one_mail_and_who_is_refused_none(connection: Connection) -> None:
    await make(connection)
    alice, bob = await make_user(connection, "alice"), await make_user(connection, "bob")
    assert await redeem(connection, alice) == "ok"
    assert await redeem(connection, alice) == "ALREADY_REDEEMED"
    assert await redeem(connection, bob) == "MAX_USES_EXCEEDED"
    rows = await (
        await connection.execute("SELECT template, user_id, address, data FROM mail_outbox")
    ).fetchall()
    told = {"amount_usd": "5.000000000000", "balance_usd": "5.000000000000", "reason": "coupon SPRING-5"}
    assert rows == [("credits_added", alice, "alice@b.c", told)]
