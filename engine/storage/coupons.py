"""Coupons: codes that are worth credit, once for each user and so often in all.

A redemption is one transaction; the primary key of redemptions and the CHECK on uses decide who was first, not what
somebody read before. Works inside the caller's transaction.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, LiteralString
from uuid import uuid4

import psycopg
from psycopg.rows import dict_row

from engine.errors import GatewayError, NotFound
from engine.storage.audit import Actor
from engine.storage.gift_mails import tell_credit_added
from engine.storage.ledger import grant, read_balance
from engine.storage.postgres import Connection, count_change
from engine.storage.trial_terms import lift_trial

Row = dict[str, Any]
COLUMNS: LiteralString = (
    "id, code, value_usd, scope, type, max_uses, uses, assigned_to, valid_from, valid_until, active, description,"
    " creator_type, created_by, created_at, updated_at"
)
_USE: LiteralString = (
    "UPDATE coupons SET uses = uses + 1 WHERE id = %s AND active AND valid_from <= now()"
    " AND (valid_until IS NULL OR valid_until > now()) RETURNING value_usd"
)
_CHANGED: Mapping[str, LiteralString] = {
    "valid_until": "valid_until = %(valid_until)s",
    "max_uses": "max_uses = %(max_uses)s",
    "is_active": "active = %(is_active)s",
    "description": "description = %(description)s",
}


class CouponRefused(GatewayError):
    """`code` is one of the words that clients of coupons know."""

    status, type, code = 409, "invalid_request_error", "COUPON_INACTIVE"

    def __init__(self, message: str, *, code: str, status: int = 409) -> None:
        super().__init__(message, code=code)
        self.status = status


@dataclass(frozen=True, slots=True)
class Redeemed:
    code: str
    value_usd: Decimal
    before_usd: Decimal
    after_usd: Decimal


async def redeem_coupon(connection: Connection, user_id: str, code: str, by: Actor) -> Redeemed:
    """Give a user a coupon's worth. Raises CouponRefused, and then the transaction must be undone."""
    await count_change(connection)
    payer = f"user:{user_id}"
    coupon = await _find(connection, code)
    _check(coupon, user_id, datetime.now(UTC))
    before = await read_balance(connection, payer)
    value_usd = await _use(connection, coupon["id"], user_id)
    ref = f"coupon:{coupon['id']}:{user_id}"
    after = await grant(
        connection,
        payer,
        value_usd,
        ref=ref,
        kind="coupon",
        source="house:coupons",
        description=f"coupon {coupon['code']}",
        metadata={"coupon_id": coupon["id"]},
        by=f"user:{user_id}",
    )
    if after is None:
        raise _say_redeemed()
    await lift_trial(connection, payer, f"coupon:{coupon['id']}")
    await connection.execute(
        "UPDATE coupon_redemptions SET value_usd = %s, balance_before = %s, balance_after = %s, address = %s,"
        " agent = %s WHERE coupon_id = %s AND user_id = %s",
        (value_usd, before.total_usd, after.total_usd, by.address, by.agent[:200], coupon["id"], user_id),
    )
    reason = f"coupon {coupon['code']}"
    await tell_credit_added(connection, user_id, value_usd, after, ref=ref, reason=reason)
    return Redeemed(coupon["code"], value_usd, before.total_usd, after.total_usd)


async def _find(connection: Connection, code: str) -> Row:
    coupon = await _fetch(
        connection, f"SELECT {COLUMNS} FROM coupons WHERE code = %s", (code.strip().upper(),)
    )
    if coupon is None:
        raise _say_unknown()
    return coupon


def _say_unknown() -> CouponRefused:
    return CouponRefused("there is no such coupon", code="COUPON_NOT_FOUND", status=404)


def _check(coupon: Row, user_id: str, now: datetime) -> None:
    """What time and its makers say of a coupon; whether it is used up is said by the constraints."""
    if coupon["assigned_to"] not in (None, user_id):
        raise _say_unknown()  # that it is there is nobody else's business
    if not coupon["active"]:
        raise CouponRefused("this coupon is not in use", code="COUPON_INACTIVE")
    if coupon["valid_from"] > now:
        raise CouponRefused("this coupon is not good yet", code="COUPON_NOT_YET_ACTIVE")
    if coupon["valid_until"] is not None and coupon["valid_until"] <= now:
        raise CouponRefused("this coupon has expired", code="COUPON_EXPIRED")


async def _use(connection: Connection, coupon_id: str, user_id: str) -> Decimal:
    added = await connection.execute(
        "INSERT INTO coupon_redemptions (coupon_id, user_id, value_usd) VALUES (%s, %s, 0)"
        " ON CONFLICT DO NOTHING",
        (coupon_id, user_id),
    )
    if not added.rowcount:
        raise _say_redeemed()
    try:
        async with connection.transaction():
            row = await (await connection.execute(_USE, (coupon_id,))).fetchone()
    except psycopg.errors.CheckViolation:
        raise CouponRefused("this coupon is used up", code="MAX_USES_EXCEEDED") from None
    if row is None:  # its makers were quicker
        raise CouponRefused("this coupon is not in use", code="COUPON_INACTIVE")
    return Decimal(row[0])


def _say_redeemed() -> CouponRefused:
    return CouponRefused("you have redeemed this coupon", code="ALREADY_REDEEMED")


# --- what users see


