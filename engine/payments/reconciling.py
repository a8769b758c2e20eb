"""Stripe's books beside ours: events that never came, payments of which one side knows nothing, amounts that differ.

What differs is a finding: a row that stays until the difference is gone. Events that never came may be done as if they
had: the same handler, the same claim. What is younger than ten minutes may still be on its way and is left alone.
"""

import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, LiteralString

from psycopg.types.json import Jsonb

from engine.errors import DependencyAway, GatewayError, NotFound
from engine.payments.handling import EventHandler
from engine.payments.inbox import Inbox
from engine.payments.interfaces import Object, Stripe
from engine.payments.objects import read_id, read_mark
from engine.storage.payment_rows import Row, fetch_rows
from engine.storage.plan_terms import list_disagreeing
from engine.storage.postgres import Connection, Database

log = logging.getLogger(__name__)

STILL_COMING_S = 600
KEEP_SEALED_DAYS = 30
_BATCH = 500
_KEEP: LiteralString = (
    "INSERT INTO payment_findings AS f (kind, subject, details) VALUES (%s, %s, %s)"
    " ON CONFLICT (kind, subject) DO UPDATE SET details = excluded.details, seen_at = now(), resolved_at = NULL,"
    " found_at = CASE WHEN f.resolved_at IS NULL THEN f.found_at ELSE now() END"
)
_RESOLVE: LiteralString = (
    "UPDATE payment_findings SET resolved_at = now() WHERE resolved_at IS NULL AND seen_at < %s"
    " AND (details->>'at')::bigint >= %s"
)


@dataclass(frozen=True, slots=True)
class Finding:
    kind: str
    subject: str
    at: int
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Report:
    """What a comparison looked at and found. `replayed` are events that were missing and are done now."""

    since: int
    events: int = 0
    intents: int = 0
    replayed: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    def as_document(self) -> dict[str, Any]:
        found = [{"kind": f.kind, "subject": f.subject, "at": f.at, **f.details} for f in self.findings]
        return {
            "since": self.since, "events": self.events, "payment_intents": self.intents,
            "replayed": self.replayed, "findings": found,
        }  # fmt: skip


