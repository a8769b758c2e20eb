"""What administrators do to credit by hand: within caps, with a reason, and in the audit log.

Caps hold for any number of administrators and requests at once: whoever moves money by hand holds the row of the change
counter, which the audit log needs anyway. Works inside the caller's transaction.
"""

from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any
from uuid import uuid4

from engine.config.schema_commerce import CreditsFile
from engine.errors import InvalidRequest, NotAllowed, NotFound
from engine.storage.audit import Actor, Event, write_event
from engine.storage.ledger import Balance, grant, read_balance, take_back
from engine.storage.outbox import queue_mail
from engine.storage.postgres import Connection, count_change
from engine.storage.secrets import KeyRing
from engine.storage.trial_terms import lift_trial

ZERO = Decimal(0)


@dataclass(frozen=True, slots=True)
class ByHand:
    """One movement that an administrator asks for; a negative amount takes."""

    user_id: str
    amount_usd: Decimal
    kind: str
    """admin_credit, admin_debit or refund."""
    reason: str
    description: str = ""
    metadata: dict[str, Any] | None = None
    key: str = ""
    """Of a request that may come twice."""
    refunds: int | str | None = None
    """The movement that is given back: its number or its reference."""


@dataclass(frozen=True, slots=True)
class Moved:
    ref: str
    before_usd: Decimal
    after_usd: Decimal
    changed_usd: Decimal


def name_admin(by: Actor) -> str:
    return f"admin:{by.user_id or by.key_id}"


async def move_by_hand(
    connection: Connection, ring: KeyRing, asked: ByHand, rules: CreditsFile, by: Actor
) -> Moved:
    """Raises what is wrong with it. A repeat with the same `key` moves nothing and says what is there now."""
    await count_change(connection)
    admin, payer = name_admin(by), f"user:{asked.user_id}"
    email = await _find_address(connection, asked.user_id)
    ref = f"{admin}:{asked.key}:{asked.user_id}" if asked.key else f"{admin}:{uuid4().hex}"
    before = await read_balance(connection, payer)
    if await _is_done(connection, ref):
        return Moved(ref, before.total_usd, before.total_usd, ZERO)
    if len(asked.reason.strip()) < rules.min_reason:
        raise InvalidRequest(
            f"a reason has at least {rules.min_reason} letters", code="reason_too_short", param="reason"
        )
    await _check_caps(connection, admin, asked, rules)
    if asked.refunds is not None:
        asked = replace(asked, refunds=await _find_movement(connection, payer, asked.refunds))
        await _check_refund(connection, payer, asked)
    after, changed_usd = await _book(connection, payer, asked, ref, admin)
    await connection.execute(
        "INSERT INTO credit_grants (ref, admin, payer, amount_usd, reason, refunds) VALUES (%s, %s, %s, %s, %s, %s)",
        (ref, admin, payer, asked.amount_usd, asked.reason, asked.refunds),
    )
    facts = {"amount_usd": str(asked.amount_usd), "reason": asked.reason, "ref": ref}
    await write_event(
        connection, ring, by, Event(f"credit.{asked.kind}", asked.user_id, asked.user_id, after=facts)
    )
    if changed_usd > 0:
        told = {
            "amount_usd": f"{changed_usd:f}",
            "balance_usd": f"{after.total_usd:f}",
            "reason": asked.description,
        }
        await queue_mail(
            connection, "credits_added", email, told, ref=f"credits_added:{ref}", user_id=asked.user_id
        )
    return Moved(ref, before.total_usd, after.total_usd, changed_usd)


async def _book(
    connection: Connection, payer: str, asked: ByHand, ref: str, admin: str
) -> tuple[Balance, Decimal]:
    about: dict[str, Any] = {
        "ref": ref,
        "kind": asked.kind,
        "description": asked.description or asked.reason,
        "metadata": {**(asked.metadata or {}), "reason": asked.reason},
        "by": admin,
    }
    if asked.amount_usd > 0:
        source = "house:refunds" if asked.kind == "refund" else "house:grants"
        after = await grant(connection, payer, asked.amount_usd, source=source, **about)
        await lift_trial(connection, payer, ref)
        assert after is not None, "the reference was free and is held by this transaction"
        return after, asked.amount_usd
    taken = await take_back(connection, payer, -asked.amount_usd, target="house:grants", **about)
    assert taken is not None, "the reference was free and is held by this transaction"
    return taken[0], -taken[1]


