"""`/user/api-keys` and the same for administrators: making, showing, changing, rotating and revoking API keys.

A key's text is in one answer, once: that to its making or rotating.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from engine.call import Caller
from engine.config.roles import USER
from engine.config.snapshot import Snapshot
from engine.errors import InvalidRequest, NotAllowed, NotFound
from engine.http.endpoints import NOT_KEPT, Answer, Ask, Route
from engine.http.key_bodies import (
    TAGS,
    AuditQuery,
    ChangeKey,
    CreateKey,
    DeleteKey,
    KeysQuery,
    find_end,
)
from engine.policies.access import find_role, to_change, to_look
from engine.storage.issuing import IssuedKey, KeyRequest
from engine.storage.key_changes import Which
from engine.storage.key_desk import MOST_MADE_PER_HOUR, KeyDesk, Reach, count_days
from engine.storage.key_listing import Page
from engine.storage.key_rules import write_rules

DEFAULT_SCOPES = ("inference", "read")
_TAG_OF = {environment: tag for tag, environment in TAGS.items()}
_COLUMNS = {"domain_referrers": "referrers", "key_name": "name", "scope_permissions": "scopes"}
_RULES = frozenset(
    {"providers", "ip_allowlist", "domain_referrers", "max_requests", "max_spend_usd", "limits", "budgets"}
)


class KeyRoutes:
    """Each endpoint serves both: a user for its own keys, an administrator for everybody's."""

    def __init__(self, desk: KeyDesk, read_snapshot: Callable[[], Snapshot]) -> None:
        self._desk, self._read_snapshot = desk, read_snapshot

    def list(self) -> Sequence[Route]:
        own, any_, of_user = "/user/api-keys", "/admin/api-keys", "/admin/users/{user_id}/api-keys"
        one, one_of_any = f"{own}/{{key_id}}", f"{any_}/{{key_id}}"
        return (
            Route("POST", own, self.create_own, "Make a key; its text is in this answer only.", body=CreateKey,
                  need=to_change("api_keys:create")),
            Route("GET", own, self.list_own, "List your keys.", need=to_look("api_keys:list")),
            Route("GET", f"{own}/usage", self.show_usage, "What each of your keys was used for.",
                  need=to_look("usage:read")),
            Route("GET", f"{own}/audit-logs", self.list_own_events, "What happened to your keys.",
                  query=AuditQuery, need=to_look("api_keys:read")),
            Route("GET", one, self.show_own, "Show a key of yours.", need=to_look("api_keys:read")),
            Route("PUT", one, self.change_own, "Change or rotate a key of yours.", body=ChangeKey,
                  need=to_change("api_keys:update")),
            Route("DELETE", one, self.revoke_own, "Revoke a key of yours.", body=DeleteKey,
                  need=to_change("api_keys:delete")),
            Route("GET", any_, self.list_all, "List everybody's keys.", query=KeysQuery,
                  need=to_look("any_api_keys:list")),
            Route("GET", one_of_any, self.show_any, "Show a key.", need=to_look("any_api_keys:read")),
            Route("PUT", one_of_any, self.change_any, "Change or rotate a key.", body=ChangeKey,
                  need=to_change("any_api_keys:update")),
            Route("DELETE", one_of_any, self.revoke_any, "Revoke a key.", body=DeleteKey,
                  need=to_change("any_api_keys:delete")),
            Route("GET", of_user, self.list_of_user, "List a user's keys.", need=to_look("any_api_keys:list")),
            Route("POST", of_user, self.create_for_user, "Make a key for a user.", body=CreateKey,
                  need=to_change("any_api_keys:create")),
            Route("GET", "/admin/audit", self.list_events, "Read the audit log.", query=AuditQuery,
                  need=to_look("audit_logs:read")),
        )  # fmt: skip

    # --- a user's own

    async def create_own(self, ask: Ask) -> Answer:
        reach = self._reach_own(ask)
        role = self._choose_role(ask.body.role or reach.roles.lesser(USER, reach.role), reach)
        request = write_request(ask.body, find_owner(ask.caller), role)
        issued = await self._desk.make(request, ask.by, roles=reach.roles, most_per_hour=MOST_MADE_PER_HOUR)
        return Answer(show_made(ask.body, issued), headers=NOT_KEPT)

    async def list_own(self, ask: Ask) -> Answer:
        return await self._list(self._reach_own(ask))

    async def show_usage(self, ask: Ask) -> Answer:
        keys = await self._desk.list_keys(self._reach_own(ask))
        return Answer({"status": "success", "keys": [show_used(key) for key in keys]})

    async def list_own_events(self, ask: Ask) -> Answer:
        owner = find_owner(ask.caller)
        if ask.query.user_id not in (None, owner):
            raise NotFound("there is no such user")
        return await self._show_events(ask.query, owner)

    async def show_own(self, ask: Ask) -> Answer:
        return await self._show(self._reach_own(ask), ask)

    async def change_own(self, ask: Ask) -> Answer:
        return await self._change(self._reach_own(ask), ask)

    async def revoke_own(self, ask: Ask) -> Answer:
        return await self._revoke(self._reach_own(ask), ask)

    # --- everybody's, for administrators

    async def list_all(self, ask: Ask) -> Answer:
        query = ask.query
        keys = await self._desk.list_keys(self._reach(ask), Page(query.limit + 1, query.after))
        shown = [show_key(key) for key in keys[: query.limit]]
        return Answer({"status": "success", "has_more": len(keys) > query.limit, "keys": shown})

    async def show_any(self, ask: Ask) -> Answer:
        return await self._show(self._reach(ask), ask)

    async def change_any(self, ask: Ask) -> Answer:
        return await self._change(self._reach(ask), ask)

    async def revoke_any(self, ask: Ask) -> Answer:
        return await self._revoke(self._reach(ask), ask)

    async def list_of_user(self, ask: Ask) -> Answer:
        return await self._list(self._reach(ask, ask.names["user_id"]))

    async def create_for_user(self, ask: Ask) -> Answer:
        reach = self._reach(ask)
        role = self._choose_role(ask.body.role or USER, reach)
        request = write_request(ask.body, ask.names["user_id"], role)
        issued = await self._desk.make(request, ask.by, roles=reach.roles, most_per_hour=None)
        return Answer(show_made(ask.body, issued), headers=NOT_KEPT)

    async def list_events(self, ask: Ask) -> Answer:
        return await self._show_events(ask.query, ask.query.user_id)

    # --- both

    def _reach(self, ask: Ask, user_id: str | None = None) -> Reach:
        roles = self._read_snapshot().roles
        return Reach(roles, find_role(ask.caller, roles), user_id)

    def _reach_own(self, ask: Ask) -> Reach:
        return self._reach(ask, find_owner(ask.caller))

    def _choose_role(self, role: str, reach: Reach) -> str:
        """The role that was asked for, if there is one of that name and it is not above the asker's."""
        if role not in reach.roles and role not in (USER, reach.role):
            raise InvalidRequest("no file declares this role", code="invalid_value", param="role")
        if not reach.roles.covers(reach.role, role):
            raise InvalidRequest("this role is above yours", code="invalid_value", param="role")
        return role

    async def _list(self, reach: Reach) -> Answer:
        shown = [show_key(key) for key in await self._desk.list_keys(reach)]
        return Answer({"status": "success", "total_keys": len(shown), "keys": shown})

    async def _show_events(self, query: AuditQuery, owner: str | None) -> Answer:
        filters = {
            "subject": query.key_id,
            "action": query.action,
            "owner": owner,
            "since": query.start_date,
            "until": query.end_date,
        }
        events, more = await self._desk.list_events(filters, query.limit, query.before)
        return Answer({"status": "success", "total_logs": len(events), "has_more": more, "logs": events})

    async def _show(self, reach: Reach, ask: Ask) -> Answer:
        found = await self._desk.find(reach, ask.names["key_id"])
        return Answer({"status": "success", "key": show_key(found)})

    async def _revoke(self, reach: Reach, ask: Ask) -> Answer:
        key_id = ask.names["key_id"]
        await self._desk.revoke(reach, key_id, ask.by)
        return Answer({"status": "success", "message": "the key is revoked", "id": key_id})

    async def _change(self, reach: Reach, ask: Ask) -> Answer:
        key_id, asked = ask.names["key_id"], ask.body
        if asked.action == "update":
            if asked.role is not None:
                self._choose_role(asked.role, reach)
            await self._desk.change(reach, key_id, write_changes(asked), ask.by)
            return await self._show(reach, ask)
        refuse_beside_rotation(asked)
        tag = asked.environment_tag
        bulk = Which(environment=TAGS[tag] if tag else None) if asked.action == "bulk_rotate" else None
        issued = await self._desk.rotate(reach, key_id, asked.grace_period_hours * 3600, ask.by, bulk)
        keys = [{"id": key.id, "key_name": key.name, "api_key": key.key.reveal()} for key in issued]
        body = {"status": "success", "message": "shown once", "rotated": len(keys), "keys": keys}
        return Answer(body | (keys[0] if asked.action == "rotate" else {}), headers=NOT_KEPT)


def find_owner(caller: Caller) -> str:
    """Whose account a key belongs to."""
    if caller.team_id:
        raise NotAllowed("a team's key belongs to nobody's account", code="no_account")
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
    if any(changes.get(column, "") is None for column in ("name", "scopes", "role")):
        raise InvalidRequest("key_name, scope_permissions and role cannot be null", code="invalid_value")
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
        "team_id": key["team_id"],
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
        "budgets": key["budgets"],
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
