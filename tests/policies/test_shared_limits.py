"""Limiters of several gateways on one real Redis: they count together, and without it nobody waits."""

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme

from engine.config.snapshot import Limit
from engine.errors import DependencyAway
from engine.policies import shared_limits
from engine.policies.limits import LimitReached
from engine.policies.places import KNOWN_FOR_S
from engine.policies.shared_grant import SharedGrant
from engine.policies.shared_limits import SCRIPT, SharedLimiter
from engine.storage import redis as redis_module
from engine.storage.redis import ANSWER_WITHIN_S, Redis
from engine.storage.redis_door import RedisDoor
from tests.harness import find_free_port
from tests.valkey import Valkey, valkey

Take = Callable[..., Awaitable[SharedGrant]]


@asynccontextmanager
async def limiter(
    url: str, name: str = "a", *, within_s: float = 2.0, clock: Callable[[], float] = time.monotonic
) -> AsyncIterator[SharedLimiter]:
    """Patient, so that a busy machine changes nothing; who measures is not."""
    shared = SharedLimiter(
        Redis(
            RedisDoor(
                url,
            ),
            SCRIPT,
            answer_within_s=within_s,
        ),
        clock,
        name,
        0,
        1,
    )
    shared.start()
    try:
        yield shared
    finally:
        await shared.stop()


async def until(condition: Callable[[], Any], within_s: float = 10.0) -> None:
    end = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        await asyncio.sleep(0.005)


async def there(*limiters: SharedLimiter) -> None:
    for one in limiters:
        await until(lambda one=one: one._redis.available)


async def take(
    one: SharedLimiter, limit: Limit, tokens: int = 0, *, name: str = "k", away: str = "divide"
) -> SharedGrant:
    return await one.take((("key", name, limit),), tokens, one._clock(), away)


async def count_taken(
    limiters: list[SharedLimiter], limit: Limit, tries: int, tokens: int = 0, *, name: str = "k"
) -> int:
    """How many of so many calls at once are let in."""

    async def attempt(one: SharedLimiter) -> bool:
        try:
            await take(one, limit, tokens, name=name)
        except LimitReached:
            return False
        return True

    return sum(await asyncio.gather(*(attempt(limiters[at % len(limiters)]) for at in range(tries))))


async def test_two_gateways_let_in_what_one_would(redis: Valkey) -> None:
    async with limiter(redis.url, "a") as a, limiter(redis.url, "b") as b:
        await there(a, b)
        assert await count_taken([a, b], Limit({60: 50}), 200) == 50
        assert await count_taken([a, b], Limit({}, {60: 1000}), 200, tokens=30) == 33


async def test_a_refusal_names_the_limit_and_the_seconds(redis: Valkey) -> None:
    async with limiter(redis.url) as a:
        await there(a)
        await take(a, Limit({1: 1}))
        with pytest.raises(LimitReached) as refused:
            await take(a, Limit({1: 1}))
        assert refused.value.message.endswith(
            "1 requests per second for this key is used up. Try again in 1 s."
        )
        assert refused.value.headers["x-ratelimit-remaining-requests"] == "0"
        await asyncio.sleep(1.0)
        grant = await take(a, Limit({1: 1}))
        assert dict(grant.headers(0))[b"x-ratelimit-limit-requests"] == b"1"


async def test_tokens_that_were_not_used_are_there_for_the_other_gateway(redis: Valkey) -> None:
    limit = Limit({}, {60: 1000})
    async with limiter(redis.url, "a") as a, limiter(redis.url, "b") as b:
        await there(a, b)
        grant = await take(a, limit, 900)
        with pytest.raises(LimitReached):
            await take(b, limit, 300)
        grant.correct(100, time.monotonic())
        grant.release(time.monotonic())
        await take(a, limit, 0)  # what was told before is counted before
        more = await take(b, limit, 300)
        more.correct(890, time.monotonic())
        more.release(time.monotonic())
        await take(b, limit, 0)
        with pytest.raises(LimitReached) as refused:
            await take(a, limit, 20)
        assert "has 10 left" in refused.value.message


async def test_places_of_running_calls_are_shared_and_come_back(redis: Valkey) -> None:
    limit = Limit(concurrency=2)
    async with limiter(redis.url, "a") as a, limiter(redis.url, "b") as b:
        await there(a, b)
        held = [await take(a, limit), await take(b, limit)]
        with pytest.raises(LimitReached) as refused:
            await take(a, limit)
        assert refused.value.code == "concurrent_request_limit"
        held[0].release(time.monotonic())
        held[0].release(time.monotonic())
        await take(a, limit)
        with pytest.raises(LimitReached):
            await take(a, limit)


