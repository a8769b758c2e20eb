"""What goes to the script of the shared limits and what comes back, in its words. Pure."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import orjson

from engine.policies.refusals import HeaderPairs, name_facts
from engine.policies.shelf import Entries
from engine.storage.redis import Word

if TYPE_CHECKING:
    from engine.config.snapshot import Limit


class Shape:
    """A limit in the script's words."""

    __slots__ = ("limit", "words")

    def __init__(self, limit: "Limit") -> None:
        self.limit = limit
        """Held, so that its id stays its own."""
        requests = dict(limit.requests)
        if limit.burst is not None:
            requests[1] = min(limit.burst, requests.get(1, limit.burst))  # nosec B113 # a dict
        checks: list[list[Any]] = [[f"r{size_s}", number] for size_s, number in sorted(requests.items())]
        if limit.burst is not None and 1 not in limit.requests:
            checks[0].append(True)
        checks += [[f"t{size_s}", number] for size_s, number in sorted(limit.tokens.items())]
        windows = " ".join(name for name, *_ in checks)
        concurrency: Word = "" if limit.concurrency is None else limit.concurrency
        self.words: tuple[Word, ...] = (windows, orjson.dumps(checks), concurrency)


def write_entries(entries: Entries) -> bytes:
    """What a limiter counted, for the script: ages in microseconds."""
    return orjson.dumps(
        [(name, [(int(age_s * 1e6), count) for age_s, count in pairs]) for name, pairs in entries]
    )


def write_headers(facts: Sequence[int]) -> HeaderPairs:
    """Number, remaining and reset of the tightest window, for requests and then for tokens; -1: there is none."""
    headers: HeaderPairs = []
    for kind, start in (("requests", 0), ("tokens", 3)):
        if facts[start] >= 0:
            headers += name_facts(kind, *facts[start : start + 3])
    return headers
