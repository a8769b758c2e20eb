"""The limits of a call counted for all gateways, in Redis: one script call for all its scopes (shared_limits.lua).

Every call is counted in this process's memory as well. That is what it goes by while Redis is away, with its part of
every number, and what it tells a Redis that comes back without its data: no outage multiplies a limit.
The names of all keys carry one hash tag: in a cluster they lie in one slot, so that one script can see them all.
"""

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from importlib.resources import files
from math import inf
from typing import TYPE_CHECKING, Any

from engine.errors import DependencyAway
from engine.policies.limits import Limiter
from engine.policies.places import OthersPlaces
from engine.policies.refusals import Reached, refuse
from engine.policies.scopes import Scopes
from engine.policies.script_words import SERVERS_CLOCK, Shape, Told, write_entries, write_headers
from engine.policies.shared_grant import SharedGrant
from engine.storage.postgres import cancel_tasks
from engine.storage.redis import Redis, RedisAway, Script, Word, pack_words

if TYPE_CHECKING:
    from engine.config.snapshot import Limit

log = logging.getLogger(__name__)

SCRIPT = Script(files("engine.policies").joinpath("shared_limits.lua").read_text())
TAG = "{gatewayz}"
MEMBERS, STATE = f"{TAG}:members", f"{TAG}:state"
BEAT_EVERY_S = 1.0
MEMBER_FOR_S = 16.0
"""A worker that has not been heard of for so long is not counted any more."""
LEASE_S = 16.0
"""So long after `kill -9` the places of the calls it held are free again. Renewed four times in that time."""
CAUTION_S = 5.0
"""So long after Redis is back others may not have told it yet what they counted: nobody takes more than its part."""
TOLD_WITHIN_S = 0.002
"""What calls that have ended used is told with the next question, or after this."""
PIECE = 25
"""So many identities at once: others wait while Redis works on them."""
MOST_ROUNDS = 5
"""While one is told, the next ones come; what they leave for the last moment is less each time."""
MOST_SHAPES = 1000
MOST_ENDED = 100


