"""`/user/provider-keys`: users' own keys at providers, used for their calls in place of the gateway's."""

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, StringConstraints

from engine.config.schema_base import Strict
from engine.config.snapshot import Snapshot
from engine.errors import InvalidRequest, NotFound
from engine.http.actors import name_actor
from engine.http.key_bodies import NoQuery, read_json, read_query
from engine.http.keys import find_owner
from engine.http.respond import Send, respond_json
from engine.http.routes import Routes
from engine.policies.identity import Identity
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
    def __init__(
        self, identity: Identity, database: Database, ring: KeyRing, read_snapshot: Callable[[], Snapshot]
    ) -> None:
        self._identity, self._database, self._ring = identity, database, ring
        self._read_snapshot = read_snapshot

    async def show(self, scope: Any, receive: Any, send: Send) -> None:
        caller = await self._identity.admit(scope)
        owner = find_owner(caller)
        read_query(NoQuery, scope)

        async def work(connection: Connection) -> list[dict[str, Any]]:
            return await list_provider_keys(connection, owner)

        keys = await self._database.run(work)
        await respond_json(send, 200, {"status": "success", "total_keys": len(keys), "keys": keys})

    async def set(self, scope: Any, receive: Any, send: Send) -> None:
        caller = await self._identity.admit(scope)
        owner, asked = find_owner(caller), await read_json(SetProviderKey, scope, receive)
        self._check_provider(asked.provider_slug)
        by = name_actor(caller, scope)

        async def work(connection: Connection) -> None:
            await set_provider_key(connection, self._ring, owner, asked.provider_slug, asked.api_key, by)

        await self._database.run(work)
        body = {"status": "success", "provider_slug": asked.provider_slug}
        await respond_json(send, 200, body | {"api_key": f"...{asked.api_key.reveal()[-4:]}"})

    async def delete(self, scope: Any, receive: Any, send: Send, name: str) -> None:
        caller = await self._identity.admit(scope)
        owner, by = find_owner(caller), name_actor(caller, scope)

        async def work(connection: Connection) -> bool:
            return await delete_provider_key(connection, self._ring, owner, name, by)

        if "\0" in name or not await self._database.run(work):
            raise NotFound("there is no key of yours at this provider", code="key_not_found")
        await respond_json(send, 200, {"status": "success", "provider_slug": name, "deleted": True})

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


def add_provider_key_routes(routes: Routes, keys: ProviderKeyRoutes) -> None:
    routes.add("GET", "/user/provider-keys", keys.show)
    routes.add("POST", "/user/provider-keys", keys.set)
    routes.add_named("DELETE", "/user/provider-keys/", keys.delete)
