"""From the journal into the database: each call exactly once, whatever dies on the way."""

import asyncio
import os
import shutil
from decimal import Decimal
from pathlib import Path

import pytest

from engine.errors import DependencyAway, InvalidRequest
from engine.storage.calls import list_calls
from engine.storage.embedded import EmbeddedDatabase
from engine.storage.flusher import Flusher, pick_ended
from engine.storage.journal import Journal
from engine.storage.migrations import migrate_url
from engine.storage.postgres import Connection, Database
from tests.storage.records import begin, end, shut_down
from tests.storage.test_journal import run_worker_until_killed


@pytest.fixture
async def journal(home: Path):
    opened = Journal(home)
    opened.open()
    return opened


@pytest.fixture
async def flusher(home: Path, journal: Journal, database: Database):
    await database.run(lambda c: c.execute("SELECT 1"), probe=True)
    made = Flusher(home, journal, database)
    yield made
    if journal.files:
        await made.stop()


async def statuses(connection: Connection) -> dict[str, str]:
    rows = await (await connection.execute("SELECT id, status FROM call_records")).fetchall()
    return dict(rows)


async def adopt(home: Path, database: Database) -> Flusher:
    """What the next worker does with the journals it finds."""
    await database.run(lambda c: c.execute("SELECT 1"), probe=True)
    journal = Journal(home)
    journal.open()
    flusher = Flusher(home, journal, database)
    await flusher._adopt()
    await flusher.stop()
    return flusher


async def test_a_record_arrives_with_every_field(flusher: Flusher, journal: Journal, connection: Connection):
    begun = begin()
    journal.append_begun(begun)
    ended = end(begun)
    journal.append_ended(ended)
    assert flusher.count_states()["pending"] == 1
    await flusher.flush()
    assert flusher.count_states() | {"pending": 0, "written": 1} == flusher.count_states()
    (record,) = (await list_calls(connection)).records
    assert {name: record[name] for name in ended if name != "started_at"} == {
        name: value for name, value in ended.items() if name != "started_at"
    }
    row = await (
        await connection.execute("SELECT cost_usd, extract(epoch FROM started_at)::float8 FROM call_records")
    ).fetchone()
    assert row == (Decimal("0.000182400001"), pytest.approx(ended["started_at"], abs=1e-5))


async def test_it_flushes_by_itself_and_a_graceful_stop_leaves_no_file(
    flusher: Flusher, journal: Journal, connection: Connection, home: Path
):
    flusher.start()
    journal.append_ended(end(begin()))
    await asyncio.sleep(0.4)
    assert flusher.written == 1
    journal.append_ended(end(begin()))
    assert await flusher.stop()
    assert len(await statuses(connection)) == 2
    assert list((home / "journal").iterdir()) == []
    row = await (await connection.execute("SELECT count(*) FROM journal_positions")).fetchone()
    assert row == (0,)


async def test_many_records_and_files_arrive_once_each(
    home: Path, database: Database, connection: Connection
):
    journal = Journal(home, rotate_bytes=200_000)
    journal.open()
    await database.run(lambda c: c.execute("SELECT 1"), probe=True)
    flusher = Flusher(home, journal, database)
    ids = set()
    for _ in range(2000):
        begun = begin()
        ids.add(begun["id"])
        journal.append_begun(begun)
        journal.append_ended(end(begun))
    assert len(journal.files) > 5
    await flusher.flush()
    assert len(journal.files) == 1
    assert set(await statuses(connection)) == ids
    assert await flusher.stop()


async def test_a_killed_worker_has_exactly_one_record_for_each_call_it_began(
    home: Path, database: Database, connection: Connection
):
    said = run_worker_until_killed(home)
    copy = home.parent / "copy"
    shutil.copytree(home / "journal", copy)
    adopted = await adopt(home, database)
    found = await statuses(connection)
    assert set(said["begun"]) <= set(found)
    assert all(found[call_id] == "ok" for call_id in said["ended"])
    assert len(set(found) - set(said["begun"])) <= 1, "the line that it was about to say"
    assert adopted.interrupted == sum(status == "interrupted" for status in found.values()) <= 1
    assert list((home / "journal").iterdir()) == []

    shutil.copytree(copy, home / "journal", dirs_exist_ok=True)
    await adopt(home, database)
    assert await statuses(connection) == found, "a replay changed the records"


