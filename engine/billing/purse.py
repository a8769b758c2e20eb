"""One worker's part of one purse, in memory: what it holds for running calls, what was spent of it, and who waits.

A purse is a payer's credit or a budget. Pure but for the futures of those who wait; the clock is an argument.
"""

import asyncio
from collections import deque
from decimal import Decimal

from engine.errors import CreditMissing, DependencyAway, GatewayError, LimitExceeded
from engine.storage.leases import PurseTerms

NOTHING = Decimal(0)
_MINUTE_S = 60.0
_SILENT_S = 1.0


class Waiter:
    """A call that waits for money of one purse."""

    __slots__ = ("amount", "done", "until")

    def __init__(self, amount: Decimal, until: float) -> None:
        self.amount, self.until = amount, until
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def has_got(self) -> bool:
        return self.done.done() and not self.done.cancelled() and self.done.exception() is None


class Purse:
    """This worker's part of one purse, under one name of the worker: when that was closed, a new one begins."""

    __slots__ = (
        "asked_at",
        "asker",
        "free_elsewhere",
        "held",
        "moving",
        "room",
        "seen_at",
        "spent_before",
        "spent_lately",
        "spent_since",
        "terms",
        "unsure",
        "used_at",
        "waiters",
        "worker",
    )

    def __init__(self, terms: PurseTerms, worker: str, now: float) -> None:
        self.terms, self.worker = terms, worker
        self.room = self.held = NOTHING
        self.free_elsewhere: Decimal | None = None
        """What the database said to be free for everybody; None: nobody has looked."""
        self.seen_at = float("-inf")
        self.asked_at: float | None = None
        """Since when the database owes those who wait an answer."""
        self.used_at = self.spent_since = now
        self.spent_lately = self.spent_before = NOTHING
        self.waiters: deque[Waiter] = deque()
        self.asker: asyncio.Task[None] | None = None
        self.moving = asyncio.Lock()
        self.unsure: tuple[int, Decimal] | None = None
        """The number of a change whose answer has not come, and what was given back by it."""

    @property
    def spare(self) -> Decimal:
        return self.room - self.held

    @property
    def free(self) -> Decimal:
        """What is free as far as this worker knows."""
        return self.spare + (self.free_elsewhere or NOTHING)

    def take(self, amount: Decimal) -> bool:
        """Hold some of the room, if it is there and nobody came before."""
        if self.room - self.held < amount or self.waiters:
            return False
        self.held += amount
        return True

    def settle(self, amount: Decimal, cost: Decimal, now: float) -> None:
        """A hold ends with what it cost."""
        self.held -= amount
        self.used_at = now
        if cost:
            self.room -= cost
            if now - self.spent_since > _MINUTE_S:
                self._turn_minute(now)
            self.spent_lately += cost
        if self.waiters:
            self.serve()

    def serve(self) -> None:
        """Let in who waits, in order, as far as the room goes."""
        while self.waiters:
            first = self.waiters[0]
            if not first.done.done():
                if self.room - self.held < first.amount:
                    return
                self.held += first.amount
                first.done.set_result(None)
            self.waiters.popleft()

    def recent_minute(self, now: float) -> Decimal:
        """What was spent in about the last minute."""
        if now - self.spent_since > _MINUTE_S:
            self._turn_minute(now)
        return max(self.spent_lately, self.spent_before)

    def _turn_minute(self, now: float) -> None:
        long_ago = now - self.spent_since > 2 * _MINUTE_S
        self.spent_before = NOTHING if long_ago else self.spent_lately
        self.spent_lately, self.spent_since = NOTHING, now


def fail_all(purse: Purse, error: GatewayError) -> None:
    while purse.waiters:
        waiter = purse.waiters.popleft()
        if not waiter.done.done():
            waiter.done.set_exception(error)


def word_wait(purse: Purse, now: float) -> GatewayError:
    """A call has waited for long enough: for money that others hold, or for a database that says nothing."""
    if purse.asked_at is None or now - purse.asked_at < _SILENT_S:
        return word_in_use(purse.terms)
    return DependencyAway(
        "The credit database does not answer.", code="database_unavailable", retry_after_s=2.0
    )


def word_in_use(terms: PurseTerms) -> LimitExceeded:
    return LimitExceeded(
        f"{terms.label} is in use by calls that are running", code="credit_in_use", retry_after_s=1.0
    )


def word_too_dear(terms: PurseTerms, amount: Decimal, total: Decimal) -> CreditMissing:
    """The purse itself is too small for a call."""
    if terms.limit_usd is None:
        return CreditMissing(
            f"this call may cost up to {_show(amount)} USD and the balance is {_show(total)} USD:"
            " add credit, or ask for a shorter answer"
        )
    again = f", it begins anew at {terms.ends_at:%Y-%m-%dT%H:%M:%SZ}" if terms.ends_at is not None else ""
    return CreditMissing(
        f"{terms.label} has {_show(max(total, NOTHING))} USD left and this call may cost up to"
        f" {_show(amount)} USD{again}",
        code="budget_exceeded",
    )


def _show(amount: Decimal) -> str:
    return f"{amount.normalize():f}"
