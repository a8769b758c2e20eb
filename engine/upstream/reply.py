"""What a caller of an upstream holds: where it asks (`Origin`), how (`write_head`), what it gets (`Reply`).

A `Reply` is one answer past its head. It is read by one task, closed in every case, and raises only
`UpstreamFailure`.
"""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterable
from typing import NamedTuple, Protocol

from engine.errors import UpstreamFailure
from engine.upstream.inflate import Inflater

MAX_UNREAD = 256 * 1024
"""Bytes of a body that may wait unread before the upstream is made to wait."""
MAX_HEAD = 64 * 1024
"""Bytes of an answer's head (or of trailers) that are taken."""


class Origin(NamedTuple):
    """The key of a connection pool. `host` is a name or a bare address (no brackets)."""

    scheme: str
    host: str
    port: int
    allow_private: bool = False
    http2: bool = False

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"

    @property
    def authority(self) -> str:
        """The value of the Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        usual = {"http": 80, "https": 443}.get(self.scheme)
        return host if self.port == usual else f"{host}:{self.port}"


class StreamedBody(Protocol):
    """A request's body that is not there as a whole."""

    @property
    def length(self) -> int | None:
        """None: unknown, it is sent in chunks."""

    def pieces(self) -> AsyncIterator[bytes]: ...


def write_head(method: str, origin: Origin, target: str, headers: Iterable[tuple[str, str]]) -> bytes:
    """Return the part of a request that callers cache: its line and headers, each ended by CRLF.

    `content-length` and the blank line are added when it is sent. Raises ValueError on a value that would
    break out of its line.
    """
    own = [("host", origin.authority), ("accept-encoding", "identity"), ("connection", "keep-alive")]
    given = list(headers)
    names = {name.lower() for name, _ in given}
    lines = [f"{method} {target} HTTP/1.1"]
    lines += [
        f"{name}: {value}" for name, value in (*own, *given) if (name, value) in given or name not in names
    ]
    if any(ch in line for line in lines for ch in "\r\n\0") or " " in target:
        raise ValueError("a header or the path of an upstream request holds a line break or a blank")
    return "".join(f"{line}\r\n" for line in lines).encode("latin-1")


class Reply(ABC):
    """One answer, already past its head. Header names are as they came."""

    __slots__ = ("complete", "headers", "inflater", "status")

    status: int
    headers: list[tuple[bytes, bytes]]
    complete: bool
    """The whole body has arrived (some of it may still be unread)."""
    inflater: Inflater | None

    def header(self, name: bytes) -> bytes | None:
        """Return the first header of that (lower-case) name."""
        length = len(name)
        for key, value in self.headers:
            if len(key) == length and key.lower() == name:  # few are asked for: far fewer than there are
                return value
        return None

    async def read(self) -> bytes:
        """Return all that has arrived since the last read, waiting for the first of it; b"" at the end.

        A compressed body comes decoded. After a cut the bytes before it are returned first.
        """
        if self.inflater is not None:
            return await self._read_inflated(self.inflater)
        return await self._read_raw()

    async def read_all(self, limit: int) -> bytes:
        """Return the rest of the body; more than `limit` bytes (decoded) are a `broken_stream`."""
        pieces: list[bytes] = []
        size = 0
        while piece := await self.read():
            size += len(piece)
            if size > limit:
                self.close()
                raise UpstreamFailure("broken_stream", f"the answer is larger than {limit} bytes")
            pieces.append(piece)
        return b"".join(pieces)

    @abstractmethod
    def set_clock(self, name: str, within_s: float | None, idle_s: float | None = None) -> None:
        """Replace the clock: waiting reads may last `within_s` together, and `idle_s` without any byte.

        Time counts only while a read waits. What runs out is `UpstreamFailure("timeout")` with the clock
        `name` or "idle".
        """

    @abstractmethod
    def close(self) -> None:
        """Let go of the answer: an incomplete one takes its connection with it, at once."""

    @abstractmethod
    async def _read_raw(self) -> bytes:
        """`read` before decoding."""

    async def _read_inflated(self, inflater: Inflater) -> bytes:
        try:
            while not (piece := inflater.take()):
                raw = await self._read_raw()
                if not raw:
                    inflater.finish()
                    return b""
                inflater.feed(raw)
        except UpstreamFailure:
            self.close()
            raise
        return piece
