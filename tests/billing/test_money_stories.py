"""Any interleaving of holds, settles, grants, refunds, renewals, crashes, replays and lost answers keeps the books.

The rooms are the real ones before a real database; only time does not pass by itself: what loops do now and then is a
step of the story.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine
from decimal import Decimal
from typing import Any, ClassVar, cast

import orjson
import psycopg
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from engine.billing.books import Books
from engine.billing.holds import HoldStage
from engine.billing.purses import PurseDesk
from engine.call import Call, Caller
from engine.errors import CreditMissing, DependencyAway, LimitExceeded
from engine.storage.leases import LeaseBank, close_journal, close_worker
from engine.storage.ledger import grant, set_allowance, take_back
from engine.storage.ledger_reading import verify_ledger
from engine.storage.postgres import Connection, Database
from engine.storage.records import write_records
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
POLICY = make_policy(
    billing={"hold_wait_s": 0.02},
    budgets=[
        {"per": "user", "every": "month", "usd": "6"},
        {"per": "system", "every": "day", "usd": "2", "hard": False, "alert_at": [0.5, 1]},
    ],
)
GRACE = Decimal("0.03")
PAYERS = ("u1", "u2")
MOST_WORKERS = 4

cents = st.integers(0, 400).map(lambda number: Decimal(number) / 100)
tokens = st.integers(1, 60)
pick = st.integers(0, 10**6)


class Answer:
    """As much of an answer's reader as the books look at."""

    texts: ClassVar[list[str]] = ["text"]
    carries, begun = False, True

    def __init__(self, output: int) -> None:
        self.usage = Usage(output=output)


class FaultyBank(LeaseBank):
    """A bank whose next change gets lost: on the way there, or on the way back."""

    lost = ""

    async def _run(self, work: Any) -> Any:
        lost, self.lost = self.lost, ""
        if lost == "request":
            raise DependencyAway("lost on the way there")
        result = await super()._run(work)
        if lost == "answer":
            raise DependencyAway("lost on the way back")
        return result


