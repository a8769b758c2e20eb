"""Budgets: for whom and how long, what is refused, who is told when, and how soon a change is in force."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from engine.billing.budgets import find_span, make_terms
from engine.call import Caller
from engine.config.snapshot import Budget
from engine.errors import CreditMissing
from engine.storage.budgets import read_budgets
from engine.storage.key_rules import compile_budgets
from engine.storage.postgres import Database
from tests.billing.desks import Worker, execute, select, usd
from tests.config.conftest import Folder
from tests.routing.things import make_policy

BOB = Caller("key_b", "bob")
"""Pays later, so that nothing but budgets is in the way."""


def budgeted(*budgets: dict[str, Any], **billing: Any) -> Any:
    return make_policy(budgets=budgets, billing={"hold_wait_s": 0, **billing})


@pytest.fixture
async def there(database: Database) -> Database:
    """A database that is known to be there, with its people."""
    await execute(database, "INSERT INTO users (id, email) VALUES ('bob', 'bob@b.c'), ('eve', 'eve@b.c')")
    return database


# --- pure


@pytest.mark.parametrize(
    ("every", "now", "began", "ends"),
    [
        ("day", "2026-02-28 23:59:59", "2026-02-28", "2026-03-01"),
        ("day", "2026-03-01 00:00:00", "2026-03-01", "2026-03-02"),
        ("week", "2026-03-01 12:00:00", "2026-02-23", "2026-03-02"),
        ("month", "2026-01-31 00:00:00", "2026-01-01", "2026-02-01"),
        ("month", "2026-12-31 23:59:59", "2026-12-01", "2027-01-01"),
        ("total", "2026-12-31 23:59:59", "", ""),
    ],
)
def test_a_span_begins_and_ends_at_midnight_in_utc(every: str, now: str, began: str, ends: str) -> None:
    found = find_span(every, datetime.fromisoformat(now).replace(tzinfo=UTC))
    assert tuple(f"{day:%Y-%m-%d}" if day else "" for day in found) == (began, ends)


def test_a_new_span_is_a_new_purse_and_a_soft_one_counts_beside_a_hard_one() -> None:
    def name(budget: Budget, day: int) -> str:
        at = datetime(2026, 3, day, tzinfo=UTC).timestamp()
        return make_terms(budget, "own", "bob", "user:bob", at).id

    hard = Budget("user", "day", Decimal(1))
    soft = replace(hard, hard=False)
    names = {name(hard, 1), name(hard, 2), name(soft, 1)}
    assert len(names) == 3 and name(replace(hard, usd=Decimal(9)), 1) in names


def test_two_budgets_that_would_count_a_call_twice_are_refused_in_a_policy(folder: Folder) -> None:
    entry = "{per: key, every: day, usd: '%s', hard: %s}"
    twice = "policy: p\nbudgets: [" + entry % (1, "true") + ", " + entry % (2, "true") + "]\n"
    assert any(
        "one hard and one soft budget" in problem for problem in folder.refuse({"policies.d/p.yaml": twice})
    )
    both = "policy: p\nbudgets: [" + entry % (1, "true") + ", " + entry % (2, "false") + "]\n"
    assert len(folder.load({"policies.d/p.yaml": both}).policies["p"].budgets) == 2


def test_what_a_key_may_spend_in_all_and_its_budget_in_all_are_one_the_tighter() -> None:
    stored = {
        "key": [{"every": "total", "usd": "5", "alert_at": [0.5]}],
        "user": [{"every": "total", "usd": "9"}],
    }
    for most, expected in (("3", 3), ("7", 5)):
        key, user = sorted(compile_budgets(stored, most), key=lambda budget: budget.per)
        assert (key.usd, key.alert_at, user.usd) == (expected, (Decimal("0.5"),), 9)
    (only,) = compile_budgets({}, "3")
    assert (only.per, only.every, only.usd, only.hard) == ("key", "total", 3, True)


def test_somebody_is_told_at_80_90_and_100_per_cent_unless_a_budget_says_otherwise() -> None:
    (budget,) = budgeted({"per": "key", "every": "day", "usd": "1"}).budgets
    assert budget.alert_at == (Decimal("0.8"), Decimal("0.9"), Decimal(1)) and budget.hard


# --- before a real database


@pytest.mark.parametrize("every", ["day", "month"])
@pytest.mark.parametrize(
    ("per", "same", "other"),
    [
        ("key", BOB, replace(BOB, key_id="key_2")),
        ("user", replace(BOB, key_id="key_2"), replace(BOB, user_id="eve")),
        ("team", replace(BOB, user_id="eve", team_id="t1"), replace(BOB, team_id="t2")),
    ],
)
async def test_a_hard_budget_refuses_what_it_does_not_cover_for_whom_it_is_and_nobody_else(
    there: Database, per: str, every: str, same: Caller, other: Caller
) -> None:
    policy = budgeted({"per": per, "every": every, "usd": "1"})
    spender = replace(BOB, team_id="t1") if per == "team" else BOB
    worker, second = Worker(there), Worker(there, "w2")
    await worker.spend(70, policy, spender)
    with pytest.raises(CreditMissing) as refused:
        await second.begin(31, policy, same)
    assert refused.value.code == "budget_exceeded"
    assert f"a {every} of this {per} has 0.3 USD left" in refused.value.message
    assert "it begins anew at" in refused.value.message
    await second.begin(30, policy, same)
    await second.begin(100, policy, other)


async def test_a_budget_per_model_counts_every_caller_of_that_model(there: Database) -> None:
    policy, worker = budgeted({"per": "model", "every": "day", "usd": "1"}), Worker(there)
    await worker.spend(70, policy, BOB, "m")
    with pytest.raises(CreditMissing, match="this model has 0.3 USD left"):
        await worker.begin(31, policy, replace(BOB, user_id="eve", key_id="k"), "m")
    await worker.begin(100, policy, BOB, "another")


async def test_a_call_is_held_against_every_budget_that_counts_it_and_its_cost_counts_once_in_each(
    there: Database,
) -> None:
    policy = budgeted(
        {"per": "key", "every": "day", "usd": "10"},
        {"per": "user", "every": "month", "usd": "1"},
        {"per": "model", "every": "day", "usd": "0.01", "hard": False},
    )
    worker = Worker(there)
    await worker.spend(60, policy, BOB)
    assert sorted(await select(there, "SELECT spent_usd FROM purses")) == [usd("0.6")] * 3
    with pytest.raises(CreditMissing, match="this user"):
        await worker.begin(41, policy, BOB)
    assert all(purse.held == 0 for purse in worker.desk.purses.values())


async def test_parallel_calls_on_two_workers_stay_within_a_hard_budget(there: Database) -> None:
    policy = budgeted({"per": "user", "every": "day", "usd": "1"}, hold_wait_s=0.3)
    workers = [Worker(there, "w1"), Worker(there, "w2")]
    tries = [worker.begin(30, policy, BOB) for worker in workers for _ in range(4)]
    results = await asyncio.gather(*tries, return_exceptions=True)
    assert sum(not isinstance(result, BaseException) for result in results) == 3


async def test_a_soft_budget_refuses_nothing_and_tells_at_each_share_once(there: Database) -> None:
    policy = budgeted({"per": "user", "every": "day", "usd": "1", "hard": False})
    worker, told = Worker(there), []
    for cost in (70, 9, 1, 5, 5, 20, 50):
        told.append([str(alert.share) for alert in (await worker.spend(cost, policy, BOB)).alerts])
        await asyncio.sleep(0.05)  # that the database is told of the budget
    assert told == [[], [], ["0.8"], [], ["0.9"], ["1"], []]
    percents = await select(there, "SELECT data->>'percent' FROM mail_outbox WHERE template = 'budget_alert'")
    assert sorted(map(int, percents)) == [80, 90, 100]


async def test_a_jump_over_several_shares_is_told_once_as_the_highest(there: Database) -> None:
    policy = budgeted({"per": "user", "every": "day", "usd": "1"})
    (alert,) = (await Worker(there).spend(95, policy, BOB)).alerts
    assert (alert.share, alert.spent_usd, alert.limit_usd, alert.owner) == (
        usd("0.9"),
        usd("0.95"),
        1,
        "user:bob",
    )


async def test_a_raised_budget_lets_in_at_once_and_a_lowered_one_refuses_at_once(there: Database) -> None:
    def own(most: str) -> Caller:
        return replace(BOB, budgets=(Budget("user", "day", usd(most)),))

    policy, worker, second = budgeted(), Worker(there), Worker(there, "w2")
    await worker.spend(90, policy, own("1"))
    with pytest.raises(CreditMissing):
        await worker.begin(20, policy, own("1"))
    worker.end(await worker.begin(20, policy, own("2")), 0)
    second.end(await second.begin(20, policy, own("2")), 0)
    for each in (worker, second):
        with pytest.raises(CreditMissing) as refused:
            await each.begin(20, policy, own("1"))
        assert "has 0.1 USD left" in refused.value.message
    shown = await there.run(lambda c: read_budgets(c, "user", "bob"))
    assert [spent["spent_usd"] for spent in shown["spent"]] == ["0.9"]


async def test_a_higher_budget_is_told_of_anew(there: Database) -> None:
    policy, worker = budgeted(), Worker(there)
    caller = replace(BOB, budgets=(Budget("user", "day", usd("1"), alert_at=(usd("0.8"),)),))
    assert len((await worker.spend(80, policy, caller)).alerts) == 1
    caller = replace(BOB, budgets=(Budget("user", "day", usd("2"), alert_at=(usd("0.8"),)),))
    assert not (await worker.spend(10, policy, caller)).alerts
    (alert,) = (await worker.spend(70, policy, caller)).alerts
    assert (alert.spent_usd, alert.limit_usd) == (usd("1.6"), 2)
