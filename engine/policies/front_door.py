"""How people get in, stay in and leave: what is asked, in which order, and how often it may be asked.

Whoever has no account learns nothing of who has one: the same answer follows the same work. Attempts are counted
before any of it is done.
"""

import hashlib
import hmac
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from secrets import token_hex

from engine.config.schema_login import LoginFile
from engine.config.snapshot import Snapshot
from engine.errors import InvalidRequest, KeyRefused, LimitExceeded, NotAllowed
from engine.policies.attempts import Attempts, name_place
from engine.policies.id_tokens import IdTokens, Proven, TokenRefused
from engine.policies.letters import reset_of, write_letter
from engine.policies.login_rules import find_refusal, list_refused_domains, read_login, refuse_address
from engine.policies.password_rules import refuse_weak
from engine.policies.session_tokens import SessionTokens
from engine.policies.welcome import NO_WISHES, Wishes, ask_key, welcome, welcome_proven
from engine.secret import Secret
from engine.storage.account_desk import AccountDesk, Entered, Opening, ProvenIdentity
from engine.storage.accounts import Account
from engine.storage.audit import Actor, Event
from engine.storage.issuing import KeyRequest
from engine.storage.one_time_tokens import OneTimeToken, make_token
from engine.storage.passwords import Passwords, is_outdated
from engine.storage.profile_desk import ProfileDesk
from engine.storage.secrets import KeyRing
from engine.storage.sessions import REFRESH_PREFIX, Session

INVITE_PREFIX = "gwi"


@dataclass(frozen=True, slots=True)
class Rooms:
    """What the door needs of the house."""

    accounts: AccountDesk
    profiles: ProfileDesk
    passwords: Passwords
    attempts: Attempts
    id_tokens: IdTokens
    session_tokens: SessionTokens
    ring: KeyRing
    read_snapshot: Callable[[], Snapshot]
    can_mail: Callable[[], bool] = field(default=lambda: False)


