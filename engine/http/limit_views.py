"""What is left of everything that counts for a caller, in the predecessor's flat fields."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from engine.config.snapshot import Limit
from engine.http.limit_bodies import WINDOW_SIZE_S
from engine.storage.key_usage import SPANS
from engine.storage.own_usage import Window

KINDS = ("requests", "tokens")
Windows = Mapping[str, Window]


@dataclass(frozen=True, slots=True)
class Counted:
    """One limit that counts for a caller, and what was used of it."""

    scope: str
    limit: Limit
    used: Windows

    def find_number(self, kind: str, span: str) -> int | None:
        numbers: Mapping[int, int] = getattr(self.limit, kind)
        return numbers.get(SPANS[span])

    def count_left(self, kind: str, span: str) -> int:
        return (self.find_number(kind, span) or 0) - int(getattr(self.used[span], kind))


def show_counted(each: Counted) -> dict[str, Any]:
    """One of them, as it is."""
    return {"scope": each.scope, "limits": show_limit(each.limit), "usage": show_windows(each.used)}


def show_limit(limit: Limit) -> dict[str, int | None]:
    requests = {f"requests_per_{span}": limit.requests.get(seconds) for span, seconds in SPANS.items()}
    tokens = {f"tokens_per_{span}": limit.tokens.get(seconds) for span, seconds in SPANS.items()}
    return {**requests, **tokens, "burst_limit": limit.burst, "concurrency_limit": limit.concurrency}


def show_windows(used: Windows) -> dict[str, int]:
    return {f"{kind}_per_{span}": getattr(used[span], kind) for span in SPANS for kind in KINDS}


def show_tightest(counted: Sequence[Counted], otherwise: Windows) -> dict[str, Any]:
    """For each window the limit that has least left, what was used of it, and when more of it is free again.

    Where nothing is limited, what was used is that of `otherwise`.
    """
    limits: dict[str, int | None] = {}
    usage: dict[str, int] = {}
    resets: dict[str, str | None] = {}
    for span, seconds in SPANS.items():
        for kind in KINDS:
            tightest = _find_tightest(counted, kind, span)
            window = (tightest.used if tightest else otherwise)[span]
            limits[f"{kind}_per_{span}"] = tightest.find_number(kind, span) if tightest else None
            usage[f"{kind}_per_{span}"] = getattr(window, kind)
            if tightest is not None or span not in resets:
                resets[span] = (
                    (window.oldest + timedelta(seconds=seconds)).isoformat() if window.oldest else None
                )
    return {
        "current_limits": {
            **limits,
            "burst_limit": _find_least(each.limit.burst for each in counted),
            "concurrency_limit": _find_least(each.limit.concurrency for each in counted),
            "window_size_seconds": WINDOW_SIZE_S,
        },
        "current_usage": usage,
        "reset_times": resets,
    }


def _find_tightest(counted: Sequence[Counted], kind: str, span: str) -> Counted | None:
    limited = [each for each in counted if each.find_number(kind, span) is not None]
    return min(limited, key=lambda each: each.count_left(kind, span), default=None)


def _find_least(numbers: Any) -> int | None:
    return min((number for number in numbers if number is not None), default=None)
