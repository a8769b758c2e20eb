"""Leases: the money that a worker may spend without asking again (migrations/0018, `take_lease`).

A lease belongs to a name that its worker chose, and lives as long as somebody renews that name. Whoever is silent for
`DEAD_AFTER_S` is closed by any worker that has itself seen the database without interruption for as long, so that an
outage closes nobody's.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, LiteralString, TypeVar

import psycopg
from psycopg.types.json import Jsonb

from engine.errors import DependencyAway
from engine.storage.postgres import Connection, Database

T = TypeVar("T")

DEAD_AFTER_S = 60.0
_TAKE: LiteralString = (
    "SELECT taken, free, total, coalesce(last_turn, 0), coalesce(last_change, 0) FROM take_lease("
    "%(purse)s, %(worker)s, %(turn)s, %(need)s, %(want)s, %(limit)s, %(alert_at)s::numeric[], %(owner)s,"
    " %(ends_at)s, %(key)s)"
)
_FORGET: LiteralString = (
    "DELETE FROM leases WHERE worker = %s AND purse = ANY(%s) AND amount_usd = 0 AND given_up_turn = 0"
)
_DEAD: LiteralString = (
    "SELECT worker FROM lease_workers WHERE renewed_at < now() - make_interval(secs => %s) ORDER BY worker"
)
_LENT: LiteralString = (
    "FROM jsonb_to_recordset(%s::jsonb) AS r (lease text, lent boolean, purses jsonb)"
    " CROSS JOIN LATERAL jsonb_array_elements_text(r.purses) AS p (id) WHERE r.lent AND r.lease <> ''"
)
_OPEN_LENT: Sequence[LiteralString] = (
    f"INSERT INTO lease_workers (worker, registered) SELECT DISTINCT r.lease, false {_LENT} ON CONFLICT DO NOTHING",
    f"INSERT INTO purses (id) SELECT DISTINCT p.id {_LENT} ON CONFLICT DO NOTHING",
    f"SELECT 1 FROM purses WHERE id IN (SELECT p.id {_LENT}) ORDER BY id FOR UPDATE",
    f"INSERT INTO leases (purse, worker, amount_usd) SELECT DISTINCT p.id, r.lease, 0 {_LENT}"
    " ON CONFLICT DO NOTHING",
)


@dataclass(frozen=True, slots=True)
class PurseTerms:
    """What a purse is: a payer's credit, or a budget of one span."""

    id: str
    limit_usd: Decimal | None = None
    """Of a budget; None is a payer's credit."""
    hard: bool = True
    alert_at: tuple[Decimal, ...] = ()
    owner: str = ""
    """Who is told of a budget: user:<id> or team:<id>."""
    ends_at: datetime | None = None
    key_id: str = ""
    """A budget that begins with what this key has spent already."""
    label: str = ""
    """What it is for a person: `this key's budget of 20 USD a month`."""


@dataclass(frozen=True, slots=True)
class Taken:
    """What was taken, what is free for others after that, and what the purse holds with all that is leased."""

    taken_usd: Decimal
    free_usd: Decimal
    total_usd: Decimal
    last_turn: int = 0
    """Before this: the last change of the lease that the database knows, and what it was."""
    last_change_usd: Decimal = Decimal(0)


@dataclass(frozen=True, slots=True)
class OpenHold:
    """What a running call holds, for those that are charged when their worker is lost."""

    call_id: str
    payer: str
    prepaid: bool
    amount_usd: Decimal


