"""Everything that people sign in with, put together once for a worker."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from engine.config.schema_mail import MailFile
from engine.config.schema_plan import PlanFile
from engine.config.snapshot import Snapshot
from engine.http.auth import AuthRoutes
from engine.http.endpoints import Route
from engine.http.profile import ProfileRoutes
from engine.policies.attempts import Attempts
from engine.policies.front_door import FrontDoor, Rooms
from engine.policies.id_tokens import IdTokens
from engine.policies.identity import Identity
from engine.policies.session_tokens import Sessions, SessionTokens
from engine.storage import one_time_tokens, sessions
from engine.storage.account_desk import AccountDesk
from engine.storage.accounts import Account
from engine.storage.newcomers import ErasedUserListener, NewUserListener
from engine.storage.passwords import Passwords
from engine.storage.postgres import Connection, Database, cancel_tasks
from engine.storage.profile_desk import ProfileDesk
from engine.storage.purging import purge_often
from engine.storage.secrets import KeyRing
from engine.storage.standing import Standing, read_standing
from engine.upstream.key_sets import KeySets

_PURGE_EACH_S = 600.0


@dataclass(frozen=True, slots=True)
class Neighbours:
    """Who else has something to do when an account is made or erased."""

    made: Sequence[NewUserListener] = ()
    erased: Sequence[ErasedUserListener] = ()


class Login:
    def __init__(
        self,
        database: Database,
        ring: KeyRing,
        key_sets: KeySets,
        attempts: Attempts,
        read_snapshot: Callable[[], Snapshot],
        neighbours: Neighbours = Neighbours(),
    ) -> None:
        self._database, self._read_snapshot = database, read_snapshot
        tokens = SessionTokens(ring)
        self.sessions = Sessions(tokens, database)
        self._passwords = Passwords()
        self._profiles = ProfileDesk(database, ring, neighbours.erased)
        self._door = FrontDoor(
            Rooms(
                accounts=AccountDesk(database, ring, neighbours.made),
                profiles=self._profiles,
                passwords=self._passwords,
                attempts=attempts,
                id_tokens=IdTokens(key_sets),
                session_tokens=tokens,
                ring=ring,
                read_snapshot=read_snapshot,
                can_mail=self.can_mail,
            )
        )
        self._purging: list[asyncio.Task[None]] = []

    def list_routes(self, identity: Identity) -> Sequence[Route]:
        return (
            *AuthRoutes(self._door, identity, self.read_standing, self.name_tier).list(),
            *ProfileRoutes(self._door, self._profiles, self.read_standing, self.name_tier).list(),
        )

    def start(self) -> None:
        for statement, what in ((sessions.PURGE, "sessions"), (one_time_tokens.PURGE, "tokens")):
            purging = purge_often(self._database, statement, _PURGE_EACH_S, what)
            self._purging.append(asyncio.create_task(purging))

    async def stop(self) -> None:
        await cancel_tasks(*self._purging)
        self._passwords.close()

    async def read_standing(self, account: Account) -> Standing:
        async def work(connection: Connection) -> Standing:
            return await read_standing(connection, account.id, account.plan)

        return await self._database.run(work)

    def can_mail(self) -> bool:
        """Whether mails leave."""
        mail = self._read_snapshot().declared(MailFile).get("default")
        return mail is not None and mail.sink != "none"

    def name_tier(self, plan: str) -> str:
        """A plan's name for people."""
        found = self._read_snapshot().declared(PlanFile).get(plan)
        return found.name_for_people if found is not None else plan
