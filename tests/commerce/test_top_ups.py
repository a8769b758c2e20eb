"""A balance that fell is charged for once, within its cap, and not for ever when charges fail."""

import asyncio
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Literal

from engine.config.schema_commerce import TopUpsFile
from engine.errors import DependencyAway
from engine.storage.postgres import Connection, Database
from engine.storage.top_up_charging import Charged
from engine.storage.top_ups import TopUp, finish_charge, read_top_up, set_top_up, top_up_all
from tests.commerce.conftest import USD, give, make_user, spend

RULES = TopUpsFile(top_ups="default", retry_after_s=1, lost_after_s=30)
WANTED = TopUp(True, USD(5), USD(20), USD(40))


@dataclass
class Bank:
    """Stands in for the payment provider: charges once for each reference."""

    outcome: Literal["charged", "failed", "away"] = "charged"
    is_final: bool = False
    asked: list[str] = field(default_factory=list)

    async def charge_off_session(self, payer: str, amount_usd: Decimal, ref: str) -> Charged:
        self.asked.append(ref)
        await asyncio.sleep(0)
        if self.outcome == "away":
            raise DependencyAway("the bank is closed")
        if self.outcome == "failed":
            return Charged("failed", "the card was declined", self.is_final)
        return Charged("charged")


async def prepare(connection: Connection, database: Database) -> str:
    await database.run(lambda opened: opened.execute("SELECT 1"), probe=True)
    payer = f"user:{await make_user(connection, 'alice')}"
    await give(connection, payer, "10", "p")
    await set_top_up(connection, payer, WANTED)
    return payer


async def come(connection: Connection, payer: str, ref: str) -> None:
    """The money of a charge."""
    async with connection.transaction():
        await finish_charge(connection, ref)
    await give(connection, payer, "20", f"money:{ref}")


async def test_one_dip_is_charged_for_once_until_its_money_came(
    connection: Connection, database: Database
) -> None:
    payer, bank = await prepare(connection, database), Bank()
    assert await top_up_all(database, bank, RULES) == 0
    await spend(connection, payer, "6", "c1", pot="credit")
    await asyncio.gather(*(top_up_all(database, bank, RULES) for _ in range(20)))
    assert len(bank.asked) == 1
    await come(connection, payer, bank.asked[0])
    await top_up_all(database, bank, RULES)
    assert len(bank.asked) == 1
    await spend(connection, payer, "23", "c2", pot="credit")
    await top_up_all(database, bank, RULES)
    assert len(set(bank.asked)) == 2


async def test_a_month_has_a_cap(connection: Connection, database: Database) -> None:
    payer, bank = await prepare(connection, database), Bank()
    for number in range(4):
        await spend(connection, payer, "99", f"c{number}", pot="credit")
        await top_up_all(database, bank, RULES)
        if len(bank.asked) > number:
            await come(connection, payer, bank.asked[-1])
    assert len(bank.asked) == 2


async def test_what_nobody_answered_for_is_asked_again_under_its_reference(
    connection: Connection, database: Database
) -> None:
    payer, bank = await prepare(connection, database), Bank("away")
    await spend(connection, payer, "6", "c1", pot="credit")
    for _ in range(3):
        await top_up_all(database, bank, RULES)
    assert len(bank.asked) == 1
    await connection.execute("UPDATE top_up_charges SET tried_at = now() - interval '31 seconds'")
    bank.outcome = "charged"
    await top_up_all(database, bank, RULES)
    assert len(bank.asked) == 2 and len(set(bank.asked)) == 1


async def test_failures_pause_and_switch_it_off(connection: Connection, database: Database) -> None:
    payer, bank = await prepare(connection, database), Bank("failed")
    await spend(connection, payer, "6", "c1", pot="credit")
    for _ in range(6):
        await top_up_all(database, bank, RULES)
        await top_up_all(database, bank, RULES)
        await connection.execute("UPDATE top_ups SET next_try_at = now()")
    assert len(bank.asked) == RULES.max_failures
    found = await read_top_up(connection, payer)
    assert found is not None
    assert (found.enabled, found.switched_off_because) == (False, "the card was declined")
    await set_top_up(connection, payer, WANTED)
    bank.outcome = "charged"
    assert await top_up_all(database, bank, RULES) == 1


async def test_a_card_that_is_gone_switches_it_off_at_once(
    connection: Connection, database: Database
) -> None:
    payer, bank = await prepare(connection, database), Bank("failed", is_final=True)
    await spend(connection, payer, "6", "c1", pot="credit")
    for _ in range(3):
        await top_up_all(database, bank, RULES)
        await connection.execute("UPDATE top_ups SET next_try_at = now()")
    assert len(bank.asked) == 1


async def test_money_that_the_payments_room_booked_closes_the_charge(
    connection: Connection, database: Database
) -> None:
    payer, bank = await prepare(connection, database), Bank()
    await spend(connection, payer, "6", "c1", pot="credit")
    await top_up_all(database, bank, RULES)
    await connection.execute(
        "INSERT INTO payments (id, payer, user_id, kind, ref, currency, amount_cents, credit_usd, granted_usd)"
        " VALUES ('pay', %s, 'u', 'top_up', %s, 'usd', 2000, 20, 20)",
        (payer, bank.asked[0]),
    )
    await top_up_all(database, bank, RULES)
    row = await (await connection.execute("SELECT state FROM top_up_charges ORDER BY created_at")).fetchone()
    assert row == ("done",)
