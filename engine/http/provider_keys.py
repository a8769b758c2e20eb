"""`/user/provider-keys`: users' own keys at providers, used for their calls in place of the gateway's."""

from collections.abc import Callable, Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, StringConstraints

from engine.config.schema_base import Strict
from engine.config.snapshot import Snapshot
from engine.errors import InvalidRequest, NotFound
from engine.http.endpoints import Answer, Ask, Route
from engine.http.keys import find_owner
from engine.policies.access import to_change, to_look
from engine.secret import Secret
from engine.storage.postgres import Connection, Database
from engine.storage.provider_keys import delete_provider_key, list_provider_keys, set_provider_key
from engine.storage.secrets import KeyRing

KINDS = frozenset({"bearer", "header", "query"})
"""Kinds of auth whose credential is one text."""


def _as_secret(value: Any) -> Secret:
    if not isinstance(value, str):
        raise ValueError("text is expected")
    text = value.strip()
    if not (8 <= len(text) <= 1000 and text.isascii() and text.isprintable() and " " not in text):
        raise ValueError("a key has 8 to 1000 visible ASCII characters")
    return Secret(text)


def _refuse_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("text must not hold a NUL character")
    return text


class SetProviderKey(Strict):
    provider_slug: Annotated[
        str, StringConstraints(min_length=1, max_length=100), AfterValidator(_refuse_nul)
    ]
    api_key: Annotated[Secret, BeforeValidator(_as_secret)]


class ProviderKeyRoutes:
    def __init__(self, database: Database, ring: KeyRing, read_snapshot: Callable[[], Snapshot]) -> None:
        self._database, self._ring, self._read_snapshot = database, ring, read_snapshot

    def list(self) -> Sequence[Route]:
        path = "/user/provider-keys"
        return (
            Route("GET", path, self.show, "List your own keys at providers.", need=to_look("provider_keys:read")),
            Route("POST", path, self.set, "Bring your own key at a provider.", body=SetProviderKey,
                  need=to_change("provider_keys:create")),
            Route("DELETE", f"{path}/{{provider}}", self.delete, "Forget your key at a provider.",
                  need=to_change("provider_keys:delete")),
        )  # fmt: skip

    async def show(self, ask: Ask) -> Answer:
        owner = find_owner(ask.caller)

        async def work(connection: Connection) -> Sequence[dict[str, Any]]:
            return await list_provider_keys(connection, owner)

        keys = await self._database.run(work)
        return Answer({"status": "success", "total_keys": len(keys), "keys": keys})

    async def set(self, ask: Ask) -> Answer:
        owner, asked = find_owner(ask.caller), ask.body
        self._check_provider(asked.provider_slug)

        async def work(connection: Connection) -> None:
            await set_provider_key(connection, self._ring, owner, asked.provider_slug, asked.api_key, ask.by)

        await self._database.run(work)
        shown = f"...{asked.api_key.reveal()[-4:]}"
        return Answer({"status": "success", "provider_slug": asked.provider_slug, "api_key": shown})

    async def delete(self, ask: Ask) -> Answer:
        owner, provider = find_owner(ask.caller), ask.names["provider"]

        async def work(connection: Connection) -> bool:
            return await delete_provider_key(connection, self._ring, owner, provider, ask.by)

        if not await self._database.run(work):
            raise NotFound("there is no key of yours at this provider", code="key_not_found")
        return Answer({"status": "success", "provider_slug": provider, "deleted": True})

    def _check_provider(self, name: str) -> None:
        provider = self._read_snapshot().providers.get(name)
        if provider is None:
            raise InvalidRequest("there is no such provider", code="invalid_value", param="provider_slug")
        if provider.auth.kind not in KINDS:
            raise InvalidRequest(
                f"{name} takes no key that is one text: it cannot be brought along",
                code="invalid_value",
                param="provider_slug",
            )
