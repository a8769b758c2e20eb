"""The ledger: what every payer has and where it came from. Double entry, append-only, each reference once.

    credit:<payer>      bought or given, kept        house:<name>   where money comes from or goes to
    allowance:<payer>   a plan's, set anew, spent first
    owed:<payer>        what calls cost of a payer who pays later

Everything here works inside the caller's transaction, and a `ref` that is there already changes nothing. Locks are
taken in one order by everybody: the change counter, the reference, purses, accounts by name.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, LiteralString

from psycopg.types.json import Jsonb

from engine.errors import NotFound
from engine.storage.postgres import Connection, count_change

POTS = ("credit", "allowance")
NOTHING = Decimal(0)
EXPIRED = "house:expired"
WRITTEN_OFF = "house:written_off"
_TABLES: dict[str, LiteralString] = {"user": "users", "team": "teams"}
_ADD_MOVEMENT: LiteralString = (
    "INSERT INTO ledger_movements (ref, kind, payer, description, metadata, created_by)"
    " VALUES (%(ref)s, %(kind)s, %(payer)s, %(description)s, %(metadata)s, %(by)s)"
    " ON CONFLICT (ref) DO NOTHING RETURNING id"
)
_LOCK: LiteralString = (
    "SELECT id, balance_usd, grace_usd FROM ledger_accounts WHERE id = ANY(%s) ORDER BY id FOR UPDATE"
)
_BOOK: LiteralString = (
    "WITH moved AS (UPDATE ledger_accounts a SET balance_usd = a.balance_usd + p.amount"
    " FROM unnest(%(accounts)s::text[], %(amounts)s::numeric[]) AS p (account, amount)"
    " WHERE a.id = p.account RETURNING a.id, p.amount, a.balance_usd)"
    " INSERT INTO ledger_entries (movement_id, account, amount_usd, balance_after)"
    " SELECT %(movement)s, id, amount, balance_usd FROM moved"
)
_CHARGE: LiteralString = (
    "SELECT charge_payers(ARRAY[%(ref)s::text], 'rerate', ARRAY[%(payer)s::text], ARRAY[%(prepaid)s::boolean],"
    " ARRAY[%(cost)s::numeric], 0)"
)
_ONE_AFTER_THE_OTHER: LiteralString = "SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))"
_BALANCES: LiteralString = "SELECT id, balance_usd FROM ledger_accounts WHERE id = ANY(%s)"


@dataclass(frozen=True, slots=True)
class Balance:
    """What a payer has."""

    credit_usd: Decimal
    allowance_usd: Decimal

    @property
    def total_usd(self) -> Decimal:
        return self.credit_usd + self.allowance_usd


@dataclass(frozen=True, slots=True)
class Movement:
    """What one movement is, beside its amounts."""

    ref: str
    kind: str
    payer: str
    description: str = ""
    metadata: Mapping[str, Any] | None = None
    by: str = "system"


async def grant(  # noqa: PLR0913 - what a movement is, by name
    connection: Connection,
    payer: str,
    amount_usd: Decimal,
    *,
    ref: str,
    kind: str,
    source: str,
    pot: str = "credit",
    description: str = "",
    metadata: Mapping[str, Any] | None = None,
    by: str = "system",
) -> Balance | None:
    """Give a payer money out of `source` (`house:grants` ...); from then on the payer's calls are prepaid."""
    _check(payer, amount_usd, pot)
    if amount_usd:
        await _make_prepaid(connection, payer)
    movement = Movement(ref, kind, payer, description, metadata, by)
    return await _move(connection, movement, {f"{pot}:{payer}": amount_usd, source: -amount_usd})


async def take_back(  # noqa: PLR0913 - what a movement is, by name
    connection: Connection,
    payer: str,
    amount_usd: Decimal,
    *,
    ref: str,
    kind: str,
    target: str,
    pot: str = "credit",
    description: str = "",
    metadata: Mapping[str, Any] | None = None,
    by: str = "system",
) -> tuple[Balance, Decimal] | None:
    """Take from a payer what is there, at most `amount_usd`, and say how much that was. `target` gets the whole.

    What is not there any more is the house's loss. Money in the hands of running calls is taken too.
    """
    _check(payer, amount_usd, pot)
    account = f"{pot}:{payer}"
    movement_id = await _begin(connection, Movement(ref, kind, payer, description, metadata, by))
    if movement_id is None:
        return None
    await _recall(connection, payer)
    held = await _lock(connection, [account, target, WRITTEN_OFF])
    balance, grace = held[account]
    taken = min(amount_usd, max(balance + grace, NOTHING))
    amounts = {account: -taken, target: amount_usd}
    amounts[WRITTEN_OFF] = amounts.get(WRITTEN_OFF, NOTHING) + taken - amount_usd
    await _book(connection, movement_id, amounts)
    return await read_balance(connection, payer), taken


