"""Workers' money rooms before a real database: loops do not run by themselves, what they do is asked for."""

import time
from decimal import Decimal
from typing import Any, ClassVar, cast

import orjson

from engine.billing.books import Books
from engine.billing.holds import Hold, HoldStage
from engine.billing.purses import PurseDesk
from engine.call import Call, Caller
from engine.config.snapshot import Policy
from engine.policies.refusals import HeaderPairs
from engine.storage.leases import LeaseBank
from engine.storage.ledger import grant, read_balance
from engine.storage.ledger_reading import verify_ledger
from engine.storage.postgres import Connection, Database
from engine.storage.records import Written, write_records
from engine.wire.answers import AnswerReader
from engine.wire.doors import Door
from engine.wire.formats import compile_format
from engine.wire.usage import Usage
from tests.routing.things import make_model, make_policy, make_price, make_snapshot, make_target
from tests.wire.formats_at_hand import load_tree

CHAT = compile_format(load_tree("openai-chat"))
DOOR = Door(CHAT, CHAT.client.serves[0])
PER_TOKEN = Decimal("0.01")
ALICE = Caller("key_a", "alice", prepaid=True)
MODEL_LIMIT = 100_000


def usd(text: str) -> Decimal:
    return Decimal(text)


class Answer:
    """As much of an answer's reader as the books look at."""

    texts: ClassVar[list[str]] = ["text"]
    carries, begun, ended, settling = False, True, True, False

    def __init__(self, output: int) -> None:
        self.usage = Usage(output=output)


class Paper:
    """A journal in memory."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []

    def append_begun(self, record: dict[str, Any]) -> None: ...

    def append_ended(self, record: dict[str, Any]) -> bytes:
        self.lines.append(orjson.dumps(record, default=str))
        return self.lines[-1]


class Worker:
    """`seconds` is what its clock is ahead of the real one."""

    calls = 0

    def __init__(self, database: Database, name: str = "w1") -> None:
        self.database, self.seconds = database, 0.0
        self.desk = PurseDesk(LeaseBank(database), name, self.clock)
        self.stage = HoldStage(self.desk, self.clock)
        self.paper = Paper()
        self.books = Books(self.paper, self.clock, ())
        self.flushed = 0

    def clock(self) -> float:
        return time.monotonic() + self.seconds

    def make_call(self, policy: Policy, caller: Caller = ALICE, model: str = "m", **request: Any) -> Call:
        """A cent for each token that is written; the prompt is free."""
        Worker.calls += 1
        target = make_target("p", "real", output=MODEL_LIMIT)
        made = make_model(model, target, price=make_price("0", str(PER_TOKEN)), policy=policy)
        name = f"call_{Worker.calls}"
        call = Call(name, name, DOOR, time.time(), time.monotonic(), make_snapshot(made))
        call.request = {"messages": [{"role": "user", "content": "hi"}], **request}
        call.body = orjson.dumps(call.request)
        call.caller, call.model, call.policy, call.served, call.targets = (
            caller,
            made,
            policy,
            target,
            (target,),
        )
        return call

    async def enter(self, call: Call, headers: HeaderPairs | None = None) -> Hold | None:
        assert call.policy is not None
        return await self.stage.enter(call, call.policy, [] if headers is None else headers)

    async def begin(
        self, most: int, policy: Policy | None = None, caller: Caller = ALICE, model: str = "m"
    ) -> Call:
        """A call that may cost `most` cents is let in."""
        call = self.make_call(
            policy or make_policy(billing={"hold_wait_s": 0}), caller, model, max_tokens=most
        )
        await self.enter(call)
        return call

    def end(self, call: Call, cost: int, status: str = "ok") -> None:
        self.books.settle(call, status, cast(AnswerReader, Answer(cost)))

    async def post(self) -> Written:
        """What was settled reaches the database."""
        records, self.flushed = self.paper.lines[self.flushed :], len(self.paper.lines)
        name, position = f"{self.desk.worker}.jsonl", self.flushed
        return await self.database.run(lambda c: write_records(c, records, name, position))

    async def spend(
        self, cost: int, policy: Policy | None = None, caller: Caller = ALICE, model: str = "m"
    ) -> Written:
        """A call that costs `cost` cents, from its beginning to the ledger."""
        self.end(await self.begin(cost, policy, caller, model), cost)
        return await self.post()

    def room(self, purse: str = "credit:user:alice") -> Decimal:
        return self.desk.purses[purse].room


async def give_credit(database: Database, amount: str, user: str = "alice") -> None:
    async def work(connection: Connection) -> None:
        async with connection.transaction():
            await connection.execute(
                "INSERT INTO users (id, email) VALUES (%s, %s) ON CONFLICT DO NOTHING", (user, f"{user}@b.c")
            )
            ref = f"gift:{user}:{time.monotonic_ns()}"
            await grant(connection, f"user:{user}", usd(amount), ref=ref, kind="trial", source="house:trials")

    await database.run(work, probe=True)


async def read_credit(database: Database) -> Decimal:
    """Alice's, in a ledger that is in order."""
    verdict = await database.run(verify_ledger)
    assert verdict.problems == ()
    return (await database.run(lambda c: read_balance(c, "user:alice"))).credit_usd


async def select(database: Database, text: str, *values: Any) -> list[Any]:
    """The rows of a query; of one column only its values."""

    async def work(connection: Connection) -> list[Any]:
        rows = await (await connection.execute(cast(Any, text), values)).fetchall()
        return [row[0] if len(row) == 1 else row for row in rows]

    return await database.run(work, probe=True)


async def execute(database: Database, text: str, *values: Any) -> None:
    async def work(connection: Connection) -> None:
        await connection.execute(cast(Any, text), values)

    await database.run(work, probe=True)
