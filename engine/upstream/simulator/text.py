"""The canonical text: to one conversation every model says the same, so that a joined answer can be compared.

A token is a word with the space before it. Counting is by words: a test can compute usage with `split()`.
"""

import re
import zlib

_VOCABULARY = (
    "the of and to in that it is was for on are as with his they at be this from have or by one had not "
    "but what all were when we there can an your which their said if do will each about how up out them "
    "then she many some so these would other into has more her two like him see time could no make than "
    "first been its who now people my made over did down only way find use may water long little very "
    "after words called just where most know river garden window summer letter silver answer morning "
    "distant bridge market quiet harbour lantern copper meadow signal thunder"
).split()
_SIZE = 4096
_FRAGMENT = 6
_WORDS = re.compile(r"\s*\S+(?:\s+\Z)?|\s+")


def _fill_ring() -> list[str]:
    """A fixed sequence of words; twice its length, so that a slice never has to wrap."""
    ring, state = [], 20240229
    for _ in range(_SIZE):
        state = (state * 1103515245 + 12345) & 0x7FFFFFFF
        ring.append(" " + _VOCABULARY[(state >> 12) % len(_VOCABULARY)])
    return ring * 2


_RING = _fill_ring()
_OTHER_RING = [word.title() for word in _RING]


def pick_tokens(start: int, count: int, *, other: bool = False) -> list[str]:
    """`count` tokens of the text that begins at `start`; shorter texts are beginnings of longer ones."""
    ring = _OTHER_RING if other else _RING
    start %= _SIZE
    if count <= _SIZE:
        tokens = ring[start : start + count]
    else:
        lap = ring[start : start + _SIZE]
        tokens = (lap * (count // _SIZE + 1))[:count]
    if tokens:
        tokens[0] = tokens[0][1:]
    return tokens


def pick_bytes(start: int, size: int, *, other: bool = False) -> list[str]:
    """As many tokens as it takes to fill `size` bytes."""
    lap = sum(len(word) for word in _RING[:_SIZE])
    tokens = pick_tokens(start, (size // lap + 1) * _SIZE, other=other)
    total = 0
    for count, token in enumerate(tokens, 1):
        total += len(token)
        if total >= size:
            return tokens[:count]
    return tokens


def split_tokens(text: str) -> list[str]:
    """Words with the space before them; joined they are the text again."""
    return _WORDS.findall(text)


def cut_fragments(text: str) -> list[str]:
    """Pieces of six characters, as JSON is streamed."""
    return [text[at : at + _FRAGMENT] for at in range(0, len(text), _FRAGMENT)]


def count_words(text: str) -> int:
    return len(text.split())


def mix(text: str, seed: int = 0) -> int:
    """A number that is the same for the same text on every machine."""
    return zlib.crc32(text.encode("utf-8", "surrogatepass"), seed)
