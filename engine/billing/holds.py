"""The last stage of admission: what a call may cost is held before anybody is asked, and its true cost settled after.

Nobody waits while this worker's part of the purses is large enough. A call of a payer who pays later and has no budget
holds nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from engine.billing.books import estimate_input_tokens, is_own
from engine.billing.budgets import BudgetBook
from engine.billing.ceilings import Ceiling, find_ceiling, needs_estimate
from engine.billing.purse import Purse
from engine.billing.purses import PurseDesk
from engine.call import Call, Caller
from engine.config.snapshot import Policy, Target
from engine.errors import DependencyAway, InvalidRequest
from engine.policies.refusals import HeaderPairs
from engine.storage.leases import OpenHold, PurseTerms
from engine.wire.operations import COUNTING, WRITING
from engine.wire.output_length import limit_output

NOTHING = Decimal(0)
MAX_TOKENS_SET = b"x-max-tokens-set"
_SHARE = 8
"""An answer of unstated length may cost this part of what is free."""
_CREDIT_LABEL = "the credit of this account"


@dataclass(slots=True)
class Hold:
    """What one call has of some purses, until it is settled."""

    desk: PurseDesk
    amount: Decimal
    purses: list[Purse] = field(default_factory=list)
    counted: list[str] = field(default_factory=list)
    """Budgets that only count."""
    freed: bool = False
    lent: bool = False
    """Some of it is beyond a lease, which may not even have begun."""

    @property
    def worker(self) -> str:
        """The name that the leases are under."""
        return self.purses[0].worker if self.purses else ""

    def list_purses(self) -> list[str]:
        return [purse.terms.id for purse in self.purses] + self.counted

    def settle(self, call_id: str, cost: Decimal, now: float) -> None:
        """The call is over and this is what it cost."""
        amount = NOTHING if self.freed else self.amount
        self.freed = True
        for purse in self.purses:
            purse.settle(amount, cost, now)
        self.desk.open_holds.pop(call_id, None)

    def leave(self, call: Call) -> None:
        """Admission ends. What was not settled yet is about to be, without a wait in between."""
        if not (self.freed or call.settled):
            self.freed = True
            for purse in self.purses:
                purse.settle(self.amount, NOTHING, purse.used_at)


class HoldStage:
    def __init__(self, desk: PurseDesk, clock: Callable[[], float]) -> None:
        self._desk, self._clock, self._budgets = desk, clock, BudgetBook()
        self._credit: dict[str, PurseTerms] = {}

    async def enter(self, call: Call, policy: Policy, headers: HeaderPairs) -> Hold | None:
        caller = call.caller
        if caller is None or call.operation == COUNTING or (caller.unlimited and call.max_cost is None):
            return None
        hard, soft = self._find_purses(call, caller, policy)
        if not (hard or soft or call.max_cost is not None):
            return None
        hold = call.hold = Hold(self._desk, NOTHING)
        for purse in soft:
            hold.counted.append(purse.terms.id)
            self._desk.declare(purse)
        if not hard and call.max_cost is None:
            return hold
        estimate = call.input_estimate
        if not estimate and (not call.body or needs_estimate(call.body)):
            estimate = estimate_input_tokens(call.request)
        targets: Sequence[Target] = call.targets
        if caller.own_keys is not None:
            targets = [target for target in targets if not is_own(call, target)]
        ceiling = find_ceiling(call, targets, policy, estimate)
        amount = ceiling.at()
        if amount <= 0:
            hold.counted += [purse.terms.id for purse in hard if purse.terms.limit_usd is not None]
        else:
            if needs_fit(call, policy, ceiling, hard):
                amount = await self._fit(call, policy, ceiling, hard, headers)
            await self._take(call, policy, hold, hard, amount)
        if policy.billing.lost_call == "charge_hold" and not caller.unlimited and amount > 0:
            held = OpenHold(call.id, caller.payer, call.is_prepaid, amount)
            self._desk.open_holds[call.id] = held
        return hold

    def _find_purses(self, call: Call, caller: Caller, policy: Policy) -> tuple[list[Purse], list[Purse]]:
        """Those that must cover the call, and those that count it."""
        desk = self._desk
        hard: list[Purse] = []
        soft: list[Purse] = []
        if caller.unlimited:
            return hard, soft
        if call.is_prepaid:
            hard.append(desk.find(self._find_credit(caller.payer)))
        if policy.budgets or caller.budgets:
            for terms in self._budgets.list_terms(call, policy):
                (hard if terms.hard else soft).append(desk.find(terms))
        return hard, soft

    def _find_credit(self, payer: str) -> PurseTerms:
        terms = self._credit.get(payer)
        if terms is None:
            if len(self._credit) > 20_000:
                self._credit.clear()
            terms = self._credit[payer] = PurseTerms(f"credit:{payer}", label=_CREDIT_LABEL)
        return terms

    async def _fit(
        self, call: Call, policy: Policy, ceiling: Ceiling, purses: Sequence[Purse], headers: HeaderPairs
    ) -> Decimal:
        """The ceiling, brought down to what an answer of unstated length may cost."""
        rule, amount = policy.billing, ceiling.at()
        bound = await self._find_bound(purses, policy, amount)
        may_lower = call.operation in WRITING and (not ceiling.stated or rule.lower_max_tokens)
        may_lower = may_lower and call.upload is None and bool(call.door.format.client.output_places)
        most = ceiling.longest if may_lower and not ceiling.kept else None
        if may_lower and bound is not None and amount > bound:
            most = min(max(ceiling.find_length(bound), rule.min_output_tokens), ceiling.longest)
        if call.max_cost is not None and ceiling.at(most) > call.max_cost:
            within = ceiling.find_length(call.max_cost)
            if not may_lower or within < rule.min_output_tokens:
                raise InvalidRequest(
                    f"this call may cost up to {_show(ceiling.at(most))} USD, more than its x-max-cost-usd allows",
                    code="max_cost_exceeded",
                    param="x-max-cost-usd",
                )
            most = within if most is None else min(most, within)
        if most is None:
            return amount
        if limit_output(call, most):
            headers.append((MAX_TOKENS_SET, b"%d" % most))
        return ceiling.at(most)

    async def _find_bound(self, purses: Sequence[Purse], policy: Policy, amount: Decimal) -> Decimal | None:
        """The part of what is free that an answer of unstated length may cost. Old news are good enough for a yes."""
        bounds = []
        for purse in purses:
            if purse.free_elsewhere is None or (purse.free < amount * _SHARE and self._desk.is_stale(purse)):
                await self._look(purse, policy)
            bounds.append(purse.free / _SHARE)
        return min(bounds, default=None)

    async def _look(self, purse: Purse, policy: Policy) -> None:
        try:
            await self._desk.look(purse)
        except DependencyAway:
            if policy.billing.beyond_lease_usd is None and purse.spare <= 0:
                self._desk.refused["database_away"] += 1
                raise

    async def _take(
        self, call: Call, policy: Policy, hold: Hold, purses: Sequence[Purse], amount: Decimal
    ) -> None:
        hold.amount = amount
        rule = policy.billing
        try:
            for purse in purses:
                if not purse.take(amount):
                    hold.lent |= await self._desk.hold(purse, amount, rule.hold_wait_s, rule.beyond_lease_usd)
                hold.purses.append(purse)
        except BaseException:
            hold.leave(call)
            hold.purses.clear()
            raise


def needs_fit(call: Call, policy: Policy, ceiling: Ceiling, purses: Sequence[Purse]) -> bool:
    """Whether anything is to be found out or brought down: not with a stated length and purses that are known."""
    if call.max_cost is not None or policy.billing.lower_max_tokens or not ceiling.stated:
        return True
    for purse in purses:
        if purse.free_elsewhere is None:
            return True
    return False


def _show(amount: Decimal) -> str:
    return f"{amount.normalize():f}"
