"""policies.d/*.yaml: how failures, time, limits and money are treated. Every default is the shipped policy's
number.
"""

from decimal import Decimal
from typing import Annotated, Literal

from pydantic import AfterValidator
from pydantic_core import PydanticCustomError

from engine.config.schema_base import (
    Count,
    CountOrNone,
    FailureKind,
    Name,
    Seconds,
    SecondsOrNone,
    Share,
    Strict,
    Usd,
    described,
)
from engine.config.schema_price import UnknownPrice


class BackoffEntry(Strict):
    first_s: Seconds = described("pause before the first retry, seconds", 0.4)
    factor: float = described("each pause is this many times the one before", 2, ge=1, le=10)
    jitter: Share = described("share of a pause that is random", 0.3)
    max_s: Seconds = described("longest pause, seconds", 5)


class RetryEntry(Strict):
    max: CountOrNone = described("tries on the same target beyond the first", 2, le=20)
    on: tuple[FailureKind, ...] = described(
        "failures that are tried again on the same target",
        ("429", "500", "502", "503", "504", "connect", "reset"),
    )
    backoff: BackoffEntry = described("pauses between tries", BackoffEntry())
    honour_retry_after_s: SecondsOrNone = described(
        "wait for a Retry-After of at most this many seconds; with a longer one the target is left", 10
    )


class TimeoutsEntry(Strict):
    connect_s: Seconds = described("until the connection stands", 5)
    headers_s: Seconds = described("streamed calls: until the response's headers", 30)
    first_token_s: Seconds = described("streamed calls: until the first content", 30)
    idle_s: Seconds = described("streamed calls: longest silence; any byte ends it", 60)
    answer_s: Seconds = described("plain calls: until the whole answer", 600)
    total_s: Seconds = described("the whole call, all attempts together", 1800)


class FailoverEntry(Strict):
    on: tuple[FailureKind, ...] = described(
        "failures that send the call to the next target",
        ("401", "402", "403", "404", "408", "429", "5xx", "connect", "reset", "timeout", "broken_stream",
         "context_length_exceeded"),
    )  # fmt: skip
    never: tuple[FailureKind, ...] = described(
        "failures that end the call at once", ("content_filter", "invalid_request")
    )


class BreakerEntry(Strict):
    failures: Count = described("failures in a row that open the breaker of a provider+model", 5)
    window_s: Seconds = described("span over which the ratio is taken, seconds", 60)
    min_requests: Count = described("calls in the window before the ratio counts", 10)
    ratio: Share = described("share of failures in the window that opens the breaker", 0.5)
    open_s: Seconds = described("how long an open breaker lets nothing through, seconds", 10)
    half_open: Count = described("probes let through after that", 1)
    counts: tuple[FailureKind, ...] = described(
        "failures that count", ("5xx", "connect", "reset", "timeout", "broken_stream")
    )


class WindowsEntry(Strict):
    second: Count | None = described("at most this many in any second", None)
    minute: Count | None = described("at most this many in any minute", None)
    hour: Count | None = described("at most this many in any hour", None)
    day: Count | None = described("at most this many in any 24 hours", None)
    month: Count | None = described("at most this many in any 30 days", None)


class ScopeLimitEntry(Strict):
    requests: WindowsEntry = described("requests per window", WindowsEntry())
    tokens: WindowsEntry = described("tokens per window", WindowsEntry())
    burst: Count | None = described("requests that may come at once (within one second)", None)
    concurrency: Count | None = described("calls in progress at once", None)


class LimitsEntry(Strict):
    key: ScopeLimitEntry | None = described("each API key; `key: {}` means no limit", None)
    user: ScopeLimitEntry | None = described("each user, all keys together", None)
    team: ScopeLimitEntry | None = described("each team", None)
    model: ScopeLimitEntry | None = described("each model, all callers together", None)
    ip: ScopeLimitEntry | None = described("each client address", None)
    system: ScopeLimitEntry | None = described("the whole gateway", None)


