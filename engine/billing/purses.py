"""What one worker may spend without asking: its part of each purse, and where more of it comes from.

A purse is a payer's credit or a budget. The worker's part is `room`; running calls hold some of it, a settled call
takes its true cost out of it. While there is enough nobody waits; else one asker for each purse goes to the database,
and calls wait in the order in which they came. What is in memory follows the database by `room = lease - what is spent
and not posted yet`, whichever of the two moves first.
"""

import asyncio
import contextlib
from collections.abc import Callable
from decimal import Decimal
from typing import Protocol

from engine.billing.purse import NOTHING, Purse, Waiter, fail_all, word_in_use, word_too_dear, word_wait
from engine.errors import CreditMissing, DependencyAway, LimitExceeded
from engine.storage.leases import OpenHold, PurseTerms, Taken

_ASK_AGAIN_S = 0.05
_LEAST_WAIT_S = 1.5
"""However short calls may wait for others: the database is to have said something."""
_RECALL_EACH_S = 0.2
_RENEW_EACH_S = 5.0
_IDLE_S = 30.0
_DEAD_S = 60.0
"""The database is in sight for as long before anybody is taken for dead."""
_FRESH_S = 5.0


class Bank(Protocol):
    """Where leases come from (storage/leases.py)."""

    @property
    def available(self) -> bool: ...
    async def register(self, worker: str) -> None: ...
    async def take(
        self, terms: PurseTerms, worker: str, turn: int, need: Decimal, want: Decimal
    ) -> Taken | None: ...
    async def give_back(self, purse: str, worker: str, turn: int, amount: Decimal) -> None: ...
    async def forget(self, worker: str, purses: list[str]) -> None: ...
    async def leave(self, worker: str) -> None: ...
    async def read_recalled(self, worker: str) -> list[str]: ...
    async def renew(self, worker: str) -> bool: ...
    async def write_open_holds(self, worker: str, holds: list[OpenHold]) -> None: ...
    async def close_dead(self, grace_usd: Decimal) -> list[str]: ...


