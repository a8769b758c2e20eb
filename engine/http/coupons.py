"""`/coupons` for everybody, `/admin/coupons` for administrators."""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, Field

from engine.config.schema_base import Strict
from engine.config.schema_commerce import CouponsFile
from engine.errors import InvalidRequest
from engine.http.endpoints import Answer, Ask, Route
from engine.http.identifiers import make_request_id
from engine.http.keys import find_owner
from engine.http.till import Amount, Code, Line, Most, PageQuery, Till, UserId, show_usd
from engine.policies.access import to_change, to_look
from engine.storage import coupons
from engine.storage.audit import Event, write_event
from engine.storage.coupons import CouponRefused, Redeemed, Row
from engine.storage.postgres import Connection

_CENT_OF_CENT = Decimal("0.0001")
_CODE = re.compile(r"[A-Z0-9_-]+")
Uses = Annotated[int, Field(ge=1, le=2**31 - 1)]
Scope = Literal["global", "user_specific"]


class Redeem(Strict):
    code: Code


class HistoryQuery(Strict):
    limit: Most = 100


class CreateCoupon(Strict):
    code: Code
    value_usd: Amount
    coupon_scope: Scope = "global"
    coupon_type: Line = "promotional"
    max_uses: Uses = 1
    valid_from: AwareDatetime | None = None
    valid_until: AwareDatetime | None = None
    assigned_to_user_id: UserId | None = None
    description: Line = ""


class ChangeCoupon(Strict):
    valid_until: AwareDatetime | None = None
    max_uses: Uses = 1
    is_active: bool = True
    description: Line = ""


class CouponsQuery(PageQuery):
    scope: Scope | None = None
    coupon_type: Line | None = None
    is_active: bool | None = None


