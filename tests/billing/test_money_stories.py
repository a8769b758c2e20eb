"""Any interleaving of holds, settles, events, refunds, renewals, crashes, retries and lost answers keeps the books.

The rooms are the real ones before a real database; only time does not pass by itself: what loops do now and then is a
step of the story.
"""

import asyncio
import sys
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from decimal import Decimal
from typing import Any, ClassVar

import orjson
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

from engine.call import Call
from engine.errors import CreditMissing, DependencyAway, LimitExceeded
from engine.storage.leases import close_journal, close_worker
from engine.storage.ledger import read_balance
from engine.storage.ledger_reading import verify_ledger
from engine.storage.postgres import Connection, Database
from engine.storage.records import write_records
from tests.billing.stories import (
    BUDGET_USD,
    GRACE,
    PAYERS,
    PER_TOKEN,
    POLICIES,
    Event,
    HandlingBroke,
    Paper,
    Worker,
    answer,
    correct,
    empty,
    make_call,
    pay_back,
    pay_in,
    renew_plan,
)

NOTHING = Decimal(0)
MOST_WORKERS = 4

cents = st.integers(0, 400).map(lambda number: Decimal(number) / 100)
tokens = st.integers(1, 60)
pick = st.integers(0, 10**6)
payers = st.sampled_from(PAYERS)
policies = st.sampled_from(sorted(POLICIES))
shares = st.sampled_from((0, 20, 50, 100, 100, 100, 100, 100, 130))