class SpanBudgetEntry(Strict):
    every: Literal["day", "week", "month", "total"] = described(
        "the span after which it begins anew, in UTC; weeks begin on Monday"
    )
    usd: Usd = described("US dollars, as text")
    hard: bool = described("refuse calls that it does not cover; otherwise it is only counted", True)
    alert_at: tuple[Share, ...] = described("shares at which its owner is told, once", (0.8, 0.9, 1))


class BudgetEntry(SpanBudgetEntry):
    per: Literal["key", "user", "team", "model", "system"] = described("what each has this budget")


def _refuse_twice(budgets: tuple[BudgetEntry, ...]) -> tuple[BudgetEntry, ...]:
    if len({(budget.per, budget.every, budget.hard) for budget in budgets}) < len(budgets):
        raise PydanticCustomError(
            "budgets", "there may be one hard and one soft budget of each span for the same"
        )
    return budgets


Budgets = Annotated[tuple[BudgetEntry, ...], AfterValidator(_refuse_twice)]


class AwayCreditEntry(Strict):
    up_to: Usd = described("US dollars that a worker may spend of each purse beyond its lease")


class BillingEntry(Strict):
    on_abort: Literal["delivered", "provider", "never"] = described(
        "what a caller who went away pays: what was delivered, all that the provider bills, or nothing",
        "delivered",
    )
    on_error: Literal["never", "delivered"] = described(
        "what a failed call costs the caller: nothing, or what was delivered before it failed", "delivered"
    )
    fallback_attempts: Literal["never", "provider"] = described(
        "what attempts cost before the one that answered: nothing, or what their provider reported", "never"
    )
    markup: Usd = described('share added to the cost: "0.05" is five per cent', Decimal(0))
    unknown_price: UnknownPrice = described("a model without price: refuse, free, or a price", "refuse")
    hold_wait_s: SecondsOrNone = described(
        "how long a call waits for credit that other calls hold, seconds", 2
    )
    min_output_tokens: Count = described("an unstated length of the answer is never set lower than this", 256)
    lower_max_tokens: bool = described("whether a stated length of the answer may be lowered, too", False)
    lost_call: Literal["release", "charge_hold"] = described(
        "calls of a worker that died with its disk: free, or what was held for them", "release"
    )
    credit_when_database_away: Literal["refuse"] | AwayCreditEntry = described(
        "when the lease is used up and the database is away: refuse, or {up_to: USD}", "refuse"
    )


class PolicyFile(Strict):
    """One policy. The one named `default` serves every model that names none."""

    policy: Name = described("the policy's name")
    extends: Name | None = described("a policy whose keys these go over", None)
    retry: RetryEntry = described("tries on the same target", RetryEntry())
    timeouts: TimeoutsEntry = described("the clocks of a call", TimeoutsEntry())
    failover: FailoverEntry = described("when the next target is asked", FailoverEntry())
    breaker: BreakerEntry = described("when a provider+model is left alone for a while", BreakerEntry())
    limits: LimitsEntry = described("how much may be asked for", LimitsEntry())
    assume_output_tokens: Count = described("output reserved for a call that names no maximum", 4096)
    when_redis_away: Literal["divide", "refuse", "allow"] = described(
        "limits while Redis cannot be reached", "divide"
    )
    budgets: Budgets = described("spending limits", ())
    billing: BillingEntry = described("what a call costs whom", BillingEntry())
    on_disconnect: Literal["cancel", "drain"] = described(
        "when the client goes away: cancel the upstream, or read on to the usage", "cancel"
    )
    rescue: Literal["auto", "continue", "restart", "error"] = described(
        "a stream that broke after it began: continue, restart, or end with an error", "auto"
    )
    restart_max_chars: CountOrNone = described("text delivered beyond which a stream is not restarted", 400)
    keepalive_s: Seconds = described("silence after which a streamed call gets a sign of life", 15)
    on_loss: Literal["allow", "fail"] = described("what could not be carried to another wire format", "allow")
    explore: Share = described("share of calls that try another target under least_latency", 0.05)
