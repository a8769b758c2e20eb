"""What a batch of records becomes in the database: each call one record and one movement, whatever is beside it."""

import orjson

from engine.storage.postgres import Database
from engine.storage.records import Written, write_records
from tests.billing.desks import give_credit, read_credit, select, usd
from tests.storage.records import begin, end


def paid(call_id: str, cost: str, **given: object) -> bytes:
    record = end(begin(id=call_id), cost_usd=cost, payer="user:alice", prepaid=True, lease="w1", purses=[])
    return orjson.dumps(record | given)


async def write(database: Database, *records: bytes) -> Written:
    return await database.run(lambda c: write_records(c, records, "w1.jsonl", 1))


async def test_of_two_records_of_one_call_in_a_batch_the_first_is_stored_and_charged(
    database: Database,
) -> None:
    await give_credit(database, "10")
    await write(database, paid("one", "1"), paid("two", "2"), paid("one", "4"), paid("two", "3"))
    assert await select(database, "SELECT id || ' ' || cost_usd::float8 FROM call_records ORDER BY seq") == [
        "one 1",
        "two 2",
    ]
    assert await select(
        database, "SELECT ref FROM ledger_movements WHERE kind = 'api_usage' ORDER BY ref"
    ) == [
        "call:one",
        "call:two",
    ]
    assert await read_credit(database) == 7


async def test_a_call_that_is_recorded_is_not_charged_by_a_second_record(database: Database) -> None:
    await give_credit(database, "10")
    await write(database, paid("one", "1", payer=None))
    await write(database, paid("one", "4"), paid("two", "2"))
    assert await read_credit(database) == 8


async def test_a_record_that_nobody_pays_for_is_stored_and_moves_nothing(database: Database) -> None:
    await give_credit(database, "10")
    await write(database, paid("one", "1", payer=""), paid("two", "1", payer=None), paid("three", "0"))
    assert await select(database, "SELECT id FROM call_records ORDER BY seq") == ["one", "two", "three"]
    assert await select(database, "SELECT ref FROM ledger_movements WHERE kind = 'api_usage'") == []
    assert await read_credit(database) == 10


async def test_calls_of_one_batch_are_booked_one_after_the_other(database: Database) -> None:
    """The allowance, the credit, and then the house's loss; and of a payer who pays later all is owed."""
    await give_credit(database, "2.5")
    later = {"payer": "user:bob", "prepaid": False}
    written = await write(
        database,
        paid("a", "1"),
        paid("b", "0.5", **later),
        paid("c", "1"),
        paid("d", "1"),
        paid("e", "2", **later),
    )
    assert written.written_off_usd == usd("0.5")
    booked = (
        "SELECT m.ref || ' ' || e.account || ' ' || e.amount_usd::float8 || ' ' || e.balance_after::float8"
        " FROM ledger_movements m JOIN ledger_entries e ON e.movement_id = m.id WHERE m.kind = 'api_usage'"
        " ORDER BY m.ref, e.account"
    )
    assert await select(database, booked) == [
        "call:a credit:user:alice -1 1.5",
        "call:a house:usage 1 1",
        "call:b house:usage 0.5 1.5",
        "call:b owed:user:bob -0.5 -0.5",
        "call:c credit:user:alice -1 0.5",
        "call:c house:usage 1 2.5",
        "call:d credit:user:alice -0.5 0",
        "call:d house:usage 1 3.5",
        "call:d house:written_off -0.5 -0.5",
        "call:e house:usage 2 5.5",
        "call:e owed:user:bob -2 -2.5",
    ]


async def test_bytes_that_are_no_text_are_replaced_and_the_record_is_stored(database: Database) -> None:
    await give_credit(database, "10")
    broken = paid("one", "1", error="brok").replace(b"brok", b"br\xffk")
    written = await write(database, broken, paid("two", "2"))
    assert written.refused == []
    assert await select(database, "SELECT error FROM call_records ORDER BY seq") == ["br\ufffdk", ""]
    assert await read_credit(database) == 7
