"""What a caller is told when a limit says no, and the x-ratelimit-* headers. Pure; whoever counted knows the facts."""

from dataclasses import dataclass
from math import ceil, inf

from engine.errors import LimitExceeded

HeaderPairs = list[tuple[bytes, bytes]]
WINDOW_NAMES = {1: "second", 60: "minute", 3600: "hour", 86400: "day"}
HEADER_NAMES = {
    kind: tuple(f"x-ratelimit-{fact}-{kind}".encode() for fact in ("limit", "remaining", "reset"))
    for kind in ("requests", "tokens")
}
WHOM = {
    "key": "this key",
    "user": "this user",
    "team": "this team",
    "model": "this model",
    "ip": "this address",
    "system": "the whole gateway",
}


class LimitReached(LimitExceeded):
    """A limit says no. `retry_after_s` is whole seconds; None means that this call can never fit."""

    def __init__(self, message: str, code: str, retry_after_s: float | None, headers: dict[str, str]) -> None:
        super().__init__(message, code=code, retry_after_s=retry_after_s)
        self.headers = headers


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
        return LimitReached(sentence, code, None, shown)
    seconds = max(1, ceil(reached.wait_s))
    if reached.kind == "t":  # room for one token comes sooner than room for this call
        shown["x-ratelimit-reset-tokens"] = str(seconds)
    return LimitReached(f"{sentence} Try again in {seconds} s.", code, float(seconds), shown)


def _word(reached: Reached, tokens: int) -> tuple[str, str]:
    number, whom = reached.number, WHOM.get(reached.scope, f"this {reached.scope}")
    if reached.kind == "c":
        return (
            "concurrent_request_limit",
            f"{whom} may have {number} calls running at once and has as many.",
        )
    window = WINDOW_NAMES.get(reached.size_s, f"{reached.size_s} seconds")
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
