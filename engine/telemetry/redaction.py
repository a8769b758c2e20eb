"""The last net under logged text: what has the shape of a secret becomes asterisks.

Secrets are typed (`engine.secret`) and do not reach a log; what libraries and providers say may quote one.
"""

import re

SHAPES: tuple[tuple[str, tuple[bytes, ...]], ...] = (
    (r"(gw_(?:live|test|staging|dev)_)[\w-]{6,}", (b"gw_",)),
    (r"(\b(?:bearer|basic)\s+)[^\s\"'\\,;]{8,}", (b"bearer", b"basic")),
    (r"(\bsk[-_])[\w-]{8,}", (b"sk-", b"sk_")),
    (r"(\baiza)[\w-]{20,}", (b"aiza",)),
    (r"(\bakia)[a-z0-9]{12,}", (b"akia",)),
    (r"(\beyj)[\w-]{8,}\.[\w-]+\.[\w-]*", (b"eyj",)),
    (r"(://[^\s/:@\"]*:)[^\s/@\"]+(?=@)", (b"@",)),
    (r"((?:password|passwd|secret|api[_-]?key|token|[?&]key)=)[^\s\"'&\\]+", (b"=",)),
    (r"((?:x-api-key|x-goog-api-key|api-key)[\"'\\]*\s*[:=,]\s*b?[\"'\\]*)[^\s\"'\\,;)]{4,}", (b"api-key",)),
)
"""A shape (its first group stays, case does not matter) and the literals of which a line with it has one: looking
for those first makes an ordinary line many times cheaper."""

_COMPILED = tuple((re.compile(shape.encode(), re.IGNORECASE), hints) for shape, hints in SHAPES)
# a dash, then a long run of small and capital letters and digits: a key, no model's name, no id of ours
_LONG_RUN = re.compile(rb"([-_])(?=[a-z0-9]*[A-Z])(?=[A-Za-z]*[0-9])(?=[A-Z0-9]*[a-z])[A-Za-z0-9]{20,}")
_MASK = rb"\1***"


def mask_line(line: bytes) -> bytes:
    """`line` with everything that looks like a secret masked."""
    lowered = line.lower()
    for shape, hints in _COMPILED:
        for hint in hints:
            if hint in lowered:
                line = shape.sub(_MASK, line)
                break
    return _LONG_RUN.sub(_MASK, line)


def mask_text(text: str) -> str:
    """The same for text; what is not UTF-8 is replaced."""
    return mask_line(text.encode("utf-8", "replace")).decode("utf-8", "replace")
