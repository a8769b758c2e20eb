"""`/user/auto-top-up`: when and by how much a balance is topped up, and what keeps it from being."""

from collections.abc import Sequence
from decimal import Decimal

from engine.config.schema_base import Strict
from engine.config.schema_commerce import TopUpsFile
from engine.errors import InvalidRequest
from engine.http.endpoints import Answer, Ask, Route
from engine.http.keys import find_owner
from engine.http.till import Amount, Till, show_usd
from engine.storage.postgres import Connection
from engine.storage.top_ups import TopUp, read_top_up, set_top_up

_CENT = Decimal("0.01")


class SetTopUp(Strict):
    enabled: bool
    threshold_usd: Amount
    amount_usd: Amount
    monthly_cap_usd: Amount


class TopUpRoutes:
    def __init__(self, till: Till) -> None:
        self._till = till

    def list(self) -> Sequence[Route]:
        path = "/user/auto-top-up"
        return (
            Route("GET", path, self.show, "When your balance is topped up."),
            Route("PUT", path, self.set, "Say when your balance is topped up.", body=SetTopUp),
        )

    async def show(self, ask: Ask) -> Answer:
        payer = f"user:{find_owner(ask.caller)}"

        async def work(connection: Connection) -> TopUp | None:
            return await read_top_up(connection, payer)

        return Answer(show_top_up(await self._till.run(work)))

    async def set(self, ask: Ask) -> Answer:
        payer, asked = f"user:{find_owner(ask.caller)}", ask.body
        rules = self._till.find_rules(TopUpsFile)
        if asked.amount_usd % _CENT:
            raise InvalidRequest("amount_usd: whole cents", code="invalid_value", param="amount_usd")
        if not rules.min_amount_usd <= asked.amount_usd <= rules.max_amount_usd:
            raise InvalidRequest(
                f"amount_usd: from {rules.min_amount_usd} to {rules.max_amount_usd}",
                code="invalid_value",
                param="amount_usd",
            )
        if not asked.amount_usd <= asked.monthly_cap_usd <= rules.max_month_usd:
            raise InvalidRequest(
                f"monthly_cap_usd: from the amount to {rules.max_month_usd}",
                code="invalid_value",
                param="monthly_cap_usd",
            )
        wanted = TopUp(asked.enabled, asked.threshold_usd, asked.amount_usd, asked.monthly_cap_usd)

        async def work(connection: Connection) -> TopUp | None:
            await set_top_up(connection, payer, wanted)
            return await read_top_up(connection, payer)

        return Answer(show_top_up(await self._till.run(work)))


def show_top_up(found: TopUp | None) -> dict[str, object]:
    if found is None:
        return {"enabled": False}
    return {
        "enabled": found.enabled,
        "threshold_usd": show_usd(found.threshold_usd),
        "amount_usd": show_usd(found.amount_usd),
        "monthly_cap_usd": show_usd(found.month_usd),
        "failures": found.failures,
        "switched_off_because": found.switched_off_because,
    }
