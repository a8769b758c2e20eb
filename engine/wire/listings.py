"""A provider's own list of models, read by declared paths: rows, and of each row its id, name and lengths.

A field is a JSONPath within the row, or a template over `row` where an id has to be put together or trimmed.
"""

from collections.abc import Callable, Mapping
from typing import Any

from engine.wire.paths import PathRefused, compile_path, compile_rows
from engine.wire.templates import TemplateRefused, compile_template

Row = dict[str, Any]
FIELDS = ("id", "name", "context_length", "output_length")


class ListingRefused(ValueError):
    """A field that cannot be compiled; `field` is its name."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


def compile_listing(raw: Mapping[str, str]) -> Callable[[Any], list[Row]]:
    """A reader of the provider's answer. Rows without an id are left out."""
    items = _compile("items", compile_rows, raw.get("items", "$.data[*]"))
    fields = {name: _compile(name, _compile_field, raw[name]) for name in FIELDS if raw.get(name)}

    def read(doc: Any) -> list[Row]:
        rows = ({name: field(row) for name, field in fields.items()} for row in items(doc))
        return [
            {name: value for name, value in row.items() if value is not None} for row in rows if row.get("id")
        ]

    return read


def _compile(field: str, compile_one: Callable[[str], Any], text: str) -> Any:
    try:
        return compile_one(text)
    except (PathRefused, TemplateRefused) as refused:
        raise ListingRefused(field, str(refused)) from refused


def _compile_field(text: str) -> Callable[[Any], Any]:
    if "{{" not in text:
        return compile_path(text)
    render: Callable[[Any], Any] = compile_template(text, ("row",))
    return render