async def test_leases_are_renewed_while_a_call_runs_and_end_with_its_process(
    redis: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_limits, "BEAT_EVERY_S", 0.1)
    monkeypatch.setattr(shared_limits, "LEASE_S", 0.5)
    limit = Limit(concurrency=1)
    async with limiter(redis.url, "b") as b:
        async with limiter(redis.url, "a") as a:
            await there(a, b)
            await take(a, limit)
            for _ in range(8):
                await asyncio.sleep(0.1)
                with pytest.raises(LimitReached):
                    await take(b, limit)
        began = time.monotonic()  # its process is gone, without a word about its calls
        while not await count_taken([b], limit, 1):
            await asyncio.sleep(0.02)
        assert time.monotonic() - began < 0.6


async def test_a_caller_who_goes_away_while_redis_is_asked_leaves_nothing_taken(redis: Valkey) -> None:
    limit = Limit({}, {60: 100}, concurrency=1)
    async with limiter(redis.url) as a:
        await there(a)
        for turns in range(1, 12):
            asked = asyncio.ensure_future(take(a, limit, 100))
            for _ in range(turns):
                await asyncio.sleep(0)
            asked.cancel()
            await asyncio.gather(asked, return_exceptions=True)
            if not asked.cancelled():
                grant = asked.result()
                grant.correct(0, time.monotonic())
                grant.release(time.monotonic())
            await asyncio.sleep(0.02)
            grant = await take(a, limit, 100)
            grant.correct(0, time.monotonic())
            grant.release(time.monotonic())


async def test_a_frozen_redis_costs_one_short_wait_and_then_nothing(redis: Valkey) -> None:
    async with limiter(redis.url, within_s=ANSWER_WITHIN_S) as a:
        await there(a)
        redis.freeze()
        try:
            waits = []
            for _ in range(20):
                began = time.monotonic()
                await take(a, Limit({60: 100}))
                waits.append(time.monotonic() - began)
            assert 0.04 < waits[0] < 0.1 and max(waits[1:]) < 0.01, waits
        finally:
            redis.thaw()
        await there(a)


@asynccontextmanager
async def trickling(redis: Valkey) -> AsyncIterator[tuple[str, asyncio.Event]]:
    """The server behind a path that brings, once the event is set, 60 bytes of its answers in a millisecond."""
    slow, writers = asyncio.Event(), list[asyncio.StreamWriter]()

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answers: bool) -> None:
        writers.append(writer)
        while data := await reader.read(65_536):
            pieces = [data[at : at + 60] for at in range(0, len(data), 60)] if answers else [data]
            for piece in pieces:
                writer.write(piece)
                if answers and slow.is_set():
                    await asyncio.sleep(0.001)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers, questions = await asyncio.open_connection("127.0.0.1", redis.port)
        with contextlib.suppress(OSError):
            await asyncio.gather(
                carry(reader, questions, answers=False), carry(answers, writer, answers=True)
            )

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        try:
            yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0", slow
        finally:
            for writer in writers:
                writer.close()


async def test_answers_that_trickle_in_late_hold_nobody_up_longer_than_none(redis: Valkey) -> None:
    async def measure(one: SharedLimiter) -> float:
        began = time.monotonic()
        await take(one, Limit({60: 10_000}))
        return time.monotonic() - began

    async with trickling(redis) as (url, slow), limiter(url, within_s=ANSWER_WITHIN_S) as a:
        await there(a)
        slow.set()
        waits = await asyncio.gather(*(measure(a) for _ in range(300)))
        assert max(waits) < 2 * ANSWER_WITHIN_S, max(waits)
        assert not a._redis.available


