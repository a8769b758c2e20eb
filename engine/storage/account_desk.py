"""Getting into accounts, each way in one transaction: what proves the person, the session, the key and the audit event
are there together or not at all.

Every transaction begins with `count_change`, whose row lock lets one pass at a time: of two who make the same account
the second finds it made.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from engine.errors import NotAllowed
from engine.secret import Secret
from engine.storage.accounts import (
    Account,
    NewAccount,
    change_account,
    find_account,
    find_linked,
    find_main_key,
    insert_account,
    is_known_there,
    link_identity,
)
from engine.storage.audit import Actor, Event, write_event
from engine.storage.issuing import IssuedKey, KeyRequest, issue_key
from engine.storage.newcomers import NewcomerFacts, NewUserListener
from engine.storage.one_time_tokens import OneTimeToken, use_token
from engine.storage.outbox import queue_mail
from engine.storage.postgres import Connection, Database, count_change
from engine.storage.secrets import KeyRing
from engine.storage.sessions import Session, start_session


@dataclass(frozen=True, slots=True)
class Opening:
    """The session that somebody who got in is to have. Named beforehand, so that doing it twice makes one."""

    session_id: str
    token: Secret
    method: str
    lasts_s: float
    by: Actor
    """From where; who it is comes from the account."""
    key: KeyRequest | None = None
    """A key to make for an account that has none."""
    new_hash: str | None = None
    """The password's hash with today's numbers."""


@dataclass(frozen=True, slots=True)
class Newcomer:
    """An account that may have to be made."""

    account: NewAccount
    facts: NewcomerFacts
    key: KeyRequest | None = None
    needs_invitation: bool = False
    invitation: Secret | None = None
    refusal: NotAllowed | None = None
    """Why there may be no such account."""


@dataclass(frozen=True, slots=True)
class ProvenIdentity:
    """`email` is only here when the provider has checked it."""

    provider: str
    subject: str
    email: str | None


@dataclass(frozen=True, slots=True)
class Entered:
    """Somebody is in."""

    account: Account
    session: Session
    method: str
    key: IssuedKey | None = None
    is_new: bool = False
    subject: str = ""
    """Of the identity that was proven."""
    environment: str | None = None
    """Of the key that was made."""


class AccountDesk:
    def __init__(self, database: Database, ring: KeyRing, listeners: Sequence[NewUserListener] = ()) -> None:
        self._database, self._ring, self._listeners = database, ring, tuple(listeners)

    async def look_up(self, email: str, address: str) -> tuple[Account | None, bool]:
        """The account of an address, and whether it was signed in to from there lately."""

        async def work(connection: Connection) -> tuple[Account | None, bool]:
            account = await find_account(connection, email=email)
            known = await is_known_there(connection, account.id if account else "", address)
            return account, known

        return await self._database.run(work)

    async def note(self, by: Actor, event: Event) -> None:
        """An event that changes nothing but the log."""

        async def work(connection: Connection) -> None:
            async with connection.transaction():
                await write_event(connection, self._ring, by, event)

        await self._database.run(work)

    async def enter(self, user_id: str, opening: Opening) -> Entered:
        """Somebody whose password was right."""

        async def work(connection: Connection) -> Entered:
            async with connection.transaction():
                n = await count_change(connection)
                account = await find_account(connection, user_id=user_id)
                if account is None or not account.active:
                    raise NotAllowed("this account is not active", code="account_inactive")
                if opening.new_hash is not None:
                    await change_account(connection, user_id, {"password_hash": opening.new_hash}, n)
                return await self._open(connection, account, opening)

        return await self._database.run(work)

    async def enter_proven(self, proven: ProvenIdentity, newcomer: Newcomer, opening: Opening) -> Entered:
        """Somebody whom an identity provider vouches for: linked already, to be linked, or new."""

        async def work(connection: Connection) -> Entered:
            async with connection.transaction():
                n = await count_change(connection)
                account = await self._find_proven(connection, proven, opening, n)
                if account is None:
                    entered = await self._make(connection, newcomer, opening, n)
                    await link_identity(connection, proven.provider, proven.subject, entered.account.id)
                elif not account.active:
                    raise NotAllowed("this account is not active", code="account_inactive")
                else:
                    entered = await self._open(connection, account, opening)
                return replace(entered, subject=proven.subject)

        return await self._database.run(work)

    async def sign_up(self, newcomer: Newcomer, opening: Opening) -> Entered | None:
        """Make an account whose address is not proven yet; None when the address has one."""

        async def work(connection: Connection) -> Entered | None:
            async with connection.transaction():
                n = await count_change(connection)
                found = await find_account(connection, email=newcomer.account.email)
                if found is None:
                    return await self._make(connection, newcomer, opening, n)
                if found.id == newcomer.account.id:  # made, and the news of it got lost
                    return await self._open(connection, found, opening)
                return None

        return await self._database.run(work)

    async def finish_sign_up(self, token: Secret, newcomer: Newcomer, opening: Opening) -> Entered | None:
        """Make the account that was held back until its address is proven; None when the token opens nothing."""

        async def work(connection: Connection) -> Entered | None:
            async with connection.transaction():
                n = await count_change(connection)
                if await use_token(connection, token, "sign_up") is None:
                    return None
                if await find_account(connection, email=newcomer.account.email) is not None:
                    return None
                return await self._make(connection, newcomer, opening, n)

        return await self._database.run(work)

    async def _find_proven(
        self, connection: Connection, proven: ProvenIdentity, opening: Opening, n: int
    ) -> Account | None:
        account = await find_linked(connection, proven.provider, proven.subject)
        if account is not None:
            return await self._complete(connection, account, proven, n)
        account = await find_account(connection, email=proven.email) if proven.email else None
        if account is None:
            return None
        if not account.email_verified:
            raise NotAllowed(
                "there is an account with this address whose owner has not proven the address: ask for a new"
                " password by mail (POST /auth/password-reset), which proves it, and sign in again",
                code="address_not_proven",
            )
        await link_identity(connection, proven.provider, proven.subject, account.id)
        event = Event("auth.link", account.id, account.id, after={"provider": proven.provider})
        await write_event(connection, self._ring, replace(opening.by, user_id=account.id), event)
        return account

    async def _complete(
        self, connection: Connection, account: Account, proven: ProvenIdentity, n: int
    ) -> Account:
        """An account without an address gets the one that is proven now, if nobody else has it."""
        if account.email is not None or proven.email is None:
            return account
        if await find_account(connection, email=proven.email) is not None:
            return account
        changes = {"email": proven.email, "email_verified": True}
        await change_account(connection, account.id, changes, n)
        return replace(account, stored_email=proven.email, email_verified=True)

    async def _make(self, connection: Connection, newcomer: Newcomer, opening: Opening, n: int) -> Entered:
        if newcomer.refusal is not None:
            raise newcomer.refusal
        made, facts = newcomer.account, newcomer.facts
        if newcomer.needs_invitation:
            await self._use_invitation(connection, newcomer)
        await insert_account(connection, made, n)
        by = replace(opening.by, user_id=made.id)
        after = {"method": facts.method, "email_verified": made.email_verified, "plan": made.plan}
        await write_event(connection, self._ring, by, Event("auth.sign_up", made.id, made.id, after=after))
        for listener in self._listeners:
            await listener.user_made(connection, made.id, facts)
        if made.email is not None:
            await queue_mail(
                connection,
                "welcome",
                made.email,
                {"name": made.name},
                ref=f"welcome:{made.id}",
                user_id=made.id,
            )
        account = await find_account(connection, user_id=made.id)
        assert account is not None, "it was made above"
        return replace(await self._open(connection, account, replace(opening, key=newcomer.key)), is_new=True)

    async def _use_invitation(self, connection: Connection, newcomer: Newcomer) -> None:
        """By its token; a proven address needs none when there is an invitation for it."""
        made, token = newcomer.account, newcomer.invitation
        found: OneTimeToken | None = None
        if token is not None:
            found = await use_token(connection, token, "invitation")
        elif made.email_verified and newcomer.facts.method != "password":
            found = await _use_invitation_of(connection, made.email or "")
        if found is None or (found.email and found.email.casefold() != (made.email or "").casefold()):
            raise NotAllowed("an account can only be made with an invitation", code="invitation_missing")

    async def _open(self, connection: Connection, account: Account, opening: Opening) -> Entered:
        by = replace(opening.by, user_id=account.id, key_id=opening.session_id)
        session = await start_session(
            connection, opening.session_id, opening.method, opening.lasts_s, opening.token, by
        )
        event = Event("auth.sign_in", account.id, account.id, after={"method": opening.method})
        await write_event(connection, self._ring, by, event)
        key: IssuedKey | None = None
        if opening.key is not None and await find_main_key(connection, account.id) is None:
            key = await issue_key(connection, self._ring, replace(opening.key, user_id=account.id), by)
        environment = opening.key.environment if opening.key is not None and key is not None else None
        return Entered(account, session, opening.method, key, environment=environment)


async def _use_invitation_of(connection: Connection, email: str) -> OneTimeToken | None:
    row = await (
        await connection.execute(
            "UPDATE one_time_tokens SET used_at = now() WHERE hash = (SELECT hash FROM one_time_tokens"
            " WHERE purpose = 'invitation' AND lower(email) = lower(%s) AND used_at IS NULL"
            " AND expires_at > now() LIMIT 1) RETURNING purpose, email, user_id, facts",
            (email,),
        )
    ).fetchone()
    return None if row is None else OneTimeToken(*row)
