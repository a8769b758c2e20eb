"""The one place where a call takes what it must give back: its places under the limits.

`async with admission.admit(call, plan)`: entering may refuse with 429, leaving always gives back and corrects the
tokens that were reserved. Only limits that are shared wait, for Redis, and they give back what a cancelled call took.
"""

from collections.abc import Callable
from types import TracebackType

from engine.call import Call
from engine.config.snapshot import Limit, Policy
from engine.policies.caps import Caps
from engine.policies.limits import Grant, Limiter
from engine.policies.refusals import HeaderPairs
from engine.policies.shared_limits import SharedGrant, SharedLimiter
from engine.wire.operations import WRITING

Scopes = list[tuple[str, str, Limit]]


class Admission:
    def __init__(
        self, limiter: Limiter | SharedLimiter, clock: Callable[[], float], caps: Caps | None = None
    ) -> None:
        self._limiter, self._clock, self._caps = limiter, clock, caps

    def admit(self, call: Call, policy: Policy) -> "Admitted | CappedCall":
        """A context that holds the call's places; it raises LimitExceeded when there are none."""
        admitted, caller = Admitted(call, policy, self._limiter, self._clock), call.caller
        if self._caps is not None and caller is not None and caller.bounds and caller.bounds.is_capped:
            return CappedCall(admitted, call, self._caps, self._clock)
        return admitted


class Admitted:
    __slots__ = ("_call", "_clock", "_grant", "_limiter", "_policy")

    def __init__(
        self, call: Call, policy: Policy, limiter: Limiter | SharedLimiter, clock: Callable[[], float]
    ) -> None:
        self._call, self._policy, self._limiter, self._clock = call, policy, limiter, clock
        self._grant: Grant | SharedGrant | None = None

    async def __aenter__(self) -> HeaderPairs:
        """The x-ratelimit headers of the answer."""
        call, caller = self._call, self._call.caller
        if caller is None or caller.unlimited or not (self._policy.limits or find_own_limit(call)):
            return []
        scopes = find_scopes(call, self._policy)
        tokens = reserve_tokens(call, self._policy) if limits_tokens(call, self._policy) else 0
        limiter, now = self._limiter, self._clock()
        if isinstance(limiter, SharedLimiter):
            self._grant = await limiter.take(scopes, tokens, now, self._policy.when_redis_away)
        else:
            self._grant = limiter.take(scopes, tokens, now)
        return self._grant.headers(now)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._grant is not None:
            now, usage = self._clock(), self._call.usage
            self._grant.correct(usage.prompt + usage.completion if usage else 0, now)
            self._grant.release(now)


class CappedCall:
    """A call with a key that has a cap on all its life, too."""

    __slots__ = ("_admitted", "_call", "_caps", "_clock")

    def __init__(self, admitted: Admitted, call: Call, caps: Caps, clock: Callable[[], float]) -> None:
        self._admitted, self._call, self._caps, self._clock = admitted, call, caps, clock

    async def __aenter__(self) -> HeaderPairs:
        call, caller = self._call, self._call.caller
        assert caller is not None and caller.bounds is not None
        headers = await self._admitted.__aenter__()
        try:
            await self._caps.enter(call, caller, caller.bounds, self._clock())
        except BaseException as refusal:
            await self._admitted.__aexit__(type(refusal), refusal, None)
            raise
        return headers

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._call.caller is not None:
            self._caps.leave(self._call, self._call.caller)
        await self._admitted.__aexit__(kind, error, trace)


def find_own_limit(call: Call) -> Limit | None:
    """The limit that the key itself has, beside what the policy gives every key."""
    bounds = call.caller.bounds if call.caller is not None else None
    return bounds.limit if bounds is not None else None


def limits_tokens(call: Call, policy: Policy) -> bool:
    own = find_own_limit(call)
    return policy.limits_tokens or (own is not None and bool(own.tokens))


def find_scopes(call: Call, policy: Policy) -> Scopes:
    """Whom the limits count this call for. A key's own limit counts beside the policy's: the tighter one holds."""
    scopes = [
        (scope, _IDENTIFY[scope](call), limit) for scope, limit in policy.limits.items() if scope in _IDENTIFY
    ]
    own = find_own_limit(call)
    if own is not None:
        scopes.append(("key", f"{_name_key(call)} own", own))
    return scopes


def reserve_tokens(call: Call, policy: Policy) -> int:
    """The estimate that is counted up front: the prompt and what the caller allows, never the model's limit."""
    request = call.request
    wanted = request.get("max_completion_tokens") or request.get("max_tokens")
    if call.operation not in WRITING:
        wanted = 0
    return call.input_estimate + (wanted if isinstance(wanted, int) else policy.assume_output_tokens)


def _name_key(call: Call) -> str:
    return call.caller.key_id if call.caller else ""


def _name_user(call: Call) -> str:
    return call.caller.user_id if call.caller else ""


def _name_model(call: Call) -> str:
    return call.model.name if call.model else ""


_IDENTIFY: dict[str, Callable[[Call], str]] = {
    "key": _name_key,
    "user": _name_user,
    "model": _name_model,
    "ip": lambda call: call.client_ip,
    "system": lambda call: "all",
}