async def test_who_has_much_to_tell_comes_back_all_the_same(
    redis: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long it takes in all."""
    monkeypatch.setattr(redis_module, "GREET_WITHIN_S", 0.5)
    limit = Limit({3600: 100, 86_400: 1000}, {3600: 10_000})
    async with limiter(redis.url) as a:
        await there(a)
        for at in range(15_000):
            a.local.count((("key", f"k{at}", limit),), 10, a._clock()).release(a._clock())
        with redis.client as client:
            client.flushall()
        await until(lambda: not a._redis.available)
        began = time.monotonic()
        await there(a)
        assert time.monotonic() - began > 0.5
        with redis.client as client:
            assert len(list(client.scan_iter("*:key:*", count=10_000))) == 15_000


async def test_while_redis_is_away_the_policy_says_what_happens(tmp_path: Path) -> None:
    limit = Limit({60: 10})
    with valkey(tmp_path) as server:
        async with limiter(server.url, "a") as a, limiter(server.url, "b") as b:
            await there(a, b)
            for one in (a, b):  # whoever came first does not know of the other yet
                await one._exchange_beat()
            server.kill()
            await until(lambda: not a._redis.available and not b._redis.available)
            assert await count_taken([a], limit, 20) == 5  # its half
            assert await count_taken([b], limit, 20) == 5
            for _ in range(20):
                await take(a, limit, away="allow")
            with pytest.raises(DependencyAway) as refused:
                await take(a, limit, away="refuse")
            assert refused.value.code == "limits_unavailable"


async def test_while_redis_is_away_nobody_takes_a_place_that_others_were_known_to_hold(
    tmp_path: Path,
) -> None:
    limit, wide, passed_s = Limit(concurrency=3), Limit(concurrency=100), 0.0
    with valkey(tmp_path) as server:
        async with (
            limiter(server.url, "a") as a,
            limiter(server.url, "b", clock=lambda: time.monotonic() + passed_s) as b,
        ):
            await there(a, b)
            for one in (a, b):
                await one._exchange_beat()
            held = [await take(a, limit) for _ in range(3)]
            assert not await count_taken([b], limit, 1)
            await take(b, wide, name="roomy")
            server.kill()
            await until(lambda: not a._redis.available and not b._redis.available)
            assert await count_taken([b], wide, 10, name="roomy") == 10
            for grant in held:
                assert not await count_taken(
                    [a, b], limit, 6
                )  # a has more than its part, b has no place left
                grant.release(a._clock())
                break
            assert not await count_taken([b], limit, 1)
            with pytest.raises(LimitReached) as refused:
                await take(b, limit)
            assert refused.value.code == "concurrent_request_limit" and refused.value.retry_after_s == 1
            passed_s = KNOWN_FOR_S + 1
            assert await count_taken([b], limit, 5) == 1  # whatever the others do: its part


async def test_a_place_that_came_free_is_not_held_against_anybody(tmp_path: Path) -> None:
    limit = Limit(concurrency=3)
    with valkey(tmp_path) as server:
        async with limiter(server.url, "a") as a, limiter(server.url, "b") as b:
            await there(a, b)
            for one in (a, b):
                await one._exchange_beat()
            held = [await take(a, limit) for _ in range(3)]
            assert not await count_taken([b], limit, 1)
            for grant in held[1:]:
                grant.release(a._clock())
            await asyncio.sleep(0.05)
            (await take(b, limit)).release(b._clock())
            server.kill()
            await until(lambda: not a._redis.available and not b._redis.available)
            assert await count_taken([b], limit, 5) == 1
            assert await count_taken([a], limit, 5) == 1  # it holds one already


async def test_a_gateway_starts_without_its_redis_and_tells_it_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server, limit = Valkey(tmp_path), Limit({3600: 10}, {3600: 1000})
    try:
        async with limiter(server.url) as a:
            assert await count_taken([a], limit, 4, tokens=100) == 4
            await until(lambda: "redis is away" in caplog.text)
            server.start()
            await there(a)
            assert await count_taken([a], limit, 10, tokens=100) == 6
            with server.client as client:
                assert any(b":key:k" in name for name in client.keys())
    finally:
        server.stop()
    assert caplog.text.count("redis is away") == 1


@pytest.mark.parametrize("kept", [False, True])
async def test_a_restart_of_redis_multiplies_no_limit(
    tmp_path: Path, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither one that forgot everything nor one that wakes up with what it had a while ago."""
    monkeypatch.setattr(shared_limits, "CAUTION_S", 0.0)
    limit = Limit({3600: 100}, {3600: 10_000})
    with valkey(tmp_path) as server:
        async with AsyncExitStack() as stack:
            two = [await stack.enter_async_context(limiter(server.url, name)) for name in "ab"]
            await there(*two)
            taken = await count_taken(two, limit, 20, tokens=50)
            if kept:
                server.client.save()
            for one in two:
                await one._exchange_beat()
            taken += await count_taken(two, limit, 20, tokens=50)
            server.kill()
            await until(lambda: not any(one._redis.available for one in two))
            taken += await count_taken(two, limit, 10, tokens=50)
            server.start()
            await there(*two)
            await asyncio.gather(*(one._exchange_beat() for one in two))
            await there(*two)
            with pytest.raises(LimitReached) as refused:
                await take(two[0], limit, 10_000)
            assert f"has {10_000 - taken * 50} left" in refused.value.message
            taken += await count_taken(two, limit, 200, tokens=0)
            assert taken == 100


async def test_a_thawed_redis_hears_what_was_counted_meanwhile(redis: Valkey) -> None:
    limit = Limit({3600: 100})
    within_s = 5 * ANSWER_WITHIN_S
    async with (
        limiter(redis.url, "a", within_s=within_s) as a,
        limiter(redis.url, "b", within_s=within_s) as b,
    ):
        await there(a, b)
        taken = await count_taken([a, b], limit, 10)
        redis.freeze()
        try:
            taken += await count_taken([a, b], limit, 40)
        finally:
            redis.thaw()
        await there(a, b)
        taken += await count_taken([a, b], limit, 300)
        assert 100 - 40 <= taken <= 100  # what was under way when it froze may count twice


async def test_nobody_takes_more_than_its_part_until_all_have_told_what_they_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_limits, "CAUTION_S", 600.0)
    limit = Limit({3600: 10})
    passed_s = 0.0
    with valkey(tmp_path) as server:
        async with limiter(server.url, "a", clock=lambda: time.monotonic() + passed_s) as a:
            async with limiter(server.url, "b") as b:
                await there(a, b)
                for one in (a, b):  # whoever came first does not know of the other yet
                    await one._exchange_beat()
                server.kill()
                await until(lambda: not a._redis.available and not b._redis.available)
                assert await count_taken([b], limit, 20) == 5
            server.start()  # b is not heard of again
            await there(a)
            assert await count_taken([a], limit, 20) == 5
            passed_s = 600.0
            assert await count_taken([a], limit, 20) == 5


