"""The one place where a call takes what it must give back: places under the limits, and whatever else is a `Stage`.

`async with admission.admit(call, policy)`: entering goes through the stages in order and may be refused by any; what
was entered is left in reverse, however the call ends. Leaving never waits, so that no cancellation can split it.
"""

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Protocol

from engine.call import GUEST, Call
from engine.config.snapshot import Limit, Policy
from engine.policies.limits import Grant, Limiter
from engine.policies.quotas import find_quota
from engine.policies.refusals import ANONYMOUS, BURST_HEADER, HeaderPairs, LimitReached
from engine.policies.scopes import ScopeBook, Scopes, find_scopes
from engine.policies.shared_grant import SharedGrant
from engine.policies.shared_limits import SharedLimiter
from engine.wire.operations import WRITING


class Place(Protocol):
    """What one stage gave a call."""

    def leave(self, call: Call) -> None:
        """Give it back: `call.usage` and `call.cost` say what was used. Never raises."""


class Stage(Protocol):
    """One thing that a call must be let in by. Enters may wait and raise a GatewayError; then they hold nothing."""

    async def enter(self, call: Call, policy: Policy, headers: HeaderPairs) -> Place | None:
        """The place, or None when this stage has nothing to do with the call; may add headers of the answer."""


class Admission:
    def __init__(self, stages: Sequence[Stage]) -> None:
        self._stages = tuple(stages)

    def admit(self, call: Call, policy: Policy) -> "Admitted":
        """A context that holds the call's places; entering raises what the refusing stage raises."""
        return Admitted(call, policy, self._stages)


class Admitted:
    __slots__ = ("_call", "_places", "_policy", "_stages")

    def __init__(self, call: Call, policy: Policy, stages: Sequence[Stage]) -> None:
        self._call, self._policy, self._stages = call, policy, stages
        self._places: list[Place] = []

    async def __aenter__(self) -> HeaderPairs:
        """The headers that the stages add to the answer."""
        headers: HeaderPairs = []
        try:
            for stage in self._stages:
                place = await stage.enter(self._call, self._policy, headers)
                if place is not None:
                    self._places.append(place)
        except BaseException:
            self._leave()
            raise
        return headers

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()

    def _leave(self) -> None:
        places = self._places
        while places:
            places.pop().leave(self._call)


class LimitStage:
    """Requests, tokens and running calls of everybody whom the call counts for."""

    __slots__ = ("_book", "_clock", "_find_guest_limit", "_limiter", "_note_refusal", "key_limit")

    def __init__(
        self,
        limiter: Limiter | SharedLimiter,
        clock: Callable[[], float],
        find_guest_limit: Callable[[Call], Limit] = lambda call: Limit(),
        note_refusal: Callable[[Call, LimitReached], None] = lambda call, reached: None,
    ) -> None:
        self._limiter, self._clock, self._book = limiter, clock, ScopeBook()
        self._find_guest_limit, self._note_refusal = find_guest_limit, note_refusal
        self.key_limit: Limit | None = None
        """What administrators gave every key while the gateway runs (storage/limit_settings.py)."""

    async def enter(self, call: Call, policy: Policy, headers: HeaderPairs) -> "LimitPlace | None":
        caller = call.caller
        if caller is None or caller.unlimited:
            return None
        if caller.role == GUEST:
            guest_limit = (ANONYMOUS, caller.key_id, self._find_guest_limit(call))
            scopes = Scopes([*find_scopes(call, policy), guest_limit])
        else:
            scopes = self._book.find(call, caller, policy, self.key_limit)
        if not scopes:
            return None
        tokens = reserve_tokens(call, policy) if limits_tokens(call, policy) else 0
        limiter, now = self._limiter, self._clock()
        grant: Grant | SharedGrant
        burst = scopes.burst
        try:
            if isinstance(limiter, SharedLimiter):
                grant = await limiter.take(scopes, tokens, now, policy.when_redis_away)
            else:
                grant = limiter.take(scopes, tokens, now)
        except LimitReached as reached:
            if burst is not None:
                reached.headers[BURST_HEADER] = f"{burst} per 1 seconds"
            self._note_refusal(call, reached)
            raise
        headers += grant.headers(now)
        if burst is not None:
            headers.append((BURST_HEADER.encode(), b"%d per 1 seconds" % burst))
        return LimitPlace(grant, self._clock)


class LimitPlace:
    __slots__ = ("_clock", "_grant")

    def __init__(self, grant: Grant | SharedGrant, clock: Callable[[], float]) -> None:
        self._grant, self._clock = grant, clock

    def leave(self, call: Call) -> None:
        now, usage = self._clock(), call.usage
        self._grant.correct(usage.prompt + usage.completion if usage else 0, now)
        self._grant.release(now)


def limits_tokens(call: Call, policy: Policy) -> bool:
    if policy.limits_tokens or find_quota(call).counts_tokens:
        return True
    bounds = call.caller.bounds if call.caller is not None else None
    if bounds is None:
        return False
    return any(limit is not None and limit.tokens for limit in (bounds.limit, bounds.user_limit))


def reserve_tokens(call: Call, policy: Policy) -> int:
    """The estimate that is counted up front: the prompt and what the caller allows, never the model's limit."""
    return call.input_estimate + expect_output(call, policy)


def expect_output(call: Call, policy: Policy) -> int:
    """Tokens of the answer as far as its caller limits it, in whatever dialect; else what the policy assumes."""
    if call.operation not in WRITING:
        return 0
    read = call.door.format.client.asked_output
    wanted = read(call.request) if read is not None else None
    if isinstance(wanted, int) and not isinstance(wanted, bool) and wanted >= 0:
        return wanted
    return policy.assume_output_tokens