async def list_available(connection: Connection, user_id: str) -> list[Row]:
    """Coupons that this user may redeem now: their own, and those for everybody."""
    return await _list(
        connection,
        f"SELECT {COLUMNS} FROM coupons c WHERE active AND valid_from <= now()"
        " AND (valid_until IS NULL OR valid_until > now()) AND uses < max_uses"
        " AND (scope = 'global' OR assigned_to = %(user)s) AND NOT EXISTS (SELECT 1 FROM coupon_redemptions r"
        " WHERE r.coupon_id = c.id AND r.user_id = %(user)s) ORDER BY created_at DESC LIMIT 100",
        {"user": user_id},
    )


async def list_redemptions(connection: Connection, user_id: str, limit: int) -> list[Row]:
    return await _list(
        connection,
        "SELECT r.id, c.code, c.scope, c.type, r.value_usd, r.redeemed_at, r.balance_before, r.balance_after"
        " FROM coupon_redemptions r JOIN coupons c ON c.id = r.coupon_id WHERE r.user_id = %s"
        " ORDER BY r.id DESC LIMIT %s",
        (user_id, limit),
    )


# --- what administrators do


async def create_coupon(connection: Connection, coupon: Mapping[str, Any]) -> Row:
    """Keys are columns. Raises CouponRefused when there is one of this code, NotFound without the user it is for."""
    if coupon["assigned_to"] is not None:
        found = await _fetch(connection, "SELECT id FROM users WHERE id = %s", (coupon["assigned_to"],))
        if found is None:
            raise NotFound("there is no such user", code="USER_NOT_FOUND")
    made = await _fetch(
        connection,
        "INSERT INTO coupons (id, code, value_usd, scope, type, max_uses, assigned_to, valid_from, valid_until,"
        " description, created_by) VALUES (%(id)s, %(code)s, %(value_usd)s, %(scope)s, %(type)s, %(max_uses)s,"
        " %(assigned_to)s, coalesce(%(valid_from)s, now()), %(valid_until)s, %(description)s, %(created_by)s)"
        f" ON CONFLICT DO NOTHING RETURNING {COLUMNS}",
        {"id": f"coupon_{uuid4().hex[:16]}", **coupon},
    )
    if made is None:
        raise CouponRefused("there is a coupon with this code", code="COUPON_EXISTS")
    return made


async def read_coupon(connection: Connection, coupon_id: str) -> Row:
    found = await _fetch(connection, f"SELECT {COLUMNS} FROM coupons WHERE id = %s", (coupon_id,))
    if found is None:
        raise CouponRefused("there is no such coupon", code="COUPON_NOT_FOUND", status=404)
    return found


async def change_coupon(connection: Connection, coupon_id: str, changes: Mapping[str, Any]) -> Row:
    """Fewer uses than were made are refused by the constraint."""
    sets = ", ".join(_CHANGED[name] for name in changes)
    try:
        async with connection.transaction():
            changed = await _fetch(
                connection,
                f"UPDATE coupons SET {sets}, updated_at = now() WHERE id = %(id)s RETURNING {COLUMNS}",
                {"id": coupon_id, **changes},
            )
    except psycopg.errors.CheckViolation:
        raise CouponRefused(
            "it has more uses already, or belongs to one user", code="COUPON_USES_TOO_FEW"
        ) from None
    return changed if changed is not None else await read_coupon(connection, coupon_id)


async def list_coupons(
    connection: Connection, filters: Mapping[str, Any], limit: int, offset: int
) -> tuple[list[Row], int]:
    """Newest first, and how many there are in all."""
    where: LiteralString = (
        "(%(scope)s::text IS NULL OR scope = %(scope)s) AND (%(type)s::text IS NULL OR type = %(type)s)"
        " AND (%(active)s::boolean IS NULL OR active = %(active)s)"
    )
    asked = {"scope": None, "type": None, "active": None, **filters, "limit": limit, "offset": offset}
    rows = await _list(
        connection,
        f"SELECT {COLUMNS} FROM coupons WHERE {where} ORDER BY created_at DESC, id LIMIT %(limit)s OFFSET %(offset)s",
        asked,
    )
    total = await _fetch(connection, f"SELECT count(*) AS n FROM coupons WHERE {where}", asked)
    return rows, int(total["n"]) if total is not None else 0


async def count_redemptions(connection: Connection, coupon_id: str) -> Row:
    found = await _fetch(
        connection,
        "SELECT count(*) AS total, count(DISTINCT user_id) AS users, coalesce(sum(value_usd), 0) AS value_usd"
        " FROM coupon_redemptions WHERE coupon_id = %s",
        (coupon_id,),
    )
    assert found is not None, "counts have one row"
    return found


async def count_coupons(connection: Connection) -> Row:
    found = await _fetch(
        connection,
        "SELECT count(*) AS total, count(*) FILTER (WHERE active AND valid_from <= now()"
        " AND (valid_until IS NULL OR valid_until > now()) AND uses < max_uses) AS active,"
        " count(*) FILTER (WHERE scope = 'user_specific') AS user_specific,"
        " count(*) FILTER (WHERE scope = 'global') AS global,"
        " (SELECT count(*) FROM coupon_redemptions) AS redemptions,"
        " (SELECT count(DISTINCT user_id) FROM coupon_redemptions) AS redeemers,"
        " (SELECT coalesce(sum(value_usd), 0) FROM coupon_redemptions) AS value_usd FROM coupons",
        (),
    )
    assert found is not None, "counts have one row"
    return found


async def _fetch(connection: Connection, statement: LiteralString, values: Any) -> Row | None:
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(statement, values)
        return await cursor.fetchone()


async def _list(connection: Connection, statement: LiteralString, values: Any) -> list[Row]:
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(statement, values)
        return await cursor.fetchall()
