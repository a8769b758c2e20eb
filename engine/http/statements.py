"""Statements: what was used and what it cost, for who pays and for administrators; invoices; audits of prices."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from engine.billing.tariffs import find_tariff, list_books, list_unpriced
from engine.call import Caller
from engine.config.snapshot import Price, Snapshot
from engine.errors import NotFound, Unpriced
from engine.http.csv_answers import wants_csv, write_csv, write_exact, write_row, write_shown
from engine.http.endpoints import Answer, Ask, Route
from engine.http.keys import find_owner
from engine.http.reading import Reader
from engine.http.statement_queries import (
    ALL_GROUPS,
    OWN_GROUPS,
    AnalyticsQuery,
    AnyUsageQuery,
    InvoiceQuery,
    UsageQuery,
)
from engine.policies.access import to_look
from engine.storage.invoices import Invoice, list_months, number_invoice, read_invoice
from engine.storage.teams import find_member
from engine.storage.usage_sums import Span, sum_usage

_SUMS = ("calls", "errors", "input_tokens", "cached_tokens", "output_tokens", "cost_usd")
_INVOICE_COLUMNS = ("section", "name", "count", "amount_usd", "exact_usd")
_NAMES = {"key": "key_id", "user": "user_id", "team": "team_id"}


class StatementRoutes:
    def __init__(self, reader: Reader, read_snapshot: Callable[[], Snapshot]) -> None:
        self._reader, self._read_snapshot = reader, read_snapshot

    def list(self) -> Sequence[Route]:
        own, everybody = to_look("usage:read"), to_look("any_usage:read")
        return (
            Route("GET", "/user/usage", self.show_own, "What you used, by day, model or key.",
                  query=UsageQuery, need=own),
            Route("GET", "/user/invoices", self.list_invoices, "Your months that have an invoice.", need=own),
            Route("GET", "/user/invoices/{id}", self.show_invoice, "An invoice of yours, by number or month.",
                  query=InvoiceQuery, need=own),
            Route("GET", "/teams/{team_id}/invoices", self.list_invoices, "A team's months that have an invoice.",
                  need=to_look("teams:read")),
            Route("GET", "/teams/{team_id}/invoices/{id}", self.show_invoice, "A team's invoice, by number or month.",
                  query=InvoiceQuery, need=to_look("teams:read")),
            Route("GET", "/admin/usage", self.show_any, "What anybody used.", query=AnyUsageQuery, need=everybody),
            Route("GET", "/admin/analytics", self.analyse, "Totals, days, models and users of a span of time.",
                  query=AnalyticsQuery, need=everybody),
            Route("GET", "/admin/model-usage-analytics", self.analyse_models,
                  "Calls, tokens, cost and margin of each model at each provider.",
                  query=AnalyticsQuery, need=everybody),
            Route("GET", "/admin/pricing-audit", self.audit_prices,
                  "Models without a price, books, charges below cost, and what calls were priced by.",
                  query=AnalyticsQuery, need=to_look("pricing:read")),
        )  # fmt: skip

    # --- usage

    async def show_own(self, ask: Ask) -> Answer:
        query: UsageQuery = ask.query
        span = query.find_span(
            user_id=ask.caller.user_id, key_id=query.key_id, model=query.model, tags=query.find_tags()
        )
        return await self._show(ask, span, query.find_groups(OWN_GROUPS))

    async def show_any(self, ask: Ask) -> Answer:
        query: AnyUsageQuery = ask.query
        span = query.find_span(
            user_id=query.user_id,
            team_id=query.team_id,
            key_id=query.key_id,
            model=query.model,
            tags=query.find_tags(),
        )
        return await self._show(ask, span, query.find_groups(ALL_GROUPS))

    async def _show(self, ask: Ask, span: Span, groups: Sequence[str]) -> Answer:
        rows, total = await self._reader.read(self._sum(span, groups, ask.query.limit), self._sum(span, ()))
        if wants_csv(ask, ask.query.format):
            return write_csv(rows, (*(_NAMES.get(name, name) for name in groups), *_SUMS), "usage")
        return Answer(
            {
                "object": "usage",
                "from": span.since.isoformat(),
                "until": span.until.isoformat(),
                "group_by": list(groups),
                "data": [write_row(row) for row in rows],
                "total": write_row(total[0]),
            }
        )

    # --- invoices

    async def list_invoices(self, ask: Ask) -> Answer:
        payer = await self._find_payer(ask)
        (months,) = await self._reader.read(lambda connection: list_months(connection, payer))
        rows = [{"id": number_invoice(payer, month), **_name_month(month)} for month in months]
        return Answer({"object": "list", "data": rows})

    async def show_invoice(self, ask: Ask) -> Answer:
        payer, name = await self._find_payer(ask), ask.names["id"]
        (months,) = await self._reader.read(lambda connection: list_months(connection, payer))
        month = next((each for each in months if name in (each, number_invoice(payer, each))), None)
        if month is None:
            raise NotFound("there is no such invoice", code="invoice_not_found")
        (invoice,) = await self._reader.read(lambda connection: read_invoice(connection, payer, month))
        if wants_csv(ask, ask.query.format):
            return write_csv(list(list_cells(invoice)), _INVOICE_COLUMNS, f"invoice-{invoice.number}")
        return Answer(describe_invoice(invoice))

    async def _find_payer(self, ask: Ask) -> str:
        """Whose invoices are asked for: one's own, or those of a team that one leads, as for its payments."""
        team_id = ask.names.get("team_id")
        if team_id is None:
            return find_payer(ask.caller)
        user_id = find_owner(ask.caller)
        await self._reader.read(
            lambda connection: find_member(connection, team_id, user_id, "admin", ended_too=True)
        )
        return f"team:{team_id}"

    # --- for administrators

    async def analyse(self, ask: Ask) -> Answer:
        span, limit = ask.query.find_span(), ask.query.limit
        total, days, models, users = await self._reader.read(
            self._sum(span, (), costs=True),
            self._sum(span, ("day",), 400, costs=True),
            self._sum(span, ("model",), limit, costs=True),
            self._sum(span, ("user",), limit, costs=True),
        )
        if wants_csv(ask, ask.query.format):
            return write_csv(
                days, ("day", *_SUMS, "provider_cost_usd", "unpriced_calls", "average_ms"), "analytics"
            )
        return Answer(
            {
                "object": "analytics",
                "from": span.since.isoformat(),
                "until": span.until.isoformat(),
                "total": _add_margin(total[0]),
                "days": [_add_margin(row) for row in days],
                "models": [_add_margin(row) for row in models],
                "users": [_add_margin(row) for row in users],
            }
        )

    async def analyse_models(self, ask: Ask) -> Answer:
        span = ask.query.find_span()
        (rows,) = await self._reader.read(self._sum(span, ("model", "provider"), ask.query.limit, costs=True))
        if wants_csv(ask, ask.query.format):
            columns = ("model", "provider", *_SUMS, "provider_cost_usd", "unpriced_calls", "average_ms")
            return write_csv(rows, columns, "model-usage")
        return Answer({"object": "list", "data": [_add_margin(row) for row in rows]})

    async def audit_prices(self, ask: Ask) -> Answer:
        snapshot, span = self._read_snapshot(), ask.query.find_span()
        (rows,) = await self._reader.read(self._sum(span, ("model", "book"), ask.query.limit, costs=True))
        return Answer(
            {
                "object": "pricing_audit",
                "without_price": [
                    {"model": model.name, "provider": target.provider.name, "sent": target.model}
                    for model, target in list_unpriced(snapshot)
                ],
                "books": [
                    {
                        "name": book.prices,
                        "from": book.from_,
                        "until": book.until,
                        "entries": len(book.models),
                    }
                    for book in list_books(snapshot)
                ],
                "below_cost": list(list_losses(snapshot, time.time())),
                "used": [_add_margin(row) for row in rows],
            }
        )

    # --- reading

    def _sum(self, span: Span, groups: Sequence[str], limit: int = 1, *, costs: bool = False) -> Any:
        return lambda connection: sum_usage(connection, span, groups, costs=costs, limit=limit)


