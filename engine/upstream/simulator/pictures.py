"""A small picture that follows from its description: a real PNG of one colour."""

import struct
import zlib

from engine.upstream.simulator.text import mix

_SIZE = 8


def draw_png(text: str, number: int = 0) -> bytes:
    """The bytes of the picture."""
    colour = (mix(text, number) & 0xFFFFFF).to_bytes(3, "big")
    rows = b"".join(b"\0" + colour * _SIZE for _ in range(_SIZE))
    header = struct.pack(">IIBBBBB", _SIZE, _SIZE, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_write_chunk(name, data) for name, data in chunks)


def _write_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