class PurseDesk:
    """All purses of one worker. `run` keeps its leases alive and hands back what others need more."""

    def __init__(
        self, bank: Bank, worker: str, clock: Callable[[], float], grace_usd: Decimal = NOTHING
    ) -> None:
        self._bank, self._clock, self.grace_usd = bank, clock, grace_usd
        self._first_name, self._names = worker, 0
        self.worker = worker
        self.purses: dict[str, Purse] = {}
        self.open_holds: dict[str, OpenHold] = {}
        """Of running calls that are charged when this worker is lost."""
        self._written_holds: set[str] = set()
        self._registered = False
        self._registering = asyncio.Lock()
        self._turn = 0
        self._seen_since: float | None = None
        self.refused = {
            "credit_in_use": 0,
            "insufficient_credits": 0,
            "budget_exceeded": 0,
            "database_away": 0,
        }

    def find(self, terms: PurseTerms) -> Purse:
        """The purse of these terms; new terms (a raised budget) are asked for at the next look."""
        purse = self.purses.get(terms.id)
        if purse is None:
            purse = self.purses[terms.id] = Purse(terms, self.worker, self._clock())
        elif purse.terms is not terms and purse.terms != terms:
            purse.terms = terms
            purse.free_elsewhere = None
        return purse

    def count(self) -> dict[str | tuple[str, ...], float]:
        """For the gauge: what is leased to this worker, and what of it running calls hold."""
        purses = [purse for purse in self.purses.values() if purse.terms.limit_usd is None]
        return {
            "leased": float(sum((purse.room for purse in purses), NOTHING)),
            "held": float(sum((purse.held for purse in purses), NOTHING)),
        }

    def is_stale(self, purse: Purse) -> bool:
        """What is free may be something else by now: somebody paid in, others spent."""
        return purse.free_elsewhere is None or self._clock() - purse.seen_at > _FRESH_S

    async def look(self, purse: Purse) -> None:
        """Ask the database what is free. Raises DependencyAway."""
        seen = await self._take_lease(purse, NOTHING, NOTHING)
        if seen is not None and seen.free_usd < 0:  # a budget was lowered
            await self._give_back(purse)

    def declare(self, purse: Purse) -> None:
        """Tell the database of a budget that only counts; nobody waits for it."""
        if purse.free_elsewhere is None and purse.asker is None and self._bank.available:
            purse.asker = asyncio.create_task(self._declare(purse))

    async def hold(self, purse: Purse, amount: Decimal, within_s: float, beyond: Decimal | None) -> bool:
        """Hold an amount, waiting for it if need be. `beyond`: how far the room may be passed while nobody can lend.

        True: it was passed. Raises CreditMissing when the purse itself is too small, LimitExceeded when others hold
        what is left, DependencyAway.
        """
        if purse.take(amount):
            return False
        if beyond is not None and not self._bank.available and purse.spare + beyond >= amount:
            purse.held += amount
            return True
        try:
            await self._wait(purse, amount, within_s)
            return False
        except DependencyAway:
            if beyond is None or purse.spare + beyond < amount:
                self._count("database_away")
                raise
            purse.held += amount
            return True
        except (CreditMissing, LimitExceeded) as error:
            self._count(error.code or "")
            raise

    async def _wait(self, purse: Purse, amount: Decimal, within_s: float) -> None:
        """Returns when the amount is held; raises what the asker found out, or that it found out nothing in time."""
        waiter = Waiter(amount, self._clock() + within_s)
        purse.waiters.append(waiter)
        if purse.asker is None or purse.asker.done():
            purse.asker = asyncio.create_task(self._ask(purse))
        try:
            async with asyncio.timeout(max(within_s, _LEAST_WAIT_S)):
                await waiter.done
        except TimeoutError:
            if not waiter.has_got():  # else it came in the same moment
                raise word_wait(purse, self._clock()) from None
        except asyncio.CancelledError:
            if waiter.has_got():
                purse.settle(amount, NOTHING, purse.used_at)
            raise
        finally:
            with contextlib.suppress(ValueError):
                purse.waiters.remove(waiter)

    def _count(self, code: str) -> None:
        self.refused[code] = self.refused.get(code, 0) + 1

    async def _ask(self, purse: Purse) -> None:
        """Lend for those who wait, the first of them first, until nobody does."""
        try:
            while purse.waiters:
                purse.serve()
                if not purse.waiters:
                    return
                first = purse.waiters[0].amount
                need = first - purse.spare
                waiting = sum((waiter.amount for waiter in purse.waiters), NOTHING) - purse.spare
                purse.asked_at = self._clock()
                taken = await self._take_lease(purse, need, max(waiting, purse.recent_minute(purse.asked_at)))
                purse.asked_at = None
                purse.serve()
                if taken is not None and taken.taken_usd <= 0:
                    self._refuse_some(purse, taken.total_usd)
                    # What is too little for anybody here may be what another worker lacks, and the other way round.
                    await self._give_back(purse)
                    await asyncio.sleep(_ASK_AGAIN_S)
        except DependencyAway as error:
            fail_all(purse, error)
        except Exception as error:
            fail_all(purse, DependencyAway("Credit cannot be read at the moment.", retry_after_s=2))
            raise error
        finally:
            purse.asked_at = None

    def _refuse_some(self, purse: Purse, total: Decimal) -> None:
        """Who waits for more than the purse holds waits for nothing; others may have waited for long enough."""
        now = self._clock()
        for waiter in list(purse.waiters):
            if waiter.amount <= total and waiter.until > now:
                continue
            purse.waiters.remove(waiter)
            if not waiter.done.done():
                waiter.done.set_exception(
                    word_too_dear(purse.terms, waiter.amount, total)
                    if waiter.amount > total
                    else word_in_use(purse.terms)
                )

    async def _declare(self, purse: Purse) -> None:
        with contextlib.suppress(DependencyAway):
            await self.look(purse)
        purse.asker = None

    async def _take_lease(self, purse: Purse, need: Decimal, want: Decimal) -> Taken | None:
        """Change the lease and follow it in memory; a change whose answer got lost is found out first.

        None: the purse is known better than when this was asked for.
        """
        async with purse.moving:
            if need <= 0 and not self.is_stale(purse):
                return None
            if not self._registered:
                await self._register()
            if purse.unsure is not None:
                await self._find_out(purse)
                if need > 0:
                    return None  # it may be less now
            turn = 0
            if need > 0:
                turn = self._next_turn()
                purse.unsure = (turn, NOTHING)
            taken = await self._bank.take(purse.terms, purse.worker, turn, need, want)
            purse.unsure = None
            if taken is None:
                raise self._find_closed(purse)
            purse.room += taken.taken_usd
            purse.free_elsewhere, purse.seen_at = taken.free_usd, self._clock()
            return taken

    async def _find_out(self, purse: Purse) -> None:
        """Whether the change happened; asking ends it, so that the statement cannot come after the answer."""
        assert purse.unsure is not None
        turn, given_back = purse.unsure
        seen = await self._bank.take(purse.terms, purse.worker, turn, NOTHING, NOTHING)
        if seen is None:
            raise self._find_closed(purse)
        if seen.last_turn == turn:
            purse.room += max(seen.last_change_usd, NOTHING)
        else:
            purse.room += given_back
        purse.unsure = None

    async def _give_back(self, purse: Purse) -> None:
        """Hand back what no running call holds. Taken out of the room first: it is spent by nobody meanwhile."""
        if purse.moving.locked():
            return
        async with purse.moving:
            if purse.unsure is not None:
                await self._find_out(purse)
            amount = purse.spare
            if amount <= 0:
                return
            turn = self._next_turn()
            purse.room -= amount
            purse.free_elsewhere = (purse.free_elsewhere or NOTHING) + amount
            purse.unsure = (turn, amount)
            await self._bank.give_back(purse.terms.id, purse.worker, turn, amount)
            purse.unsure = None

    def _next_turn(self) -> int:
        self._turn += 1
        return self._turn

    async def _register(self) -> None:
        async with self._registering:
            if not self._registered:
                await self._bank.register(self.worker)
                self._registered = True

    def _find_closed(self, purse: Purse) -> DependencyAway:
        """A purse of an older name may be found closed late, when a new name is in use long since."""
        if purse.worker == self.worker:
            self._begin_anew()
        return DependencyAway("The lease of this worker was closed.", retry_after_s=1)

    def _begin_anew(self) -> None:
        """Our leases were closed: what running calls hold of them ends with them, new calls take new ones."""
        self._names += 1
        self.worker = f"{self._first_name}~{self._names}"
        self._registered = False
        for purse in self.purses.values():
            fail_all(purse, DependencyAway("The lease of this worker was closed.", retry_after_s=1))
        self.purses = {}
        self._written_holds.clear()

    # --- keeping leases

    async def run(self) -> None:
        """Renew, hand back, forget; until it is cancelled."""
        renewed = float("-inf")
        while True:
            await asyncio.sleep(_RECALL_EACH_S)
            try:
                now = self._clock()
                if self.open_holds:
                    await self._write_open_holds()
                if now - renewed >= _RENEW_EACH_S:
                    renewed = now
                    await self._renew(now)
                elif self._registered and self.purses:
                    await self._answer_recalls()
            except DependencyAway:
                self._seen_since = None

    async def _renew(self, now: float) -> None:
        if not self._bank.available:
            self._seen_since = None
            return
        if self._registered and not await self._bank.renew(self.worker):
            self._begin_anew()
        await self._drop_idle(now)
        if self._seen_since is None:
            self._seen_since = now
        elif now - self._seen_since >= _DEAD_S:
            await self._bank.close_dead(self.grace_usd)

    async def _answer_recalls(self) -> None:
        for name in await self._bank.read_recalled(self.worker):
            purse = self.purses.get(name)
            if purse is not None:
                await self._give_back(purse)

    async def _drop_idle(self, now: float) -> None:
        gone = []
        for name, purse in list(self.purses.items()):
            if purse.held or purse.waiters or now - purse.used_at < _IDLE_S:
                continue
            if purse.room > 0 or purse.unsure is not None:
                await self._give_back(purse)
            if not (purse.held or purse.waiters or purse.room or purse.unsure):
                del self.purses[name]
                gone.append(name)
        if gone:
            await self._bank.forget(self.worker, gone)

    async def _write_open_holds(self) -> None:
        self._written_holds &= self.open_holds.keys()
        new = [hold for call_id, hold in self.open_holds.items() if call_id not in self._written_holds]
        if new:
            if not self._registered:
                await self._register()
            await self._bank.write_open_holds(self.worker, new)
            self._written_holds.update(hold.call_id for hold in new)

    async def leave(self) -> None:
        """The worker ends and everything is posted: nothing of it stays leased."""
        for purse in self.purses.values():
            if purse.asker is not None:
                purse.asker.cancel()
        if self._registered:
            with contextlib.suppress(DependencyAway):
                await self._bank.leave(self.worker)