def find_payer(caller: Caller) -> str:
    """A person's own invoices are those of what the person pays, whatever key asks."""
    return f"user:{caller.user_id}"


def describe_invoice(invoice: Invoice) -> dict[str, Any]:
    """Six places for people, half to even; all of them beside it."""
    return {
        "object": "invoice",
        "id": invoice.number,
        "payer": invoice.payer,
        **_name_month(invoice.month),
        "currency": "USD",
        "opening_usd": write_shown(invoice.opening_usd),
        "closing_usd": write_shown(invoice.closing_usd),
        "exact": {
            "opening_usd": write_exact(invoice.opening_usd),
            "closing_usd": write_exact(invoice.closing_usd),
        },
        "movements": [
            {
                "kind": kind,
                "count": count,
                "amount_usd": write_shown(amount),
                "exact_usd": write_exact(amount),
            }
            for kind, amount, count in invoice.movements
        ],
        "lines": [
            {
                **write_row(line),
                "cost_usd": write_shown(line["cost_usd"]),
                "exact_usd": write_exact(line["cost_usd"]),
            }
            for line in invoice.lines
        ],
    }


def list_cells(invoice: Invoice) -> Iterator[dict[str, Any]]:
    yield _write_line("balance", "opening", None, invoice.opening_usd)
    for kind, amount, count in invoice.movements:
        yield _write_line("movements", kind, count, amount)
    yield _write_line("balance", "closing", None, invoice.closing_usd)
    for line in invoice.lines:
        yield _write_line("usage", line["model"], line["calls"], line["cost_usd"])


def _write_line(section: str, name: str, count: int | None, amount: Any) -> dict[str, Any]:
    return {"section": section, "name": name, "count": count, "amount_usd": amount, "exact_usd": amount} | {
        "amount_usd": write_shown(amount)
    }


def _name_month(month: str) -> dict[str, Any]:
    current = f"{datetime.now(UTC):%Y-%m}"
    return {"month": month, "status": "open" if month == current else "final"}


def _add_margin(row: Mapping[str, Any]) -> dict[str, Any]:
    """What was charged above what providers bill; it may be below zero."""
    return {**write_row(row), "margin_usd": write_exact(row["cost_usd"] - row["provider_cost_usd"])}


def list_losses(snapshot: Snapshot, now: float) -> Iterator[dict[str, str]]:
    """Classes of tokens that are charged below what the provider costs, by the books in force."""
    for model in snapshot.models.values():
        for target in model.targets:
            try:
                tariff = find_tariff(snapshot, model, target, now)
            except Unpriced:
                continue
            if tariff.margin is None and tariff.price is not tariff.cost:
                for name in ("input", "output", "cached_input"):
                    charged = _rate(tariff.price, name) * (1 + tariff.markup)
                    if charged < _rate(tariff.cost, name):
                        yield {"model": model.name, "target": target.name, "class": name, "book": tariff.book}


def _rate(price: Price, name: str) -> Any:
    return getattr(price, name)
