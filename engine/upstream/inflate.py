"""Decodes gzip and deflate piece by piece, never more than `PIECE` bytes of output at a time."""

import zlib

from engine.errors import UpstreamFailure

PIECE = 256 * 1024
_AUTOMATIC = 47  # gzip or zlib, whichever the first bytes say
_RAW = -15


class Inflater:
    """One body. `feed` takes what arrived, `take` gives decoded pieces until it gives b""."""

    __slots__ = ("_decoder", "_left", "_started")

    def __init__(self) -> None:
        self._decoder = zlib.decompressobj(_AUTOMATIC)
        self._left = b""
        self._started = False

    def feed(self, raw: bytes) -> None:
        self._left += raw

    def take(self) -> bytes:
        """Return the next piece, or b"" when more input is needed."""
        while self._left:
            if not self._started:
                self._begin()
            try:
                out = self._decoder.decompress(self._left, PIECE)
            except zlib.error as error:
                raise UpstreamFailure(
                    "broken_stream", f"the compressed answer is damaged: {error}"
                ) from error
            self._left = self._decoder.unconsumed_tail
            if self._decoder.eof:  # a gzip body may be several members, one after another
                self._left = self._decoder.unused_data
                self._decoder = zlib.decompressobj(_AUTOMATIC)
                self._started = False
            if out:
                return out
        return b""

    def finish(self) -> None:
        """Raise unless the compressed body ended where it should."""
        if self._started and not self._decoder.eof:
            raise UpstreamFailure("broken_stream", "the compressed answer ended in the middle")

    def _begin(self) -> None:
        first = self._left[0]
        if first != 0x1F and first & 0x0F != 8:  # neither gzip nor a zlib header: bare deflate
            self._decoder = zlib.decompressobj(_RAW)
        self._started = True


def choose_inflater(encoding: bytes | None) -> Inflater | None:
    """Return the decoder for a content-encoding; one that cannot be decoded is a broken answer."""
    word = (encoding or b"identity").strip().lower()
    if word in (b"identity", b""):
        return None
    if word in (b"gzip", b"x-gzip", b"deflate"):
        return Inflater()
    raise UpstreamFailure("broken_stream", f"the answer is encoded as {word!r}, which was not asked for")
