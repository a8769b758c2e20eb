"""`/user/api-keys` and the same for administrators: making, showing, changing, rotating and revoking API keys.

A key's text is in one answer, once: that to its making or rotating.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from engine.call import Caller
from engine.errors import InvalidRequest, NotAllowed, NotFound
from engine.http.actors import name_actor
from engine.http.key_bodies import (
    TAGS,
    AuditQuery,
    ChangeKey,
    CreateKey,
    CreateKeyFor,
    DeleteKey,
    KeysQuery,
    NoQuery,
    find_end,
    read_json,
    read_query,
)
from engine.http.respond import Send, respond_json
from engine.http.routes import Routes
from engine.policies.identity import Identity
from engine.storage.audit import Actor
from engine.storage.issuing import IssuedKey, KeyRequest
from engine.storage.key_changes import Which
from engine.storage.key_desk import MOST_MADE_PER_HOUR, KeyDesk, count_days
from engine.storage.key_listing import Page
from engine.storage.key_rules import write_rules

DEFAULT_SCOPES = ("inference", "read")
_TAG_OF = {environment: tag for tag, environment in TAGS.items()}
_COLUMNS = {"domain_referrers": "referrers", "key_name": "name", "scope_permissions": "scopes"}
_RULES = frozenset(
    {"providers", "ip_allowlist", "domain_referrers", "max_requests", "max_spend_usd", "limits"}
)


class KeyRoutes:
    """Each endpoint serves both: a user for its own keys, an administrator for everybody's."""

    def __init__(self, identity: Identity, desk: KeyDesk) -> None:
        self._identity, self._desk = identity, desk

    # --- a user's own

    async def create_own(self, scope: Any, receive: Any, send: Send) -> None:
        caller = await self._identity.admit(scope)
        asked = await read_json(CreateKey, scope, receive)
        request = write_request(asked, find_owner(caller))
        issued = await self._desk.make(request, name_actor(caller, scope), most_per_hour=MOST_MADE_PER_HOUR)
        await respond_json(send, 200, show_made(asked, issued), NOT_KEPT)

    async def list_own(self, scope: Any, receive: Any, send: Send) -> None:
        caller = await self._identity.admit(scope)
        read_query(NoQuery, scope)
        await self._list(find_owner(caller), send)

    async def show_usage(self, scope: Any, receive: Any, send: Send) -> None:
        caller = await self._identity.admit(scope)
        read_query(NoQuery, scope)
        keys = await self._desk.list_keys(find_owner(caller))
        await respond_json(send, 200, {"status": "success", "keys": [show_used(key) for key in keys]})

    async def list_own_events(self, scope: Any, receive: Any, send: Send) -> None:
        caller = await self._identity.admit(scope)
        owner, query = find_owner(caller), read_query(AuditQuery, scope)
        if query.user_id not in (None, owner):
            raise NotFound("there is no such user")
        await self._show_events(query, owner, send)

    async def serve_own(self, scope: Any, receive: Any, send: Send, name: str) -> None:
        """GET, PUT and DELETE of one key."""
        caller = await self._identity.admit(scope)
        await self._serve(find_owner(caller), caller, name, scope, receive, send)

    # --- everybody's, for administrators

    async def list_all(self, scope: Any, receive: Any, send: Send) -> None:
        await self._identity.admit(scope)
        query = read_query(KeysQuery, scope)
        keys = await self._desk.list_keys(None, Page(query.limit + 1, query.after))
        shown = [show_key(key) for key in keys[: query.limit]]
        more = len(keys) > query.limit
        await respond_json(send, 200, {"status": "success", "has_more": more, "keys": shown})

    async def serve_any(self, scope: Any, receive: Any, send: Send, name: str) -> None:
        caller = await self._identity.admit(scope)
        await self._serve(None, caller, name, scope, receive, send)

    async def serve_user(self, scope: Any, receive: Any, send: Send, name: str) -> None:
        """`/admin/users/{id}/api-keys`: GET lists a user's keys, POST makes one."""
        caller = await self._identity.admit(scope)
        user_id, slash, rest = name.partition("/")
        if rest != "api-keys" or "\0" in user_id:
            raise NotFound(
                f"there is no route {scope['method']} {scope['path'][:200]}", code="endpoint_not_found"
            )
        if scope["method"] == "GET":
            read_query(NoQuery, scope)
            await self._list(user_id, send)
            return
        asked = await read_json(CreateKeyFor, scope, receive)
        request = write_request(asked, user_id, asked.role)
        issued = await self._desk.make(request, name_actor(caller, scope), most_per_hour=None)
        await respond_json(send, 200, show_made(asked, issued), NOT_KEPT)

    async def list_events(self, scope: Any, receive: Any, send: Send) -> None:
        """`GET /admin/audit`"""
        await self._identity.admit(scope)
        query = read_query(AuditQuery, scope)
        await self._show_events(query, query.user_id, send)

    # --- both

    async def _list(self, owner: str, send: Send) -> None:
        keys = await self._desk.list_keys(owner)
        shown = [show_key(key) for key in keys]
        await respond_json(send, 200, {"status": "success", "total_keys": len(shown), "keys": shown})

    async def _show_events(self, query: AuditQuery, owner: str | None, send: Send) -> None:
        filters = {
            "subject": query.key_id,
            "action": query.action,
            "owner": owner,
            "since": query.start_date,
            "until": query.end_date,
        }
        events, more = await self._desk.list_events(filters, query.limit, query.before)
        body = {"status": "success", "total_logs": len(events), "has_more": more, "logs": events}
        await respond_json(send, 200, body)

    async def _serve(
        self, owner: str | None, caller: Caller, key_id: str, scope: Any, receive: Any, send: Send
    ) -> None:
        by = name_actor(caller, scope)
        if scope["method"] == "GET":
            read_query(NoQuery, scope)
            body = {"status": "success", "key": show_key(await self._desk.find(owner, key_id))}
            await respond_json(send, 200, body)
        elif scope["method"] == "DELETE":
            await read_json(DeleteKey, scope, receive)
            await self._desk.revoke(owner, key_id, by)
            await respond_json(
                send, 200, {"status": "success", "message": "the key is revoked", "id": key_id}
            )
        else:
            await self._change(owner, by, key_id, await read_json(ChangeKey, scope, receive), send)

    async def _change(self, owner: str | None, by: Actor, key_id: str, asked: ChangeKey, send: Send) -> None:
        if asked.action == "update":
            await self._desk.change(owner, key_id, write_changes(asked), by)
            found = await self._desk.find(owner, key_id)
            await respond_json(send, 200, {"status": "success", "key": show_key(found)})
            return
        refuse_beside_rotation(asked)
        tag = asked.environment_tag
        bulk = Which(environment=TAGS[tag] if tag else None) if asked.action == "bulk_rotate" else None
        issued = await self._desk.rotate(owner, key_id, asked.grace_period_hours * 3600, by, bulk)
        keys = [{"id": key.id, "key_name": key.name, "api_key": key.key.reveal()} for key in issued]
        body: dict[str, Any] = {
            "status": "success",
            "message": "shown once",
            "rotated": len(keys),
            "keys": keys,
        }
        await respond_json(send, 200, body | (keys[0] if asked.action == "rotate" else {}), NOT_KEPT)