class Paper:
    """A journal whose lines are kept in memory, as if on a disk that survives."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []

    def append_begun(self, record: dict[str, Any]) -> None: ...

    def append_ended(self, record: dict[str, Any]) -> bytes:
        self.lines.append(orjson.dumps(record, default=str))
        return self.lines[-1]


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


class MoneyStory(RuleBasedStateMachine):
    url: ClassVar[str]

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.database = Database(self.url)
        self.workers: list[Worker] = []
        self.dead: list[Worker] = []
        self.made = self.refs = 0
        self.spent: dict[str, Decimal] = {}
        self.is_pure = True
        """Nothing has happened yet that the house may have to pay for."""
        empty(self.url)
        self.run(self.database.open())
        self.do(lambda c: c.execute("SELECT 1"), probe=True)

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(work)

    def do(self, work: Callable[[Connection], Any], **options: Any) -> Any:
        return self.run(self.database.run(work, **options))

    def find(self, number: int) -> Worker:
        return self.workers[number % len(self.workers)]

    @initialize()
    def begin(self) -> None:
        async def add(connection: Connection) -> None:
            for payer in PAYERS:
                await connection.execute(
                    "INSERT INTO users (id, email, prepaid) VALUES (%s, %s, true)", (payer, f"{payer}@b.c")
                )

        self.do(add)
        self.add_worker()

    @precondition(lambda self: len(self.workers) < MOST_WORKERS)
    @rule()
    def add_worker(self) -> None:
        self.made += 1
        self.workers.append(Worker(self.made, self.database))

    # --- money comes and goes

    @rule(payer=st.sampled_from(PAYERS), amount=cents, again=st.booleans())
    def pay_in(self, payer: str, amount: Decimal, again: bool) -> None:
        self.refs += 1

        async def work(connection: Connection) -> None:
            for _ in range(1 + again):  # an event that is delivered twice
                async with connection.transaction():
                    await grant(
                        connection,
                        f"user:{payer}",
                        amount,
                        ref=f"event:{self.refs}",
                        kind="purchase",
                        source="house:purchases",
                    )

        self.do(work)

    @rule(payer=st.sampled_from(PAYERS), amount=cents)
    def pay_back(self, payer: str, amount: Decimal) -> None:
        self.refs += 1
        self.is_pure = False

        async def work(connection: Connection) -> None:
            async with connection.transaction():
                await take_back(
                    connection,
                    f"user:{payer}",
                    amount,
                    ref=f"refund:{self.refs}",
                    kind="refund",
                    target="house:refunds",
                )

        self.do(work)

    @rule(payer=st.sampled_from(PAYERS), amount=cents)
    def renew_plan(self, payer: str, amount: Decimal) -> None:
        self.refs += 1
        self.is_pure = False  # what expires may be in use

        async def work(connection: Connection) -> None:
            async with connection.transaction():
                await set_allowance(
                    connection,
                    f"user:{payer}",
                    amount,
                    ref=f"renewal:{self.refs}",
                    kind="subscription_renewal",
                )

        self.do(work)

    # --- calls

    @precondition(lambda self: self.workers)
    @rule(number=pick, payer=st.sampled_from(PAYERS), most=tokens)
    def begin_call(self, number: int, payer: str, most: int) -> None:
        worker = self.find(number)
        self.refs += 1
        call = make_call(f"call_{self.refs}", payer, most)
        try:
            hold = self.run(worker.stage.enter(call, POLICY, []))
        except (CreditMissing, LimitExceeded, DependencyAway) as refusal:
            worker.books.settle(call, "error", error=refusal.message)
            return
        assert hold is not None and hold.amount == most * PER_TOKEN
        worker.open.append(call)

    @rule(
        number=pick,
        share=st.sampled_from((0, 20, 50, 100, 100, 100, 130)),
        status=st.sampled_from(("ok", "aborted")),
    )
    def end_call(self, number: int, share: int, status: str) -> None:
        busy = [worker for worker in self.workers if worker.open]
        if not busy:  # no precondition: whether a call was let in depends on the time that others took
            return
        worker = busy[number % len(busy)]
        call = worker.open.pop(number % len(worker.open))
        output = int(call.request["max_tokens"]) * share // 100
        self.is_pure = self.is_pure and share <= 100
        worker.books.settle(call, status, cast(AnswerReader, Answer(output)))
        assert call.cost == output * PER_TOKEN
        self.spent[call.id] = call.cost

    # --- what workers do now and then

    @precondition(lambda self: self.workers)
    @rule(number=pick, lines=st.integers(1, 5))
    def flush(self, number: int, lines: int) -> None:
        self.post(self.find(number), lines)

    @precondition(lambda self: self.workers)
    @rule(number=pick)
    def replay(self, number: int) -> None:
        """It dies between the commit and the note of it; the lines come again."""
        worker = self.find(number)
        done, worker.flushed = worker.flushed, max(0, worker.flushed - 4)
        self.post(worker, done - worker.flushed)

    @precondition(lambda self: self.workers)
    @rule(number=pick)
    def answer_recalls(self, number: int) -> None:
        self.attempt(self.find(number).desk._answer_recalls())

    @precondition(lambda self: self.workers)
    @rule(number=pick)
    def hand_back_idle_money(self, number: int) -> None:
        desk = self.find(number).desk
        for purse in list(desk.purses.values()):
            self.attempt(desk._give_back(purse))

    @precondition(lambda self: self.workers)
    @rule(number=pick, later_s=st.sampled_from((0.0, 100.0)))
    def renew(self, number: int, later_s: float) -> None:
        desk = self.find(number).desk
        desk._seen_since = None  # closing is a step of its own
        self.attempt(desk._renew(time.monotonic() + later_s))

    @precondition(lambda self: self.workers)
    @rule(number=pick, what=st.sampled_from(("request", "answer")))
    def lose_the_next(self, number: int, what: str) -> None:
        self.find(number).bank.lost = what

    # --- what goes wrong

    @precondition(lambda self: self.workers)
    @rule(number=pick)
    def crash(self, number: int) -> None:
        worker = self.find(number)
        self.workers.remove(worker)
        self.run(worker.end())
        worker.open.clear()  # nobody knows how they end: they are free
        self.dead.append(worker)

    @precondition(lambda self: self.dead)
    @rule(number=pick)
    def adopt(self, number: int) -> None:
        worker = self.dead.pop(number % len(self.dead))
        self.post(worker, len(worker.paper.lines))
        self.do(lambda c: close_journal(c, worker.id, GRACE))

    @precondition(lambda self: self.dead)
    @rule(number=pick)
    def close_after_silence(self, number: int) -> None:
        """Its disk is not there: the lease is closed before the journal turns up."""
        worker = self.dead[number % len(self.dead)]
        self.is_pure = self.is_pure and worker.flushed == len(worker.paper.lines)
        self.do(lambda c: close_journal(c, worker.id, GRACE))

    @precondition(lambda self: self.workers)
    @rule(number=pick)
    def close_though_it_lives(self, number: int) -> None:
        worker = self.find(number)
        self.is_pure = False
        name = worker.desk.worker
        self.do(lambda c: close_worker(c, name, GRACE))
        worker.closed_names.add(name)

    # --- helpers of the story

    def attempt(self, work: Coroutine[Any, Any, Any]) -> None:
        try:
            self.run(work)
        except DependencyAway:
            pass

    def post(self, worker: Worker, lines: int) -> None:
        records = worker.paper.lines[worker.flushed : worker.flushed + lines]
        if records:
            self.do(lambda c: write_records(c, records, f"{worker.id}.jsonl", worker.flushed, GRACE))
        worker.flushed += len(records)

    # --- what always holds

    @invariant()
    def the_ledger_holds(self) -> None:
        verdict = self.do(verify_ledger)
        assert verdict.problems == () and verdict.sum_usd == 0
        accounts = self.read_accounts()
        assert min(accounts.get(f"credit:user:{payer}", Decimal(0)) for payer in PAYERS) >= -GRACE
        if self.is_pure:
            assert accounts.get("house:written_off", 0) == 0, "more was let in than there was"
            assert min(accounts.get(f"credit:user:{payer}", Decimal(0)) for payer in PAYERS) >= 0

    @invariant()
    def memory_follows_the_leases(self) -> None:
        rows = self.query("SELECT purse, worker, amount_usd FROM leases")
        leased = {(purse, name): amount for purse, name, amount in rows}
        for worker in self.workers:
            for purse in worker.desk.purses.values():
                if not purse.terms.hard or purse.unsure is not None or purse.worker in worker.closed_names:
                    continue
                expected = purse.room + worker.list_unposted(purse.terms.id, purse.worker)
                assert leased.get((purse.terms.id, purse.worker), 0) == expected
                assert purse.held >= 0

    def read_accounts(self) -> dict[str, Decimal]:
        return dict(self.query("SELECT id, balance_usd FROM ledger_accounts"))

    def query(self, text: str) -> list[Any]:
        async def select(connection: Connection) -> list[Any]:
            return await (await connection.execute(text.encode())).fetchall()

        rows: list[Any] = self.do(select)
        return rows

    def teardown(self) -> None:
        try:
            self.drain()
        finally:
            self.run(self.database.close())
            self.runner.close()

    def drain(self) -> None:
        """Everybody leaves: nothing is held or leased, and each call was paid once."""
        for worker in list(self.workers):
            worker.bank.lost = ""
            for call in worker.open:
                worker.books.settle(call, "ok", cast(AnswerReader, Answer(1)))
                self.spent[call.id] = call.cost
            for purse in worker.desk.purses.values():
                assert purse.held == 0
            self.run(worker.end())
            self.post(worker, len(worker.paper.lines))
            self.run(worker.desk.leave())
            self.do(lambda c, id=worker.id: close_journal(c, id, GRACE))
        self.workers.clear()
        while self.dead:
            self.adopt(0)
        assert self.query("SELECT count(*) FROM leases") == [(0,)]
        assert self.query("SELECT count(*) FROM lease_workers") == [(0,)]
        self.the_ledger_holds()
        paid = {
            ref.removeprefix("call:"): amount
            for ref, amount in self.query(
                "SELECT m.ref, sum(e.amount_usd) FROM ledger_movements m JOIN ledger_entries e ON e.movement_id = m.id"
                " WHERE e.account = 'house:usage' GROUP BY m.ref"
            )
        }
        assert paid == {call_id: cost for call_id, cost in self.spent.items() if cost}


def make_call(call_id: str, payer: str, most: int) -> Call:
    model = make_model("m", TARGET, price=make_price("0", str(PER_TOKEN)), policy=POLICY)
    call = Call(call_id, call_id, DOOR, time.time(), time.monotonic(), make_snapshot(model))
    call.request = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": most}
    call.body = orjson.dumps(call.request)
    call.caller = Caller(f"key_{payer}", payer, prepaid=True)
    call.model, call.policy, call.served, call.targets = model, POLICY, TARGET, (TARGET,)
    return call


def empty(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SET session_replication_role = replica")
        connection.execute(
            "TRUNCATE ledger_accounts, ledger_movements, ledger_entries, purses, leases, lease_workers, open_holds,"
            " call_records, journal_positions, users, mail_outbox CASCADE"
        )


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "examples", [pytest.param(25, id="short"), pytest.param(400, id="long", marks=pytest.mark.slow)]
)
def test_whatever_happens_in_whatever_order_the_books_are_right(database_url: str, examples: int) -> None:
    story = type("Story", (MoneyStory,), {"url": database_url})
    run_state_machine_as_test(
        story,
        settings=settings(
            max_examples=examples,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
