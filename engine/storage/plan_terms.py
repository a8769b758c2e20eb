"""Who has which plan, why and until when, and the allowance that it brings. Works inside the caller's transaction.

An allowance is set once for each period: `period_end` names the period, so that events of a payment provider may come
twice and in any order. A change of plan within a period moves the difference of the two allowances, and nothing more.

What subscriptions give a payer is the payer's standing (`stripe_standings`), and the term follows it:
1. A term of the source `stripe` says what the standing says: plan, allowance and its day, the end that was asked for.
2. An administrator's plan stays whatever the standing says, until its plan becomes another: that was bought later.
3. Without a plan in the standing there is no term of `stripe`; when an administrator's ends, the standing's holds.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, LiteralString

from psycopg.rows import dict_row

from engine.config.schema_plan import PlanFile
from engine.errors import NotFound
from engine.storage.ledger import (
    EXPIRED,
    Balance,
    Movement,
    grant,
    read_balance,
    set_allowance,
    take_back,
)
from engine.storage.postgres import Connection, count_change
from engine.storage.trial_terms import lift_trial

_TABLES: dict[str, LiteralString] = {"user": "users", "team": "teams"}
_PUT: LiteralString = (
    "INSERT INTO plan_terms (payer, plan, source, ends_at, falls_back_to)"
    " VALUES (%(payer)s, %(plan)s, %(source)s, %(ends_at)s, %(falls_back_to)s)"
    " ON CONFLICT (payer) DO UPDATE SET plan = excluded.plan, source = excluded.source,"
    " ends_at = excluded.ends_at, falls_back_to = excluded.falls_back_to,"
    " started_at = CASE WHEN plan_terms.plan = excluded.plan AND plan_terms.source = excluded.source"
    " THEN plan_terms.started_at ELSE now() END,"
    " allowance_until = CASE WHEN excluded.source = 'admin' AND (plan_terms.plan, plan_terms.source)"
    " <> (excluded.plan, excluded.source) THEN NULL ELSE plan_terms.allowance_until END"
)
"""What an administrator gives begins its months with the day it is given."""
_SUBSCRIBED: LiteralString = (
    "SELECT plan, allowance_usd, to_timestamp(allowance_until), to_timestamp(ends_at) FROM stripe_standings"
    " WHERE payer = %s AND plan <> ''"
)
_FOLLOW: LiteralString = (
    "UPDATE plan_terms SET ends_at = %s, allowance_usd = %s, allowance_until = %s WHERE payer = %s"
)
_DISAGREEING: LiteralString = """
SELECT payer, coalesce(t.plan, '') AS term, coalesce(t.source, '') AS source, coalesce(s.plan, '') AS subscribed,
    coalesce(u.plan, m.plan, '') AS written
FROM plan_terms t FULL JOIN stripe_standings s USING (payer)
LEFT JOIN users u ON payer = 'user:' || u.id LEFT JOIN teams m ON payer = 'team:' || m.id
WHERE (t.plan IS NOT NULL AND t.plan <> coalesce(u.plan, m.plan, ''))
    OR (t.source = 'stripe' AND (s.payer IS NULL OR s.plan <> t.plan OR s.allowance_usd <> t.allowance_usd
        OR to_timestamp(s.allowance_until) IS DISTINCT FROM t.allowance_until
        OR to_timestamp(s.ends_at) IS DISTINCT FROM t.ends_at))
    OR (s.plan <> '' AND t.payer IS NULL)
ORDER BY payer
"""
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
    """The payer has what is subscribed to, else the plan that was to come after; what is left of the allowance expires.

    False when there was no plan to end: a repeat does nothing.
    """
    await count_change(connection)
    term = await read_term(connection, payer, lock=True)
    if term is None:
        return False
    subscribed = None if term.source == "stripe" else await read_subscribed(connection, payer)
    await connection.execute("DELETE FROM plan_terms WHERE payer = %s", (payer,))
    if term.allowance_usd:
        await _expire(connection, payer, subscribed, Movement(ref, kind, payer, "the plan ended"))
    if subscribed is not None:
        await follow_subscription(connection, payer, ref=ref)
    elif term.falls_back_to and term.source == "admin":
        await put_on_plan(connection, payer, term.falls_back_to, source="admin")
    else:
        await _write_plan(connection, payer, term.falls_back_to)
    return True


@dataclass(frozen=True, slots=True)
class Subscribed:
    """What a subscription gives now."""

    plan: str
    allowance_usd: Decimal
    allowance_until: datetime | None
    ends_at: datetime | None


async def read_subscribed(connection: Connection, payer: str) -> Subscribed | None:
    row = await (await connection.execute(_SUBSCRIBED, (payer,))).fetchone()
    return None if row is None else Subscribed(*row)


async def follow_subscription(connection: Connection, payer: str, *, ref: str, is_new: bool = False) -> None:
    """Make the term what the standing says, by the rules above. `is_new`: its plan is another than it was before."""
    await count_change(connection)
    subscribed, term = await read_subscribed(connection, payer), await read_term(connection, payer, lock=True)
    if subscribed is None:
        if term is not None and term.source == "stripe":
            await end_plan(connection, payer, ref=ref, kind="subscription_cancellation")
        return
    if term is not None and term.source == "admin" and not is_new:
        return
    if term is None or (term.plan, term.source) != (subscribed.plan, "stripe"):
        await put_on_plan(connection, payer, subscribed.plan, source="stripe")
    numbers = (subscribed.ends_at, subscribed.allowance_usd, subscribed.allowance_until)
    await connection.execute(_FOLLOW, (*numbers, payer))


async def list_disagreeing(connection: Connection) -> list[dict[str, str]]:
    """Payers whose plan, term and standing contradict each other; there are none unless somebody wrote by hand."""
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(_DISAGREEING)
        return await cursor.fetchall()


async def _expire(
    connection: Connection, payer: str, subscribed: Subscribed | None, movement: Movement
) -> None:
    """What is left expires, but for what a subscription's period was given."""
    about: dict[str, Any] = {"ref": movement.ref, "kind": movement.kind, "description": movement.description}
    if subscribed is None:
        await set_allowance(connection, payer, Decimal(0), **about)
        return
    left = (await read_balance(connection, payer)).allowance_usd - subscribed.allowance_usd
    if left > 0:
        await take_back(connection, payer, left, target=EXPIRED, pot="allowance", **about)


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
