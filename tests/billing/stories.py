"""Who takes part in the stories of money: workers with real rooms, paper instead of a disk, events from outside."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from typing import Any, ClassVar, cast

import orjson
import psycopg

from engine.billing.books import Books
from engine.billing.holds import HoldStage
from engine.billing.purses import PurseDesk
from engine.call import Call, Caller
from engine.config.snapshot import Policy
from engine.errors import DependencyAway
from engine.storage.leases import LeaseBank, PurseTerms, Taken
from engine.storage.ledger import adjust, grant, set_allowance, take_back
from engine.storage.postgres import Connection, Database
from engine.wire.answers import AnswerReader
from engine.wire.doors import Door
from engine.wire.formats import compile_format
from engine.wire.usage import Usage
from tests.routing.things import make_model, make_policy, make_price, make_snapshot, make_target
from tests.wire.formats_at_hand import load_tree

CHAT = compile_format(load_tree("openai-chat"))
DOOR = Door(CHAT, CHAT.client.serves[0])
TARGET = make_target("p", "real", output=10_000)
PER_TOKEN = Decimal("0.01")
GRACE = Decimal("0.03")
BUDGET_USD = Decimal(6)
PAYERS = ("u1", "u2")


def describe_policy(**billing: Any) -> Policy:
    return make_policy(
        billing={"hold_wait_s": 0.02, **billing},
        budgets=[
            {"per": "user", "every": "month", "usd": str(BUDGET_USD)},
            {"per": "system", "every": "day", "usd": "2", "hard": False, "alert_at": [0.5, 1]},
        ],
    )


POLICIES = {
    "usual": describe_policy(),
    "charges what is lost": describe_policy(lost_call="charge_hold"),
    "lends": describe_policy(credit_when_database_away={"up_to": "0.5"}),
}


class Answer:
    """As much of an answer's reader as the books look at."""

    texts: ClassVar[list[str]] = ["text"]
    carries, begun, ended = False, True, True

    def __init__(self, output: int) -> None:
        self.usage = Usage(output=output)


def answer(output: int) -> AnswerReader:
    return cast(AnswerReader, Answer(output))


class FaultyBank(LeaseBank):
    """A bank that may be out of reach, or whose next change gets lost on the way there or back, or arrives late."""

    lost = ""
    gone = False
    silences = asking = 0
    """How often it gave no answer, or none within a second, and how many wait for one: else nobody may lend."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.late: list[Callable[[], Awaitable[Any]]] = []
        """Changes that are still on their way."""

    @property
    def available(self) -> bool:
        there = super().available and not self.gone
        self.silences += not there
        return there

    async def take(
        self, terms: PurseTerms, worker: str, turn: int, need: Decimal, want: Decimal
    ) -> Taken | None:
        if need > 0:
            self._delay(partial(super().take, terms, worker, turn, need, want))
        return await super().take(terms, worker, turn, need, want)

    async def give_back(self, purse: str, worker: str, turn: int, amount: Decimal) -> None:
        self._delay(partial(super().give_back, purse, worker, turn, amount))
        await super().give_back(purse, worker, turn, amount)

    def _delay(self, change: Callable[[], Awaitable[Any]]) -> None:
        if self.lost == "in time" and not self.gone:
            self.lost = ""
            self.silences += 1
            self.late.append(change)
            raise DependencyAway("not there yet")

    async def _run(self, work: Any) -> Any:
        self.asking += 1
        began = time.monotonic()
        try:
            return await self._ask(work)
        except DependencyAway:
            self.silences += 1
            raise
        finally:
            self.asking -= 1
            self.silences += time.monotonic() - began >= 1

    async def _ask(self, work: Any) -> Any:
        lost = self.lost
        if lost != "in time":
            self.lost = ""
        if self.gone or lost == "request":
            raise DependencyAway("lost on the way there")
        result = await super()._run(work)
        if lost == "answer":
            raise DependencyAway("lost on the way back")
        return result


class Paper:
    """A journal whose lines are kept in memory, as if on a disk that survives."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.begun: dict[str, dict[str, Any]] = {}

    def append_begun(self, record: dict[str, Any]) -> None:
        self.begun[record["id"]] = record

    def append_ended(self, record: dict[str, Any]) -> bytes:
        self.begun.pop(record["id"], None)
        self.lines.append(orjson.dumps(record, default=str))
        return self.lines[-1]

    def list_interrupted(self) -> list[bytes]:
        """What whoever reads a dead journal writes of calls that only began."""
        return [orjson.dumps(record | {"status": "interrupted"}) for record in self.begun.values()]


