"""`/admin/payments/...`: where Stripe's books and ours differ, and looking again."""

import time
from collections.abc import Sequence

from engine.config.schema_payments import ReconcileEntry
from engine.http.endpoints import Answer, Ask, Route
from engine.http.payment_bodies import FindingsQuery, ReconcileBody
from engine.payments.reconciling import Reconciler


class FindingRoutes:
    """Declared in any case, as the routes of payments are."""

    _reconciler: Reconciler
    _entry: ReconcileEntry

    def __init__(self, reconciler: Reconciler | None, entry: ReconcileEntry) -> None:
        self._entry = entry
        if reconciler is not None:
            self._reconciler = reconciler

    def list(self) -> Sequence[Route]:
        return (
            Route("GET", "/admin/payments/findings", self.list_findings, "Where Stripe's books and ours differ.",
                  query=FindingsQuery),
            Route("POST", "/admin/payments/reconcile", self.compare, "Compare Stripe's books with ours now.",
                  body=ReconcileBody),
        )  # fmt: skip

    async def list_findings(self, ask: Ask) -> Answer:
        query = ask.query
        rows = await self._reconciler.list_findings(query.limit, resolved=query.resolved)
        return Answer({"findings": [dict(row) for row in rows], "total": len(rows)})

    async def compare(self, ask: Ask) -> Answer:
        body, entry = ask.body, self._entry
        since = time.time() - entry.days * 86400 if body.since is None else body.since.timestamp()
        replay = entry.replay if body.replay is None else body.replay
        report = await self._reconciler.compare(int(since), replay=replay)
        return Answer(report.as_document())