async def test_a_call_that_began_and_never_ended_is_interrupted(
    home: Path, database: Database, connection: Connection
):
    dead = Journal(home)
    dead.open()
    lost, done = begin(), begin()
    for begun in (lost, done):
        dead.append_begun(begun)
    dead.append_ended(end(done))
    os.write(dead.files[-1].descriptor, b'["ended",{"id":"torn')
    dead.close()
    flusher = await adopt(home, database)
    assert await statuses(connection) == {lost["id"]: "interrupted", done["id"]: "ok"}
    assert (flusher.interrupted, flusher.torn) == (1, 1)
    (record,) = (await list_calls(connection, filters={"status": "interrupted"})).records
    assert record["key_id"] == "key_1" and record["cost_usd"] == "0"


async def test_a_call_that_outlived_a_file_is_not_interrupted(
    home: Path, database: Database, connection: Connection
):
    """Its begun stands in two files, its ended only in the second."""
    dead = Journal(home, rotate_bytes=1500)
    dead.open()
    long_one = begin()
    dead.append_begun(long_one)
    while len(dead.files) < 2:
        dead.append_ended(end(begin()))
    dead.append_ended(end(long_one))
    dead.close()
    flusher = await adopt(home, database)
    assert flusher.interrupted == 0
    assert (await statuses(connection))[long_one["id"]] == "ok"


async def test_a_living_worker_is_not_robbed(
    flusher: Flusher, journal: Journal, home: Path, database: Database, connection: Connection
):
    begun = begin()
    journal.append_begun(begun)
    await adopt(home, database)
    assert await statuses(connection) == {}
    journal.append_ended(end(begun))
    await flusher.flush()
    assert await statuses(connection) == {begun["id"]: "ok"}


async def test_a_death_between_commit_and_note_writes_nothing_twice(
    flusher: Flusher, journal: Journal, connection: Connection
):
    journal.append_ended(end(begin()))
    await flusher.flush()
    journal.files[-1].flushed, journal.files[-1].recent = 0, None
    await flusher.flush()
    assert len(await statuses(connection)) == 1


async def test_what_just_ended_is_written_without_reading_the_file(
    flusher: Flusher, journal: Journal, connection: Connection
):
    ended = end(begin())
    journal.append_ended(ended)
    journal.files[-1].path.write_bytes(b"")
    await flusher.flush()
    assert await statuses(connection) == {ended["id"]: "ok"}


async def test_more_records_than_are_kept_in_memory_come_from_the_file_and_then_from_memory_again(
    flusher: Flusher, journal: Journal, connection: Connection
):
    for _ in range(3):
        for _ in range(700):
            journal.append_ended(end(begin()))
        assert journal.files[-1].recent is None
        await flusher.flush()
        assert journal.files[-1].recent == []
        journal.append_ended(end(begin()))
        await flusher.flush()
    assert len(await statuses(connection)) == flusher.written == 3 * 701


async def test_a_journal_that_somebody_cut_short_stops_nobody(
    flusher: Flusher, journal: Journal, connection: Connection, caplog: pytest.LogCaptureFixture
):
    journal.append_ended(end(begin()))
    journal.files[-1].recent = None
    journal.files[-1].path.write_bytes(b"")
    async with asyncio.timeout(10):
        await flusher.flush()
    assert "cut short" in caplog.text
    journal.append_ended(end(begin()))
    await flusher.flush()
    assert len(await statuses(connection)) == 1


async def test_what_ends_while_others_are_written_is_written_next(
    flusher: Flusher, journal: Journal, connection: Connection
):
    for _ in range(300):
        journal.append_ended(end(begin()))
    flushing = asyncio.create_task(flusher.flush())
    late = [end(begin()) for _ in range(20)]
    for record in late:
        await asyncio.sleep(0)
        journal.append_ended(record)
    await flushing
    await flusher.flush()
    assert set(record["id"] for record in late) <= set(await statuses(connection))
    assert len(await statuses(connection)) == flusher.written == 320


async def test_a_flush_that_was_cut_short_loses_nothing_and_writes_nothing_twice(
    flusher: Flusher, journal: Journal, connection: Connection
):
    ids = set()
    for wait_s in (0, 0.001, 0.003, 0.006, 0.01, 0.02):
        for _ in range(100):
            ids.add((record := end(begin()))["id"])
            journal.append_ended(record)
        flushing = asyncio.create_task(flusher.flush())
        await asyncio.sleep(wait_s)
        ids.add((record := end(begin()))["id"])
        journal.append_ended(record)
        flushing.cancel()
        await asyncio.wait([flushing])
    await flusher.flush()
    assert set(await statuses(connection)) == ids
    assert flusher.count_states()["pending"] == 0


