"""What a caller is told when a limit says no, and the x-ratelimit-* headers. Pure; whoever counted knows the facts."""

from dataclasses import dataclass
from math import ceil, inf

from engine.errors import LimitExceeded

HeaderPairs = list[tuple[bytes, bytes]]
WINDOW_NAMES = {1: "second", 60: "minute", 3600: "hour", 86400: "day", 2592000: "month"}
_FACTS = ("limit", "remaining", "reset")
HEADER_NAMES = {
    kind: tuple(f"x-ratelimit-{fact}-{kind}".encode() for fact in _FACTS) for kind in ("requests", "tokens")
}
_COMMON_NAMES = tuple(f"ratelimit-{fact}".encode() for fact in _FACTS)
"""The requests once more, where libraries look that know no gateway."""
BURST_HEADER = "x-ratelimit-burst-window"
PLAN, ANONYMOUS = "plan", "anonymous"
_SPANS = {3600: "hourly", 86400: "daily", 2592000: "monthly"}
WHOM = {
    "key": "this key",
    "user": "this user",
    "team": "this team",
    "model": "this model",
    "plan": "this plan",
    "ip": "this address",
    "system": "the whole gateway",
}


def name_facts(kind: str, number: int, remaining: int, reset_s: int) -> HeaderPairs:
    """The headers that tell how much of a kind there is, how much is left, and when that begins to grow."""
    limit, left, reset = b"%d" % number, b"%d" % remaining, b"%d" % reset_s
    names = HEADER_NAMES[kind]
    pairs = [(names[0], limit), (names[1], left), (names[2], reset)]
    if kind == "requests":
        pairs += [(_COMMON_NAMES[0], limit), (_COMMON_NAMES[1], left), (_COMMON_NAMES[2], reset)]
    return pairs


class LimitReached(LimitExceeded):
    """A limit says no. `retry_after_s` is whole seconds; None means that this call can never fit."""

    def __init__(self, message: str, code: str, retry_after_s: float | None, headers: dict[str, str]) -> None:
        super().__init__(message, code=code, retry_after_s=retry_after_s)
        self.headers = headers
        self.reached: Reached | None = None


@dataclass(frozen=True, slots=True)
class Reached:
    """One number that a call does not fit under."""

    scope: str
    kind: str
    """c (running calls), r (requests) or t (tokens)."""
    size_s: int
    number: int
    total: int
    wait_s: float | None
    """None: it will never fit."""

    @property
    def order(self) -> float:
        return inf if self.wait_s is None else self.wait_s


def refuse(reached: Reached, tokens: int, headers: HeaderPairs) -> LimitReached:
    """The error for a call that would have taken `tokens`."""
    code, sentence = _word(reached, tokens)
    sentence = sentence[0].upper() + sentence[1:]
    shown = {name.decode(): value.decode() for name, value in headers}
    if reached.wait_s is None:
        return _tell(reached, LimitReached(sentence, code, None, shown))
    seconds = max(1, ceil(reached.wait_s))
    if reached.kind == "t":  # room for one token comes sooner than room for this call
        shown["x-ratelimit-reset-tokens"] = str(seconds)
    return _tell(reached, LimitReached(f"{sentence} Try again in {seconds} s.", code, float(seconds), shown))


def _tell(reached: Reached, error: LimitReached) -> LimitReached:
    error.reached = reached
    return error


def _word(reached: Reached, tokens: int) -> tuple[str, str]:
    number, whom = reached.number, WHOM.get(reached.scope, f"this {reached.scope}")
    if reached.kind == "c":
        return (
            "concurrent_request_limit",
            f"{whom} may have {number} calls running at once and has as many.",
        )
    window = WINDOW_NAMES.get(reached.size_s, f"{reached.size_s} seconds")
    if reached.scope == PLAN and reached.size_s in _SPANS:
        return _word_quota(reached, tokens)
    if reached.scope == ANONYMOUS:
        return "anonymous_daily_limit", f"{number} calls a day without an API key are used up."
    if reached.kind == "r":
        return "rate_limit_exceeded", f"the limit of {number} requests per {window} for {whom} is used up."
    limit = f"the limit of {number} tokens per {window} for {whom}"
    if tokens > number:
        sentence = (
            f"this call reserves {tokens} tokens, more than {limit} can ever hold: ask for a shorter answer."
        )
    else:
        left = max(0, number - reached.total)
        sentence = f"this call reserves {tokens} tokens and {limit} has {left} left."
    return "token_rate_limit", sentence


def _word_quota(reached: Reached, tokens: int) -> tuple[str, str]:
    span, kind = _SPANS[reached.size_s], "request" if reached.kind == "r" else "token"
    window, left = WINDOW_NAMES[reached.size_s], max(0, reached.number - reached.total)
    sentence = f"{span} {kind} limit exceeded: the plan has {reached.number} {kind}s per {window}"
    if kind == "token":
        sentence += f", {left} are left, and this call reserves {tokens}"
    return f"{span}_quota_exceeded", f"{sentence}."