def add_key_routes(routes: Routes, keys: KeyRoutes) -> None:
    routes.add("POST", "/user/api-keys", keys.create_own)
    routes.add("GET", "/user/api-keys", keys.list_own)
    routes.add("GET", "/user/api-keys/usage", keys.show_usage)
    routes.add("GET", "/user/api-keys/audit-logs", keys.list_own_events)
    routes.add("GET", "/admin/api-keys", keys.list_all)
    routes.add("GET", "/admin/audit", keys.list_events)
    for method in ("GET", "PUT", "DELETE"):
        routes.add_named(method, "/user/api-keys/", keys.serve_own)
        routes.add_named(method, "/admin/api-keys/", keys.serve_any)
    for method in ("GET", "POST"):
        routes.add_named(method, "/admin/users/", keys.serve_user)


NOT_KEPT = [(b"cache-control", b"no-store")]


def find_owner(caller: Caller) -> str:
    """Whose account a key belongs to."""
    if caller.unlimited:
        raise NotAllowed(
            "the key of GATEWAYZ_ADMIN_KEY belongs to no account; use /admin/users/{id}/api-keys",
            code="no_account",
        )
    return caller.user_id


def write_request(asked: CreateKey, owner: str, role: str = "user") -> KeyRequest:
    scopes = asked.scope_permissions
    if scopes is None:
        scopes = ("inference", "admin") if role == "admin" else DEFAULT_SCOPES
    return KeyRequest(
        asked.key_name,
        user_id=owner,
        role=role,
        environment=TAGS[asked.environment_tag],
        models=asked.models,
        scopes=scopes,
        expires_at=find_end(asked.expiration_days),
        rules=asked.as_rules(),
    )


