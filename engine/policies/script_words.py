"""What goes to the script of the shared limits and what comes back, in its words. Pure."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import orjson

from engine.policies.refusals import HeaderPairs, name_facts
from engine.policies.shelf import Entries
from engine.storage.redis import Word, pack_words

if TYPE_CHECKING:
    from engine.config.snapshot import Limit


SERVERS_CLOCK = 0


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


class Told:
    """The scopes of a call in the script's words, packed once: what is sent for each call differs in two words only."""

    __slots__ = ("back", "front", "generation", "hashes", "hashes_packed", "leases", "leases_packed", "size")

    def __init__(
        self,
        scopes: "Sequence[tuple[str, str, Limit]]",
        shapes: "Sequence[Shape]",
        prefix: str,
        generation: str,
        lease_us: int,
    ) -> None:
        self.generation = generation
        prefix += generation
        hashes = [f"{prefix}:{scope}:{identity}" for scope, identity, _ in scopes]
        self.leases = [
            f"+{scope}:{identity}" for scope, identity, limit in scopes if limit.concurrency is not None
        ]
        self.hashes = len(hashes)
        self.hashes_packed, self.leases_packed = (
            pack_words(*hashes),
            pack_words(*map(prefix.__add__, self.leases)),
        )
        keys = self.hashes + len(self.leases)
        words = [word for shape in shapes for word in shape.words]
        self.front = (
            pack_words(keys) + self.hashes_packed + self.leases_packed + pack_words("take", SERVERS_CLOCK)
        )
        self.back = pack_words(lease_us, *words)
        self.size = keys + 6 + len(words)

    def pack_take(self, tokens: int, lease: bytes) -> bytes:
        number = b"%d" % tokens
        return b"%b$%d\r\n%b\r\n$%d\r\n%b\r\n%b" % (
            self.front, len(number), number, len(lease), lease, self.back,
        )  # fmt: skip


def write_entries(entries: Entries) -> bytes:
    """What a limiter counted, for the script: ages in microseconds."""
    return orjson.dumps(
        [(name, [(int(age_s * 1e6), count) for age_s, count in pairs]) for name, pairs in entries]
    )


def write_headers(facts: Sequence[int]) -> HeaderPairs:
    """Number, remaining and reset of the tightest window, for requests and then for tokens; -1: there is none."""
    headers: HeaderPairs = []
    if facts[0] >= 0:
        headers += name_facts("requests", facts[0], facts[1], facts[2])
    if facts[3] >= 0:
        headers += name_facts("tokens", facts[3], facts[4], facts[5])
    return headers