class Reconciler:
    def __init__(
        self,
        database: Database,
        stripe: Stripe,
        inbox: Inbox,
        handler: EventHandler,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database, self._stripe, self._inbox = database, stripe, inbox
        self._types, self._clock = frozenset(handler.types), clock
        self.open_findings = 0
        """What no comparison has resolved, as this process read it last."""

    async def compare(self, since: int, *, replay: bool) -> Report:
        """Raises DependencyAway when Stripe or the database is away: what was found until then is not written."""
        report = Report(since)
        began = await self._read_clock()
        until = int(self._clock()) - STILL_COMING_S
        await self._compare_events(report, until, replay=replay)
        await self._compare_intents(report, until)
        await self._compare_charges(report, until)
        await self._compare_plans(report)
        await self._write(report, began)
        return report

    # --- events

    async def _compare_events(self, report: Report, until: int, *, replay: bool) -> None:
        theirs: dict[str, Object] = {}
        async for event in self._walk("events", report.since, until):
            report.events += 1
            if event["type"] in self._types:
                theirs[str(event["id"])] = event
        known = await self._find_known(list(theirs))
        missing = [event for name, event in theirs.items() if name not in known]
        for event in sorted(missing, key=lambda each: (each["created"], each["id"])):
            await self._note_missing(report, event, replay=replay)
        for row in await self._find_ours(report.since, until):
            if row["event_id"] not in theirs and row["type"] in self._types:
                report.findings.append(
                    Finding("event_unknown", row["event_id"], row["created"], {"type": row["type"]})
                )

    async def _note_missing(self, report: Report, event: Object, *, replay: bool) -> None:
        facts = {"type": event["type"]}
        if replay:
            try:
                await self._inbox.take(event, "reconcile")
            except DependencyAway:
                raise
            except GatewayError as problem:
                facts["problem"] = problem.message
            else:
                report.replayed.append(str(event["id"]))
                return
        report.findings.append(Finding("event_missing", str(event["id"]), int(event["created"]), facts))

    async def _find_known(self, names: Sequence[str]) -> set[str]:
        known: set[str] = set()
        for at in range(0, len(names), _BATCH):
            batch = list(names[at : at + _BATCH])
            rows = await self._select("SELECT event_id FROM stripe_events WHERE event_id = ANY(%s)", (batch,))
            known |= {row["event_id"] for row in rows}
        return known

    async def _find_ours(self, since: int, until: int) -> Sequence[Row]:
        return await self._select(
            "SELECT event_id, type, created FROM stripe_events WHERE created >= %s AND created < %s",
            (since, until),
        )

    # --- money

    async def _compare_intents(self, report: Report, until: int) -> None:
        seen: set[str] = set()
        async for intent in self._walk("payment intents", report.since, until):
            report.intents += 1
            payment_id = read_mark(intent, "payment_id")
            seen.add(read_id(intent))
            if payment_id and intent.get("status") == "succeeded":
                await self._compare_intent(report, intent, payment_id)
        for row in await self._select(
            "SELECT id, intent_id, extract(epoch FROM paid_at)::bigint AS at FROM payments"
            " WHERE granted_usd IS NOT NULL AND intent_id IS NOT NULL"
            " AND paid_at >= to_timestamp(%s) AND paid_at < to_timestamp(%s)",
            (report.since, until),
        ):
            if row["intent_id"] not in seen and not await self._is_paid_there(row["intent_id"]):
                report.findings.append(
                    Finding("payment_unknown_at_stripe", row["id"], row["at"], {"intent": row["intent_id"]})
                )

    async def _compare_intent(self, report: Report, intent: Object, payment_id: str) -> None:
        rows = await self._select("SELECT paid_cents, intent_id FROM payments WHERE id = %s", (payment_id,))
        facts: dict[str, Any] = {"payment_id": payment_id, "cents": intent["amount_received"]}
        kind = ""
        if not rows:
            kind = "payment_unknown_here"
        elif rows[0]["paid_cents"] is None:
            kind = "payment_missing"
        elif rows[0]["paid_cents"] != intent["amount_received"] or rows[0]["intent_id"] != intent["id"]:
            kind, facts["ours"] = "payment_differs", rows[0]["paid_cents"]
        if kind:
            report.findings.append(Finding(kind, read_id(intent), int(intent["created"]), facts))

    async def _is_paid_there(self, intent_id: str) -> bool:
        try:
            intent = await self._stripe.fetch("payment intents", intent_id)
        except NotFound:
            return False
        return intent.get("status") == "succeeded"

    async def _compare_charges(self, report: Report, until: int) -> None:
        """Refunds: how much of each charge of ours was given back, there and here."""
        async for charge in self._walk("charges", report.since, until):
            intent_id = read_id(charge.get("payment_intent"))
            ours = await self._select(
                "SELECT coalesce((SELECT refunded_cents FROM stripe_charges WHERE charge_id = %s), 0) AS cents"
                " WHERE %s IN (SELECT intent_id FROM payments UNION SELECT intent_id FROM stripe_invoice_payments)",
                (charge["id"], intent_id),
            )
            if ours and ours[0]["cents"] != charge["amount_refunded"]:
                facts = {"cents": charge["amount_refunded"], "ours": ours[0]["cents"]}
                report.findings.append(
                    Finding("refund_differs", read_id(charge), int(charge["created"]), facts)
                )

    async def _compare_plans(self, report: Report) -> None:
        """Our own rows: what subscriptions give, the plan terms that follow it, and the plans of keys."""

        async def work(connection: Connection) -> list[dict[str, str]]:
            return await list_disagreeing(connection)

        for row in await self._database.run(work):
            payer = row.pop("payer")
            report.findings.append(Finding("plan_differs", payer, int(self._clock()), dict(row)))

    # --- rows

    async def list_findings(self, limit: int, *, resolved: bool) -> Sequence[Row]:
        rows = await self._select(
            "SELECT kind, subject, details, found_at, seen_at, resolved_at FROM payment_findings"
            " WHERE (resolved_at IS NULL OR %s) ORDER BY found_at DESC, id DESC LIMIT %s",
            (resolved, limit),
        )
        return rows

    async def forget_payloads(self) -> None:
        """Encrypted events of unknown types go when Stripe itself has them no more."""

        async def work(connection: Connection) -> None:
            await connection.execute(
                "UPDATE stripe_events SET sealed = NULL WHERE sealed IS NOT NULL"
                " AND received_at < now() - %s * interval '1 day'",
                (KEEP_SEALED_DAYS,),
            )

        await self._database.run(work)

    async def _write(self, report: Report, began: Any) -> None:
        async def work(connection: Connection) -> None:
            async with connection.transaction():
                for each in report.findings:
                    details = Jsonb({"at": each.at, **each.details})
                    await connection.execute(_KEEP, (each.kind, each.subject, details))
                await connection.execute(_RESOLVE, (began, report.since))

        await self._database.run(work)
        await self.count_open()
        for each in report.findings:
            log.warning("payments: %s %s %s", each.kind, each.subject, each.details)

    async def count_open(self) -> None:
        """Whichever worker compared: the table is everybody's."""
        (row,) = await self._select(
            "SELECT count(*) AS n FROM payment_findings WHERE resolved_at IS NULL", ()
        )
        self.open_findings = int(row["n"])

    async def _read_clock(self) -> Any:
        (row,) = await self._select("SELECT now() AS now", ())
        return row["now"]

    async def _select(self, statement: LiteralString, values: Any) -> Sequence[Row]:
        async def work(connection: Connection) -> Sequence[Row]:
            return await fetch_rows(connection, statement, values)

        return await self._database.run(work)

    async def _walk(self, what: str, since: int, until: int) -> AsyncIterator[Object]:
        async for each in self._stripe.walk(what, {"created": {"gte": since, "lt": until}}):
            yield each
