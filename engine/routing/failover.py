"""The loop that asks targets until the answer is whole, or until nobody is left to ask.

One `Delivery` for each call. A failure is classified by the policy: try the same target again after a pause, leave it
for the next one, go on elsewhere with a stream that was cut (rescue), or tell the caller.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from engine.call import Call
from engine.config.snapshot import Auth, Credential, Target
from engine.errors import GatewayError, NobodyAvailable, UpstreamBroke, UpstreamFailure
from engine.routing.attempts import Attempts, Rescue
from engine.routing.balance import Chance, Latencies, order_targets
from engine.routing.breaker import Breakers
from engine.routing.credentials import COOLING_KINDS, CoolDowns
from engine.routing.refusals import WORTH, word_refusal
from engine.routing.resolve import Plan
from engine.wire.answers import AnswerReader
from engine.wire.counting import count_prompt
from engine.wire.rescue import CONTINUE, RESTART, TextDiffers

_NO_MORE = 1_000_000
"""Tries of a probe: it is never repeated."""


@dataclass(slots=True)
class Router:
    """What routing remembers between calls, and where it takes time and chance from. One for each worker."""

    breakers: Breakers
    cool_downs: CoolDowns
    latencies: Latencies
    clock: Callable[[], float]
    chance: Chance
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep


class Delivery:
    """Asks the targets of one call, in order, until one has answered whole."""

    __slots__ = ("_attempts", "_call", "_failures", "_plan", "_router", "_skipped_until")

    def __init__(self, call: Call, plan: Plan, router: Router, attempts: Attempts) -> None:
        self._call, self._plan, self._router, self._attempts = call, plan, router, attempts
        self._failures: list[tuple[Target, UpstreamFailure]] = []
        self._skipped_until: list[float] = []

    async def run(self) -> AnswerReader:
        """The reader of a whole answer (its tail is still to be sent). Raises a GatewayError when nobody can."""
        if not self._plan.targets:
            return count_prompt(self._call)
        targets = self._order()
        for position, target in enumerate(targets):
            if not self._may_help(target):
                continue
            reader = await self._ask(target, targets[position + 1 :])
            if reader is not None:
                return reader
        raise self._give_up()

    def _order(self) -> list[Target]:
        plan = self._plan
        if len(plan.targets) == 1:
            return list(plan.targets)
        request = self._call.request
        wanted = request.get("max_completion_tokens") or request.get("max_tokens")
        output = wanted if isinstance(wanted, int) else plan.policy.assume_output_tokens
        return order_targets(
            plan,
            self._router.latencies,
            self._router.chance,
            input_tokens=self._call.input_estimate,
            output_tokens=output,
        )

    def _may_help(self, target: Target) -> bool:
        """A prompt that was too long goes to a larger model, never to the same one elsewhere."""
        for failed, failure in self._failures:
            if failure.kind == "context_length_exceeded":
                here, there = target.context or 0, failed.context or 0
                if here < there or (here == there and target.model == failed.model):
                    return False
        return True

    async def _ask(self, target: Target, rest: list[Target]) -> AnswerReader | None:
        """Try one target as often as the policy allows. None: go on with the next one."""
        rule, now = self._plan.policy.breaker, self._router.clock()
        admitted = self._router.breakers.admit(target.name, rule, now)
        if admitted == "open":
            wait_s = self._router.breakers.seconds_until_open(target.name, now)
            self._skipped_until.append(wait_s or rule.open_s)
            return None
        probing = admitted == "probe"
        asked: set[str] = set()
        tries = _NO_MORE if probing else 1
        while True:
            # A probe does not wait: a caller who leaves meanwhile would keep it.
            credential = await self._pick_credential(target, asked, may_wait=not probing)
            if credential is None:
                if probing:
                    self._router.breakers.give_back_probe(target.name)
                return None
            asked.add(credential.name)
            try:
                return await self._try_once(target, credential, probing)
            except UpstreamFailure as failure:
                probing = False
                self._failures.append((target, failure))
                if self._has_begun():
                    return await self._rescue(failure, rest)
                if self._attempts.is_final():
                    raise self._word_refusal(target, failure) from failure
                pause_s = self._weigh(target, credential, failure, tries, asked)
            if pause_s is None:
                return None
            if pause_s:
                tries += 1
                asked.clear()
                await self._router.sleep(pause_s)

    def _auth_of(self, target: Target) -> Auth:
        """The provider's credentials, or in their place the one that the caller has there."""
        own = self._call.caller.own_keys if self._call.caller is not None else None
        if own is None or target.provider.name not in own.credentials:
            return target.provider.auth
        return replace(target.provider.auth, credentials=(own.credentials[target.provider.name],))

    def _word_refusal(self, target: Target, failure: UpstreamFailure) -> GatewayError:
        is_own = self._auth_of(target) is not target.provider.auth
        return word_refusal(target, failure, is_own=is_own)

    def _has_begun(self) -> bool:
        reader = self._attempts.reader
        return self._call.stream and reader is not None and reader.begun

    def _weigh(
        self, target: Target, credential: Credential, failure: UpstreamFailure, tries: int, asked: set[str]
    ) -> float | None:
        """Seconds until the same target is tried again (0: at once, with its next credential), None to leave it.

        `asked` holds the credentials asked since the last pause: none of them is asked again without one. Raises the
        caller's error for a failure that no other target would answer better.
        """
        policy, router = self._plan.policy, self._router
        if failure.matches(policy.failover.never):
            raise self._word_refusal(target, failure) from failure
        pause_s = self._pause_before_retry(failure, tries)
        router.cool_downs.note_failure(credential, failure, pause_s, router.clock())
        if self._has_other_credential(target, failure, asked):
            return 0.0
        if pause_s is None and not failure.matches(policy.failover.on):
            raise self._word_refusal(target, failure) from failure
        return pause_s

    async def _try_once(self, target: Target, credential: Credential, is_probe: bool) -> AnswerReader:
        breakers, rule = self._router.breakers, self._plan.policy.breaker
        judged = False
        try:
            reader = await self._attempts.make(target, credential, self._mode_of_next(target))
            breakers.note_success(target.name, rule, self._router.clock())
            self._router.cool_downs.note_success(credential)
            judged = True
            if self._attempts.last.first_token_ms is not None:
                self._router.latencies.note(target.name, self._attempts.last.first_token_ms / 1000)
            return reader
        except UpstreamFailure as failure:
            if failure.matches(rule.counts) and not credential.owned:
                breakers.note_failure(target.name, rule, self._router.clock())
                judged = True
            raise
        finally:
            if is_probe and not judged:
                breakers.give_back_probe(target.name)

    def _mode_of_next(self, target: Target) -> str:
        if not self._failures:
            return "first"
        return "retry" if self._failures[-1][0] is target else "failover"

    async def _pick_credential(self, target: Target, asked: set[str], *, may_wait: bool) -> Credential | None:
        """A credential of the target, waiting for one that is cool again soon enough."""
        router, auth = self._router, self._auth_of(target)
        credential = router.cool_downs.pick(auth, target.model, router.clock(), router.chance, asked)
        if credential is not None:
            return credential
        wait_s = router.cool_downs.seconds_until_usable(auth, target.model, router.clock())
        if wait_s is None:
            return None
        honoured_s = self._plan.policy.retry.honour_retry_after_s
        longest_s = min(honoured_s, self._seconds_left()) if may_wait else 0.0
        if wait_s > longest_s or self._has_idle_neighbour(target):
            self._skipped_until.append(wait_s)
            return None
        await router.sleep(wait_s)
        return router.cool_downs.pick(auth, target.model, router.clock(), router.chance)

    def _has_idle_neighbour(self, target: Target) -> bool:
        """Whether another target could answer now, so that nobody needs to wait for this one's cool-down."""
        now, router = self._router.clock(), self._router
        tried = {failed.name for failed, _ in self._failures}
        return any(
            other is not target
            and other.name not in tried
            and not router.breakers.seconds_until_open(other.name, now)
            and router.cool_downs.seconds_until_usable(other.provider.auth, other.model, now) == 0
            for other in self._plan.targets
        )

    def _has_other_credential(self, target: Target, failure: UpstreamFailure, asked: set[str]) -> bool:
        auth, router = self._auth_of(target), self._router
        if failure.kind not in COOLING_KINDS or len(auth.credentials) == 1:
            return False
        return router.cool_downs.pick(auth, target.model, router.clock(), router.chance, asked) is not None

    def _pause_before_retry(self, failure: UpstreamFailure, tries: int) -> float | None:
        """Seconds to wait before the same target is asked again; None: it is not asked again."""
        rule = self._plan.policy.retry
        if tries > rule.max or failure.clock is not None or not failure.matches(rule.on):
            return None
        backoff = rule.backoff
        pause_s = min(backoff.first_s * backoff.factor ** (tries - 1), backoff.max_s)
        pause_s *= 1 + backoff.jitter * (2 * self._router.chance() - 1)
        if failure.retry_after_s is not None:
            if failure.retry_after_s > rule.honour_retry_after_s:
                return None
            pause_s = max(pause_s, failure.retry_after_s)
        return pause_s if pause_s < self._seconds_left() else None

    def _seconds_left(self) -> float:
        """What is left of the whole call's clock: no pause goes beyond it."""
        return self._plan.timeouts.total_s - (self._router.clock() - self._call.began)

    async def _rescue(self, failure: UpstreamFailure, rest: list[Target]) -> AnswerReader:
        """Go on with a begun answer at the next targets, or end it with one clear error."""
        begun = self._attempts.reader
        if self._attempts.can_be_rescued():
            for target in filter(self._attempts.speaks_callers_wire, rest):
                for mode in self._rescue_modes(target):
                    reader = await self._rescue_at(target, mode)
                    if reader is not None:
                        return reader
                    if begun is not self._attempts.reader:
                        begun = self._attempts.reader
        raise UpstreamBroke(
            f"the answer of {self._call.attempts[0].provider} broke off and could not be continued: "
            f"{failure.message}",
            code="stream_broken",
        ) from failure

    def _rescue_modes(self, target: Target) -> list[str]:
        policy, modes = self._plan.policy, []
        if target.prefill and policy.rescue in ("auto", CONTINUE):
            modes.append(CONTINUE)
        if self._attempts.delivered_chars() <= policy.restart_max_chars and policy.rescue in (
            "auto",
            RESTART,
        ):
            modes.append(RESTART)
        return modes

    async def _rescue_at(self, target: Target, mode: str) -> AnswerReader | None:
        """One attempt to go on at one target; None when it could not and the next may try."""
        now, router = self._router.clock(), self._router
        if router.breakers.seconds_until_open(target.name, now):
            return None
        credential = router.cool_downs.pick(self._auth_of(target), target.model, now, router.chance)
        if credential is None:
            return None
        try:
            reader = await self._attempts.make(target, credential, mode, Rescue(mode))
        except TextDiffers as different:
            raise UpstreamBroke(
                f"the answer of {self._call.attempts[0].provider} broke off, and {target.provider.name} "
                "answers with a different text",
                code="stream_broken",
            ) from different
        except UpstreamFailure as failure:
            self._failures.append((target, failure))
            if failure.matches(self._plan.policy.breaker.counts) and not credential.owned:
                router.breakers.note_failure(target.name, self._plan.policy.breaker, router.clock())
            router.cool_downs.note_failure(credential, failure, None, router.clock())
            return None
        router.breakers.note_success(target.name, self._plan.policy.breaker, router.clock())
        return reader

    def _give_up(self) -> GatewayError:
        """The one error the caller gets when every target was asked or left alone."""
        if self._failures:
            target, failure = max(self._failures, key=lambda each: WORTH.get(each[1].kind, 1))
            return self._word_refusal(target, failure)
        wait_s = min(self._skipped_until, default=1.0)
        return NobodyAvailable(
            f"every provider of {self._plan.model.name!r} is failing or cooling down at the moment",
            retry_after_s=max(wait_s, 1.0),
        )