async def test_a_flushed_redis_is_told_again(redis: Valkey, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_limits, "BEAT_EVERY_S", 0.05)
    limit = Limit({3600: 100})
    async with limiter(redis.url) as a:
        await there(a)
        assert await count_taken([a], limit, 90) == 90
        generation = a.generation
        redis.client.flushall()
        await until(lambda: a.generation != generation and a._redis.available)
        assert await count_taken([a], limit, 90) == 10


async def test_a_server_that_forgot_the_script_gets_it_again(redis: Valkey) -> None:
    async with limiter(redis.url) as a:
        await there(a)
        redis.client.script_flush()
        assert await count_taken([a], Limit({60: 5}), 20) == 5
        assert a._redis.available


async def test_a_proxy_without_the_command_script_gets_the_text_with_every_call(tmp_path: Path) -> None:
    with valkey(tmp_path) as server:
        server.client.acl_setuser(
            "gate", enabled=True, passwords=["+pw"], keys=["*"], commands=["+@all", "-script"]
        )
        async with limiter(server.url.replace("redis://", "redis://gate:pw@")) as a:
            await there(a)
            assert await count_taken([a], Limit({60: 5}), 20) == 5
        assert "cmdstat_evalsha" not in server.client.info("commandstats")


async def test_the_slot_of_a_cluster_is_found_at_the_node_that_has_it(tmp_path: Path) -> None:
    for name in "xy":
        (tmp_path / name).mkdir()
    cluster = {"cluster-enabled": "yes", "cluster-config-file": "nodes.conf"}
    with (
        valkey(tmp_path / "x", **cluster, **{"cluster-port": find_free_port()}) as x,
        valkey(tmp_path / "y", **cluster, **{"cluster-port": (bus := find_free_port())}) as y,
    ):
        y.client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        x.client.execute_command("CLUSTER", "MEET", "127.0.0.1", y.port, bus)
        await until(lambda: b"cluster_state:ok" in x.client.execute_command("CLUSTER", "INFO"), 20)
        async with limiter(x.url) as a:
            await there(a)
            scopes = [("key", "k", Limit({60: 5}, concurrency=9)), ("system", "all", Limit({60: 50}))]
            for _ in range(5):
                await a.take(scopes, 10, time.monotonic(), "refuse")
            with pytest.raises(LimitReached):
                await a.take(scopes, 10, time.monotonic(), "refuse")


async def test_calls_of_one_turn_travel_together(redis: Valkey) -> None:
    async with limiter(redis.url) as a:
        await there(a)
        before = redis.client.info("stats")["total_reads_processed"]
        assert await count_taken([a], Limit({60: 100}), 100) == 100
        assert redis.client.info("stats")["total_reads_processed"] - before < 12


async def test_a_gateway_that_left_is_no_longer_counted(redis: Valkey) -> None:
    async with limiter(redis.url, "b") as b:
        async with limiter(redis.url, "a") as a:
            await there(a, b)
            await b._exchange_beat()
            assert b.members == 2
        await b._exchange_beat()
        assert b.members == 1


async def test_limits_are_counted_over_tls(redis: Valkey, tmp_path: Path) -> None:
    """The connection is taken over once it is made, and it may be one that encrypts."""
    authority, inside = trustme.CA(), ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(inside)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()

    async def join(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind = await asyncio.open_connection("127.0.0.1", redis.port)
        await asyncio.gather(pump(reader, behind[1]), pump(behind[0], writer))

    async with await asyncio.start_server(join, "127.0.0.1", 0, ssl=inside) as server:
        port = server.sockets[0].getsockname()[1]
        async with limiter(f"rediss://127.0.0.1:{port}?ssl_ca_certs={tmp_path / 'ca.pem'}") as a:
            await there(a)
            assert await count_taken([a], Limit({60: 5}), 20) == 5
        server.close()
