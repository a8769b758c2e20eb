"""The database of tests/storage, and the payment rooms before a Stripe that is played."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pytest

from engine.call import Caller
from engine.config.schema_commerce import PackageFile
from engine.config.schema_payments import PaymentsFile, StripeEntry
from engine.config.schema_plan import PlanFile
from engine.payments.desk import Wish
from engine.payments.offers import Books, find_offer
from engine.payments.room import Payments, build_payments
from engine.payments.stripe_api import StripeApi
from engine.storage.ledger import Balance, read_balance
from engine.storage.ledger_reading import verify_ledger
from engine.storage.payment_rows import Row, fetch_row, fetch_rows
from engine.storage.plan_terms import list_disagreeing
from engine.storage.postgres import Connection, Database
from engine.storage.secrets import KeyRing
from engine.upstream.pools import Upstreams
from engine.upstream.reply import Origin
from tests.payments.stand_in import BASE, SECRET_KEY, WEBHOOK_SECRET, StripeStandIn
from tests.storage.conftest import database, database_url, home, ring, server_url

__all__ = ["database", "database_url", "home", "ring", "server_url"]

ENTRY = StripeEntry.model_validate(
    {
        "secret_key": SECRET_KEY,
        "webhook_secret": WEBHOOK_SECRET,
        "api_base": BASE,
        "return_urls": ["https://app.example.org/billing/*"],
        "success_url": "https://app.example.org/billing/done",
        "cancel_url": "https://app.example.org/billing/back",
    }
)
TERMS = PaymentsFile.model_validate(
    {
        "payments": "default",
        "rates": {"usd": "1", "eur": "1.05"},
    }
)
PLANS = {
    "default": PlanFile.model_validate({"plan": "default"}),
    "pro": PlanFile.model_validate(
        {
            "plan": "pro", "price": {"month": "8"}, "allowance_usd": "15",
            "stripe": {"product": "prod_pro", "month": "price_pro_month", "year": "price_pro_year"},
        }
    ),
    "max": PlanFile.model_validate(
        {
            "plan": "max", "price": {"month": "75"}, "allowance_usd": "150",
            "stripe": {"product": "prod_max", "month": "price_max_month"},
        }
    ),
}  # fmt: skip
PACKAGES = {
    "professional": PackageFile.model_validate(
        {"package": "professional", "title": "Professional", "credit_usd": "50", "price_usd": "45"}
    )
}
BOOKS = Books(TERMS, PLANS, PACKAGES)


@dataclass
class House:
    """The rooms, their Stripe and a few users."""

    payments: Payments
    stripe: StripeStandIn
    database: Database

    async def run(self, work: Callable[[Connection], Awaitable[Any]]) -> Any:
        return await self.database.run(work, probe=True)

    async def add_user(self, name: str) -> Caller:
        async def work(connection: Connection) -> None:
            await connection.execute(
                "INSERT INTO users (id, email) VALUES (%s, %s)", (name, f"{name}@example.org")
            )

        await self.run(work)
        return Caller(f"key_{name}", name, scopes=frozenset({"read", "admin"}))

    async def begin(self, caller: Caller, cents: int = 1000, **wish: Any) -> dict[str, Any]:
        offer = find_offer(BOOKS, cents, wish.pop("currency", "usd"), wish.pop("credit_usd", None))
        return await self.payments.desk.begin_checkout(caller, Wish(offer, **wish), "", "")

    async def tell(self, *events: dict[str, Any]) -> list[str]:
        return [await self.payments.inbox.take(event) for event in events]

    async def tell_all(self) -> list[str]:
        return await self.tell(*self.stripe.events)

    async def balance(self, payer: str) -> Balance:
        async def work(connection: Connection) -> Balance:
            return await read_balance(connection, payer)

        found: Balance = await self.run(work)
        return found

    async def row(self, statement: Any, *values: Any) -> Row | None:
        async def work(connection: Connection) -> Row | None:
            return await fetch_row(connection, statement, values)

        found: Row | None = await self.run(work)
        return found

    async def rows(self, statement: Any, *values: Any) -> list[Row]:
        async def work(connection: Connection) -> list[Row]:
            return list(await fetch_rows(connection, statement, values))

        found: list[Row] = await self.run(work)
        return found

    async def read_end(self) -> dict[str, Any]:
        """The state that counts: every account, every payment, every payer's plan. Checked against the history."""

        async def check(connection: Connection) -> None:
            verdict = await verify_ledger(connection)
            assert not verdict.problems, verdict.problems
            assert await list_disagreeing(connection) == []

        await self.run(check)
        accounts = await self.rows("SELECT id, balance_usd FROM ledger_accounts WHERE balance_usd <> 0")
        paid = await self.rows(
            "SELECT status, paid_cents, granted_usd, taken_usd, really_taken_usd, flag, failure FROM payments"
            " ORDER BY created_at, id"
        )
        plans = await self.rows("SELECT id, plan FROM users ORDER BY id")
        standings = await self.rows("SELECT * FROM stripe_standings ORDER BY payer")
        return {
            "accounts": {row["id"]: row["balance_usd"] for row in accounts},
            "payments": paid,
            "plans": {row["id"]: row["plan"] for row in plans},
            "standings": standings,
        }


@pytest.fixture
def stripe() -> StripeStandIn:
    played = StripeStandIn()
    played.add_price("price_pro_month", "prod_pro", 800)
    played.add_price("price_pro_year", "prod_pro", 8000, 365 * 86400)
    played.add_price("price_max_month", "prod_max", 7500)
    return played


@pytest.fixture
async def house(database: Database, ring: KeyRing, stripe: StripeStandIn) -> AsyncIterator[House]:
    upstreams = Upstreams()
    upstreams.mount(Origin("https", "stripe.test", 443, True), stripe.transport())
    api = StripeApi(ENTRY, upstreams)
    payments = build_payments(database, ring, api, lambda: BOOKS, ENTRY)
    made = House(payments, stripe, database)
    await made.rows("SELECT 1 AS there")
    yield made
    await api.close()
    await upstreams.close()


def usd(text: str) -> Decimal:
    return Decimal(text)
