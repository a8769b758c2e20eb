"""Pricing recorded calls anew by a book, whatever its days say. Records stay; the ledger gets the difference."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import ROUND_HALF_EVEN, Decimal

from engine.billing.tariffs import Tariff, find_revision, say, usual_tariff
from engine.config.schema_prices import PricesFile
from engine.config.snapshot import Snapshot
from engine.errors import Unpriced
from engine.storage.postgres import Connection
from engine.storage.rerates import PricedCall, book_rerate, is_rerated, list_priced_calls
from engine.wire.usage import read_record

_LEAST_USD = Decimal("1e-12")


@dataclass(slots=True)
class Rerate:
    """What a run came to."""

    calls: int = 0
    unknown: int = 0
    """Of models or targets that are not configured any more."""
    uncovered: int = 0
    """Of which the book says nothing."""
    repeated: int = 0
    adjusted: int = 0
    raised_usd: Decimal = field(default=Decimal(0))
    lowered_usd: Decimal = field(default=Decimal(0))

    def note(self, difference: Decimal) -> None:
        if difference:
            self.adjusted += 1
        if difference > 0:
            self.raised_usd += difference
        else:
            self.lowered_usd -= difference


@dataclass(frozen=True, slots=True)
class Rerater:
    snapshot: Snapshot
    book: PricesFile

    async def run(self, connection: Connection, since: datetime, until: datetime, *, dry: bool) -> Rerate:
        result = Rerate()
        async for call in self._list(connection, since, until, result):
            cost = self.price(call)
            if cost is None:
                continue
            ref = f"rerate:{self.book.prices}:{find_revision(self.book)}:{call.id}"
            done = (
                not await is_rerated(connection, ref)
                if dry
                else await book_rerate(connection, call, cost, ref)
            )
            if done:
                result.note(cost - call.cost_usd)
            else:
                result.repeated += 1
        return result

    async def _list(
        self, connection: Connection, since: datetime, until: datetime, result: Rerate
    ) -> AsyncIterator[PricedCall]:
        """Calls that the book says something about; the others are counted."""
        async for call in list_priced_calls(connection, since, until):
            result.calls += 1
            try:
                tariff = self.find_tariff(call)
            except Unpriced:
                tariff = None
            if tariff is None:
                result.unknown += 1
            elif not tariff.book:
                result.uncovered += 1
            else:
                yield call

    def find_tariff(self, call: PricedCall) -> Tariff | None:
        """By the book; without a book's name where it says nothing; None where the target is not there any more."""
        model = self.snapshot.models.get(call.pricing["listed"])
        target = self.snapshot.listed.get(f"{call.provider}/{call.model}")
        if model is None or target is None:
            return None
        return say(self.book, usual_tariff(model, target), model, target)

    def price(self, call: PricedCall) -> Decimal | None:
        tariff = self.find_tariff(call)
        if tariff is None:
            return None
        said = {name: str(call.pricing.get(name, "")) for name in ("service", "variant")}
        usage = replace(read_record(call.tokens), service=said["service"], variant=said["variant"])
        attempts = Decimal(call.pricing.get("attempts_usd", 0))
        return (tariff.charge(usage).cost + attempts).quantize(_LEAST_USD, ROUND_HALF_EVEN)
