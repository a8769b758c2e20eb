"""A person has one trial; its credit ends with it; who pays is not restricted by it."""

import asyncio
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import psycopg
import pytest

from engine.config.schema_plan import PlanFile
from engine.config.schema_trial import TrialFile
from engine.errors import GatewayError
from engine.storage.ledger import read_balance
from engine.storage.persons import normalise_address
from engine.storage.plan_terms import put_on_plan, renew_allowance
from engine.storage.postgres import Connection
from engine.storage.referrals import purchase_made
from engine.storage.secrets import KeyRing
from engine.storage.trials import close_ended_trials, start_trial
from tests.commerce.conftest import USD, assert_ledger_holds, give, make_user, read_cases, spend

TRIALS = {
    "default": TrialFile(trial="default"),
    "redbeard": TrialFile(trial="redbeard", code="REDBEARD", days=14, credit_usd=USD(20), on_plan="pro"),
    "closed": TrialFile(trial="closed", active=False),
    "only_one": TrialFile(trial="only_one", max_persons=1),
}
PRO = PlanFile(plan="pro", allowance_usd=USD(15))


class Town:
    """Who lives in a case."""

    def __init__(self, connection: Connection, ring: KeyRing) -> None:
        self.connection, self.ring = connection, ring
        self.users: dict[str, str] = {}
        self.count = 0

    async def take(self, step: dict[str, Any]) -> None:
        what, how = next(iter(step.items()))
        self.count += 1
        await getattr(self, what)(*(how if isinstance(how, list) else [how]))

    async def sign_up(self, who: str, proof: str) -> None:
        self.users[who] = await make_user(self.connection, who)
        await self.connection.execute(
            "UPDATE users SET email_verified = %s WHERE id = %s", (proof == "proven", self.users[who])
        )

    async def identity(self, who: str, subject: str) -> None:
        await self.connection.execute(
            "INSERT INTO identities (provider, subject, user_id) VALUES ('google', %s, %s)"
            " ON CONFLICT (provider, subject) DO UPDATE SET user_id = excluded.user_id",
            (subject, self.users[who]),
        )

    async def start(self, who: str, trial: str) -> None:
        async with self.connection.transaction():
            await start_trial(self.connection, self.ring, self.users[who], TRIALS[trial])

    async def spend(self, who: str, amount: str) -> None:
        await spend(self.connection, f"user:{self.users[who]}", amount, f"call:{self.count}")

    async def buy(self, who: str, amount: str) -> None:
        payer = f"user:{self.users[who]}"
        await give(self.connection, payer, amount, f"buy:{self.count}")
        async with self.connection.transaction():
            await purchase_made(self.connection, payer, USD(amount), f"buy:{self.count}")

    async def subscribe(self, who: str) -> None:
        payer, end = f"user:{self.users[who]}", datetime.now(UTC) + timedelta(days=30)
        async with self.connection.transaction():
            await put_on_plan(self.connection, payer, "pro", source="stripe")
            await renew_allowance(self.connection, payer, PRO, "invoice", end)

    async def days(self, many: int) -> None:
        await self.connection.execute(
            "UPDATE trials SET started_at = started_at - %(many)s * interval '1 day',"
            " ends_at = ends_at - %(many)s * interval '1 day'",
            {"many": many},
        )
        await close_ended_trials(self.connection)

    async def erase(self, who: str) -> None:
        await self.connection.execute(
            "UPDATE users SET email = id || '@erased', active = false WHERE id = %s", (self.users.pop(who),)
        )


@pytest.mark.parametrize("case", read_cases("trials"))
async def test_a_trial(connection: Connection, ring: KeyRing, case: dict[str, Any]) -> None:
    town = Town(connection, ring)
    for step in case["steps"]:
        if "refused" in step:
            with pytest.raises(GatewayError) as refused:
                await town.take(step)
            assert refused.value.code == step["refused"]
        else:
            await town.take(step)
    for who, user_id in town.users.items():
        balance = await read_balance(connection, f"user:{user_id}")
        assert balance.allowance_usd == USD(case.get("allowance", {}).get(who, balance.allowance_usd))
        assert balance.credit_usd == USD(case.get("credit", {}).get(who, balance.credit_usd))
        if "plan" in case:
            row = await (
                await connection.execute("SELECT plan FROM users WHERE id = %s", (user_id,))
            ).fetchone()
            assert row == (case["plan"][who],)
        if "restricted" in case:
            rows = await (
                await connection.execute(
                    "SELECT 1 FROM trials WHERE user_id = %s AND lifted_at IS NULL", (user_id,)
                )
            ).fetchall()
            assert bool(rows) == (who in case["restricted"])
    if "expired" in case:
        row = await (
            await connection.execute("SELECT balance_usd FROM ledger_accounts WHERE id = 'house:expired'")
        ).fetchone()
        assert row == (USD(case["expired"]),)
    await assert_ledger_holds(connection)


async def test_fifty_accounts_of_one_person_at_once_get_one_trial(
    connection: Connection, ring: KeyRing, database_url: str
) -> None:
    town = Town(connection, ring)
    for number in range(50):
        await town.sign_up(f"same+{number}", "proven")

    async def start(user_id: str) -> bool:
        async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as own:
            try:
                async with own.transaction():
                    await start_trial(own, ring, user_id, TRIALS["default"])
            except GatewayError as refusal:
                assert refusal.code == "trial_used"
                return False
        return True

    assert sum(await asyncio.gather(*map(start, town.users.values()))) == 1
    row = await (
        await connection.execute("SELECT balance_usd FROM ledger_accounts WHERE id = 'house:trials'")
    ).fetchone()
    assert row == (Decimal(-5),)


async def test_what_is_kept_of_a_person_is_no_address(connection: Connection, ring: KeyRing) -> None:
    town = Town(connection, ring)
    await town.sign_up("alice", "proven")
    await town.start("alice", "default")
    rows = await (await connection.execute("SELECT mark FROM trial_marks")).fetchall()
    assert len(rows) == 1 and len(rows[0][0]) == 32


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("a.b@gmail.com", "ab@googlemail.com", True),
        ("A@Example.ORG", "a@example.org.", True),
        ("a+x@example.org", "a+y@example.org", True),
        ("+x@example.org", "+y@example.org", False),
        ("a.b@example.org", "ab@example.org", False),
        ("a@example.org", "a@example.com", False),
        ("\uff41@example.org", "a@example.org", True),
    ],
)
def test_addresses_of_one_mailbox_are_one(one: str, other: str, same: bool) -> None:
    assert (normalise_address(one) == normalise_address(other)) is same


async def test_a_trials_credit_is_told_by_one_mail_in_its_transaction(
    connection: Connection, ring: KeyRing
) -> None:
    town = Town(connection, ring)
    await town.sign_up("alice", "proven")
    with pytest.raises(ZeroDivisionError):
        async with connection.transaction():
            await start_trial(connection, ring, town.users["alice"], TRIALS["default"])
            raise ZeroDivisionError
    assert await (await connection.execute("SELECT ref FROM mail_outbox")).fetchall() == []
    await town.start("alice", "default")
    with pytest.raises(GatewayError):
        await town.start("alice", "default")
    rows = await (await connection.execute("SELECT template, ref, data FROM mail_outbox")).fetchall()
    told = {"amount_usd": "5", "balance_usd": "5.000000000000", "reason": "Trial"}
    assert rows == [("credits_added", f"credits_added:trial:user:{town.users['alice']}", told)]
