"""A door with everything behind it that is real: database, limiter, passwords, an identity provider over HTTP."""

import time
from dataclasses import replace
from typing import Any

import psycopg

from engine.config.schema_login import LoginFile
from engine.config.snapshot import Snapshot
from engine.policies.attempts import Attempts
from engine.policies.front_door import FrontDoor, Rooms
from engine.policies.id_tokens import IdTokens
from engine.policies.limits import Limiter
from engine.policies.session_tokens import Sessions, SessionTokens
from engine.secret import Secret
from engine.storage.account_desk import AccountDesk
from engine.storage.audit import Actor
from engine.storage.newcomers import NewcomerFacts
from engine.storage.passwords import Passwords
from engine.storage.postgres import Connection, Database
from engine.storage.profile_desk import ProfileDesk
from engine.storage.secrets import KeyRing
from engine.upstream.key_sets import KeySets
from engine.upstream.pools import Upstreams
from tests.accounts.issuer import AUDIENCE, Issuer

EMAIL, PASSWORD = "ada@example.com", Secret("correct-Pferd-9-battery")
NEW_PASSWORD = Secret("another-Hund-7-stapler")


def come_from(address: str = "192.0.2.1") -> Actor:
    return Actor("", "", address, "tests")


class Trial:
    """Somebody else who is told of new users."""

    def __init__(self) -> None:
        self.made: list[tuple[str, NewcomerFacts]] = []
        self.erased: list[tuple[str, str]] = []
        self.refuses = False

    async def user_made(self, connection: Connection, user_id: str, facts: NewcomerFacts) -> None:
        if self.refuses:
            raise RuntimeError("no trial today")
        self.made.append((user_id, facts))

    async def user_erased(self, connection: Connection, user_id: str, email: str) -> None:
        self.erased.append((user_id, email))


class WatchedDatabase(Database):
    """Notes every statement that is sent."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.statements: list[str] = []
        noted = self.statements

        class Cursor(psycopg.AsyncCursor[Any]):
            async def execute(self, query: Any, *arguments: Any, **options: Any) -> Any:
                noted.append(str(query))
                return await super().execute(query, *arguments, **options)

        self._pool.kwargs = {**self._pool.kwargs, "cursor_factory": Cursor}


class House:
    """`change` sets keys of the login file."""

    def __init__(
        self, base: Snapshot, database: WatchedDatabase, ring: KeyRing, upstreams: Upstreams
    ) -> None:
        self.base, self.database, self.ring = base, database, ring
        self.login = base.declared(LoginFile)["default"]
        self.now = 1000.0
        self.statements = database.statements
        self.trial = Trial()
        self.can_mail = False
        self.passwords = Passwords()
        tokens = SessionTokens(ring)
        self.sessions = Sessions(tokens, database)
        self.key_sets = KeySets(upstreams, time.monotonic)
        self.profiles = ProfileDesk(database, ring, [self.trial])
        self.accounts = AccountDesk(database, ring, [self.trial])
        self.door = FrontDoor(
            Rooms(
                self.accounts,
                self.profiles,
                self.passwords,
                Attempts(Limiter(), lambda: self.now),
                IdTokens(self.key_sets),
                tokens,
                ring,
                self.read_snapshot,
                lambda: self.can_mail,
            )
        )

    async def open(self) -> None:
        async def look(connection: Connection) -> None:
            await connection.execute("SELECT 1")

        await self.database.run(look, probe=True)
        [(self.first_seq,)] = await self.read("SELECT coalesce(max(seq), 0) FROM audit_log")

    def read_snapshot(self) -> Snapshot:
        return replace(self.base, things={**self.base.things, "login": {"default": self.login}})

    def change(self, **changes: Any) -> None:
        tree = self.login.model_dump(exclude_unset=True)
        self.login = LoginFile.model_validate(tree | changes)

    def trust(self, issuer: Issuer, **changes: Any) -> None:
        entry = {
            "issuer": issuer.name,
            "audience": AUDIENCE,
            "jwks_url": f"{issuer.url}/jwks.json",
            "algorithms": ["ES256"],
            "allow_private": True,
        }
        self.change(providers={"idp": entry | changes})

    def later(self, seconds: float) -> None:
        self.now += seconds

    async def read(self, statement: str, *values: Any) -> list[Any]:
        async def work(connection: Connection) -> list[Any]:
            return await (await connection.execute(statement, values)).fetchall()  # type: ignore[arg-type]

        return await self.database.run(work)

    async def read_token(self, template: str) -> Secret:
        """The token of the last mail of this kind."""
        rows = await self.read(
            "SELECT sealed FROM mail_outbox WHERE template = %s ORDER BY id DESC LIMIT 1", template
        )
        text = self.ring.decrypt(rows[0][0]).reveal()
        return Secret(text.partition('"token":"')[2].partition('"')[0])

    async def count_mails(self) -> int:
        return int((await self.read("SELECT count(*) FROM mail_outbox"))[0][0])