class MoneyStory(RuleBasedStateMachine):
    url: ClassVar[str]

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        # Patient: how busy the machine is belongs to no story.
        self.database = Database(self.url, answer_within_s=60)
        self.workers: list[Worker] = []
        self.dead: list[Worker] = []
        self.papers: list[Paper] = []
        self.events: list[Event] = []
        self.made = self.refs = 0
        self.spent: dict[str, Decimal] = {}
        self.payer_of: dict[str, str] = {}
        self.charged_as_lost: dict[str, Decimal] = {}
        self.is_covered = self.is_pure = True
        """So far no call cost more than was held for it, and nothing else happened that the house may have to pay."""
        empty(self.url)
        self.run(self.database.open())

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(self.finish(work))

    async def finish(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Between two steps no change of a lease is under way, however slow the database is.

        Who asks for a purse goes on after those who waited have left: it hands back what is too little.
        """
        try:
            return await work
        finally:
            for worker in self.workers:
                for purse in list(worker.desk.purses.values()):
                    async with purse.moving:
                        pass

    def do(self, work: Callable[[Connection], Any]) -> Any:
        return self.run(self.ask(work))

    async def ask(self, work: Callable[[Connection], Any]) -> Any:
        for _ in range(60):  # until the pool has a connection
            try:
                return await self.database.run(work, probe=True)
            except DependencyAway:
                await asyncio.sleep(0.1)
        raise AssertionError("the database of the story is away")

    def find(self, number: int) -> Worker:
        return self.workers[number % len(self.workers)]

    def name_next(self, what: str) -> str:
        self.refs += 1
        return f"{what}:{self.refs}"

    @initialize(credit=st.sampled_from((NOTHING, Decimal("0.5"), Decimal(2), Decimal(20))))
    def begin(self, credit: Decimal) -> None:
        async def add(connection: Connection) -> None:
            for payer in PAYERS:
                await connection.execute(
                    "INSERT INTO users (id, email, prepaid) VALUES (%s, %s, true)", (payer, f"{payer}@b.c")
                )

        self.do(add)
        for payer in PAYERS:
            self.hear(pay_in(payer, credit, self.name_next("event")), False, 1)
        self.add_worker()
        self.add_worker()

    @precondition(lambda self: len(self.workers) < MOST_WORKERS)
    @rule()
    def begin_a_worker(self) -> None:
        self.add_worker()

    def add_worker(self) -> None:
        self.made += 1
        worker = Worker(self.made, self.database)
        self.workers.append(worker)
        self.papers.append(worker.paper)

    # --- money comes and goes, by events that are told once or often, at once or much later

    @rule(
        tell=st.sampled_from((pay_in, pay_in, pay_back, renew_plan)),
        payer=payers,
        amount=cents,
        breaks=st.sampled_from((False, False, True)),
        times=st.integers(1, 3),
    )
    def hear_of_money(
        self,
        tell: Callable[[str, Decimal, str], Event],
        payer: str,
        amount: Decimal,
        breaks: bool,
        times: int,
    ) -> None:
        self.hear(tell(payer, amount, self.name_next("event")), breaks, times)

    @rule(number=pick, amount=st.integers(-60, 60), times=st.integers(1, 3))
    def price_a_call_anew(self, number: int, amount: int, times: int) -> None:
        """No precondition: whether a call was let in depends on the time that others took."""
        if not self.spent:
            return
        call_id = sorted(self.spent)[number % len(self.spent)]
        ref = self.name_next(f"rerate:{call_id}")
        self.hear(correct(self.payer_of[call_id], amount * PER_TOKEN, ref), False, times)

    @precondition(lambda self: self.events)
    @rule(number=pick, breaks=st.booleans())
    def hear_it_again(self, number: int, breaks: bool) -> None:
        self.tell(self.events[number % len(self.events)], breaks, 1)

    def hear(self, event: Event, breaks: bool, times: int) -> None:
        self.events.append(event)
        self.tell(event, breaks, times)

    def tell(self, event: Event, breaks: bool, times: int) -> None:
        """So often at the same time; where its handling breaks nothing has happened, and it comes again."""
        if event.house != "house:purchases":
            self.is_pure = False  # what is taken, or expires, may be in use

        async def tell_all() -> list[Any]:
            if breaks:
                with pytest.raises(HandlingBroke):
                    await self.ask(lambda c: event.handle(c, breaks=True))
                return []
            return await asyncio.gather(*(self.ask(event.handle) for _ in range(times)))

        told = self.run(tell_all())
        took_effect = [result for result in told if result is not None]
        assert len(took_effect) == (0 if breaks or event.happened else 1)
        event.happened = event.happened or bool(took_effect)

    # --- calls

    @precondition(lambda self: self.workers)
    @rule(number=pick, payer=payers, most=tokens, policy=policies)
    def begin_call(self, number: int, payer: str, most: int, policy: str) -> None:
        self.run(self.enter(self.find(number), payer, most, policy))

    @precondition(lambda self: self.workers)
    @rule(
        calls=st.lists(
            st.tuples(pick, payers, tokens, policies, st.sampled_from((False, False, False, True))),
            min_size=2,
            max_size=6,
        ),
    )
    def begin_calls_at_once(self, calls: list[tuple[int, str, int, str, bool]]) -> None:
        """Some of their callers go away while they wait."""

        async def enter_all() -> None:
            entering = [
                (asyncio.create_task(self.enter(self.find(number), payer, most, policy)), leaves)
                for number, payer, most, policy, leaves in calls
            ]
            await asyncio.sleep(0.002)
            for task, leaves in entering:
                if leaves:
                    task.cancel()
            results = await asyncio.gather(*(task for task, _ in entering), return_exceptions=True)
            broken = [r for r in results if isinstance(r, Exception)]
            assert not broken, broken

        self.run(enter_all())

    async def enter(self, worker: Worker, payer: str, most: int, policy: str) -> None:
        call = make_call(self.name_next("call"), payer, most, POLICIES[policy])
        self.payer_of[call.id] = payer
        silences = worker.bank.silences
        try:
            hold = await worker.stage.enter(call, POLICIES[policy], [])
        except CreditMissing as refusal:
            worker.books.settle(call, "error", error=refusal.message)
            if refusal.code == "insufficient_credits":
                held = await self.ask(lambda c: read_balance(c, f"user:{payer}"))
                assert held.total_usd < most * PER_TOKEN, "402 though the balance covers it"
        except (LimitExceeded, DependencyAway) as refusal:
            worker.books.settle(call, "error", error=refusal.message)
        except asyncio.CancelledError:
            worker.books.settle(call, "aborted")
            raise
        else:
            assert hold is not None and hold.amount == most * PER_TOKEN
            if hold.lent:
                unheard = worker.bank.silences > silences or worker.bank.asking or worker.closed_names
                assert policy == "lends" and unheard
                self.is_covered = False
            worker.books.open(call)
            worker.open.append(call)

    def pick_running(self, number: int) -> tuple[Worker, Call] | None:
        """No precondition either."""
        busy = [worker for worker in self.workers if worker.open]
        if not busy:
            return None
        worker = busy[number % len(busy)]
        return worker, worker.open.pop(number % len(worker.open))

    @rule(number=pick, share=shares, status=st.sampled_from(("ok", "aborted")))
    def end_call(self, number: int, share: int, status: str) -> None:
        if found := self.pick_running(number):
            worker, call = found
            output = int(call.request["max_tokens"]) * share // 100
            self.is_covered = self.is_covered and share <= 100
            self.settle(worker, call, status, output)

    @rule(number=pick, many=st.integers(2, 6))
    def end_calls(self, number: int, many: int) -> None:
        for place in range(many):
            self.end_call(number + place, 100, "ok")

    @rule(number=pick)
    def end_without_an_answer(self, number: int) -> None:
        """No provider answered: nothing is due, and what was held is let go on the way out."""
        if found := self.pick_running(number):
            worker, call = found
            worker.books.settle(call, "error", error="no provider answers")
            call.hold.leave(call)
            self.spent[call.id] = NOTHING

    def settle(self, worker: Worker, call: Call, status: str, output: int) -> None:
        worker.books.settle(call, status, answer(output))
        call.hold.leave(call)
        assert call.cost == output * PER_TOKEN
        self.spent[call.id] = call.cost

    # --- what workers do now and then

    @precondition(lambda self: self.workers)
    @rule(number=pick, lines=st.integers(1, 5))
    def flush(self, number: int, lines: int) -> None:
        if not self.find(number).bank.gone:
            self.post(self.find(number), lines)

    @precondition(lambda self: self.workers)
    @rule(number=pick, what=st.sampled_from(("recalls", "holds", "idle", "renew", "renew much later")))
    def do_a_chore(self, number: int, what: str) -> None:
        desk = self.find(number).desk
        if what == "recalls":
            self.attempt(desk._answer_recalls())
        elif what == "holds":
            self.attempt(desk._write_open_holds())
        elif what == "idle":
            for purse in list(desk.purses.values()):
                self.attempt(desk._give_back(purse))
        else:
            desk._seen_since = None  # closing is a step of its own
            self.attempt(desk._renew(time.monotonic() + (100 if what.endswith("later") else 0)))

    # --- what goes wrong

    @precondition(lambda self: self.workers)
    @rule(
        number=pick,
        what=st.sampled_from(
            ("lost request", "lost answer", "lost in time", "cut off or healed", "replayed", "closed")
        ),
    )
    def something_goes_wrong(self, number: int, what: str) -> None:
        worker = self.find(number)
        if what.startswith("lost"):
            worker.bank.lost = what.partition(" ")[2]
        elif what.startswith("cut"):
            worker.bank.gone = not worker.bank.gone
        elif what == "replayed":
            self.replay(worker)
        else:
            self.close_though_it_lives(worker)

    @precondition(lambda self: self.workers)
    @rule(number=pick)
    def what_was_late_arrives(self, number: int) -> None:
        """Nobody waits for it any more."""
        bank = self.find(number).bank
        late, bank.late, lost, bank.lost = bank.late, [], bank.lost, ""
        if not bank.gone:
            for change in late:
                self.run(self.arrive(change))
        bank.lost = lost

    async def arrive(self, change: Callable[[], Awaitable[Any]]) -> None:
        await self.ask(lambda _: change())

    def replay(self, worker: Worker) -> None:
        """It dies between the commit and the note of it; the lines come again."""
        if not worker.bank.gone:
            done, worker.flushed = worker.flushed, max(0, worker.flushed - 4)
            self.post(worker, done - worker.flushed)

    def close_though_it_lives(self, worker: Worker) -> None:
        self.is_covered = False
        name = worker.desk.worker
        self.note_lost()
        self.do(lambda c: close_worker(c, name, GRACE))
        self.keep_lost()
        worker.closed_names.add(name)

    @precondition(lambda self: self.workers)
    @rule(number=pick, wrote=st.booleans())
    def crash(self, number: int, wrote: bool) -> None:
        worker = self.find(number)
        if wrote:
            self.attempt(worker.desk._write_open_holds())
        self.workers.remove(worker)
        self.run(worker.end())
        worker.open.clear()  # nobody knows how they end
        self.dead.append(worker)

    @precondition(lambda self: self.dead)
    @rule(number=pick)
    def adopt(self, number: int) -> None:
        """Its journal is read: what it only began is interrupted, what it had leased is free."""
        worker = self.dead.pop(number % len(self.dead))
        self.post(worker, len(worker.paper.lines))
        self.close_all(worker, worker.paper.list_interrupted())

    def close_all(self, worker: Worker, interrupted: list[bytes]) -> None:
        async def work(connection: Connection) -> None:
            if interrupted:
                await write_records(connection, interrupted, f"{worker.id}.jsonl", worker.flushed, GRACE)
            await close_journal(connection, worker.id, GRACE)

        self.note_lost()
        self.do(work)
        self.keep_lost()

    @precondition(lambda self: self.dead)
    @rule(number=pick)
    def close_after_silence(self, number: int) -> None:
        """Its disk is not there: the lease is closed before the journal turns up."""
        worker = self.dead[number % len(self.dead)]
        self.is_covered = self.is_covered and worker.flushed == len(worker.paper.lines)
        self.close_all(worker, [])

    def note_lost(self) -> None:
        self.held_before = dict(self.query("SELECT call_id, amount_usd FROM open_holds"))

    def keep_lost(self) -> None:
        """Holds that were closed are charged, until a record says otherwise."""
        kept = {call_id for (call_id,) in self.query("SELECT call_id FROM open_holds")}
        for call_id, amount in self.held_before.items():
            if call_id not in kept:
                self.charged_as_lost.setdefault(call_id, amount)

    # --- the story's own hands

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
        accounts = dict(self.query("SELECT id, balance_usd FROM ledger_accounts"))
        least = min(accounts.get(f"credit:user:{payer}", NOTHING) for payer in PAYERS)
        assert least >= -GRACE
        if self.is_pure and self.is_covered:
            assert accounts.get("house:written_off", 0) == 0, "more was let in than there was"
            assert least >= 0

    @invariant()
    def each_event_has_its_effect_once(self) -> None:
        expected: defaultdict[str, Decimal] = defaultdict(Decimal)
        for event in self.events:
            if event.happened and event.house != "house:usage":
                expected[event.house] += event.amount
        found = dict(self.query("SELECT id, balance_usd FROM ledger_accounts"))
        for house, amount in expected.items():
            assert found[house] == amount

    @invariant()
    def hard_budgets_are_kept(self) -> None:
        if self.is_covered:
            rows = self.query("SELECT max(spent_usd) FROM purses WHERE id LIKE 'budget:%:hard:%'")
            assert (rows[0][0] or 0) <= BUDGET_USD

    @invariant()
    def memory_follows_the_leases(self) -> None:
        rows = self.query("SELECT purse, worker, amount_usd FROM leases")
        leased = {(purse, name): amount for purse, name, amount in rows}
        for worker in self.workers:
            for purse in worker.desk.purses.values():
                assert purse.held >= 0
                if not purse.terms.hard or purse.unsure is not None or purse.worker in worker.closed_names:
                    continue
                expected = purse.room + worker.list_unposted(purse.terms.id, purse.worker)
                assert leased.get((purse.terms.id, purse.worker), 0) == expected

    @invariant()
    def what_is_held_is_what_running_calls_hold(self) -> None:
        for worker in self.workers:
            for purse in worker.desk.purses.values():
                holding = [call for call in worker.open if purse in call.hold.purses]
                assert purse.held == sum((call.hold.amount for call in holding), NOTHING)

    def query(self, text: str) -> list[Any]:
        async def select(connection: Connection) -> list[Any]:
            return await (await connection.execute(text.encode())).fetchall()

        rows: list[Any] = self.do(select)
        return rows

    # --- the end

    def teardown(self) -> None:
        try:
            if sys.exc_info()[0] is None:  # else this would hide what has failed
                self.drain()
        finally:
            self.close()

    def close(self) -> None:
        self.run(self.database.close())
        self.runner.close()

    def drain(self) -> None:
        """Everybody leaves: nothing is held or leased, and each call was paid once."""
        for worker in list(self.workers):
            worker.bank.lost, worker.bank.gone = "", False
            for call in worker.open:
                self.settle(worker, call, "ok", int(call.request["max_tokens"]))
            for purse in worker.desk.purses.values():
                assert purse.held == 0
            assert not worker.desk.open_holds
            self.run(worker.end())
            self.post(worker, len(worker.paper.lines))
            self.run(worker.desk.leave())
            self.close_all(worker, [])
        self.workers.clear()
        while self.dead:
            self.adopt(0)
        for table in ("leases", "lease_workers", "open_holds"):
            assert self.query(f"SELECT count(*) FROM {table}") == [(0,)]
        self.the_ledger_holds()
        self.each_call_was_paid_once()
        self.budgets_counted_each_call_once()

    def each_call_was_paid_once(self) -> None:
        """A call that ended paid what it cost, whatever was charged meanwhile; one that nobody ended what was held."""
        paid: defaultdict[str, Decimal] = defaultdict(Decimal)
        rows = self.query(
            "SELECT m.ref, e.amount_usd FROM ledger_movements m JOIN ledger_entries e ON e.movement_id = m.id"
            " WHERE e.account = 'house:usage' AND m.kind IN ('api_usage', 'lost_call', 'adjustment')"
        )
        for ref, amount in rows:
            paid[ref.partition(":")[2]] += amount
        due = self.charged_as_lost | self.spent
        assert {name: amount for name, amount in paid.items() if amount} == {
            name: amount for name, amount in due.items() if amount
        }
        corrected = sum(
            (event.amount for event in self.events if event.happened and event.house == "house:usage"),
            NOTHING,
        )
        total = self.query(
            "SELECT coalesce(sum(balance_usd), 0) FROM ledger_accounts WHERE id = 'house:usage'"
        )
        assert total == [(sum(due.values(), corrected),)]

    def budgets_counted_each_call_once(self) -> None:
        counted: defaultdict[str, Decimal] = defaultdict(Decimal)
        for record in (orjson.loads(line) for paper in self.papers for line in paper.lines):
            for purse in record.get("purses", ()):
                if purse.startswith("budget:"):
                    counted[purse] += Decimal(record["cost_usd"])
        found = dict(
            self.query("SELECT id, spent_usd FROM purses WHERE id LIKE 'budget:%' AND spent_usd <> 0")
        )
        assert found == {purse: amount for purse, amount in counted.items() if amount}


def name_story(url: str) -> type[MoneyStory]:
    return type("Story", (MoneyStory,), {"url": url})


@pytest.fixture
def story(database_url: str) -> Iterator[MoneyStory]:
    """One that is told by hand: two workers, and payers with two dollars. In the end each call was paid once."""
    told = name_story(database_url)()
    try:
        told.begin(Decimal(2))
        yield told
        told.drain()
    finally:
        told.close()


def check(story: MoneyStory) -> None:
    story.the_ledger_holds()
    story.each_event_has_its_effect_once()
    story.hard_budgets_are_kept()
    story.memory_follows_the_leases()
    story.what_is_held_is_what_running_calls_hold()


def test_what_was_charged_for_a_lost_call_is_corrected_when_its_journal_turns_up(story: MoneyStory) -> None:
    for most in (10, 20, 30):
        story.begin_call(0, "u1", most, "charges what is lost")
    story.do_a_chore(0, "holds")
    story.end_call(1, 50, "ok")  # of the second call: 10 tokens, only on its disk
    ended = next(iter(story.spent))
    story.crash(0, False)
    story.close_after_silence(0)
    check(story)
    assert sorted(story.charged_as_lost.values()) == [Decimal("0.1"), Decimal("0.2"), Decimal("0.3")]
    story.adopt(0)
    check(story)
    assert story.charged_as_lost[ended] == Decimal("0.2") and story.spent[ended] == Decimal("0.1")


def test_a_call_that_ends_after_its_lease_was_closed_pays_what_it_cost_and_not_what_it_held(
    story: MoneyStory,
) -> None:
    story.begin_call(0, "u1", 60, "charges what is lost")
    story.do_a_chore(0, "holds")
    story.something_goes_wrong(0, "closed")
    check(story)
    assert list(story.charged_as_lost.values()) == [Decimal("0.6")]
    story.do_a_chore(0, "renew")  # it learns of it, and begins anew
    story.begin_call(0, "u1", 60, "usual")
    story.end_call(0, 50, "ok")
    story.end_call(0, 100, "ok")
    story.flush(0, 5)
    check(story)


def test_an_event_whose_handling_breaks_is_there_once_when_it_comes_again(story: MoneyStory) -> None:
    for tell in (pay_in, pay_back, renew_plan):
        story.hear_of_money(tell, "u2", Decimal(1), True, 1)
        assert not story.events[-1].happened
        story.tell(story.events[-1], False, 3)
        story.tell(story.events[-1], False, 3)
        check(story)


def test_a_give_back_that_arrives_when_nobody_waits_for_it_lets_nobody_spend_the_same_money_again(
    story: MoneyStory,
) -> None:
    story.begin_call(0, "u1", 150, "usual")
    story.end_without_an_answer(0)
    story.something_goes_wrong(0, "lost in time")
    story.do_a_chore(0, "idle")
    story.begin_call(0, "u1", 10, "usual")  # it finds out that nothing was given back
    story.what_was_late_arrives(0)
    for number, most in ((1, 50), (1, 140), (0, 140)):
        story.begin_call(number, "u1", most, "usual")
    story.end_calls(0, 6)
    for number in (0, 1):
        story.flush(number, 5)
    assert sum(story.spent.values()) == 2, "the 1.5 dollars of the first worker, and the rest"
    check(story)


@pytest.mark.parametrize("lost", ["lost request", "lost answer"])
def test_who_lends_when_nothing_is_heard_of_the_database_may_take_a_balance_below_zero(
    story: MoneyStory, lost: str
) -> None:
    story.begin_call(0, "u1", 20, "usual")
    story.end_call(0, 100, "ok")
    story.begin_call(1, "u1", 60, "usual")
    story.begin_call(1, "u1", 60, "usual")
    story.begin_call(1, "u1", 60, "usual")
    assert story.is_covered
    story.something_goes_wrong(0, lost)
    story.begin_call(0, "u1", 50, "lends")
    story.end_calls(0, 6)
    assert not story.is_covered and sum(story.spent.values()) == Decimal("2.5")
    for number in (0, 1):
        story.flush(number, 5)
    check(story)
    assert story.query("SELECT balance_usd FROM ledger_accounts WHERE id = 'house:written_off'") == [
        (GRACE - Decimal("0.5"),)
    ]


def test_a_worker_that_is_cut_off_spends_what_it_may_lend_and_all_of_it_is_posted(story: MoneyStory) -> None:
    story.begin_call(0, "u1", 60, "lends")
    story.something_goes_wrong(0, "cut off or healed")
    story.begin_call(0, "u1", 50, "lends")
    story.begin_call(0, "u1", 60, "lends")  # beyond the 0.5 USD: refused
    assert len(story.workers[0].open) == 2
    story.end_calls(0, 2)
    story.something_goes_wrong(0, "cut off or healed")
    story.flush(0, 5)
    check(story)
    assert sum(story.spent.values()) == Decimal("1.1")


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "examples", [pytest.param(25, id="short"), pytest.param(400, id="long", marks=pytest.mark.slow)]
)
def test_whatever_happens_in_whatever_order_the_books_are_right(database_url: str, examples: int) -> None:
    story = name_story(database_url)
    run_state_machine_as_test(
        story,
        settings=settings(
            max_examples=examples,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