@pytest.mark.parametrize("bad", [{"http_status": 2**40}, {"error": "\ud800"}, {"started_at": None}])
async def test_a_record_that_the_database_refuses_holds_nobody_up(
    flusher: Flusher, journal: Journal, connection: Connection, home: Path, bad: dict
):
    good = [end(begin()) for _ in range(3)]
    for record in (good[0], end(begin(), **bad), good[1], end(begin(id=good[2]["id"]))):
        journal.append_ended(record)
    await flusher.flush()
    assert set(await statuses(connection)) == {record["id"] for record in good}
    assert flusher.count_states()["refused"] == 1 and flusher.count_states()["pending"] == 0
    assert len((home / "journal" / "refused.jsonl").read_bytes().splitlines()) == 1


async def test_a_nul_in_a_text_is_left_out(flusher: Flusher, journal: Journal, connection: Connection):
    journal.append_ended(end(begin(), error="a\0b", tags={"x\0": "y"}))
    await flusher.flush()
    (record,) = (await list_calls(connection)).records
    assert (record["error"], record["tags"]) == ("ab", {"x": "y"})
    assert flusher.refused == 0


def test_a_torn_line_is_counted_and_its_neighbours_are_taken():
    chunk = b'["begun",{"id":"a"}]\n["ended",{"id":"a"}]\n["end\n["ended",{"id":"b"}]\n'
    assert pick_ended(chunk) == ([b'{"id":"a"}', b'{"id":"b"}'], 1)


async def test_records_wait_while_the_database_is_away_and_arrive_when_it_is_back(ready_home: Path):
    home = ready_home
    server = EmbeddedDatabase(home)
    url = await server.start()
    await migrate_url(url)
    database = Database(url)
    await database.open()
    await database.run(lambda c: c.execute("SELECT 1"), probe=True)
    journal = Journal(home)
    journal.open()
    flusher = Flusher(home, journal, database)
    flusher.start()
    await shut_down(server)
    ids = set()
    for _ in range(50):
        begun = begin()
        ids.add(begun["id"])
        journal.append_begun(begun)
        journal.append_ended(end(begun))
    with pytest.raises(DependencyAway):
        await flusher.flush()
    assert flusher.count_states()["pending"] == 50
    await server.start()
    await database.run(lambda c: c.execute("SELECT 1"), probe=True)
    for _ in range(300):
        if flusher.written == 50:
            break
        await asyncio.sleep(0.01)
    async with await Connection.connect(url) as connection:
        assert set(await statuses(connection)) == ids
    assert await flusher.stop()
    await database.close()
    await server.stop()


async def test_a_stop_without_the_database_leaves_the_records_for_the_next_start(
    home: Path, database: Database, connection: Connection
):
    journal = Journal(home)
    journal.open()
    nowhere = Database("postgresql://x@127.0.0.1:1/x")
    await nowhere.open()
    flusher = Flusher(home, journal, nowhere)
    ended = end(begin())
    journal.append_ended(ended)
    assert not await flusher.stop(within_s=0.5)
    await nowhere.close()
    await adopt(home, database)
    assert await statuses(connection) == {ended["id"]: "ok"}


async def test_pages_continue_where_they_left_off_whatever_is_written_meanwhile(
    flusher: Flusher, journal: Journal, connection: Connection
):
    for number in range(10):
        journal.append_ended(end(begin(id=f"call_{number}")))
    await flusher.flush()
    first = await list_calls(connection, limit=4)
    journal.append_ended(end(begin(id="call_new")))
    await flusher.flush()
    second = await list_calls(connection, first.records[-1]["id"], limit=4)
    third = await list_calls(connection, second.records[-1]["id"], limit=4)
    seen = [record["id"] for page in (first, second, third) for record in page.records]
    assert seen == [f"call_{number}" for number in reversed(range(10))]
    assert (first.more, second.more, third.more) == (True, True, False)
    new = await list_calls(connection, "call_9", oldest_first=True)
    assert [record["id"] for record in new.records] == ["call_new"]


async def test_calls_are_found_by_field_time_and_tag(
    flusher: Flusher, journal: Journal, connection: Connection
):
    journal.append_ended(end(begin(id="a", tags={"team": "search", "x": "1"}, started_at=1_700_000_000)))
    journal.append_ended(end(begin(id="b", key_id="key_2"), model="m"))
    await flusher.flush()

    async def ids(**filters):
        return [record["id"] for record in (await list_calls(connection, filters=filters)).records]

    assert await ids(tags={"team": "search", "x": "1"}) == ["a"]
    assert await ids(key_id="key_2", model="m") == ["b"]
    assert await ids(until="2024-01-01T00:00:00Z") == ["a"]
    assert await ids(since="2024-01-01T00:00:00Z") == ["b"]
    for filters in ({"nonsense": "1"}, {"since": "soon"}, {"since": "2024-01-01"}, {"model": "a\0"}):
        with pytest.raises(InvalidRequest):
            await ids(**filters)
    with pytest.raises(InvalidRequest, match="no call"):
        await list_calls(connection, "unknown")
