"""The last look before a template: no secret may be where it could be rendered."""

from collections.abc import Mapping
from typing import Any

from engine.secret import Secret
from engine.wire.expressions import TemplateFailed


def refuse_secrets(value: Any) -> None:
    """Raise TemplateFailed when a secret is anywhere in the value."""
    if value.__class__ is str:
        return
    if isinstance(value, Secret):
        raise TemplateFailed("a template may not see a secret")
    if isinstance(value, Mapping):
        for item in value.values():
            refuse_secrets(item)
    elif isinstance(value, list | tuple):
        for item in value:
            refuse_secrets(item)
