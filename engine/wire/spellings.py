"""What dialects spell in two ways: keys (`inlineData`, `inline_data`) and base64 (with `+/` or with `-_`)."""

from typing import Any

MAX_DEPTH = 64
_HOLDING = (dict, list)


def camel_case(name: str) -> str:
    """`inline_data` is `inlineData`; a name without an underscore inside is itself."""
    if "_" not in name.strip("_"):
        return name
    first, *rest = name.split("_")
    return first + "".join(word[:1].upper() + word[1:] for word in rest)


def camel_case_keys(value: Any, verbatim: frozenset[str], depth: int = 0) -> Any:
    """The value with its keys in camel case at any depth, except below the keys that are `verbatim`."""
    if isinstance(value, list):
        return [camel_case_keys(item, verbatim, depth + 1) for item in value] if depth < MAX_DEPTH else value
    if not isinstance(value, dict) or depth > MAX_DEPTH:
        return value
    cased: dict[str, Any] = {}
    for written, inner in value.items():
        key = camel_case(written) if "_" in written else written
        holds = isinstance(inner, _HOLDING) and key not in verbatim
        cased[key] = camel_case_keys(inner, verbatim, depth + 1) if holds else inner
    return cased


def standard_base64(value: Any) -> Any:
    """Base64 of the URL alphabet in the standard one, with its padding."""
    if not isinstance(value, str):
        return None
    spelled = value.replace("-", "+").replace("_", "/")
    return spelled + "=" * (-len(spelled) % 4)
