"""`/auth...`: signing in and up, staying in and leaving. Open to everybody; how often is counted in front of the work.

Refusals say the same whether there is such an account or not. Nothing that these routes answer may be kept by a cache.
"""

from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

import orjson

from engine.errors import InvalidRequest
from engine.http.auth_bodies import (
    AskReset,
    AskResetQuery,
    Invite,
    Logout,
    Refresh,
    Register,
    ResetPassword,
    Said,
    SessionPair,
    SignIn,
    TokenQuery,
    VerifyEmail,
)
from engine.http.bodies import check
from engine.http.endpoints import NOT_KEPT, Answer, Ask, Route
from engine.http.key_bodies import TAGS
from engine.http.profile import show_money
from engine.policies.front_door import FrontDoor
from engine.policies.identity import Identity
from engine.policies.welcome import KEY_NAME, KEY_SCOPES, Wishes
from engine.storage.account_desk import Entered
from engine.storage.accounts import Account
from engine.storage.sessions import Session
from engine.storage.standing import Standing

ReadStanding = Callable[[Account], Awaitable[Standing]]
NameTier = Callable[[str], str]
_TAGS = {environment: tag for tag, environment in TAGS.items()}
ON_ITS_WAY = "If there can be an account with this address, a mail is on its way to it."


class AuthRoutes:
    def __init__(
        self, door: FrontDoor, identity: Identity, read_standing: ReadStanding, name_tier: NameTier
    ) -> None:
        self._door, self._identity = door, identity
        self._read_standing, self._name_tier = read_standing, name_tier

    def list(self) -> Sequence[Route]:
        post = partial(Route, "POST", public=True)
        ask_reset = partial(post, query=AskResetQuery, takes_raw=True, answer=Said)
        return (
            post("/auth", self.sign_in, "Sign in, or up with a proven identity.", body=SignIn),
            post("/auth/login", self.sign_in, "The same as `POST /auth`.", body=SignIn),
            post("/auth/register", self.register, "Make an account with a password.", body=Register),
            post("/auth/refresh", self.refresh, "Go on with a session.", body=Refresh, answer=SessionPair),
            post("/auth/logout", self.log_out, "End a session.", body=Logout, answer=Said),
            ask_reset("/auth/password-reset", self.ask_reset, "Ask for a new password.", body=AskReset),
            post("/auth/reset-password", self.reset, "Set a new password with a mail's token.",
                 body=ResetPassword, query=TokenQuery, answer=Said),
            post("/auth/verify-email", self.verify, "Prove an address with a mail's token.", body=VerifyEmail),
            Route("GET", "/auth/health", self.show_health, "Which ways in there are.", public=True),
            Route("POST", "/admin/invitations", self.invite, "Let somebody sign up; the token is shown once.",
                  body=Invite),
        )  # fmt: skip

    async def sign_in(self, ask: Ask) -> Answer:
        body: SignIn = ask.body
        wishes = Wishes(
            environment=body.environment_tag,
            key=body.auto_create_api_key,
            referral_code=body.referral_code,
            partner_code=body.partner_code,
            invitation=body.invitation,
        )
        if body.password is not None:
            if body.email is None or body.tokens:
                raise InvalidRequest("a password goes with `email` and without a token", param="password")
            return await self._show(
                await self._door.enter_with_password(body.email, body.password, ask.by, wishes)
            )
        if not body.tokens:
            raise InvalidRequest("`email` and `password`, or a token, are expected", param="token")
        return await self._show(
            await self._door.enter_with_tokens(body.tokens, body.provider, ask.by, wishes)
        )

    async def register(self, ask: Ask) -> Answer:
        body: Register = ask.body
        wishes = Wishes(
            name=body.username,
            environment=body.environment_tag,
            key=body.auto_create_api_key,
            key_name=body.key_name or KEY_NAME,
            referral_code=body.referral_code,
            partner_code=body.partner_code,
            invitation=body.invitation,
        )
        entered = await self._door.register(body.email, body.password, ask.by, wishes)
        if entered is None:
            return say(ON_ITS_WAY, 202)
        return await self._show(entered)

    async def refresh(self, ask: Ask) -> Answer:
        session = await self._door.renew(ask.body.refresh_token, ask.by)
        return Answer({"success": True, **self._show_session(session)}, headers=NOT_KEPT)

    async def log_out(self, ask: Ask) -> Answer:
        await self._door.leave(ask.body.refresh_token, ask.body.everywhere, ask.by)
        return say("You are signed out.")

    async def ask_reset(self, ask: Ask) -> Answer:
        """The address may stand in the query, as older clients send it, or better in the body."""
        email = ask.query.email
        if ask.raw:
            email = check(AskReset, read_object(ask.raw)).email
        if email is None:
            raise InvalidRequest("email: Field required", code="invalid_value", param="email")
        await self._door.ask_reset(email, ask.by)
        return say(ON_ITS_WAY)

    async def reset(self, ask: Ask) -> Answer:
        token = ask.body.token or ask.query.token
        if token is None:
            raise InvalidRequest("token: Field required", code="invalid_value", param="token")
        await self._door.reset_password(token, ask.body.password, ask.by)
        return say("The password is set; sign in with it.")

    async def verify(self, ask: Ask) -> Answer:
        holder = await self._find_holder(ask)
        entered = await self._door.prove_address(ask.body.token, ask.body.password, holder, ask.by)
        return say("The address is proven.") if entered is None else await self._show(entered)

    async def _find_holder(self, ask: Ask) -> str | None:
        """The user whose session asks, where one does."""
        if not ask.find_header(b"authorization"):
            return None
        caller = await self._identity.find_holder(ask.scope["headers"])
        return caller.user_id if caller is not None else None

    async def show_health(self, ask: Ask) -> Answer:
        login = self._door.login
        document = {
            "status": "healthy",
            "sign_up": login.sign_up,
            "passwords": login.passwords,
            "verifies_first": self._door.proves_first,
            "providers": [name for name, one in login.providers.items() if one.audiences],
        }
        return Answer(document)

    async def invite(self, ask: Ask) -> Answer:
        token, lasts_s = await self._door.invite(ask.body.email, ask.by)
        document = {"success": True, "invitation": token.reveal(), "expires_in": int(lasts_s)}
        return Answer(document, headers=NOT_KEPT)

    # --- what is shown

    async def _show(self, entered: Entered) -> Answer:
        account, key = entered.account, entered.key
        standing = await self._read_standing(account)
        provider = self._door.login.providers.get(entered.method)
        shown_as = provider.shows_subject_as if provider is not None else None
        document = {
            "success": True,
            "message": "The account is made." if entered.is_new else "You are signed in.",
            "user_id": account.id,
            "api_key": key.key.reveal() if key is not None else None,
            "auth_method": entered.method,
            "privy_user_id": None,
            "is_new_user": entered.is_new,
            "display_name": account.name or None,
            "username": account.name or None,
            "email": account.email,
            "email_verified": account.email_verified,
            "phone_number": None,
            "environment_tag": _TAGS.get(entered.environment or ""),
            "scope_permissions": list(KEY_SCOPES) if key is not None else None,
            **show_money(standing, account.plan, self._name_tier(account.plan)),
            **self._show_session(entered.session),
        }
        if shown_as:
            document[shown_as] = entered.subject
        return Answer(document, headers=NOT_KEPT)

    def _show_session(self, session: Session) -> dict[str, Any]:
        return {
            "access_token": self._door.sign(session).reveal(),
            "token_type": "Bearer",  # nosec B105 # no password
            "expires_in": int(self._door.login.sessions.access_s),
            "refresh_token": session.refresh_token.reveal(),
            "refresh_expires_at": session.expires_at.isoformat(),
            "timestamp": datetime.now(UTC).isoformat(),
        }


def say(message: str, status: int = 200) -> Answer:
    document = {"success": True, "message": message, "timestamp": datetime.now(UTC).isoformat()}
    return Answer(document, status, NOT_KEPT)


def read_object(raw: bytes) -> dict[str, Any]:
    try:
        document = orjson.loads(raw)
    except orjson.JSONDecodeError:
        raise InvalidRequest("the body is not JSON", code="invalid_json") from None
    if not isinstance(document, dict):
        raise InvalidRequest("the body must be a JSON object", code="invalid_json")
    return document