class Worker:
    def __init__(self, number: int, database: Database) -> None:
        self.id = f"journal-{number}"
        self.bank = FaultyBank(database)
        self.desk = PurseDesk(self.bank, self.id, time.monotonic, GRACE)
        self.stage = HoldStage(self.desk, time.monotonic)
        self.paper = Paper()
        self.books = Books(self.paper, time.monotonic, ())
        self.flushed = 0
        self.open: list[Call] = []
        self.closed_names: set[str] = set()

    def list_unposted(self, purse: str, name: str) -> Decimal:
        records = [orjson.loads(line) for line in self.paper.lines[self.flushed :]]
        return sum(
            (
                Decimal(record["cost_usd"])
                for record in records
                if record.get("lease") == name and purse in record.get("purses", ())
            ),
            Decimal(0),
        )

    async def end(self) -> None:
        for purse in self.desk.purses.values():
            if purse.asker is not None:
                purse.asker.cancel()
                await asyncio.gather(purse.asker, return_exceptions=True)


class HandlingBroke(Exception):
    """A handler of an event failed before its transaction was committed."""


@dataclass
class Event:
    """Something that is told once or many times, as Stripe tells it: its effect is there once."""

    ref: str
    run: Callable[[Connection], Awaitable[Any]]
    house: str
    """The house's account on the other side, and what it has of this once it happened."""
    amount: Decimal
    happened: bool = False

    async def handle(self, connection: Connection, *, breaks: bool = False) -> Any:
        async with connection.transaction():
            result = await self.run(connection)
            if breaks:
                raise HandlingBroke
        return result


def pay_in(payer: str, amount: Decimal, ref: str) -> Event:
    async def run(connection: Connection) -> Any:
        return await grant(
            connection, f"user:{payer}", amount, ref=ref, kind="purchase", source="house:purchases"
        )

    return Event(ref, run, "house:purchases", -amount)


def pay_back(payer: str, amount: Decimal, ref: str) -> Event:
    async def run(connection: Connection) -> Any:
        return await take_back(
            connection, f"user:{payer}", amount, ref=ref, kind="refund", target="house:refunds"
        )

    return Event(ref, run, "house:refunds", amount)


def renew_plan(payer: str, amount: Decimal, ref: str) -> Event:
    async def run(connection: Connection) -> Any:
        return await set_allowance(connection, f"user:{payer}", amount, ref=ref, kind="subscription_renewal")

    return Event(ref, run, "house:grants", -amount)


def correct(payer: str, amount: Decimal, ref: str) -> Event:
    """What was paid for usage is priced anew."""

    async def run(connection: Connection) -> Any:
        return await adjust(connection, f"user:{payer}", amount, ref=ref, prepaid=True) or None

    return Event(ref, run, "house:usage", amount)


def make_call(call_id: str, payer: str, most: int, policy: Policy) -> Call:
    model = make_model("m", TARGET, price=make_price("0", str(PER_TOKEN)), policy=policy)
    call = Call(call_id, call_id, DOOR, time.time(), time.monotonic(), make_snapshot(model))
    call.request = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": most}
    call.body = orjson.dumps(call.request)
    call.caller = Caller(f"key_{payer}", payer, prepaid=True)
    call.model, call.policy, call.served, call.targets = model, policy, TARGET, (TARGET,)
    return call


def empty(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SET session_replication_role = replica")
        connection.execute(
            "TRUNCATE ledger_accounts, ledger_movements, ledger_entries, purses, leases, lease_workers, open_holds,"
            " call_records, journal_positions, users, mail_outbox CASCADE"
        )