class CouponRoutes:
    def __init__(self, till: Till) -> None:
        self._till = till

    def list(self) -> Sequence[Route]:
        all_, one = "/admin/coupons", "/admin/coupons/{coupon_id}"
        look = to_look("coupons:read")
        return (
            Route("POST", "/coupons/redeem", self.redeem, "Redeem a coupon.", body=Redeem,
                  need=to_change("coupons:redeem")),
            Route("GET", "/coupons/available", self.list_available, "Coupons that you may redeem.",
                  need=to_look("coupons:list_available")),
            Route("GET", "/coupons/history", self.list_history, "Coupons that you redeemed.",
                  query=HistoryQuery, need=to_look("coupons:view_history")),
            Route("POST", all_, self.create, "Make a coupon.", body=CreateCoupon, status=201,
                  need=to_change("coupons:create")),
            Route("GET", all_, self.list_all, "List the coupons.", query=CouponsQuery, need=look),
            Route("GET", f"{all_}/stats/overview", self.show_stats, "What all coupons came to.", need=look),
            Route("GET", one, self.show, "Show a coupon.", need=look),
            Route("PATCH", one, self.change, "Change a coupon.", body=ChangeCoupon,
                  need=to_change("coupons:update")),
            Route("DELETE", one, self.switch_off, "Switch a coupon off; what was redeemed stays.",
                  need=to_change("coupons:delete")),
            Route("GET", f"{one}/analytics", self.show_analytics, "What a coupon came to.", need=look),
        )  # fmt: skip

    # --- users

    async def redeem(self, ask: Ask) -> Answer:
        owner, code = find_owner(ask.caller), ask.body.code
        await self._till.count("coupon", owner, self._rules.tries_per_hour, 3600)

        async def work(connection: Connection) -> Redeemed:
            return await coupons.redeem_coupon(connection, owner, code, ask.by)

        try:
            redeemed = await self._till.run(work)
        except CouponRefused as refusal:
            return Answer(show_refusal(code, refusal), status=refusal.status)
        return Answer(
            {
                "success": True,
                "message": f"{show_usd(redeemed.value_usd)} USD were added to your credit",
                "coupon_code": redeemed.code,
                "coupon_value": show_usd(redeemed.value_usd),
                "previous_balance": show_usd(redeemed.before_usd),
                "new_balance": show_usd(redeemed.after_usd),
                "error_code": None,
            }
        )

    async def list_available(self, ask: Ask) -> Answer:
        owner = find_owner(ask.caller)

        async def work(connection: Connection) -> list[Row]:
            return await coupons.list_available(connection, owner)

        return Answer([show_offer(row) for row in await self._till.run(work)])

    async def list_history(self, ask: Ask) -> Answer:
        owner = find_owner(ask.caller)

        async def work(connection: Connection) -> list[Row]:
            return await coupons.list_redemptions(connection, owner, ask.query.limit)

        rows = await self._till.run(work)
        return Answer(
            {
                "redemptions": [show_redemption(row) for row in rows],
                "total_redemptions": len(rows),
                "total_value_redeemed": show_usd(sum((row["value_usd"] for row in rows), start=Decimal(0))),
            }
        )

    # --- administrators

    async def create(self, ask: Ask) -> Answer:
        columns = write_columns(ask.body, self._rules) | {"created_by": ask.by.user_id or ask.by.key_id}

        async def work(connection: Connection) -> Row:
            made = await coupons.create_coupon(connection, columns)
            after = {"code": made["code"], "value_usd": str(made["value_usd"]), "max_uses": made["max_uses"]}
            event = Event("coupon.create", made["id"], made["assigned_to"] or "", after=after)
            await write_event(connection, self._till.ring, ask.by, event)
            return made

        return Answer(show_coupon(await self._till.run(work)), status=201)

    async def list_all(self, ask: Ask) -> Answer:
        query: CouponsQuery = ask.query
        filters = {"scope": query.scope, "type": query.coupon_type, "active": query.is_active}

        async def work(connection: Connection) -> tuple[list[Row], int]:
            return await coupons.list_coupons(connection, filters, query.limit, query.offset)

        rows, total = await self._till.run(work)
        shown = [show_coupon(row) for row in rows]
        return Answer({"coupons": shown, "total": total, "offset": query.offset, "limit": query.limit})

    async def show(self, ask: Ask) -> Answer:
        async def work(connection: Connection) -> Row:
            return await coupons.read_coupon(connection, ask.names["coupon_id"])

        return Answer(show_coupon(await self._till.run(work)))

    async def change(self, ask: Ask) -> Answer:
        named = ask.body.model_fields_set
        if not named:
            raise InvalidRequest("a change names at least one field", code="invalid_value")
        changes = {name: getattr(ask.body, name) for name in named}
        return await self._change(ask, "coupon.update", changes)

    async def switch_off(self, ask: Ask) -> Answer:
        return await self._change(ask, "coupon.delete", {"is_active": False})

    async def _change(self, ask: Ask, action: str, changes: Mapping[str, Any]) -> Answer:
        async def work(connection: Connection) -> Row:
            changed = await coupons.change_coupon(connection, ask.names["coupon_id"], changes)
            event = Event(action, changed["id"], changed["assigned_to"] or "", after=dict(changes))
            await write_event(connection, self._till.ring, ask.by, event)
            return changed

        return Answer(show_coupon(await self._till.run(work)))

    async def show_analytics(self, ask: Ask) -> Answer:
        async def work(connection: Connection) -> tuple[Row, Row]:
            found = await coupons.read_coupon(connection, ask.names["coupon_id"])
            return found, await coupons.count_redemptions(connection, found["id"])

        coupon, counts = await self._till.run(work)
        return Answer(
            {
                "coupon": show_coupon(coupon),
                "total_redemptions": counts["total"],
                "unique_users": counts["users"],
                "total_value_distributed": show_usd(counts["value_usd"]),
                "redemption_rate": round(coupon["uses"] / coupon["max_uses"], 4),
                "remaining_uses": coupon["max_uses"] - coupon["uses"],
                "is_expired": is_expired(coupon),
            }
        )

    async def show_stats(self, ask: Ask) -> Answer:
        counts = await self._till.run(coupons.count_coupons)
        redemptions, value_usd = counts["redemptions"], counts["value_usd"]
        return Answer(
            {
                "total_coupons": counts["total"],
                "active_coupons": counts["active"],
                "user_specific_coupons": counts["user_specific"],
                "global_coupons": counts["global"],
                "total_redemptions": redemptions,
                "unique_redeemers": counts["redeemers"],
                "total_value_distributed": show_usd(value_usd),
                "average_redemption_value": show_usd(
                    (value_usd / max(1, redemptions)).quantize(_CENT_OF_CENT)
                ),
            }
        )

    @property
    def _rules(self) -> CouponsFile:
        return self._till.find_rules(CouponsFile)