class FrontDoor:
    def __init__(self, rooms: Rooms) -> None:
        self._rooms = rooms

    @property
    def login(self) -> LoginFile:
        """The rules in force."""
        return read_login(self._rooms.read_snapshot())

    @property
    def proves_first(self) -> bool:
        """Whether an address is proven before there is an account."""
        how = self.login.verify_address
        return how == "first" or (how == "auto" and self._rooms.can_mail())

    def sign(self, session: Session) -> Secret:
        return self._rooms.session_tokens.sign(session.id, session.user_id, self.login.sessions.access_s)

    # --- in

    async def enter_with_password(
        self, email: str, password: Secret, by: Actor, wishes: Wishes = NO_WISHES
    ) -> Entered:
        login, rooms = self.login, self._rooms
        _refuse_without_passwords(login)
        await rooms.attempts.count("login", name_place(by.address), login.attempts.login)
        account, is_known = await rooms.accounts.look_up(email, by.address)
        if not is_known:
            await rooms.attempts.count("account", self._disguise(email), login.attempts.account)
        stored = account.password_hash if account is not None and account.active else None
        if not await rooms.passwords.check(password, stored) or account is None:
            await self._note_failure(
                account.id if account else self._disguise(email), account, "password", by
            )
            raise KeyRefused("the address or the password is wrong", code="credentials_wrong")
        opening = self._open("password", by, ask_key(login, wishes, is_new=False))
        if stored is not None and is_outdated(stored):
            opening = replace(opening, new_hash=await rooms.passwords.hash(password))
        return await rooms.accounts.enter(account.id, opening)

    async def enter_with_tokens(
        self, tokens: Sequence[Secret], provider: str | None, by: Actor, wishes: Wishes = NO_WISHES
    ) -> Entered:
        """Every token must verify and be of one person; what they prove together counts."""
        login, rooms = self.login, self._rooms
        await rooms.attempts.count("login", name_place(by.address), login.attempts.login)
        try:
            proven = await self._prove(tokens, provider)
        except TokenRefused:
            await self._note_failure(provider or "identity token", None, "token", by)
            raise
        identity = ProvenIdentity(proven.provider, proven.subject, proven.email)
        opening = self._open(proven.provider, by, ask_key(login, wishes, is_new=False))
        return await rooms.accounts.enter_proven(
            identity, welcome_proven(rooms.read_snapshot(), proven, wishes, by), opening
        )

    async def _prove(self, tokens: Sequence[Secret], provider: str | None) -> Proven:
        proven: Proven | None = None
        for token in tokens:
            found = await self._rooms.id_tokens.verify(token, self.login.providers, provider)
            if proven is not None and (proven.provider, proven.subject) != (found.provider, found.subject):
                raise TokenRefused("the identity tokens are of different people")
            if proven is not None:
                found = replace(found, email=found.email or proven.email, name=found.name or proven.name)
            proven = found
        assert proven is not None, "there is at least one token"
        return proven

    # --- new

    async def register(self, email: str, password: Secret, by: Actor, wishes: Wishes) -> Entered | None:
        """None: a mail is on its way, if it may be; the account is made when its token comes back."""
        login, rooms = self.login, self._rooms
        _refuse_without_passwords(login)
        await rooms.attempts.count("sign_up", name_place(by.address), login.attempts.sign_up)
        refusal = find_refusal(email, login, list_refused_domains(rooms.read_snapshot(), login))
        if refusal is not None:
            raise refusal
        refuse_weak(password, email, login.password)
        hashed = await rooms.passwords.hash(password)
        if self.proves_first:
            await self._hold_back(email, hashed, by, wishes)
            return None
        newcomer = welcome(rooms.read_snapshot(), email, hashed, wishes, by)
        entered = await rooms.accounts.sign_up(newcomer, self._open("password", by, None))
        if entered is None:
            raise refuse_address()
        if rooms.can_mail():
            await self.send_verification(entered.account.id, email, entered.account.name)
        return entered

    async def _hold_back(self, email: str, hashed: str, by: Actor, wishes: Wishes) -> None:
        """Whoever has an account already is sent the way back into it instead."""
        account, _ = await self._rooms.accounts.look_up(email, by.address)
        facts = {
            "password_hash": hashed,
            "name": wishes.name,
            "environment": wishes.environment,
            "key": wishes.key,
            "key_name": wishes.key_name,
            "referral_code": wishes.referral_code,
            "partner_code": wishes.partner_code,
            "invitation": wishes.invitation.reveal() if wishes.invitation else None,
        }
        held = write_letter(self.login, OneTimeToken("sign_up", email, facts=facts), wishes.name)
        if account is not None:
            held = write_letter(self.login, reset_of(account, email), account.name)
        await self._rooms.profiles.send(held, is_meant=account is None or account.active)

    async def send_verification(self, user_id: str, email: str, name: str) -> None:
        what = OneTimeToken("verify_address", email, user_id)
        await self._rooms.profiles.send(write_letter(self.login, what, name))

    async def prove_address(
        self, token: Secret, password: Secret | None, holder: str | None, by: Actor
    ) -> Entered | None:
        """The mail's token and who asked for it, together: the mail alone would let whoever registered somebody
        else's address have it proven by its owner. `holder` is the user of the session that asks.
        """
        rooms = self._rooms
        await rooms.attempts.count("redeem", name_place(by.address), self.login.attempts.redeem)
        what = await rooms.profiles.look_at(token, "sign_up", "verify_address")
        if what is None:
            raise _refuse_token()
        if what.purpose == "sign_up":
            return await self._finish_sign_up(token, what, password, by)
        account, _ = await rooms.profiles.find(what.user_id or "")
        if holder != account.id and not await self._fits(password, account.password_hash):
            raise KeyRefused("the password is wrong", code="credentials_wrong")
        if not await rooms.profiles.prove_address(token, account.id, by):
            raise _refuse_token()
        if holder == account.id:
            return None
        return await rooms.accounts.enter(account.id, self._open("password", by, None))

    async def _finish_sign_up(
        self, token: Secret, what: OneTimeToken, password: Secret | None, by: Actor
    ) -> Entered:
        facts = dict(what.facts or {})
        hashed, invitation = facts.pop("password_hash"), facts.pop("invitation")
        if not await self._fits(password, hashed):
            raise KeyRefused("the password is wrong", code="credentials_wrong")
        wishes = Wishes(**facts, invitation=Secret(invitation) if invitation else None)
        newcomer = welcome(self._rooms.read_snapshot(), what.email, hashed, wishes, by, is_proven=True)
        opening = self._open("password", by, None)
        entered = await self._rooms.accounts.finish_sign_up(token, newcomer, opening)
        if entered is None:
            raise _refuse_token()
        return entered

    async def _fits(self, password: Secret | None, stored: str | None) -> bool:
        return password is not None and await self._rooms.passwords.check(password, stored)

    # --- lost passwords

    async def ask_reset(self, email: str, by: Actor) -> None:
        """Always the same, whoever asks for whomever."""
        login, rooms = self.login, self._rooms
        entry = login.attempts.password_reset
        await rooms.attempts.count("password_reset", name_place(by.address), entry)
        is_meant = await self._may_write_to(email, login)
        account, _ = await rooms.accounts.look_up(email, by.address)
        is_meant = is_meant and account is not None and account.active and login.passwords
        letter = write_letter(
            self.login, reset_of(account, email), account.name if account is not None else ""
        )
        await rooms.profiles.send(letter, is_meant=is_meant)

    async def _may_write_to(self, email: str, login: LoginFile) -> bool:
        """Nobody's mailbox is filled by others who ask for resets."""
        try:
            await self._rooms.attempts.count(
                "reset_mail", self._disguise(email), login.attempts.password_reset
            )
        except LimitExceeded:
            return False
        return True

    async def reset_password(self, token: Secret, password: Secret, by: Actor) -> None:
        login, rooms = self.login, self._rooms
        await rooms.attempts.count("redeem", name_place(by.address), login.attempts.redeem)
        what = await rooms.profiles.look_at(token, "password_reset")
        if what is None:
            raise _refuse_token()
        refuse_weak(password, what.email, login.password)
        if not await rooms.profiles.reset_password(token, await rooms.passwords.hash(password), by):
            raise _refuse_token()

    async def change_password(self, account: Account, current: Secret, new: Secret, by: Actor) -> None:
        login, rooms = self.login, self._rooms
        await self.check_password(account, current, by)
        refuse_weak(new, account.email, login.password, "new_password")
        await rooms.profiles.change_password(account.id, await rooms.passwords.hash(new), by)

    async def check_password(self, account: Account, password: Secret, by: Actor) -> None:
        """Of somebody who is in: a session that somebody else got hold of does not know it."""
        login, rooms = self.login, self._rooms
        await rooms.attempts.count("login", name_place(by.address), login.attempts.login)
        await rooms.attempts.count("own_password", account.id, login.attempts.account)
        if not await rooms.passwords.check(password, account.password_hash):
            await self._note_failure(account.id, account, "password", by)
            raise NotAllowed("the password is wrong", code="password_wrong")

    async def invite(self, email: str | None, by: Actor) -> tuple[Secret, float]:
        """A token with which one account can be made, with this address if one is named; and how long it lasts."""
        token, lasts_s = make_token(INVITE_PREFIX), self.login.tokens.invitation_days * 86_400
        await self._rooms.profiles.keep(token, OneTimeToken("invitation", email or ""), lasts_s, by)
        return token, lasts_s

    # --- staying and leaving

    async def renew(self, token: Secret, by: Actor) -> Session:
        await self._count_refresh(by)
        session = await self._rooms.profiles.renew(token, make_token(REFRESH_PREFIX), by)
        if session is None:
            raise KeyRefused("the refresh token is not valid; sign in again", code="refresh_token_invalid")
        return session

    async def leave(self, token: Secret, everywhere: bool, by: Actor) -> None:
        await self._count_refresh(by)
        await self._rooms.profiles.leave(token, everywhere, by)

    async def _count_refresh(self, by: Actor) -> None:
        await self._rooms.attempts.count("refresh", name_place(by.address), self.login.attempts.refresh)

    # --- what is made for whom

    def _open(self, method: str, by: Actor, key: KeyRequest | None) -> Opening:
        lasts_s = self.login.sessions.refresh_days * 86_400
        session_id = f"session_{token_hex(12)}"
        return Opening(session_id, make_token(REFRESH_PREFIX), method, lasts_s, by, key)

    def _disguise(self, email: str) -> str:
        """An address under which nobody finds it: for counters and the log."""
        key = self._rooms.ring.newest.sessions
        return f"address:{hmac.new(key, email.casefold().encode(), hashlib.sha256).hexdigest()[:24]}"

    async def _note_failure(self, subject: str, account: Account | None, method: str, by: Actor) -> None:
        owner = account.id if account is not None else ""
        event = Event("auth.sign_in_failed", subject, owner, after={"method": method})
        await self._rooms.accounts.note(by, event)


def _refuse_without_passwords(login: LoginFile) -> None:
    if not login.passwords:
        raise NotAllowed("nobody signs in with a password here", code="passwords_off")


def _refuse_token() -> InvalidRequest:
    return InvalidRequest("this token is not valid, or was used already", code="token_invalid", param="token")
