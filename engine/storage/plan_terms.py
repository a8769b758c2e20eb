"""Who has which plan, why and until when, and the allowance that it brings. Works inside the caller's transaction.

An allowance is set once for each period: `period_end` names the period, so that events of a payment provider may come
twice and in any order. A change of plan within a period moves the difference of the two allowances, and nothing more.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, LiteralString

from engine.config.schema_plan import PlanFile
from engine.errors import NotFound
from engine.storage.ledger import Balance, grant, set_allowance, take_back
from engine.storage.postgres import Connection, count_change
from engine.storage.trial_terms import lift_trial

_TABLES: dict[str, LiteralString] = {"user": "users", "team": "teams"}
_PUT: LiteralString = (
    "INSERT INTO plan_terms (payer, plan, source, ends_at, falls_back_to)"
    " VALUES (%(payer)s, %(plan)s, %(source)s, %(ends_at)s, %(falls_back_to)s)"
    " ON CONFLICT (payer) DO UPDATE SET plan = excluded.plan, source = excluded.source,"
    " ends_at = excluded.ends_at, falls_back_to = excluded.falls_back_to,"
    " started_at = CASE WHEN plan_terms.plan = excluded.plan AND plan_terms.source = excluded.source"
    " THEN plan_terms.started_at ELSE now() END"
)
_READ: LiteralString = (
    "SELECT plan, source, started_at, ends_at, falls_back_to, allowance_usd, allowance_until"
    " FROM plan_terms WHERE payer = %s"
)


@dataclass(frozen=True, slots=True)
class PlanTerm:
    plan: str
    source: str
    """admin, stripe, trial ..."""
    started_at: datetime
    ends_at: datetime | None
    falls_back_to: str
    allowance_usd: Decimal
    """What it brought for the period that ends at `allowance_until`."""
    allowance_until: datetime | None


async def read_term(connection: Connection, payer: str, *, lock: bool = False) -> PlanTerm | None:
    statement = _READ + " FOR UPDATE" if lock else _READ
    row = await (await connection.execute(statement, (payer,))).fetchone()
    return None if row is None else PlanTerm(*row)


async def put_on_plan(
    connection: Connection,
    payer: str,
    plan: str,
    *,
    source: str,
    ends_at: datetime | None = None,
    falls_back_to: str = "",
) -> None:
    """Give a payer a plan, seen by every worker within a second. A trial's restrictions end with it."""
    await _write_plan(connection, payer, plan)
    await connection.execute(
        _PUT,
        {
            "payer": payer,
            "plan": plan,
            "source": source,
            "ends_at": ends_at,
            "falls_back_to": falls_back_to,
        },
    )
    if source != "trial":
        await lift_trial(connection, payer, f"plan:{plan}")


async def end_plan(connection: Connection, payer: str, *, ref: str, kind: str) -> bool:
    """The payer has the plan that was to come after it, and what is left of the allowance is forfeited.

    False when there was no plan to end: a repeat does nothing.
    """
    await count_change(connection)
    term = await read_term(connection, payer, lock=True)
    if term is None:
        return False
    await _write_plan(connection, payer, term.falls_back_to)
    if term.allowance_usd:
        await set_allowance(connection, payer, Decimal(0), ref=ref, kind=kind, description="the plan ended")
    await connection.execute("DELETE FROM plan_terms WHERE payer = %s", (payer,))
    return True


async def renew_allowance(
    connection: Connection, payer: str, plan: PlanFile, ref: str, period_end: datetime
) -> Balance | None:
    """Set the allowance for the period that ends then; None when that was done before, or a later period runs."""
    await count_change(connection)
    term = await _lock_term(connection, payer, plan)
    if term.allowance_until is not None and period_end <= term.allowance_until:
        same = period_end == term.allowance_until
        return await change_allowance(connection, payer, plan, ref) if same else None
    balance = await set_allowance(
        connection,
        payer,
        plan.allowance_usd,
        ref=ref,
        kind="subscription_renewal",
        description=f"allowance of {plan.name_for_people}",
        metadata={"plan": plan.plan, "period_end": period_end.isoformat()},
    )
    if balance is not None:
        await _note_allowance(connection, payer, plan.allowance_usd, period_end)
    return balance


async def change_allowance(connection: Connection, payer: str, plan: PlanFile, ref: str) -> Balance | None:
    """Another plan within a period that is paid: the difference to what the period was given, once."""
    await count_change(connection)
    term = await _lock_term(connection, payer, plan)
    more = plan.allowance_usd - term.allowance_usd
    if term.allowance_until is None or not more:
        return None
    about: dict[str, Any] = {"ref": ref, "pot": "allowance", "metadata": {"plan": plan.plan}}
    balance: Balance | None
    if more > 0:
        balance = await grant(
            connection, payer, more, kind="subscription_upgrade", source="house:grants", **about
        )
    else:
        taken = await take_back(
            connection, payer, -more, kind="subscription_downgrade", target="house:expired", **about
        )
        balance = None if taken is None else taken[0]
    if balance is not None:
        await _note_allowance(connection, payer, plan.allowance_usd, term.allowance_until)
    return balance


async def forfeit_allowance(connection: Connection, payer: str, *, ref: str, kind: str) -> Balance | None:
    """What is left of the allowance expires; the plan stays."""
    await count_change(connection)
    balance = await set_allowance(connection, payer, Decimal(0), ref=ref, kind=kind)
    if balance is not None:
        await connection.execute(
            "UPDATE plan_terms SET allowance_usd = 0, allowance_until = NULL WHERE payer = %s", (payer,)
        )
    return balance


async def _lock_term(connection: Connection, payer: str, plan: PlanFile) -> PlanTerm:
    await connection.execute(
        "INSERT INTO plan_terms (payer, plan, source) VALUES (%s, %s, 'payment') ON CONFLICT DO NOTHING",
        (payer, plan.plan),
    )
    term = await read_term(connection, payer, lock=True)
    assert term is not None, "it was made above"
    return term


async def _note_allowance(
    connection: Connection, payer: str, allowance_usd: Decimal, until: datetime
) -> None:
    await connection.execute(
        "UPDATE plan_terms SET allowance_usd = %s, allowance_until = %s WHERE payer = %s",
        (allowance_usd, until, payer),
    )


async def _write_plan(connection: Connection, payer: str, plan: str) -> None:
    kind, _, name = payer.partition(":")
    n = await count_change(connection)
    changed = await connection.execute(
        f"UPDATE {_TABLES[kind]} SET plan = %s, changed_n = %s, updated_at = now() WHERE id = %s",
        (plan, n, name),
    )
    if not changed.rowcount:
        raise NotFound(f"there is no {kind} {name[:80]}", code=f"{kind}_not_found")


def find_plan(plans: Mapping[str, PlanFile], name: str) -> PlanFile:
    """The plan of this name, or the default: of one whose file is gone nothing is known."""
    return plans.get(name) or plans["default"]


async def read_user_plan(connection: Connection, user_id: str) -> str:
    row = await (await connection.execute("SELECT plan FROM users WHERE id = %s", (user_id,))).fetchone()
    if row is None:
        raise NotFound("there is no such user", code="user_not_found")
    return str(row[0])
