"""What people change about their own accounts, and what a mail proves: each is one transaction with its audit event."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from engine.errors import NotAllowed, NotFound
from engine.secret import Secret
from engine.storage.accounts import (
    Account,
    change_account,
    erase_account,
    find_account,
    find_main_key,
    owns_shared_team,
    revoke_keys_of,
    unlink_all,
)
from engine.storage.audit import Actor, Event, write_event
from engine.storage.newcomers import ErasedUserListener
from engine.storage.one_time_tokens import (
    OneTimeToken,
    close_tokens,
    hash_token,
    keep_token,
    look_at_token,
    use_token,
)
from engine.storage.outbox import queue_mail
from engine.storage.postgres import Connection, Database, count_change
from engine.storage.secrets import KeyRing
from engine.storage.sessions import (
    Held,
    Session,
    end_sessions,
    find_session_of,
    list_sessions,
    renew_session,
)


@dataclass(frozen=True, slots=True)
class Letter:
    """A token that goes out by mail."""

    token: Secret
    what: OneTimeToken
    lasts_s: float
    template: str
    data: Mapping[str, Any]


class ProfileDesk:
    def __init__(
        self, database: Database, ring: KeyRing, listeners: Sequence[ErasedUserListener] = ()
    ) -> None:
        self._database, self._ring, self._listeners = database, ring, tuple(listeners)

    async def find(self, user_id: str) -> tuple[Account, tuple[str, str] | None]:
        """The account, and environment and last letters of its first key."""

        async def work(connection: Connection) -> tuple[Account, tuple[str, str] | None]:
            account = await _find_active(connection, user_id)
            return account, await find_main_key(connection, user_id)

        return await self._database.run(work)

    async def change(self, user_id: str, changes: Mapping[str, Any], by: Actor) -> None:
        """Set name, preferences or settings."""

        async def work(connection: Connection) -> None:
            async with connection.transaction():
                n = await count_change(connection)
                await _find_active(connection, user_id)
                await change_account(connection, user_id, changes, n)
                event = Event("account.update", user_id, user_id, after={"fields": sorted(changes)})
                await write_event(connection, self._ring, by, event)

        await self._database.run(work)

    async def send(self, letter: Letter, *, is_meant: bool = True) -> None:
        """Keep the token and queue its mail. One that is not meant does the same work and leaves nothing."""

        async def work(connection: Connection) -> None:
            async with connection.transaction(force_rollback=not is_meant):
                what = letter.what
                await keep_token(connection, letter.token, what, letter.lasts_s)
                data = {**letter.data, "token": letter.token.reveal()}
                await queue_mail(
                    connection,
                    letter.template,
                    what.email,
                    data,
                    ref=f"{what.purpose}:{hash_token(letter.token).hex()[:32]}",
                    user_id=what.user_id or "",
                    ring=self._ring,
                )

        await self._database.run(work)

    async def keep(self, token: Secret, what: OneTimeToken, lasts_s: float, by: Actor) -> None:
        """A token that somebody hands over by themselves: an invitation."""

        async def work(connection: Connection) -> None:
            async with connection.transaction():
                await count_change(connection)
                await keep_token(connection, token, what, lasts_s)
                event = Event("account.invite", "invitation", after={"for_one_address": bool(what.email)})
                await write_event(connection, self._ring, by, event)

        await self._database.run(work)

    async def look_at(self, token: Secret, *purposes: str) -> OneTimeToken | None:
        async def work(connection: Connection) -> OneTimeToken | None:
            return await look_at_token(connection, token, *purposes)

        return await self._database.run(work)

    async def prove_address(self, token: Secret, user_id: str, by: Actor) -> bool:
        """The address that a token was sent to is this user's from now on; False when it opens nothing."""

        async def work(connection: Connection) -> bool:
            async with connection.transaction():
                n = await count_change(connection)
                used = await use_token(connection, token, "verify_address")
                if used is None or used.user_id != user_id:
                    return False
                other = await find_account(connection, email=used.email)
                if other is not None and other.id != user_id:
                    return False
                await change_account(connection, user_id, {"email": used.email, "email_verified": True}, n)
                event = Event("account.address_proven", user_id, user_id)
                await write_event(connection, self._ring, replace(by, user_id=user_id), event)
                return True

        return await self._database.run(work)

    async def change_password(self, user_id: str, hashed: str, by: Actor) -> None:
        """All other sessions end."""

        async def work(connection: Connection) -> None:
            async with connection.transaction():
                n = await count_change(connection)
                await change_account(connection, user_id, {"password_hash": hashed}, n)
                await close_tokens(connection, user_id, "password_reset")
                await end_sessions(
                    connection, self._ring, Held(user_id, but=by.key_id), "password changed", by
                )
                await write_event(connection, self._ring, by, Event("auth.password_change", user_id, user_id))

        await self._database.run(work)

    async def reset_password(self, token: Secret, hashed: str, by: Actor) -> bool:
        """A new password for whoever got the mail, who has proven the address with it. All sessions end.

        Whoever could get in before the address was proven may have been somebody else: their links and keys end too.
        """

        async def work(connection: Connection) -> bool:
            async with connection.transaction():
                n = await count_change(connection)
                used = await use_token(connection, token, "password_reset")
                account = (
                    await find_account(connection, user_id=used.user_id) if used and used.user_id else None
                )
                if used is None or account is None or not account.active:
                    return False
                if account.stored_email.casefold() != used.email.casefold():
                    return False
                who = replace(by, user_id=account.id)
                if account.can_be_entered and not account.email_verified:
                    await self._shut_out(connection, account.id, who, n)
                changes = {"password_hash": hashed, "email_verified": True}
                await change_account(connection, account.id, changes, n)
                await close_tokens(connection, account.id, "password_reset", "verify_address")
                await end_sessions(connection, self._ring, Held(account.id), "password reset", who)
                event = Event("auth.password_reset", account.id, account.id)
                await write_event(connection, self._ring, who, event)
                return True

        return await self._database.run(work)

    async def _shut_out(self, connection: Connection, user_id: str, by: Actor, n: int) -> None:
        await unlink_all(connection, user_id)
        for key_id in await revoke_keys_of(connection, user_id, n, of_teams_too=True):
            event = Event("key.revoke", key_id, user_id, after={"reason": "address proven by somebody else"})
            await write_event(connection, self._ring, by, event)

    async def erase(self, user_id: str, by: Actor) -> None:
        """Keys are revoked and what tells of the person goes; the books stay under the id."""

        async def work(connection: Connection) -> None:
            async with connection.transaction():
                n = await count_change(connection)
                account = await _find_active(connection, user_id)
                if await owns_shared_team(connection, user_id):
                    raise NotAllowed(
                        "a team of yours has no other owner: make somebody else its owner first",
                        code="team_needs_owner",
                    )
                keys = await revoke_keys_of(connection, user_id, n)
                for listener in self._listeners:
                    await listener.user_erased(connection, user_id, account.stored_email)
                await erase_account(connection, account, n)
                event = Event("account.delete", user_id, user_id, after={"keys_revoked": keys})
                await write_event(connection, self._ring, by, event)

        await self._database.run(work)

    # --- sessions

    async def renew(self, token: Secret, successor: Secret, by: Actor) -> Session | None:
        """The session that goes on. A token that was used before ends it."""

        async def work(connection: Connection) -> Session | None:
            return await renew_session(connection, token, successor)

        session = await self._database.run(work)
        if session is not None and session.reused:
            who = replace(by, user_id=session.user_id, key_id=session.id)
            await self.end(Held(session.user_id, only=session.id), "refresh token used twice", who)
            return None
        return session

    async def leave(self, token: Secret, everywhere: bool, by: Actor) -> None:
        """End the session of a refresh token, or all of its user's."""

        async def work(connection: Connection) -> tuple[str, str] | None:
            return await find_session_of(connection, token)

        found = await self._database.run(work)
        if found is not None:
            session_id, user_id = found
            who = replace(by, user_id=user_id, key_id=session_id)
            await self.end(Held(user_id, only=None if everywhere else session_id), "signed out", who)

    async def end(self, held: Held, reason: str, by: Actor) -> Sequence[str]:
        async def work(connection: Connection) -> Sequence[str]:
            return await end_sessions(connection, self._ring, held, reason, by)

        return await self._database.run(work)

    async def list_sessions(self, user_id: str) -> list[dict[str, Any]]:
        async def work(connection: Connection) -> list[dict[str, Any]]:
            return await list_sessions(connection, user_id)

        return await self._database.run(work)


async def _find_active(connection: Connection, user_id: str) -> Account:
    account = await find_account(connection, user_id=user_id)
    if account is None or not account.active:
        raise NotFound("there is no such account")
    return account