def write_changes(asked: ChangeKey) -> dict[str, Any]:
    """The columns that are to be set: only what the body names; null takes a rule away."""
    named = asked.model_fields_set - {"action"}
    if not named or named & {"environment_tag", "grace_period_hours"}:
        raise InvalidRequest("an update names at least one field of the key, and no field of a rotation")
    rules = write_rules(asked.as_rules())
    changes: dict[str, Any] = {}
    for name in named:
        column = _COLUMNS.get(name, name)
        if name == "expiration_days":
            changes["expires_at"] = find_end(asked.expiration_days)
        elif name in _RULES:
            changes[column] = rules[column]
        else:
            value = getattr(asked, name)
            changes[column] = list(value) if isinstance(value, tuple) else value
    if changes.get("name", "") is None or changes.get("scopes", ()) is None:
        raise InvalidRequest("key_name and scope_permissions cannot be null", code="invalid_value")
    return changes


def refuse_beside_rotation(asked: ChangeKey) -> None:
    others = asked.model_fields_set - {"action", "grace_period_hours"}
    if asked.action == "bulk_rotate":
        others -= {"environment_tag"}
    if others:
        raise InvalidRequest(
            f"{', '.join(sorted(others))}: a rotation changes nothing else", param=sorted(others)[0]
        )


def show_made(asked: CreateKey, issued: IssuedKey) -> dict[str, Any]:
    rules = asked.as_rules()
    return {
        "status": "success",
        "message": "the key is shown once",
        "id": issued.id,
        "api_key": issued.key.reveal(),
        "key_name": issued.name,
        "environment_tag": asked.environment_tag,
        "security_features": {
            "ip_allowlist": bool(rules.ip_allowlist),
            "domain_referrers": bool(rules.referrers),
            "expiration": asked.expiration_days is not None,
            "max_requests": rules.max_requests is not None,
            "own_limits": rules.limits is not None,
        },
    }


def show_key(key: Mapping[str, Any]) -> dict[str, Any]:
    """A row of the list. Of the key itself nothing but its first and last letters."""
    now, most, used = datetime.now(UTC), key["max_requests"], key["requests_used"]
    days = count_days(key["expires_at"], now)
    expired = key["expires_at"] is not None and datetime.fromisoformat(key["expires_at"]) <= now
    return {
        "id": key["id"],
        "user_id": key["user_id"],
        "key_name": key["name"],
        "api_key": f"gw_{key['environment']}_...{key['last4']}",
        "environment_tag": _TAG_OF[key["environment"]],
        "role": key["role"],
        "scope_permissions": key["scopes"],
        "is_active": key["revoked_at"] is None and not expired,
        "is_primary": key["is_primary"],
        "expiration_date": key["expires_at"],
        "days_remaining": days,
        "max_requests": most,
        "requests_used": used,
        "requests_remaining": None if most is None else max(0, most - used),
        "usage_percentage": None if not most else round(100 * used / most, 2),
        "max_spend_usd": key["max_spend_usd"],
        "spent_usd": key["spent_usd"],
        "models": key["models"],
        "providers": key["providers"],
        "ip_allowlist": key["ip_allowlist"] or [],
        "domain_referrers": key["referrers"] or [],
        "limits": key["limits"] or None,
        "created_at": key["created_at"],
        "updated_at": key["updated_at"],
        "last_used_at": key["last_used_at"],
        "revoked_at": key["revoked_at"],
        "old_text_until": key["replaced_until"],
        "security_status": {
            "has_ip_restrictions": bool(key["ip_allowlist"]),
            "has_domain_restrictions": bool(key["referrers"]),
            "has_expiration": key["expires_at"] is not None,
            "has_usage_limits": most is not None or key["max_spend_usd"] is not None,
        },
    }


def show_used(key: Mapping[str, Any]) -> dict[str, Any]:
    names = ("id", "key_name", "requests_used", "requests_remaining", "usage_percentage", "spent_usd")
    shown = show_key(key)
    return {name: shown[name] for name in (*names, "last_used_at")}
