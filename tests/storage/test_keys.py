"""Known keys, unknown keys, changes and outages, against a real database."""

import asyncio
import gc
import re
import time
import weakref
from decimal import Decimal
from pathlib import Path

import pytest
from cryptography.fernet import Fernet

from engine.errors import DependencyAway, KeyRefused
from engine.secret import Secret
from engine.storage.embedded import EmbeddedDatabase
from engine.storage.issuing import (
    KeyRequest,
    issue_first_admin_key,
    issue_key,
)
from engine.storage.key_cache import CACHE_FILE
from engine.storage.key_changes import Which, revoke_key, rotate_keys
from engine.storage.key_listing import list_keys
from engine.storage.key_rules import KeyRules
from engine.storage.keys import KeyStore
from engine.storage.migrations import migrate_url
from engine.storage.postgres import Connection, Database
from engine.storage.secrets import KeyRing, generate_key
from tests.storage.records import shut_down


async def wait_until(condition, within_s: float = 3.0) -> float:
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < within_s, "it did not happen in time"
        await asyncio.sleep(0.01)
    return time.monotonic() - began


@pytest.fixture
async def store(database: Database, ring: KeyRing, home: Path):
    made = KeyStore(database, ring, home)
    await made.start()
    yield made
    await made.stop()


async def test_a_key_is_fetched_once_and_then_known(store: KeyStore, connection: Connection, ring: KeyRing):
    issued = await issue_key(connection, ring, KeyRequest("ci", user="a@b.c", models=("gpt-*",)))
    text = issued.key.reveal()
    assert store.find(text) is None
    caller = await store.fetch(text)
    assert (caller.key_id, caller.name, caller.models, caller.last4) == (
        issued.id,
        "ci",
        ("gpt-*",),
        text[-4:],
    )
    assert store.find(text) == caller


async def test_the_database_holds_no_key(connection: Connection, ring: KeyRing):
    text = (await issue_key(connection, ring, KeyRequest("ci"))).key.reveal()
    rows = await (await connection.execute("SELECT to_jsonb(k)::text FROM api_keys k")).fetchall()
    assert re.fullmatch(r"gw_live_[\w-]{43}", text)
    assert all(text[8:30] not in row[0] for row in rows)


@pytest.mark.parametrize(
    "text",
    ["", "sk-abc", "gw_live_short", generate_key() + "x", "gw_prod_" + "a" * 43],
    ids=["nothing", "another's", "too short", "too long", "of no environment"],
)
async def test_text_that_is_no_key_is_refused_without_a_look_up(store: KeyStore, text: str):
    assert store.find(text) is None
    with pytest.raises(KeyRefused):
        await store.fetch(text)
    assert not store._asking


async def test_an_unknown_key_is_refused_and_remembered_for_a_moment(store: KeyStore, database: Database):
    text = generate_key()
    for _ in range(3):
        with pytest.raises(KeyRefused):
            await store.fetch(text)
    assert len(store._refused) == 1


async def test_a_refusal_and_all_that_it_names_are_gone_without_the_collector(store: KeyStore):
    refusals: list[weakref.ref[KeyRefused]] = []

    async def ask() -> None:
        try:
            await store.fetch(generate_key())
        except KeyRefused as refused:
            refusals.append(weakref.ref(refused))

    gc.collect()
    gc.disable()
    try:
        await ask()
        await asyncio.sleep(0)
        assert [refusal() for refusal in refusals] == [None]
    finally:
        gc.enable()


async def test_an_expired_key_is_refused_when_its_time_comes(
    store: KeyStore, connection: Connection, ring: KeyRing
):
    text = (await issue_key(connection, ring, KeyRequest("short"))).key.reveal()
    assert await store.fetch(text)
    await connection.execute("UPDATE api_keys SET expires_at = now() + interval '1.5 s'")
    await wait_until(lambda: store.find(text) is None)  # the news of the change has come
    assert await store.fetch(text)
    await asyncio.sleep(1.55)
    with pytest.raises(KeyRefused, match="expired"):
        store.find(text)
    with pytest.raises(KeyRefused, match="expired"):
        await store.fetch(text)


async def test_a_revoked_key_is_refused_within_a_second(
    store: KeyStore, connection: Connection, ring: KeyRing
):
    issued = await issue_key(connection, ring, KeyRequest("gone"))
    text = issued.key.reveal()
    await store.fetch(text)
    assert await revoke_key(connection, ring, issued.id)
    assert await wait_until(lambda: store.find(text) is None) < 1
    with pytest.raises(KeyRefused, match="revoked"):
        await store.fetch(text)


