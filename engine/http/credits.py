"""`/credits` for administrators; `/user/balance` and `/user/credit-transactions` for everybody."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any

from pydantic import Field, StringConstraints

from engine.config.schema_base import Strict
from engine.config.schema_commerce import CreditsFile
from engine.errors import GatewayError, InvalidRequest
from engine.http.endpoints import Answer, Ask, Route
from engine.http.keys import find_owner
from engine.http.till import (
    Amount,
    AnyAmount,
    Line,
    Most,
    PageQuery,
    Skip,
    Till,
    UserId,
    read_idempotency_key,
    show_usd,
)
from engine.policies.access import to_change, to_look
from engine.storage.credit_desk import ByHand, Moved, find_user_of_key, move_by_hand, summarise
from engine.storage.key_rules import Text
from engine.storage.ledger import read_balance
from engine.storage.ledger_reading import list_movements
from engine.storage.postgres import Connection
from engine.storage.trials import read_trial, sum_usage

Kind = Annotated[Text, StringConstraints(pattern=r"^[a-z_]+$", max_length=50)]
Reference = Annotated[Text, StringConstraints(min_length=1, max_length=300)]
_SHOWN_OF_METADATA = ("model", "surface")


class AddCredits(Strict):
    user_id: UserId
    amount: Amount
    reason: Line
    description: Line = ""
    metadata: dict[str, Any] = {}


class AdjustCredits(AddCredits):
    amount: AnyAmount


class BulkAdd(Strict):
    user_ids: Annotated[tuple[UserId, ...], Field(min_length=1)]
    amount: Amount
    reason: Line
    description: Line = ""
    metadata: dict[str, Any] = {}


class RefundCredits(Strict):
    user_id: UserId
    amount: Amount
    original_transaction_id: Annotated[int, Field(ge=1, le=2**62)] | Reference | None = None
    """The number that lists show, or the `transaction_id` that a movement was answered with."""
    reason: Line


class AddToKey(Strict):
    api_key: Annotated[Text, StringConstraints(min_length=1, max_length=200)]
    credits: Amount
    reason: Line


class OwnTransactions(PageQuery):
    limit: Most = 50
    transaction_type: Kind | None = None
    from_date: datetime | None = None
    to_date: datetime | None = None


class AllTransactions(OwnTransactions):
    user_id: UserId | None = None
    offset: Skip = 0


class SummaryQuery(Strict):
    user_id: UserId | None = None


class CreditRoutes:
    def __init__(self, till: Till) -> None:
        self._till = till

    def list(self) -> Sequence[Route]:
        give, look = to_change("credits:add"), to_look("credits:read")
        return (
            Route("POST", "/credits/add", self.add, "Give a user credit.", body=AddCredits, need=give),
            Route("POST", "/credits/adjust", self.adjust, "Give a user credit or take it.",
                  body=AdjustCredits, need=to_change("credits:adjust")),
            Route("POST", "/credits/bulk-add", self.add_to_many, "Give many users credit.", body=BulkAdd,
                  need=give),
            Route("POST", "/credits/refund", self.refund, "Give back what a transaction took.",
                  body=RefundCredits, need=to_change("credits:refund")),
            Route("GET", "/credits/summary", self.summarise, "What was moved, by kind.", query=SummaryQuery,
                  need=look),
            Route("GET", "/credits/transactions", self.list_all, "Everybody's transactions.",
                  query=AllTransactions, need=look),
            Route("GET", "/admin/credit-transactions", self.list_all, "Everybody's transactions.",
                  query=AllTransactions, need=look),
            Route("POST", "/admin/add_credits", self.add_to_key, "Give the owner of a key credit.",
                  body=AddToKey, need=give),
            Route("GET", "/user/balance", self.show_balance, "What you have."),
            Route("GET", "/user/credit-transactions", self.list_own, "Your transactions.",
                  query=OwnTransactions),
        )  # fmt: skip

    # --- administrators

    async def add(self, ask: Ask) -> Answer:
        asked: AddCredits = ask.body
        return await self._move(ask, make_order(ask, asked, asked.user_id, "admin_credit"))

    async def adjust(self, ask: Ask) -> Answer:
        asked: AdjustCredits = ask.body
        kind = "admin_credit" if asked.amount > 0 else "admin_debit"
        return await self._move(ask, make_order(ask, asked, asked.user_id, kind))

    async def refund(self, ask: Ask) -> Answer:
        asked: RefundCredits = ask.body
        order = ByHand(
            asked.user_id,
            asked.amount,
            "refund",
            asked.reason,
            key=read_idempotency_key(ask),
            refunds=asked.original_transaction_id,
        )
        return await self._move(ask, order)

    async def add_to_key(self, ask: Ask) -> Answer:
        asked: AddToKey = ask.body

        async def find(connection: Connection) -> str:
            return await find_user_of_key(connection, self._till.ring, asked.api_key)

        user_id = await self._till.run(find)
        order = ByHand(user_id, asked.credits, "admin_credit", asked.reason, key=read_idempotency_key(ask))
        return await self._move(ask, order)

    async def add_to_many(self, ask: Ask) -> Answer:
        """Each user's grant stands for itself: one that is refused keeps none of the others."""
        asked: BulkAdd = ask.body
        most = self._rules.max_users
        users = tuple(dict.fromkeys(asked.user_ids))
        if len(users) > most:
            raise InvalidRequest(f"at most {most} users at once", code="too_many_users", param="user_ids")
        results = [await self._try(ask, make_order(ask, asked, user, "admin_credit")) for user in users]
        good = [result for result in results if result["success"]]
        return Answer(
            {
                "status": "success" if len(good) == len(results) else "partial" if good else "error",
                "total_users": len(results),
                "successful": len(good),
                "failed": len(results) - len(good),
                "amount_per_user": show_usd(asked.amount),
                "total_credits_added": show_usd(sum((result.pop("changed") for result in good), Decimal(0))),
                "results": results,
            }
        )

    async def _try(self, ask: Ask, order: ByHand) -> dict[str, Any]:
        try:
            moved = await self._book(ask, order)
        except GatewayError as refusal:
            return {
                "user_id": order.user_id, "success": False, "error": refusal.message, "code": refusal.code
            }  # fmt: skip
        shown = {"user_id": order.user_id, "success": True, "new_balance": show_usd(moved.after_usd)}
        return shown | {"transaction_id": moved.ref, "changed": moved.changed_usd}

    async def _move(self, ask: Ask, order: ByHand) -> Answer:
        moved = await self._book(ask, order)
        return Answer(
            {
                "status": "success",
                "message": "this was done before" if not moved.changed_usd else "done",
                "user_id": order.user_id,
                "previous_balance": show_usd(moved.before_usd),
                "new_balance": show_usd(moved.after_usd),
                "amount_changed": show_usd(moved.changed_usd),
                "transaction_id": moved.ref,
                "timestamp": datetime.now(UTC).isoformat(),
            }
        )

    async def _book(self, ask: Ask, order: ByHand) -> Moved:
        async def work(connection: Connection) -> Moved:
            return await move_by_hand(connection, self._till.ring, order, self._rules, ask.by)

        return await self._till.run(work)

    async def summarise(self, ask: Ask) -> Answer:
        payer = f"user:{ask.query.user_id}" if ask.query.user_id is not None else None

        async def work(connection: Connection) -> Answer:
            rows = await summarise(connection, payer)
            shown = {
                "status": "success",
                "user_id": ask.query.user_id,
                "by_type": [row | {"amount_usd": show_usd(row["amount_usd"])} for row in rows],
                "total_transactions": sum(row["count"] for row in rows),
                "net_usd": show_usd(sum((row["amount_usd"] for row in rows), start=Decimal(0))),
            }
            if payer is not None:
                balance = await read_balance(connection, payer)
                shown["balance"] = show_usd(balance.total_usd)
            return Answer(shown)

        return await self._till.run(work)

    async def list_all(self, ask: Ask) -> Answer:
        payer = f"user:{ask.query.user_id}" if ask.query.user_id is not None else None
        found, more = await self._list(payer, ask.query)
        return Answer(
            {
                "status": "success",
                "transactions": [
                    show_movement(row) | {"payer": row["payer"], "metadata": row["metadata"]} for row in found
                ],
                "total": len(found),
                "has_more": more,
                "limit": ask.query.limit,
                "offset": ask.query.offset,
            }
        )

    # --- one's own

    async def show_balance(self, ask: Ask) -> Answer:
        caller, owner = ask.caller, find_owner(ask.caller)
        await self._till.count("balance", owner, self._rules.balance_per_minute, 60)

        async def work(connection: Connection) -> dict[str, Any]:
            balance, trial = (
                await read_balance(connection, f"user:{owner}"),
                await read_trial(connection, owner),
            )
            shown: dict[str, Any] = {
                "api_key": f"gw_{caller.environment}_...{caller.last4}",
                "credits": show_usd(balance.total_usd),
                "purchased_credits": show_usd(balance.credit_usd),
                "subscription_allowance": show_usd(balance.allowance_usd),
                "status": "active",
                "user_id": owner,
            }
            if trial is not None and trial.lifted_at is None:
                used = await sum_usage(connection, owner, trial.started_at, trial.ends_at)
                shown |= {
                    "status": "trial",
                    "tokens_remaining": max(0, trial.tokens - used.tokens),
                    "requests_remaining": max(0, trial.requests - used.requests),
                    "trial_end_date": trial.ends_at.isoformat(),
                }
            return shown

        return Answer(await self._till.run(work))

    async def list_own(self, ask: Ask) -> Answer:
        owner = find_owner(ask.caller)
        await self._till.count("transactions", owner, self._rules.transactions_per_minute, 60)
        found, more = await self._list(f"user:{owner}", ask.query)
        return Answer(
            {
                "transactions": [
                    show_movement(row) | {"metadata": reduce_metadata(row["metadata"])} for row in found
                ],
                "total": len(found),
                "has_more": more,
                "limit": ask.query.limit,
                "offset": ask.query.offset,
            }
        )

    async def _list(
        self, payer: str | None, query: OwnTransactions
    ) -> tuple[Sequence[Mapping[str, Any]], bool]:
        async def work(connection: Connection) -> Sequence[Mapping[str, Any]]:
            return await list_movements(
                connection,
                payer,
                kind=query.transaction_type,
                since=query.from_date,
                until=query.to_date,
                limit=query.limit + 1,
                offset=query.offset,
            )

        rows = await self._till.run(work)
        return rows[: query.limit], len(rows) > query.limit

    @property
    def _rules(self) -> CreditsFile:
        return self._till.find_rules(CreditsFile)


def make_order(ask: Ask, asked: AddCredits | BulkAdd, user_id: str, kind: str) -> ByHand:
    return ByHand(
        user_id,
        asked.amount,
        kind,
        asked.reason,
        asked.description,
        asked.metadata,
        read_idempotency_key(ask),
    )


def show_movement(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "id": row["id"],
        "amount": show_usd(row["amount_usd"]),
        "transaction_type": row["kind"],
        "description": row["description"],
        "from_allowance": show_usd(row["allowance_usd"]),
        "from_purchased": show_usd(row["credit_usd"]),
        "balance_before": show_usd(row["balance_before"]),
        "balance_after": show_usd(row["balance_after"]),
        "created_by": row["created_by"],
        "created_at": row["created_at"].isoformat(),
    }


def reduce_metadata(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Model and endpoint; what else is known of a movement is the house's."""
    shown = {name: metadata[name] for name in _SHOWN_OF_METADATA if name in metadata}
    return {("endpoint" if name == "surface" else name): value for name, value in shown.items()}