async def adjust(
    connection: Connection,
    payer: str,
    amount_usd: Decimal,
    *,
    ref: str,
    prepaid: bool,
    description: str = "",
) -> bool:
    """What was paid for usage is `amount_usd` more (below zero: less). False when the reference was used already.

    More is taken as a call is paid: allowance, credit, and what is not there is the house's loss.
    """
    _check(payer, abs(amount_usd), "credit")
    if amount_usd > 0:
        await connection.execute(_ONE_AFTER_THE_OTHER, (ref,))
        used = await (
            await connection.execute("SELECT 1 FROM ledger_movements WHERE ref = %s", (ref,))
        ).fetchone()
        await connection.execute(
            _CHARGE, {"ref": ref, "payer": payer, "prepaid": prepaid, "cost": amount_usd}
        )
        return used is None
    movement = Movement(ref, "rerate", payer, description)
    pot = "credit" if prepaid else "owed"
    return (
        await _move(connection, movement, {f"{pot}:{payer}": -amount_usd, "house:usage": amount_usd})
        is not None
    )


async def set_allowance(  # noqa: PLR0913 - what a movement is, by name
    connection: Connection,
    payer: str,
    amount_usd: Decimal,
    *,
    ref: str,
    kind: str,
    source: str = "house:grants",
    description: str = "",
    metadata: Mapping[str, Any] | None = None,
    by: str = "system",
) -> Balance | None:
    """Set a payer's allowance; what was left of the old one expires."""
    _check(payer, amount_usd, "allowance")
    if not source.startswith("house:"):
        raise ValueError(f"{source!r} is no account of the house")
    if amount_usd:
        await _make_prepaid(connection, payer)
    account = f"allowance:{payer}"
    movement_id = await _begin(connection, Movement(ref, kind, payer, description, metadata, by))
    if movement_id is None:
        return None
    await _recall(connection, payer)
    held = await _lock(connection, [account, source, EXPIRED])
    left, _ = held[account]
    amounts = {account: amount_usd - left, source: -amount_usd}
    amounts[EXPIRED] = amounts.get(EXPIRED, NOTHING) + left  # the source may be what expired before
    await _book(connection, movement_id, amounts)
    return await read_balance(connection, payer)


async def read_balance(connection: Connection, payer: str) -> Balance:
    rows = await connection.execute(_BALANCES, ([f"{pot}:{payer}" for pot in POTS],))
    found: dict[str, Decimal] = dict(await rows.fetchall())
    return Balance(
        credit_usd=found.get(f"credit:{payer}", NOTHING),
        allowance_usd=found.get(f"allowance:{payer}", NOTHING),
    )


def _check(payer: str, amount_usd: Decimal, pot: str) -> None:
    kind, _, name = payer.partition(":")
    if kind not in _TABLES or not name:
        raise ValueError(f"{payer!r} is no payer: user:<id> or team:<id>")
    if pot not in POTS:
        raise ValueError(f"{pot!r} is no pot of a payer")
    if not isinstance(amount_usd, Decimal) or not amount_usd.is_finite() or amount_usd < 0:
        raise ValueError(f"{amount_usd!r} is no amount: direction is said by the function")


async def _make_prepaid(connection: Connection, payer: str) -> None:
    """Calls of the payer are paid before they are made, seen by every worker within a second."""
    kind, _, name = payer.partition(":")
    table = _TABLES[kind]
    found = await (await connection.execute(f"SELECT prepaid FROM {table} WHERE id = %s", (name,))).fetchone()
    if found is None:
        raise NotFound(f"there is no {kind} {name[:80]}", code=f"{kind}_not_found")
    if not found[0]:
        n = await count_change(connection)
        await connection.execute(
            f"UPDATE {table} SET prepaid = true, changed_n = %s WHERE id = %s", (n, name)
        )


async def _recall(connection: Connection, payer: str) -> None:
    """There is less than there was: workers hand back what no running call holds, and ask anew."""
    await connection.execute(
        "UPDATE leases SET recalled = true WHERE purse = %s AND amount_usd > 0 AND NOT recalled",
        (f"credit:{payer}",),
    )


async def _move(connection: Connection, movement: Movement, amounts: Mapping[str, Decimal]) -> Balance | None:
    movement_id = await _begin(connection, movement)
    if movement_id is None:
        return None
    await _lock(connection, list(amounts))
    await _book(connection, movement_id, amounts)
    return await read_balance(connection, movement.payer)


async def _begin(connection: Connection, movement: Movement) -> int | None:
    """The number of a new movement; None when its reference was used. Two at once: the second waits for the first."""
    row = await (
        await connection.execute(
            _ADD_MOVEMENT,
            {
                "ref": movement.ref,
                "kind": movement.kind,
                "payer": movement.payer,
                "description": movement.description,
                "metadata": Jsonb(dict(movement.metadata or {})),
                "by": movement.by,
            },
        )
    ).fetchone()
    return None if row is None else int(row[0])


async def _lock(connection: Connection, accounts: list[str]) -> dict[str, tuple[Decimal, Decimal]]:
    """Balance and grace of accounts that nobody else changes until the transaction ends."""
    names = sorted(set(accounts))
    await connection.execute(
        "INSERT INTO ledger_accounts (id) SELECT unnest(%s::text[]) ON CONFLICT DO NOTHING", (names,)
    )
    rows = await (await connection.execute(_LOCK, (names,))).fetchall()
    return {account: (balance, grace) for account, balance, grace in rows}


async def _book(connection: Connection, movement_id: int, amounts: Mapping[str, Decimal]) -> None:
    moved = {account: amount for account, amount in amounts.items() if amount}
    if moved:
        await connection.execute(
            _BOOK, {"movement": movement_id, "accounts": list(moved), "amounts": list(moved.values())}
        )