async def test_a_change_of_the_owner_reaches_its_keys(store: KeyStore, connection: Connection, ring: KeyRing):
    text = (await issue_key(connection, ring, KeyRequest("x", user="off@b.c"))).key.reveal()
    await store.fetch(text)
    async with connection.transaction():
        await connection.execute("UPDATE change_counter SET n = n + 1")
        await connection.execute(
            "UPDATE users SET active = false, changed_n = (SELECT n FROM change_counter) WHERE email = 'off@b.c'"
        )
    await wait_until(lambda: store.find(text) is None)
    with pytest.raises(KeyRefused, match="not active"):
        await store.fetch(text)


async def test_a_key_tried_before_it_existed_works_within_a_second_of_its_creation(
    store: KeyStore, connection: Connection, ring: KeyRing
):
    issued = await issue_key(connection, ring, KeyRequest("late"))
    await connection.execute("UPDATE api_keys SET hash = 'hidden'")
    text = issued.key.reveal()
    with pytest.raises(KeyRefused):
        await store.fetch(text)
    async with connection.transaction():
        await connection.execute("UPDATE change_counter SET n = n + 1")
        await connection.execute(
            "UPDATE api_keys SET hash = %s, changed_n = (SELECT n FROM change_counter)",
            (ring.hash_key(text),),
        )
    await wait_until(lambda: not store._refused, within_s=1)
    assert await store.fetch(text)


async def test_an_answer_older_than_a_change_already_seen_is_asked_again(
    database: Database, connection: Connection, ring: KeyRing, home: Path
):
    """A row read before a revocation must not enter the memory after the revocation was acted on."""
    store = KeyStore(database, ring, home)
    issued = await issue_key(connection, ring, KeyRequest("race"))
    await database.run(lambda c: c.execute("SELECT 1"), probe=True)
    store._seen_n = 10**6
    asking = asyncio.ensure_future(store.fetch(issued.key.reveal()))
    await asyncio.sleep(0.1)
    assert not asking.done() and len(store) == 0
    store._seen_n = 0
    assert await asking
    await store.stop()


async def test_concurrent_requests_with_one_new_key_share_one_query(
    store: KeyStore, connection: Connection, ring: KeyRing
):
    text = (await issue_key(connection, ring, KeyRequest("many"))).key.reveal()
    asked = [asyncio.ensure_future(store.fetch(text)) for _ in range(50)]
    await asyncio.sleep(0)
    assert len(store._asking) == 1
    asked[0].cancel()
    answers = await asyncio.gather(*asked[1:])
    assert len({id(caller) for caller in answers}) == 1


async def test_a_key_is_hashed_anew_when_the_ring_was_rotated(
    database: Database, connection: Connection, home: Path
):
    old, new = Fernet.generate_key().decode(), Fernet.generate_key().decode()
    text = (await issue_key(connection, KeyRing(Secret(old)), KeyRequest("r"))).key.reveal()
    rotated = KeyRing(Secret(f"{new},{old}"))
    store = KeyStore(database, rotated, home)
    await store.start()
    assert await store.fetch(text)
    await store.stop()
    row = await (await connection.execute("SELECT ring_id, hash FROM api_keys")).fetchone()
    assert row == (KeyRing(Secret(new)).newest.id, KeyRing(Secret(new)).hash_key(text))


async def test_memory_holds_no_more_than_its_bound_and_keeps_what_is_used(
    database: Database, connection: Connection, ring: KeyRing, home: Path
):
    store = KeyStore(database, ring, home, most_known=10)
    await store.start()
    texts = [(await issue_key(connection, ring, KeyRequest(str(n)))).key.reveal() for n in range(30)]
    for text in texts:
        await store.fetch(text)
        assert store.find(texts[0]) is not None or store.find(text) is not None
        store.find(texts[0]) or await store.fetch(texts[0])
    assert len(store) <= 10
    assert store.find(texts[0]) is not None
    await store.stop()


async def test_only_one_first_admin_key_is_ever_made(
    connection: Connection, ring: KeyRing, database_url: str
):
    async with await Connection.connect(database_url, autocommit=True) as other:
        made = await asyncio.gather(
            issue_first_admin_key(connection, ring), issue_first_admin_key(other, ring)
        )
    assert sum(key is not None for key in made) == 1
    assert await issue_first_admin_key(connection, ring) is None
    (listed,) = await list_keys(connection)
    assert listed["role"] == "admin" and "hash" not in listed


