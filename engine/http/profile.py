"""`/user/profile`, `/user/account`, `/user/password` and `/user/sessions`: what people see and change of themselves.

What opens the account for good (address, password) is changed by somebody who is signed in and knows the password,
never with an API key: a key that was copied must not become an account that was taken.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from decimal import ROUND_FLOOR, Decimal
from typing import Any

import orjson

from engine.call import Caller
from engine.errors import InvalidRequest, NotAllowed, NotFound
from engine.http.auth_bodies import ChangePassword, ChangeProfile, DeleteAccount
from engine.http.endpoints import NOT_KEPT, Answer, Ask, Route
from engine.http.keys import find_owner
from engine.policies.front_door import FrontDoor
from engine.storage.accounts import Account
from engine.storage.profile_desk import ProfileDesk
from engine.storage.sessions import Held
from engine.storage.standing import Standing

MOST_KEPT_BYTES = 16 * 1024
_CENTS = Decimal(100)


class ProfileRoutes:
    def __init__(
        self,
        door: FrontDoor,
        desk: ProfileDesk,
        read_standing: Callable[[Account], Awaitable[Standing]],
        name_tier: Callable[[str], str],
    ) -> None:
        self._door, self._desk = door, desk
        self._read_standing, self._name_tier = read_standing, name_tier

    def list(self) -> Sequence[Route]:
        sessions = "/user/sessions"
        return (
            Route("GET", "/user/profile", self.show, "Show your account."),
            Route("PUT", "/user/profile", self.change, "Change your account.", body=ChangeProfile),
            Route(
                "POST", "/user/password", self.change_password, "Change your password.", body=ChangePassword
            ),
            Route("DELETE", "/user/account", self.erase, "Delete your account.", body=DeleteAccount),
            Route("GET", sessions, self.list_sessions, "List where you are signed in."),
            Route("DELETE", f"{sessions}/{{session_id}}", self.end_session, "Sign out somewhere."),
        )

    async def show(self, ask: Ask) -> Answer:
        account, key = await self._desk.find(find_owner(ask.caller))
        standing = await self._read_standing(account)
        return Answer(show_profile(account, key, standing, self._name_tier(account.plan)), headers=NOT_KEPT)

    async def change(self, ask: Ask) -> Answer:
        body: ChangeProfile = ask.body
        owner = find_owner(ask.caller)
        named = body.model_fields_set - {"current_password"}
        if not named or any(getattr(body, name) is None for name in named):
            raise InvalidRequest("name, email, preferences or settings are expected, and none of them null")
        account, _ = await self._desk.find(owner)
        changes = {name: getattr(body, name) for name in named - {"email"}}
        for name in ("preferences", "settings"):
            refuse_long(name, changes.get(name))
        wants_address = body.email is not None and body.email != account.email
        if wants_address:
            await self._check_holder(ask, account)
        if changes:
            await self._desk.change(owner, changes, ask.by)
        if wants_address and body.email is not None:
            await self._door.send_verification(owner, body.email, account.name)
        answer = await self.show(ask)
        message = "A mail is on its way to the new address." if wants_address else "The account is changed."
        return Answer({**answer.document, "message": message}, headers=NOT_KEPT)

    async def _check_holder(self, ask: Ask, account: Account) -> None:
        """Somebody who is signed in, and knows the password where there is one."""
        require_session(ask.caller)
        if account.password_hash is None:
            return
        if ask.body.current_password is None:
            raise InvalidRequest(
                "current_password: required to change the address",
                code="invalid_value",
                param="current_password",
            )
        await self._door.check_password(account, ask.body.current_password, ask.by)

    async def change_password(self, ask: Ask) -> Answer:
        require_session(ask.caller)
        account, _ = await self._desk.find(ask.caller.user_id)
        if account.password_hash is None:
            raise NotAllowed(
                "this account has no password; ask for one by mail with POST /auth/password-reset",
                code="no_password",
            )
        await self._door.change_password(account, ask.body.current_password, ask.body.new_password, ask.by)
        return Answer({"success": True, "message": "The password is changed; other sessions have ended."})

    async def erase(self, ask: Ask) -> Answer:
        await self._desk.erase(find_owner(ask.caller), ask.by)
        return Answer({"success": True, "message": "The account is deleted."})

    async def list_sessions(self, ask: Ask) -> Answer:
        found = await self._desk.list_sessions(find_owner(ask.caller))
        shown = [{**one, "is_current": one["id"] == ask.caller.key_id} for one in found]
        return Answer({"status": "success", "sessions": shown})

    async def end_session(self, ask: Ask) -> Answer:
        session_id = ask.names["session_id"]
        held = Held(find_owner(ask.caller), only=session_id)
        if not await self._desk.end(held, "ended by its user", ask.by):
            raise NotFound("there is no such session", code="session_not_found")
        return Answer({"status": "success", "id": session_id})


def require_session(caller: Caller) -> None:
    if not caller.key_id.startswith("session_"):
        raise NotAllowed("sign in to do this: an API key is not enough", code="session_required")


def refuse_long(name: str, value: Any) -> None:
    if value is not None and len(orjson.dumps(value)) > MOST_KEPT_BYTES:
        raise InvalidRequest(f"{name}: at most {MOST_KEPT_BYTES} bytes are kept", param=name)
    if value is not None and b"\\u0000" in orjson.dumps(value):
        raise InvalidRequest(f"{name}: text must not hold a NUL character", param=name)


def show_profile(
    account: Account, key: tuple[str, str] | None, standing: Standing, tier: str
) -> dict[str, Any]:
    methods = [*(("password",) if account.password_hash else ()), *account.providers]
    return {
        "user_id": account.id,
        "api_key": f"gw_{key[0]}_...{key[1]}" if key is not None else None,
        "username": account.name or None,
        "email": account.email,
        "email_verified": account.email_verified,
        "auth_method": methods[0] if methods else "api_key",
        "auth_methods": methods,
        "role": account.role,
        "is_active": account.active,
        "registration_date": account.created_at,
        "created_at": account.created_at,
        "updated_at": account.updated_at,
        "preferences": account.preferences,
        "settings": account.settings,
        **show_money(standing, account.plan, tier),
    }


def show_money(standing: Standing, plan: str, tier: str) -> Mapping[str, Any]:
    """Amounts are whole US cents, rounded down; `balance_usd` is exact, as text."""
    balance = standing.balance
    return {
        "credits": count_cents(balance.total_usd),
        "total_credits": count_cents(balance.total_usd),
        "subscription_allowance": count_cents(balance.allowance_usd),
        "purchased_credits": count_cents(balance.credit_usd),
        "balance_usd": format(balance.total_usd.normalize(), "f"),
        "subscription_status": standing.subscription_status,
        "tier": plan or None,
        "tier_display_name": tier or None,
        "trial_expires_at": show_time(standing.trial_expires_at),
        "subscription_end_date": show_time(standing.subscription_end_date),
        "allowance_reset_date": show_time(standing.allowance_reset_date),
    }


def count_cents(amount_usd: Decimal) -> int:
    return int((amount_usd * _CENTS).to_integral_value(ROUND_FLOOR))


def show_time(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()
