"""Statements as JSON or CSV: exact amounts as text, and no cell that a spreadsheet would run."""

import csv
import io
from collections.abc import Mapping, Sequence
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any

from engine.http.endpoints import Answer, Ask

CSV = b"text/csv; charset=utf-8"
_SHOWN = Decimal("0.000001")
_RUNS = ("=", "+", "-", "@", "\t", "\r")


def wants_csv(ask: Ask, format: str | None) -> bool:
    """What `format` says, else what the client accepts."""
    return format == "csv" if format else ask.find_header(b"accept").startswith("text/csv")


def write_csv(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], name: str) -> Answer:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(columns)
    writer.writerows([_write_cell(row.get(column)) for column in columns] for row in rows)
    kept = (b"content-disposition", f'attachment; filename="{name}.csv"'.encode())
    return Answer(text.getvalue().encode(), headers=(kept,), media_type=CSV)


def _write_cell(value: Any) -> str:
    if isinstance(value, Decimal):
        return write_exact(value)
    if value is None:
        return ""
    text = str(value)
    return f"'{text}" if isinstance(value, str) and text.startswith(_RUNS) else text


def write_exact(amount: Decimal) -> str:
    """All its digits, never an exponent."""
    return format(amount.normalize(), "f") if amount else "0"


def write_shown(amount: Decimal) -> str:
    """Six places, half to even: for people."""
    return format(amount.quantize(_SHOWN, ROUND_HALF_EVEN), "f")


def write_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row for JSON: amounts as exact text."""
    return {name: write_exact(value) if isinstance(value, Decimal) else value for name, value in row.items()}
