"""Money moves once for each reference, adds up to zero, and its history cannot be changed."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from decimal import Decimal

import psycopg
import pytest

from engine.errors import NotFound
from engine.storage.issuing import KeyRequest, issue_key
from engine.storage.ledger import Balance, adjust, grant, read_balance, set_allowance, take_back
from engine.storage.ledger_reading import _find_problems, list_movements, verify_ledger
from engine.storage.migrations import list_migrations, migrate
from engine.storage.postgres import Connection
from engine.storage.secrets import KeyRing
from engine.storage.users import get_or_create_user

USD = Decimal


@pytest.fixture
async def payer(connection: Connection) -> str:
    return f"user:{await get_or_create_user(connection, 'a@b.c')}"


async def give(connection: Connection, payer: str, amount: str, ref: str, **more: str) -> Balance | None:
    async with connection.transaction():
        return await grant(
            connection,
            payer,
            USD(amount),
            ref=ref,
            kind=more.get("kind", "purchase"),
            source="house:purchases",
            pot=more.get("pot", "credit"),
        )


async def take(connection: Connection, payer: str, amount: str, ref: str) -> tuple[Balance, Decimal] | None:
    async with connection.transaction():
        return await take_back(connection, payer, USD(amount), ref=ref, kind="refund", target="house:refunds")


async def renew(connection: Connection, payer: str, amount: str, ref: str) -> Balance | None:
    async with connection.transaction():
        return await set_allowance(connection, payer, USD(amount), ref=ref, kind="subscription_renewal")


async def read_accounts(connection: Connection) -> dict[str, Decimal]:
    rows = await connection.execute("SELECT id, balance_usd FROM ledger_accounts WHERE balance_usd <> 0")
    return dict(await rows.fetchall())


async def assert_holds(connection: Connection) -> None:
    verdict = await verify_ledger(connection)
    assert verdict.problems == () and verdict.sum_usd == 0


async def test_a_grant_is_there_once_whatever_is_repeated(connection: Connection, payer: str):
    assert await give(connection, payer, "10", "stripe:evt_1") == Balance(USD(10), USD(0))
    assert await give(connection, payer, "10", "stripe:evt_1") is None
    assert await give(connection, payer, "0.000000000001", "stripe:evt_2") == Balance(
        USD("10.000000000001"), USD(0)
    )
    assert await read_balance(connection, payer) == Balance(USD("10.000000000001"), USD(0))
    assert await read_accounts(connection) == {
        f"credit:{payer}": USD("10.000000000001"),
        "house:purchases": USD("-10.000000000001"),
    }
    await assert_holds(connection)


async def test_of_fifty_at_once_with_one_reference_one_is_booked(
    connection: Connection, payer: str, database_url: str
):
    async def attempt() -> bool:
        async with await Connection.connect(database_url, autocommit=True) as own:
            return await give(own, payer, "3", "coupon:1") is not None

    assert sum(await asyncio.gather(*(attempt() for _ in range(50)))) == 1
    assert (await read_balance(connection, payer)).credit_usd == 3
    await assert_holds(connection)


async def test_many_writers_of_many_payers_neither_lose_nor_block_each_other(
    connection: Connection, database_url: str
):
    payers = [f"user:{await get_or_create_user(connection, f'{n}@b.c')}" for n in range(5)]

    async def write(number: int) -> None:
        async with await Connection.connect(database_url, autocommit=True) as own:
            for turn in range(10):
                who = payers[(number + turn) % 5]
                await give(own, who, "2", f"g:{number}:{turn}")
                await take(own, who, "0.5", f"t:{number}:{turn}")
                await renew(own, who, "1", f"r:{number}:{turn}")

    await asyncio.gather(*(write(number) for number in range(6)))
    balances = [await read_balance(connection, who) for who in payers]
    assert sum(balance.total_usd for balance in balances) == 60 * USD("1.5") + 5
    assert (await read_accounts(connection))["house:expired"] == 55
    await assert_holds(connection)


async def test_a_grant_makes_the_payer_prepaid_and_every_worker_is_told(connection: Connection, payer: str):
    before = await (await connection.execute("SELECT n FROM change_counter")).fetchone()
    await give(connection, payer, "1", "a")
    await give(connection, payer, "1", "b")
    row = await (
        await connection.execute("SELECT prepaid, changed_n, n FROM users, change_counter")
    ).fetchone()
    assert before is not None and row == (True, before[0] + 1, before[0] + 1)


async def test_a_payer_who_is_not_there_gets_nothing(connection: Connection):
    for payer in ("user:nobody", "team:nobody"):
        with pytest.raises(NotFound):
            await give(connection, payer, "1", "a")
    for payer in ("nobody", "house:grants", "user:"):
        with pytest.raises(ValueError, match="no payer"):
            await give(connection, payer, "1", "a")
    assert await list_movements(connection, None, limit=10) == []


@pytest.mark.parametrize("amount", ["-1", "NaN", "Infinity"])
async def test_an_amount_is_a_number_from_zero_on(connection: Connection, payer: str, amount: str):
    with pytest.raises(ValueError, match="no amount"):
        await give(connection, payer, amount, "a")


async def test_what_is_taken_back_is_at_most_what_is_there(connection: Connection, payer: str):
    await give(connection, payer, "10", "a")
    assert await take(connection, payer, "4", "b") == (Balance(USD(6), USD(0)), USD(4))
    assert await take(connection, payer, "4", "b") is None
    assert await take(connection, payer, "10", "c") == (Balance(USD(0), USD(0)), USD(6))
    assert await take(connection, payer, "1", "d") == (Balance(USD(0), USD(0)), USD(0))
    assert await read_accounts(connection) == {
        "house:purchases": USD(-10),
        "house:refunds": USD(15),
        "house:written_off": USD(-5),
    }
    await assert_holds(connection)


async def test_an_account_with_grace_may_be_taken_below_zero_by_that(connection: Connection, payer: str):
    await give(connection, payer, "1", "a")
    await connection.execute("UPDATE ledger_accounts SET grace_usd = 2 WHERE id = %s", (f"credit:{payer}",))
    assert await take(connection, payer, "10", "b") == (Balance(USD(-2), USD(0)), USD(3))
    assert await take(connection, payer, "1", "c") == (Balance(USD(-2), USD(0)), USD(0))
    await assert_holds(connection)


async def test_an_allowance_is_set_and_what_was_left_expires(connection: Connection, payer: str):
    await give(connection, payer, "5", "a")
    assert await renew(connection, payer, "15", "r1") == Balance(USD(5), USD(15))
    assert await renew(connection, payer, "15", "r1") is None
    assert await renew(connection, payer, "20", "r2") == Balance(USD(5), USD(20))
    assert await renew(connection, payer, "0", "r3") == Balance(USD(5), USD(0))
    assert (await read_accounts(connection))["house:expired"] == 35
    await assert_holds(connection)


async def test_movements_show_what_a_payer_had_before_and_after(connection: Connection, payer: str):
    other = f"user:{await get_or_create_user(connection, 'c@d.e')}"
    await give(connection, payer, "10", "a")
    await give(connection, other, "99", "x")
    await renew(connection, payer, "5", "r1")
    await take(connection, payer, "4", "b")
    await renew(connection, payer, "3", "r2")
    found = await list_movements(connection, payer, limit=10)
    shown = [
        (each["ref"], each["amount_usd"], each["balance_before"], each["balance_after"]) for each in found
    ]
    assert shown == [("r2", -2, 11, 9), ("b", -4, 15, 11), ("r1", 5, 10, 15), ("a", 10, 0, 10)]
    assert (found[0]["credit_usd"], found[0]["allowance_usd"]) == (0, -2)
    page = await list_movements(connection, payer, limit=2, offset=2)
    assert [each["ref"] for each in page] == ["r1", "a"]
    assert [each["ref"] for each in await list_movements(connection, None, kind="purchase", limit=9)] == [
        "x",
        "a",
    ]
    moment = found[1]["created_at"]
    assert [each["ref"] for each in await list_movements(connection, payer, since=moment, limit=9)] == [
        "r2",
        "b",
    ]
    assert len(await list_movements(connection, payer, until=moment, limit=9)) == 2


async def test_pages_hold_each_movement_once_also_of_one_moment(connection: Connection, payer: str):
    refs = [f"r{number}" for number in range(7)]
    async with connection.transaction():
        for ref in refs[:5]:
            await give(connection, payer, "1", ref)
    for ref in refs[5:]:
        await give(connection, payer, "1", ref)
    whole = await list_movements(connection, payer, limit=10)
    assert [each["ref"] for each in whole] == refs[::-1]
    assert [each["balance_after"] for each in whole] == [7, 6, 5, 4, 3, 2, 1]
    for size in (1, 2, 3):
        pages = [await list_movements(connection, payer, limit=size, offset=at) for at in range(0, 7, size)]
        assert [each["ref"] for page in pages for each in page] == refs[::-1]


async def test_a_movement_of_a_call_tells_which_call(connection: Connection, payer: str):
    await connection.execute(
        "INSERT INTO call_records (id, started_at, status, model) VALUES ('call_1', now(), 'ok', 'm')"
    )
    await give(connection, payer, "1", "call:call_1")
    (found,) = await list_movements(connection, payer, limit=1)
    assert found["metadata"] | {"call_id": "call_1", "model": "m"} == found["metadata"]


async def test_credit_that_comes_with_a_key_is_a_grant(connection: Connection, ring: KeyRing):
    await issue_key(connection, ring, KeyRequest("ci", user="a@b.c", credit_usd=USD("12.50")))
    (found,) = await list_movements(connection, None, limit=9)
    assert (found["kind"], found["amount_usd"], found["created_by"]) == (
        "admin_credit",
        USD("12.5"),
        "command",
    )


# --- what the database itself refuses, and what the proof finds


async def test_the_database_refuses_a_movement_that_does_not_balance(connection: Connection, payer: str):
    await give(connection, payer, "1", "a")
    with pytest.raises(psycopg.errors.CheckViolation, match="zero"):
        await connection.execute(
            "INSERT INTO ledger_entries (movement_id, account, amount_usd, balance_after)"
            " SELECT max(id), 'house:purchases', 1, 0 FROM ledger_movements"
        )


async def test_the_database_refuses_an_overdrawn_account(connection: Connection, payer: str):
    await give(connection, payer, "1", "a")
    with pytest.raises(psycopg.errors.CheckViolation):
        await connection.execute(
            "UPDATE ledger_accounts SET balance_usd = -0.000000000001 WHERE id = %s", (f"credit:{payer}",)
        )


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE ledger_entries SET amount_usd = 0",
        "DELETE FROM ledger_entries",
        "TRUNCATE ledger_entries",
        "UPDATE ledger_movements SET ref = 'other'",
        "DELETE FROM ledger_movements",
        "TRUNCATE ledger_movements CASCADE",
    ],
)
async def test_the_database_refuses_to_change_history(connection: Connection, payer: str, statement: str):
    await give(connection, payer, "1", "a")
    with pytest.raises(psycopg.errors.RaiseException, match="append-only"):
        await connection.execute(statement.encode())


@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        ("UPDATE ledger_entries SET amount_usd = 2 WHERE account LIKE 'credit:%'", "do not add up to zero"),
        ("UPDATE ledger_accounts SET balance_usd = 7 WHERE id LIKE 'credit:%'", "not the sum of its entries"),
        ("UPDATE ledger_entries SET balance_after = 7 WHERE account LIKE 'credit:%'", "does not go on"),
        ("DELETE FROM ledger_entries WHERE account LIKE 'house:%'", "not zero"),
        (
            "ALTER TABLE ledger_accounts DROP CONSTRAINT ledger_account_not_overdrawn;"
            " UPDATE ledger_accounts SET balance_usd = -1 WHERE id LIKE 'credit:%'",
            "below what it may be",
        ),
        (
            "ALTER TABLE ledger_movements DROP CONSTRAINT ledger_movements_ref_key;"
            " INSERT INTO ledger_movements (ref, kind, payer) SELECT ref, kind, payer FROM ledger_movements",
            "more than once",
        ),
    ],
)
async def test_whatever_is_changed_behind_its_back_is_found(
    connection: Connection, payer: str, statement: str, problem: str
):
    await give(connection, payer, "1", "a")
    async with connection.transaction(force_rollback=True):
        await connection.execute("SET LOCAL session_replication_role = replica")
        await connection.execute(statement.encode())
        verdict = await _verify_within(connection)
    assert any(problem in each for each in verdict)


async def _verify_within(connection: Connection) -> list[str]:
    """The checks of `verify_ledger` inside a transaction that will be undone."""
    total = await (await connection.execute("SELECT sum(amount_usd) FROM ledger_entries")).fetchone()
    found = [each async for each in _find_problems(connection)]
    return [*found, "not zero"] if total is not None and total[0] else found


@pytest.fixture
async def fresh(server_url: str) -> AsyncIterator[Connection]:
    """An empty database of its own, not migrated."""
    name = f"ledger_{secrets.token_hex(6)}"
    with psycopg.connect(server_url, autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name}".encode())
    url = server_url.replace("/postgres?", f"/{name}?")
    async with await Connection.connect(url, autocommit=True) as opened:
        yield opened
    with psycopg.connect(server_url, autocommit=True) as admin:
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


async def test_credit_of_before_the_ledger_is_its_opening(fresh: Connection):
    files = list_migrations()
    await migrate(fresh, [file for file in files if file.name < "0008"])
    await fresh.execute(
        "INSERT INTO users (id, email, credit_usd) VALUES ('u1', 'a@b', 1.5), ('u2', 'b@b', 2), ('u3', 'c@b', 0)"
    )
    await migrate(fresh, files)
    assert await read_balance(fresh, "user:u1") == Balance(USD("1.5"), USD(0))
    assert await read_accounts(fresh) == {
        "credit:user:u1": USD("1.5"),
        "credit:user:u2": USD(2),
        "house:grants": USD("-3.5"),
    }
    rows = await (await fresh.execute("SELECT id FROM users WHERE prepaid ORDER BY id")).fetchall()
    assert rows == [("u1",), ("u2",)]
    await assert_holds(fresh)


async def test_an_allowance_out_of_what_had_expired_balances(connection: Connection, payer: str) -> None:
    await renew(connection, payer, "15", "a1")
    async with connection.transaction():
        balance = await set_allowance(
            connection, payer, USD(20), ref="a2", kind="subscription_renewal", source="house:expired"
        )
    assert balance is not None and balance.allowance_usd == 20
    assert await read_accounts(connection) == {
        f"allowance:{payer}": USD(20),
        "house:grants": USD(-15),
        "house:expired": USD(-5),
    }
    await assert_holds(connection)


async def test_an_allowance_comes_from_the_house_alone(connection: Connection, payer: str) -> None:
    with pytest.raises(ValueError, match="no account of the house"):
        await set_allowance(connection, payer, USD(5), ref="a1", kind="x", source=f"credit:{payer}")


@pytest.mark.parametrize("amount", ["0.5", "-0.5"])
async def test_of_adjustments_under_one_reference_at_once_one_is_told_that_it_was_booked(
    connection: Connection, payer: str, database_url: str, amount: str
) -> None:
    await give(connection, payer, "100", "g1")

    async def one() -> bool:
        async with (
            await psycopg.AsyncConnection.connect(database_url, autocommit=True) as own,
            own.transaction(),
        ):
            done = await adjust(own, payer, USD(amount), ref="rerate:1", prepaid=True)
            await asyncio.sleep(0.02)  # the others come while this one is not committed
            return done

    told = await asyncio.gather(*(one() for _ in range(12)))
    assert told.count(True) == 1
    async with connection.transaction():
        assert not await adjust(connection, payer, USD(amount), ref="rerate:1", prepaid=True)
    assert (await read_balance(connection, payer)).credit_usd == 100 - USD(amount)
    await assert_holds(connection)