async def test_use_is_noted_in_batches(store: KeyStore, connection: Connection, ring: KeyRing):
    text = (await issue_key(connection, ring, KeyRequest("u"))).key.reveal()
    await store.fetch(text)
    store.find(text)
    await store._note_used()
    (listed,) = await list_keys(connection)
    assert listed["last_used_at"] is not None


async def test_an_outage_spares_known_keys_and_never_calls_an_unknown_key_wrong(
    ready_home: Path, ring: KeyRing
):
    """Also in a worker born during the outage; a revocation made afterwards is caught up with."""
    home = ready_home
    server = EmbeddedDatabase(home)
    url = await server.start()
    await migrate_url(url)
    async with await Connection.connect(url, autocommit=True) as connection:
        known = await issue_key(connection, ring, KeyRequest("known"))
        unseen = (await issue_key(connection, ring, KeyRequest("unseen"))).key.reveal()
    database = Database(url)
    await database.open()
    store = KeyStore(database, ring, home)
    await store.start()
    text = known.key.reveal()
    await store.fetch(text)
    await store._save()

    await shut_down(server)
    await wait_until(lambda: not database.available)
    assert database.away_since is not None
    born = KeyStore(database, ring, home)
    await born.start()
    for worker in (store, born):
        assert worker.find(text) is not None
        began = time.monotonic()
        for unknown in (unseen, generate_key()):
            with pytest.raises(DependencyAway) as away:
                await worker.fetch(unknown)
            assert away.value.status == 503 and away.value.retry_after_s
        assert time.monotonic() - began < 0.1

    await server.start()
    async with await Connection.connect(url, autocommit=True) as connection:
        await revoke_key(connection, ring, known.id)
    await wait_until(lambda: store.find(text) is None and born.find(text) is None)
    assert await store.fetch(unseen)
    await wait_until(lambda: known.id not in (home / CACHE_FILE).read_text())
    await store.stop()
    await born.stop()
    await database.close()
    await server.stop()


async def test_a_changed_cache_file_is_ignored(
    store: KeyStore, database: Database, connection: Connection, ring: KeyRing, home: Path, caplog
):
    text = (await issue_key(connection, ring, KeyRequest("x"))).key.reveal()
    await store.fetch(text)
    await store._save()
    file = home / CACHE_FILE
    assert file.stat().st_mode & 0o777 == 0o600
    assert text[8:] not in file.read_text()
    file.write_bytes(file.read_bytes().replace(b'"user"', b'"admin"'))
    assert store._file.load() == []
    assert "its seal" in caplog.text


async def test_workers_merge_their_cache_files(
    database: Database, connection: Connection, ring: KeyRing, home: Path
):
    texts = [(await issue_key(connection, ring, KeyRequest(str(n)))).key.reveal() for n in range(2)]
    for text in texts:
        worker = KeyStore(database, ring, home)
        await worker.start()
        worker._newer.clear()
        await worker.fetch(text)
        await worker.stop()
    born = KeyStore(database, ring, home)
    await born.start()
    assert all(born.find(text) for text in texts)
    await born.stop()


RULES = KeyRules(
    providers=("openai", "sim*"),
    ip_allowlist=("10.0.0.0/8", "2001:db8::/32"),
    referrers=("App.Example.com",),
    max_requests=3,
    max_spend_usd="1.5",
    limits={"requests": {"minute": 5}, "concurrency": 1},
)


async def test_every_rule_of_a_key_reaches_its_caller_and_the_cache_file(
    store: KeyStore, connection: Connection, ring: KeyRing
):
    asked = KeyRequest("r", environment="staging", scopes=("models:gpt-*", "read"), rules=RULES)
    text = (await issue_key(connection, ring, asked)).key.reveal()
    caller = await store.fetch(text)
    await store._save()
    (kept,) = [known.caller for known in store._file.load()]
    for who in (caller, kept):
        bounds = who.bounds
        assert bounds is not None and bounds.limit is not None
        assert (who.environment, who.scoped_models) == ("staging", ("gpt-*",))
        assert who.scopes == {"inference", "catalog", "read"}
        assert (bounds.providers, bounds.referrers) == (("openai", "sim*"), ("app.example.com",))
        assert bounds.addresses.hold("10.1.1.1") and not bounds.addresses.hold("11.1.1.1")
        assert (bounds.max_requests, bounds.max_spend_usd, bounds.is_capped) == (3, Decimal("1.5"), True)
        assert (bounds.limit.requests, bounds.limit.concurrency) == ({60: 5}, 1)