async def _find_address(connection: Connection, user_id: str) -> str:
    row = await (
        await connection.execute("SELECT email FROM users WHERE id = %s AND active", (user_id,))
    ).fetchone()
    if row is None:
        raise NotFound("there is no such active user", code="user_not_found", param="user_id")
    return str(row[0])


async def _is_done(connection: Connection, ref: str) -> bool:
    row = await (await connection.execute("SELECT 1 FROM credit_grants WHERE ref = %s", (ref,))).fetchone()
    return row is not None


async def _check_caps(connection: Connection, admin: str, asked: ByHand, rules: CreditsFile) -> None:
    """Only what is given counts; taking is not capped."""
    if asked.amount_usd <= 0:
        return
    if asked.amount_usd > rules.max_grant_usd:
        raise NotAllowed(
            f"an administrator gives at most {rules.max_grant_usd} USD at once", code="grant_too_large"
        )
    row = await (
        await connection.execute(
            "SELECT coalesce(sum(amount_usd), 0) FROM credit_grants WHERE admin = %s AND amount_usd > 0"
            " AND created_at > now() - interval '24 hours'",
            (admin,),
        )
    ).fetchone()
    assert row is not None, "a sum has one row"
    if row[0] + asked.amount_usd > rules.max_day_usd:
        raise NotAllowed(
            f"an administrator gives at most {rules.max_day_usd} USD in 24 hours, and gave {row[0]:f}",
            code="grants_used_up",
        )


async def _find_movement(connection: Connection, payer: str, name: int | str) -> int:
    row = await (
        await connection.execute(
            "SELECT id FROM ledger_movements WHERE payer = %s AND (id = %s OR ref = %s)",
            (payer, name if isinstance(name, int) else None, name if isinstance(name, str) else None),
        )
    ).fetchone()
    if row is None:
        raise NotFound("this user has no such transaction", code="transaction_not_found")
    return int(row[0])


async def _check_refund(connection: Connection, payer: str, asked: ByHand) -> None:
    """What was taken once is given back once at most, in parts or whole."""
    row = await (
        await connection.execute(
            "SELECT coalesce(-sum(e.amount_usd), 0), (SELECT coalesce(sum(g.amount_usd), 0) FROM credit_grants g"
            " WHERE g.refunds = %(id)s) FROM ledger_movements m JOIN ledger_entries e ON e.movement_id = m.id"
            " WHERE m.id = %(id)s AND m.payer = %(payer)s AND e.account IN ('credit:' || m.payer,"
            " 'allowance:' || m.payer, 'owed:' || m.payer) GROUP BY m.id",
            {"id": asked.refunds, "payer": payer},
        )
    ).fetchone()
    if row is None:
        raise NotFound("this user has no such transaction", code="transaction_not_found")
    taken, given_back = row
    if given_back + asked.amount_usd > taken:
        raise NotAllowed(
            f"of this transaction {max(taken - given_back, ZERO):f} USD can be given back",
            code="refund_too_large",
        )


async def summarise(connection: Connection, payer: str | None) -> list[dict[str, Any]]:
    """How often and how much was moved, by kind, as payers see it."""
    rows = await connection.execute(
        "SELECT m.kind, count(DISTINCT m.id), coalesce(sum(e.amount_usd), 0) FROM ledger_movements m"
        " LEFT JOIN ledger_entries e ON e.movement_id = m.id"
        " AND e.account IN ('credit:' || m.payer, 'allowance:' || m.payer)"
        " WHERE %(payer)s::text IS NULL OR m.payer = %(payer)s GROUP BY m.kind ORDER BY m.kind",
        {"payer": payer},
    )
    return [
        {"transaction_type": kind, "count": count, "amount_usd": amount}
        for kind, count, amount in await rows.fetchall()
    ]


async def find_user_of_key(connection: Connection, ring: KeyRing, key_text: str) -> str:
    """The owner of a key by its text. Raises NotFound."""
    row = await (
        await connection.execute(
            "SELECT user_id FROM api_keys WHERE hash = ANY(%s::bytea[])",
            (list(ring.hash_under_all(key_text)),),
        )
    ).fetchone()
    if row is None:
        raise NotFound("nobody has this key", code="key_not_found")
    return str(row[0])