class LeaseBank:
    """Every method is one short transaction and raises DependencyAway."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @property
    def available(self) -> bool:
        return self._database.available

    async def register(self, worker: str) -> None:
        """Begin under a name that nobody had before."""

        async def work(connection: Connection) -> None:
            await connection.execute(
                "INSERT INTO lease_workers (worker) VALUES (%s)"
                " ON CONFLICT (worker) DO UPDATE SET registered = true, renewed_at = now()",
                (worker,),
            )

        await self._run(work)

    async def take(
        self, terms: PurseTerms, worker: str, turn: int, need: Decimal, want: Decimal
    ) -> Taken | None:
        """At least `need`, or nothing; a need of zero only looks, and declares a budget. None: `worker` was closed.

        A look that names the turn of an earlier change ends it: what has not happened by then never will.
        """
        asked: dict[str, Any] = {
            "purse": terms.id,
            "worker": worker,
            "turn": turn,
            "need": need,
            "want": want,
            "limit": terms.limit_usd,
            "alert_at": list(terms.alert_at),
            "owner": terms.owner,
            "ends_at": terms.ends_at,
            "key": terms.key_id,
        }

        async def work(connection: Connection) -> Taken | None:
            row = await (await connection.execute(_TAKE, asked)).fetchone()
            return None if row is None or row[0] is None else Taken(*row)

        return await self._run(work)

    async def give_back(self, purse: str, worker: str, turn: int, amount: Decimal) -> None:
        """Return idle money."""

        async def work(connection: Connection) -> None:
            await connection.execute("SELECT return_lease(%s, %s, %s, %s)", (purse, worker, turn, amount))

        await self._run(work)

    async def forget(self, worker: str, purses: Sequence[str]) -> None:
        """Rows in which nothing is left, but for what keeps a late change from happening."""

        async def work(connection: Connection) -> None:
            await connection.execute(_FORGET, (worker, list(purses)))

        await self._run(work)

    async def leave(self, worker: str) -> None:
        """The worker ends, and all that it spent is posted."""

        async def work(connection: Connection) -> None:
            await close_worker(connection, worker, Decimal(0))

        await self._run(work)

    async def _run(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        try:
            return await self._database.run(work)
        except psycopg.Error as error:
            raise DependencyAway("Credit cannot be read at the moment.", retry_after_s=2) from error

    async def read_recalled(self, worker: str) -> list[str]:
        async def work(connection: Connection) -> list[str]:
            rows = await connection.execute(
                "SELECT purse FROM leases WHERE worker = %s AND recalled", (worker,)
            )
            return [purse for (purse,) in await rows.fetchall()]

        return await self._run(work)

    async def renew(self, worker: str) -> bool:
        """Tell that the worker lives; False when its leases were closed."""

        async def work(connection: Connection) -> bool:
            found = await connection.execute(
                "UPDATE lease_workers SET renewed_at = now() WHERE worker = %s AND registered", (worker,)
            )
            return found.rowcount > 0

        return await self._run(work)

    async def write_open_holds(self, worker: str, holds: Sequence[OpenHold]) -> None:
        async def work(connection: Connection) -> None:
            async with connection.transaction():
                await connection.execute(
                    "INSERT INTO open_holds (call_id, worker, payer, prepaid, amount_usd)"
                    " SELECT h.call_id, %s, h.payer, h.prepaid, h.amount FROM"
                    " unnest(%s::text[], %s::text[], %s::boolean[], %s::numeric[])"
                    " AS h (call_id, payer, prepaid, amount)"
                    " WHERE NOT EXISTS (SELECT 1 FROM call_records c WHERE c.id = h.call_id)"
                    " ON CONFLICT DO NOTHING",
                    (
                        worker,
                        [hold.call_id for hold in holds],
                        [hold.payer for hold in holds],
                        [hold.prepaid for hold in holds],
                        [hold.amount_usd for hold in holds],
                    ),
                )

        await self._run(work)

    async def close_dead(self, grace_usd: Decimal) -> list[str]:
        """Close the workers that nobody renews; their names. The caller has seen the database for as long."""

        async def work(connection: Connection) -> list[str]:
            rows = await (await connection.execute(_DEAD, (DEAD_AFTER_S,))).fetchall()
            names = [worker for (worker,) in rows]
            for name in names:
                await close_worker(connection, name, grace_usd)
            return names

        return await self._run(work)


async def open_lent(connection: Connection, records: bytes) -> None:
    """Begin the leases that calls went beyond before there were any, at nothing: what they cost is a debt of theirs.

    Their workers are not registered by it: one that was closed meanwhile is to learn of that. `records` is JSON.
    Locks are taken in the order of `take_lease`.
    """
    for statement in _OPEN_LENT:
        await connection.execute(statement, (Jsonb(records, bytes),))


async def close_worker(connection: Connection, worker: str, grace_usd: Decimal) -> None:
    """Free all that a worker had; holds that it wrote down are charged."""
    await connection.execute("SELECT close_lease_worker(%s, %s)", (worker, grace_usd))


async def close_journal(connection: Connection, journal_id: str, grace_usd: Decimal) -> None:
    """Close the worker of a journal that is written wholly, under every name that it had."""
    rows = await connection.execute(
        "SELECT worker FROM lease_workers WHERE worker = %(id)s OR worker LIKE %(id)s || '~%%'",
        {"id": journal_id},
    )
    for (name,) in await rows.fetchall():
        await close_worker(connection, name, grace_usd)