async def test_a_worker_that_learns_its_keys_from_the_file_knows_whose_account_is_marked(
    store: KeyStore, connection: Connection, ring: KeyRing
):
    issued = await issue_key(
        connection, ring, KeyRequest("marked", user="marked@b.c", scopes=("inference", "read"))
    )
    await connection.execute("UPDATE users SET status = 'bot' WHERE email = 'marked@b.c'")
    caller = await store.fetch(issued.key.reveal())
    await store._save()
    (kept,) = [known.caller for known in store._file.load() if known.caller.key_id == issued.id]
    for who in (caller, kept):
        assert (who.status, who.scopes) == ("bot", {"catalog", "read"})


async def test_a_key_without_rules_carries_none(store: KeyStore, connection: Connection, ring: KeyRing):
    text = (await issue_key(connection, ring, KeyRequest("plain"))).key.reveal()
    assert (await store.fetch(text)).bounds is None


async def test_the_old_text_of_a_rotated_key_is_valid_until_its_time(
    store: KeyStore, connection: Connection, ring: KeyRing
):
    issued = await issue_key(connection, ring, KeyRequest("turn", rules=RULES))
    old = issued.key.reveal()
    await store.fetch(old)
    (renewed,) = await rotate_keys(connection, ring, Which(issued.id), grace_s=1.5)
    new = renewed.key.reveal()
    await wait_until(lambda: store.find(old) is None, within_s=1)
    both = [await store.fetch(text) for text in (old, new)]
    assert renewed.id == issued.id and new != old
    assert [caller.key_id for caller in both] == [issued.id] * 2
    assert all(caller.bounds is not None for caller in both)
    assert both[0].expires_at is not None and both[1].expires_at is None
    await asyncio.sleep(1.5)
    with pytest.raises(KeyRefused, match="expired"):
        store.find(old)
    assert store.find(new) is both[1]


async def test_without_grace_the_old_text_is_unknown_at_once(
    store: KeyStore, connection: Connection, ring: KeyRing
):
    issued = await issue_key(connection, ring, KeyRequest("now"))
    await rotate_keys(connection, ring, Which(issued.id))
    with pytest.raises(KeyRefused, match="not known"):
        await store.fetch(issued.key.reveal())


async def test_a_second_rotation_ends_the_text_before_the_last(connection: Connection, ring: KeyRing, store):
    first = await issue_key(connection, ring, KeyRequest("twice"))
    (second,) = await rotate_keys(connection, ring, Which(first.id), grace_s=600)
    (third,) = await rotate_keys(connection, ring, Which(first.id), grace_s=600)
    with pytest.raises(KeyRefused):
        await store.fetch(first.key.reveal())
    assert await store.fetch(second.key.reveal()) and await store.fetch(third.key.reveal())


async def test_rotation_in_bulk_takes_the_active_keys_it_names(connection: Connection, ring: KeyRing):
    asked = [("a", "live", "one@b.c"), ("b", "test", "one@b.c"), ("c", "live", "two@b.c")]
    made = [await issue_key(connection, ring, KeyRequest(n, environment=e, user=u)) for n, e, u in asked]
    gone = await issue_key(connection, ring, KeyRequest("gone", user="one@b.c"))
    await revoke_key(connection, ring, gone.id)
    row = await (await connection.execute("SELECT id FROM users WHERE email = 'one@b.c'")).fetchone()
    assert row is not None
    both = await rotate_keys(connection, ring, Which(user_id=row[0]))
    assert {key.id for key in both} == {made[0].id, made[1].id}
    (live,) = await rotate_keys(connection, ring, Which(user_id=row[0], environment="live"))
    assert live.id == made[0].id and live.key.reveal().startswith("gw_live_")
    (other,) = await rotate_keys(connection, ring, Which(email="TWO@b.c"))
    assert other.id == made[2].id
    assert await rotate_keys(connection, ring, Which(email="nobody@b.c")) == []


async def test_a_revoked_key_is_not_brought_back_by_a_rotation(connection: Connection, ring: KeyRing):
    issued = await issue_key(connection, ring, KeyRequest("dead"))
    await revoke_key(connection, ring, issued.id)
    assert await rotate_keys(connection, ring, Which(issued.id), grace_s=60) == []


async def test_a_revocation_ends_the_old_text_too(store: KeyStore, connection: Connection, ring: KeyRing):
    issued = await issue_key(connection, ring, KeyRequest("both"))
    await rotate_keys(connection, ring, Which(issued.id), grace_s=600)
    await store.fetch(issued.key.reveal())
    await revoke_key(connection, ring, issued.id)
    await wait_until(lambda: store.find(issued.key.reveal()) is None, within_s=1)
    with pytest.raises(KeyRefused, match="revoked"):
        await store.fetch(issued.key.reveal())
