"""`GET /v1/receipts/{call_id}` and the public keys that receipts are checked with."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from engine.billing.receipts import ReceiptSigner
from engine.errors import NotFound
from engine.http.endpoints import KEPT_A_WHILE, Answer, Ask, Route
from engine.policies.access import FOR_INFERENCE
from engine.storage.calls import list_calls
from engine.storage.postgres import Connection, Database

KEYS_PATH = "/.well-known/gatewayz-receipts.json"


class ReceiptRoutes:
    """`flush` brings what this worker has settled into the database first."""

    def __init__(
        self, signer: ReceiptSigner, database: Database, flush: Callable[[], Awaitable[object]]
    ) -> None:
        self._signer, self._database, self._flush = signer, database, flush

    def list(self) -> Sequence[Route]:
        return (
            Route("GET", "/v1/receipts/{call_id}", self.show, "The signed receipt of a call of yours.",
                  need=FOR_INFERENCE),
            Route("GET", KEYS_PATH, self.show_keys, "The public keys that receipts are checked with.", public=True),
        )  # fmt: skip

    async def show(self, ask: Ask) -> Answer:
        """By the call's id or the request id that its caller gave; of the last one where several have it."""
        caller = ask.caller
        # Several people know a team's key: it shows its own calls, not those of who made it.
        whose = {"key_id": caller.key_id} if caller.team_id else {"user_id": caller.user_id}
        filters = {"request_id": ask.names["call_id"], **whose}

        async def select(connection: Connection) -> Any:
            return (await list_calls(connection, limit=1, filters=filters)).records

        await self._flush()
        found = await self._database.run(select)
        if not found:
            raise NotFound("there is no such call of yours", code="call_not_found")
        return Answer(
            {"object": "receipt", "call_id": found[0]["id"], "receipt": self._signer.sign(found[0])}
        )

    async def show_keys(self, ask: Ask) -> Answer:
        return Answer(self._signer.list_public_keys(), headers=KEPT_A_WHILE)