class SharedLimiter:
    """All limits of all gateways on one Redis."""

    def __init__(
        self, redis: Redis, clock: Callable[[], float], member: str, worker: int, workers: int
    ) -> None:
        self.local = Limiter(worker=worker, workers=workers)
        self._others = OthersPlaces(self.local)
        self.members = workers
        """How many workers of all gateways count together, as far as is known."""
        self._redis, self._clock, self._member = redis, clock, member
        self._member_word = member.encode()
        self._alone = [Limiter()]
        """What was counted since Redis went away; empty while it is there."""
        self.generation = "0"
        """Part of every key's name; another one when Redis has lost what was counted."""
        self._told, self._beat = "", 0
        self._cautious_until = self._renew_at = -inf
        self._shapes: dict[int, Shape] = {}
        self._running: set[SharedGrant] = set()
        self._ended: list[tuple[SharedGrant, Told, bool]] = []
        self._told_at: asyncio.TimerHandle | None = None
        self._calls = 0
        self._beating: asyncio.Task[None] | None = None
        redis.greet, redis.on_back, redis.on_lost = self._return, self._join, self._go_alone

    def start(self) -> None:
        self._redis.start()
        self._beating = asyncio.get_running_loop().create_task(self._keep_beating())

    async def stop(self) -> None:
        if self._beating is not None:
            await cancel_tasks(self._beating)
        self._send_ended()
        self._redis.tell("ZREM", MEMBERS, self._member)
        await self._redis.stop()

    async def take(
        self, scopes: "Sequence[tuple[str, str, Limit]]", tokens: int, now: float, when_away: str
    ) -> SharedGrant:
        """Count one request and `tokens` in every scope (name, identity, limit), or raise LimitReached.

        Waits for Redis at most as long as Redis may take; then `when_away` says what happens.
        """
        self._calls += 1
        if not isinstance(scopes, Scopes):
            scopes = Scopes(scopes)
        told = self._find_told(scopes)
        grant = SharedGrant(self, scopes, told, tokens, b"%b:%d" % (self._member_word, self._calls))
        if not self._redis.available:
            return self._take_alone(grant, now, when_away)
        if now < self._cautious_until and when_away == "divide":
            grant.local = (self.local.take(scopes, tokens, now),)
        try:
            self.read_reply(grant, await self._ask(grant))
        except RedisAway:
            grant.give_back(now)
            return self._take_alone(grant, now, when_away)
        except BaseException:
            grant.give_back(now)
            raise
        grant.local = grant.local or (self.local.count(scopes, tokens, now),)
        return grant

    def settle(self, grant: SharedGrant) -> None:
        """Tell Redis what a call that has ended used. What is lost on the way ends with its window or lease."""
        self._running.discard(grant)
        told = grant.told
        corrects = bool(grant.more and grant.handle and told.generation == self.generation)
        if not self._redis.available or not (corrects or told.leases):
            return
        if told.generation != self.generation:
            told = self._find_told(grant.scopes)
        if self._told_at is None:
            loop = asyncio.get_running_loop()
            self._told_at = loop.call_later(TOLD_WITHIN_S, self._tell_in_time)
        self._ended.append((grant, told, corrects))
        if len(self._ended) >= MOST_ENDED:
            self._send_ended()

    def _tell_in_time(self) -> None:
        self._told_at = None
        self._send_ended()

    def _send_ended(self) -> None:
        """Calls that ended shortly after each other are told together, and before anybody else asks."""
        if not self._ended:
            return
        keys: list[bytes] = []
        words: list[Word] = ["settle", SERVERS_CLOCK]
        count = 0
        for grant, told, corrects in self._ended:
            hashes, leases = told.hashes if corrects else 0, len(told.leases)
            if corrects:
                keys.append(told.hashes_packed)
            if leases:
                keys.append(told.leases_packed)
            count += hashes + leases
            words += (grant.lease, grant.more, grant.handle if corrects else b"", hashes, leases)
        self._ended = []
        packed = b"".join((pack_words(count), *keys, pack_words(*words)))
        self._redis.tell_packed(1 + count + len(words), packed)

    # With Redis

    async def _ask(self, grant: SharedGrant) -> Any:
        self._send_ended()
        told = grant.told
        answer = self._redis.run_packed(
            told.size, told.pack_take(grant.reserved, grant.lease), grant.come_late
        )
        try:
            return await answer
        except asyncio.CancelledError:
            if answer.done() and not answer.cancelled() and answer.exception() is None:
                grant.come_late(answer.result())
            raise

    def read_reply(self, grant: SharedGrant, reply: Any) -> None:
        """What Redis said. Raises LimitReached."""
        let_in = reply[0]
        rest = 8 if let_in else 13
        if len(reply) > rest or self._others.held:
            self._others.note(grant.scopes, reply[rest:], let_in and not grant.local, self._clock())
        if not let_in:
            _, at, kind, size_s, number, total, wait_us, *facts = reply
            wait_s = wait_us / 1e6 if wait_us >= 0 else None
            reached = Reached(grant.scopes[at - 1][0], kind.decode(), size_s, number, total, wait_s)
            raise refuse(reached, grant.reserved, write_headers(facts))
        grant.handle, grant.facts = reply[1], reply[2:]
        if grant.told.leases:
            self._running.add(grant)

    def _find_told(self, scopes: Scopes) -> Told:
        told: Told | None = scopes.told
        if told is None or told.generation != self.generation:
            shapes = [self._find_shape(limit) for _, _, limit in scopes]
            told = scopes.told = Told(scopes, shapes, TAG, self.generation, int(LEASE_S * 1e6))
        return told

    def _find_shape(self, limit: "Limit") -> Shape:
        shape = self._shapes.get(id(limit))
        if shape is None:
            if len(self._shapes) >= MOST_SHAPES:
                self._shapes.clear()
            shape = self._shapes[id(limit)] = Shape(limit)
        return shape

    def _name_all(self, names: list[str]) -> list[str]:
        prefix = TAG + self.generation
        return [prefix + name for name in names]

    # Without Redis

    def _take_alone(self, grant: SharedGrant, now: float, when_away: str) -> SharedGrant:
        if when_away == "refuse":
            raise DependencyAway(
                "Limits cannot be counted now.", code="limits_unavailable", retry_after_s=1.0
            )
        scopes = grant.scopes
        if self._others.held and when_away == "divide":
            self._others.check(scopes, grant.reserved, now)
        own = (self.local.take if when_away == "divide" else self.local.count)(scopes, grant.reserved, now)
        noted = [alone.count(scopes, grant.reserved, now) for alone in self._alone[-1:]]
        grant.local = (own, *noted)
        if grant.told.leases:
            self._running.add(grant)
        return grant

    def _go_alone(self) -> None:
        self._alone = [Limiter()]

    # Coming back

    async def _return(self) -> None:
        """Tell Redis what it does not know yet: what was counted meanwhile, or all of it if its data are gone."""
        if self._told:
            self._cautious_until = self._clock() + CAUTION_S
        await self._exchange_beat()
        for _ in range(MOST_ROUNDS):
            if self._alone[-1].count_identities():
                self._alone.append(Limiter())  # for the calls that come while this goes on
            untold = self._alone[:-1] if self._told == self.generation else [self.local]
            for limiter in untold:
                for keys, words in self._list_entries(limiter):
                    await self._redis.run_script(keys, words)
            self._alone, self._told = self._alone[-1:], self.generation  # should it break now, this is known
            if sum(self._alone[-1].count_identities().values()) <= PIECE:
                break

    def _join(self) -> None:
        """From now on Redis counts; what came in the last moments goes ahead of every call."""
        for keys, words in self._list_entries(self._alone[-1]):
            self._redis.tell_script(keys, words)
        if self._cautious_until > -inf:
            self._cautious_until = self._clock() + CAUTION_S
        self._alone = []
        self._renew()

    def _list_entries(self, limiter: Limiter) -> Iterator[tuple[list[str], list[Word]]]:
        """What `limiter` has counted, as calls of the script for PIECE identities each."""
        names = limiter.list_identities()
        for start in range(0, len(names), PIECE):
            now, keys, words = self._clock(), list[str](), list[Word](["restore", SERVERS_CLOCK])
            for scope, identity in names[start : start + PIECE]:
                entries = limiter.read_entries(scope, identity, now)
                if entries:
                    keys.append(f":{scope}:{identity}")
                    words.append(write_entries(entries))
            if keys:
                yield self._name_all(keys), words

    # The beat

    async def _keep_beating(self) -> None:
        while True:
            await asyncio.sleep(BEAT_EVERY_S)
            if not self._redis.available:
                continue
            if self._clock() >= self._renew_at:
                self._renew()
            try:
                await self._exchange_beat()
            except RedisAway:
                continue
            if self.generation != self._told and self._redis.available:
                self._redis.drop("its data are not those of before")

    async def _exchange_beat(self) -> None:
        """Say that this worker is there; learn how many are, and whether the data are those of before."""
        words: list[Word] = [
            "beat", SERVERS_CLOCK, self._member, int(MEMBER_FOR_S * 1e6), self.generation, self._beat,
        ]  # fmt: skip
        generation, self._beat, members, rank = await self._redis.run_script([MEMBERS, STATE], words)
        self.generation = generation.decode()
        if members < self.members and self._clock() < self._cautious_until:
            return  # the others are not back yet
        if members != self.members:
            log.info("limits are counted by %d workers", members)
        self.members = members
        self.local.divide(rank, members)

    def _renew(self) -> None:
        self._renew_at = self._clock() + LEASE_S / 4
        held = [(name, grant.lease) for grant in self._running for name in grant.told.leases]
        for start in range(0, len(held), PIECE):
            piece = held[start : start + PIECE]
            leases: list[Word] = [lease for _, lease in piece]
            words: list[Word] = ["renew", SERVERS_CLOCK, int(LEASE_S * 1e6), *leases]
            self._redis.tell_script(self._name_all([name for name, _ in piece]), words)
