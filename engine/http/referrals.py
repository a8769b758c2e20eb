"""`/referral`: one's own code, what came of it, and whether somebody else's is good."""

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from psycopg.rows import dict_row

from engine.config.schema_base import Strict
from engine.config.schema_commerce import ReferralsFile
from engine.errors import GatewayError
from engine.http.endpoints import Answer, Ask, Route
from engine.http.keys import find_owner
from engine.http.till import Code, Till, show_usd
from engine.policies.access import Need
from engine.storage.ledger import read_balance
from engine.storage.postgres import Connection
from engine.storage.referral_codes import find_referrer, get_or_make_code

_LOOK, _CHANGE = Need("read"), Need("admin")
_TRIES_PER_HOUR = 30


class ValidateReferral(Strict):
    referral_code: Code


class ReferralRoutes:
    def __init__(self, till: Till) -> None:
        self._till = till

    def list(self) -> Sequence[Route]:
        return (
            Route("GET", "/referral/code", self.show_code, "Your code.", need=_LOOK),
            Route("POST", "/referral/generate", self.show_code, "Your code; made when there is none.",
                  need=_CHANGE),
            Route("GET", "/referral/stats", self.show_stats, "Whom you brought and what it came to.", need=_LOOK),
            Route("POST", "/referral/validate", self.validate, "Whether a code may be used.",
                  body=ValidateReferral, need=_LOOK),
        )  # fmt: skip

    async def show_code(self, ask: Ask) -> Answer:
        owner, rules = find_owner(ask.caller), self._rules

        async def work(connection: Connection) -> str:
            return await get_or_make_code(connection, owner, rules)

        return Answer(show_code(await self._till.run(work), rules))

    async def validate(self, ask: Ask) -> Answer:
        owner, code, rules = find_owner(ask.caller), ask.body.referral_code, self._rules
        await self._till.count("referral", owner, _TRIES_PER_HOUR, 3600)

        async def work(connection: Connection) -> str:
            return await find_referrer(connection, code, owner)

        told: dict[str, Any] = {"valid": True, "message": "this code is good", "referral_code": code}
        try:
            await self._till.run(work)
        except GatewayError as refusal:
            if refusal.status >= 500:
                raise
            return Answer(told | {"valid": False, "message": refusal.message, "reason": refusal.code})
        bonus = {"bonus_amount": show_usd(rules.referee_bonus_usd)}
        return Answer(told | bonus | {"min_purchase_usd": show_usd(rules.min_purchase_usd)})

    async def show_stats(self, ask: Ask) -> Answer:
        owner, rules = find_owner(ask.caller), self._rules

        async def work(connection: Connection) -> dict[str, Any]:
            code = await get_or_make_code(connection, owner, rules)
            return show_code(code, rules) | await read_stats(connection, owner)

        return Answer(await self._till.run(work))

    @property
    def _rules(self) -> ReferralsFile:
        return self._till.find_rules(ReferralsFile)


def show_code(code: str, rules: ReferralsFile) -> dict[str, Any]:
    link = rules.invite_link.replace("{code}", code)
    message = rules.share_message.replace("{code}", code).replace("{link}", link)
    return {"referral_code": code, "invite_link": link, "share_message": message}


async def read_stats(connection: Connection, user_id: str) -> dict[str, Any]:
    """Who was brought is not named: an account is nobody else's to see."""
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(
            "SELECT status, referrer_bonus_usd, created_at, completed_at FROM referrals WHERE referrer_id = %s"
            " ORDER BY created_at DESC",
            (user_id,),
        )
        brought = await cursor.fetchall()
        await cursor.execute("SELECT uses, max_uses FROM referral_codes WHERE user_id = %s", (user_id,))
        uses = await cursor.fetchone()
        await cursor.execute("SELECT code FROM referrals WHERE referee_id = %s", (user_id,))
        by = await cursor.fetchone()
    assert uses is not None, "the code was made before"
    done = [row for row in brought if row["status"] == "completed"]
    balance = await read_balance(connection, f"user:{user_id}")
    return {
        "total_uses": uses["uses"],
        "completed_bonuses": len(done),
        "pending_bonuses": len(brought) - len(done),
        "remaining_uses": uses["max_uses"] - uses["uses"],
        "max_uses": uses["max_uses"],
        "total_earned": show_usd(sum((row["referrer_bonus_usd"] for row in done), start=Decimal(0))),
        "current_balance": show_usd(balance.total_usd),
        "referred_by_code": by["code"] if by is not None else None,
        "referrals": [
            {
                "status": row["status"],
                "bonus_amount": show_usd(row["referrer_bonus_usd"]),
                "created_at": row["created_at"].isoformat(),
                "completed_at": row["completed_at"].isoformat() if row["completed_at"] else None,
            }
            for row in brought
        ],
    }