def write_columns(asked: CreateCoupon, rules: CouponsFile) -> dict[str, Any]:
    """What the rules of the files say beside the form. Raises InvalidRequest."""
    code = asked.code
    problem = ""
    if not (rules.min_length <= len(code) <= rules.max_length and _CODE.fullmatch(code)):
        problem = f"code: {rules.min_length} to {rules.max_length} of A-Z, 0-9, _ and -"
    elif asked.value_usd > rules.max_value_usd:
        problem = f"value_usd: a coupon is worth at most {rules.max_value_usd} USD"
    elif asked.max_uses > rules.max_uses:
        problem = f"max_uses: a coupon has at most {rules.max_uses} uses"
    elif asked.coupon_type not in rules.types:
        problem = f"coupon_type: one of {', '.join(rules.types)}"
    elif (asked.coupon_scope == "user_specific") != (asked.assigned_to_user_id is not None):
        problem = "assigned_to_user_id: for user_specific coupons, and only for them"
    elif asked.coupon_scope == "user_specific" and asked.max_uses != 1:
        problem = "max_uses: a coupon of one user has one use"
    elif asked.valid_until is not None and asked.valid_until <= (asked.valid_from or datetime.now(UTC)):
        problem = "valid_until: it would never be good"
    if problem:
        raise InvalidRequest(problem, code="invalid_value", param=problem.partition(":")[0])
    return {
        "code": code,
        "value_usd": asked.value_usd,
        "scope": asked.coupon_scope,
        "type": asked.coupon_type,
        "max_uses": asked.max_uses,
        "assigned_to": asked.assigned_to_user_id,
        "valid_from": asked.valid_from,
        "valid_until": asked.valid_until,
        "description": asked.description,
    }


def show_refusal(code: str, refusal: CouponRefused) -> dict[str, Any]:
    """In the shape of a redemption, and with the error that every route has."""
    nothing = dict.fromkeys(("coupon_value", "previous_balance", "new_balance"))
    error = {"message": refusal.message, "type": refusal.type, "param": None, "code": refusal.code}
    told = {"success": False, "message": refusal.message, "coupon_code": code, "error_code": refusal.code}
    return {**told, **nothing, "error": error, "request_id": make_request_id()}


def show_coupon(row: Row) -> dict[str, Any]:
    return {
        "id": row["id"],
        "code": row["code"],
        "value_usd": show_usd(row["value_usd"]),
        "coupon_scope": row["scope"],
        "coupon_type": row["type"],
        "max_uses": row["max_uses"],
        "times_used": row["uses"],
        "remaining_uses": row["max_uses"] - row["uses"],
        "assigned_to_user_id": row["assigned_to"],
        "valid_from": row["valid_from"].isoformat(),
        "valid_until": row["valid_until"].isoformat() if row["valid_until"] else None,
        "is_active": row["active"],
        "is_expired": is_expired(row),
        "description": row["description"],
        "creator_type": row["creator_type"],
        "created_by": row["created_by"],
        "created_at": row["created_at"].isoformat(),
        "updated_at": row["updated_at"].isoformat(),
    }


def show_offer(row: Row) -> dict[str, Any]:
    return {
        "coupon_id": row["id"],
        "code": row["code"],
        "value_usd": show_usd(row["value_usd"]),
        "coupon_scope": row["scope"],
        "coupon_type": row["type"],
        "description": row["description"],
        "valid_until": row["valid_until"].isoformat() if row["valid_until"] else None,
        "remaining_uses": row["max_uses"] - row["uses"],
    }


def show_redemption(row: Row) -> dict[str, Any]:
    return {
        "id": row["id"],
        "coupon_code": row["code"],
        "coupon_scope": row["scope"],
        "coupon_type": row["type"],
        "value_applied": show_usd(row["value_usd"]),
        "redeemed_at": row["redeemed_at"].isoformat(),
        "user_balance_before": show_usd(row["balance_before"]),
        "user_balance_after": show_usd(row["balance_after"]),
    }


def is_expired(row: Row) -> bool:
    return row["valid_until"] is not None and row["valid_until"] <= datetime.now(UTC)
