"""Who is brought by whom, and what both get for it."""

import asyncio
from decimal import Decimal
from typing import Any

import psycopg
import pytest

from engine.config.schema_commerce import ReferralsFile
from engine.errors import GatewayError
from engine.storage.ledger import read_balance
from engine.storage.postgres import Connection
from engine.storage.referral_codes import ALPHABET, get_or_make_code, note_referral
from engine.storage.referrals import purchase_made
from engine.storage.secrets import KeyRing
from tests.commerce.conftest import assert_ledger_holds, make_user, read_cases

RULES = ReferralsFile(referrals="default", max_uses=2)
NAMES = ("alice", "bob", "carol", "dave", "erin")


async def take_step(
    connection: Connection, ring: KeyRing, users: dict[str, str], rules: ReferralsFile, step: dict[str, Any]
) -> None:
    async with connection.transaction():
        if "join" in step:
            who, whose = step["join"]
            users.setdefault(who, await make_user(connection, who))
            code = "NOBODYS2"
            if whose != "nobody":
                code = await get_or_make_code(connection, users[whose], RULES)
            await note_referral(connection, ring, users[who], code, rules)
        elif "buy" in step:
            who, amount, ref = step["buy"]
            await purchase_made(connection, f"user:{users[who]}", Decimal(amount), ref)
        else:
            await connection.execute("UPDATE users SET active = false WHERE id = %s", (users[step["close"]],))


@pytest.mark.parametrize("case", read_cases("referrals"))
async def test_a_referral(connection: Connection, ring: KeyRing, case: dict[str, Any]) -> None:
    users = {name: await make_user(connection, name) for name in NAMES}
    rules = RULES
    for step in case["steps"]:
        if "promise" in step:
            amount = Decimal(step["promise"])
            rules = RULES.model_copy(update={"referrer_bonus_usd": amount, "referee_bonus_usd": amount})
        elif "refused" in step:
            with pytest.raises(GatewayError) as refused:
                await take_step(connection, ring, users, rules, step)
            assert refused.value.code == step["refused"]
        else:
            await take_step(connection, ring, users, rules, step)
    for name, amount in case["credit"].items():
        balance = await read_balance(connection, f"user:{users[name]}")
        assert balance.credit_usd == Decimal(amount), name
    await assert_ledger_holds(connection)


async def test_codes_are_made_once_of_letters_that_nobody_mistakes(connection: Connection) -> None:
    user = await make_user(connection, "alice")
    codes = {await get_or_make_code(connection, user, RULES) for _ in range(3)}
    (code,) = codes
    assert len(code) == 8 and set(code) <= set(ALPHABET) and not set(ALPHABET) & set("IL1O0")


async def test_fifty_at_once_do_not_use_a_code_more_often_than_it_may(
    connection: Connection, ring: KeyRing, database_url: str
) -> None:
    code = await get_or_make_code(connection, await make_user(connection, "alice"), RULES)
    users = [await make_user(connection, f"user{number}") for number in range(50)]

    async def join(user: str) -> str | None:
        async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as own:
            try:
                async with own.transaction():
                    await note_referral(own, ring, user, code, RULES)
            except GatewayError as refusal:
                return refusal.code
        return "joined"

    said = await asyncio.gather(*map(join, users))
    assert said.count("joined") == 2 and said.count("referral_code_used_up") == 48


async def test_a_purchase_told_by_fifty_at_once_gives_each_bonus_once(
    connection: Connection, ring: KeyRing, database_url: str
) -> None:
    alice, bob = await make_user(connection, "alice"), await make_user(connection, "bob")
    async with connection.transaction():
        await note_referral(connection, ring, bob, await get_or_make_code(connection, alice, RULES), RULES)

    async def tell(number: int) -> None:
        async with (
            await psycopg.AsyncConnection.connect(database_url, autocommit=True) as own,
            own.transaction(),
        ):
            await purchase_made(own, f"user:{bob}", Decimal(20), f"event-{number}")

    await asyncio.gather(*map(tell, range(50)))
    for user in (alice, bob):
        assert (await read_balance(connection, f"user:{user}")).credit_usd == 10
    row = await (await connection.execute("SELECT count(*) FROM mail_outbox")).fetchone()
    assert row == (2,)
    await assert_ledger_holds(connection)
