"""The last look before a template: no secret may be where it could be rendered."""

from collections.abc import Mapping
from typing import Any

from engine.secret import Secret
from engine.wire.expressions import TemplateFailed

_HARMLESS = frozenset((str, bool, int, float, type(None)))


def refuse_secrets(value: Any) -> None:
    """Raise TemplateFailed when a secret is anywhere in the value."""
    if value.__class__ in _HARMLESS:
        return
    if isinstance(value, Secret):
        raise TemplateFailed("a template may not see a secret")
    if isinstance(value, Mapping):
        for item in value.values():
            if item.__class__ not in _HARMLESS:
                refuse_secrets(item)
    elif isinstance(value, list | tuple):
        for item in value:
            if item.__class__ not in _HARMLESS:
                refuse_secrets(item)
