"""Accounts of people, as the tables have them: found, made, changed, linked and erased. Each is one step of a
transaction of the caller's, which begins with `count_change`.

An account without an address has one that leads nowhere: the column is unique and never empty.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from secrets import token_hex
from typing import Any, LiteralString

from psycopg import sql
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from engine.storage.postgres import Connection

NOWHERE = "no-address.invalid"
KNOWN_FOR_DAYS = 30
_SELECT: LiteralString = (
    "SELECT u.id, u.email AS stored_email, u.name, u.role, u.active, u.email_verified, u.password_hash, u.plan,"
    " u.prepaid, u.preferences, u.settings, u.created_at, u.updated_at,"
    " coalesce((SELECT array_agg(i.provider ORDER BY i.provider) FROM identities i WHERE i.user_id = u.id), '{}')"
    " AS providers FROM users u WHERE "
)
CHANGEABLE = frozenset(
    {"name", "preferences", "settings", "email", "email_verified", "password_hash", "plan", "prepaid"}
)


@dataclass(frozen=True, slots=True)
class Account:
    id: str
    stored_email: str
    name: str
    role: str
    active: bool
    email_verified: bool
    """The person has proven that the address is theirs."""
    password_hash: str | None = field(repr=False)
    plan: str
    prepaid: bool
    preferences: Mapping[str, Any]
    settings: Mapping[str, Any]
    created_at: datetime
    updated_at: datetime
    providers: list[str]
    """Identity providers that it is linked with."""

    @property
    def email(self) -> str | None:
        return None if self.stored_email.endswith(f"@{NOWHERE}") else self.stored_email

    @property
    def can_be_entered(self) -> bool:
        """Somebody may have set a password for it or linked it; what an administrator made has neither."""
        return self.password_hash is not None or bool(self.providers)


@dataclass(frozen=True, slots=True)
class NewAccount:
    id: str
    email: str | None
    email_verified: bool
    name: str = ""
    password_hash: str | None = field(default=None, repr=False)
    plan: str = ""
    prepaid: bool = True


def name_user() -> str:
    return f"user_{token_hex(8)}"


async def find_account(
    connection: Connection, *, user_id: str | None = None, email: str | None = None
) -> Account | None:
    """By id, else by address, whatever its case."""
    async with connection.cursor(row_factory=class_row(Account)) as cursor:
        if user_id is not None:
            await cursor.execute(_SELECT + "u.id = %s", (user_id,))
        else:
            await cursor.execute(_SELECT + "lower(u.email) = lower(%s)", (email,))
        return await cursor.fetchone()


async def is_known_there(connection: Connection, user_id: str, address: str) -> bool:
    """Whether this account was signed in to from this address lately."""
    row = await (
        await connection.execute(
            "SELECT EXISTS (SELECT 1 FROM sessions WHERE user_id = %s AND address = %s"
            " AND used_at > now() - make_interval(days => %s))",
            (user_id, address, KNOWN_FOR_DAYS),
        )
    ).fetchone()
    return row is not None and bool(row[0])


async def find_linked(connection: Connection, provider: str, subject: str) -> Account | None:
    """The account of a proven identity."""
    row = await (
        await connection.execute(
            "UPDATE identities SET used_at = now() WHERE provider = %s AND subject = %s RETURNING user_id",
            (provider, subject),
        )
    ).fetchone()
    return None if row is None else await find_account(connection, user_id=row[0])


async def link_identity(connection: Connection, provider: str, subject: str, user_id: str) -> None:
    await connection.execute(
        "INSERT INTO identities (provider, subject, user_id) VALUES (%s, %s, %s)",
        (provider, subject, user_id),
    )


async def insert_account(connection: Connection, made: NewAccount, n: int) -> None:
    await connection.execute(
        "INSERT INTO users (id, email, email_verified, name, password_hash, plan, prepaid, changed_n)"
        " VALUES (%s, %s, %s, %s, %s, %s, %s, %s)",
        (
            made.id,
            made.email or f"{made.id}@{NOWHERE}",
            made.email_verified,
            made.name,
            made.password_hash,
            made.plan,
            made.prepaid,
            n,
        ),
    )


async def change_account(connection: Connection, user_id: str, changes: Mapping[str, Any], n: int) -> None:
    """Set columns; `changes` names some of CHANGEABLE."""
    assert changes and set(changes) <= CHANGEABLE
    values = {name: Jsonb(value) if isinstance(value, dict) else value for name, value in changes.items()}
    pairs = [sql.SQL("{} = {}").format(sql.Identifier(name), sql.Placeholder(name)) for name in values]
    await connection.execute(
        sql.SQL("UPDATE users SET updated_at = now(), changed_n = {}, {} WHERE id = {}").format(
            sql.Placeholder("_n"), sql.SQL(", ").join(pairs), sql.Placeholder("_id")
        ),
        {**values, "_n": n, "_id": user_id},
    )


async def revoke_keys_of(
    connection: Connection, user_id: str, n: int, *, of_teams_too: bool = False
) -> list[str]:
    """Revoke all keys of a user, if told so those that he made for teams; the ids of those revoked now."""
    rows = await (
        await connection.execute(
            "UPDATE api_keys SET revoked_at = now(), updated_at = now(), changed_n = %s"
            " WHERE user_id = %s AND (team_id IS NULL OR %s) AND revoked_at IS NULL RETURNING id",
            (n, user_id, of_teams_too),
        )
    ).fetchall()
    return [key_id for (key_id,) in rows]


async def unlink_all(connection: Connection, user_id: str) -> None:
    await connection.execute("DELETE FROM identities WHERE user_id = %s", (user_id,))


async def find_main_key(connection: Connection, user_id: str) -> tuple[str, str] | None:
    """Environment and last letters of the key that a user has had longest, live ones first."""
    row = await (
        await connection.execute(
            "SELECT environment, last4 FROM api_keys WHERE user_id = %s AND revoked_at IS NULL AND team_id IS NULL"
            " AND (expires_at IS NULL OR expires_at > now())"
            " ORDER BY environment <> 'live', created_at, id LIMIT 1",
            (user_id,),
        )
    ).fetchone()
    return None if row is None else (row[0], row[1])


async def owns_shared_team(connection: Connection, user_id: str) -> bool:
    """Whether some team with other members has no other owner."""
    row = await (
        await connection.execute(
            "SELECT EXISTS (SELECT 1 FROM team_members m JOIN teams t ON t.id = m.team_id AND t.active"
            " WHERE m.user_id = %(id)s AND m.role = 'owner'"
            " AND EXISTS (SELECT 1 FROM team_members o WHERE o.team_id = m.team_id AND o.user_id <> %(id)s)"
            " AND NOT EXISTS (SELECT 1 FROM team_members o WHERE o.team_id = m.team_id"
            " AND o.user_id <> %(id)s AND o.role = 'owner'))",
            {"id": user_id},
        )
    ).fetchone()
    return row is not None and bool(row[0])


_ERASE: tuple[LiteralString, ...] = (
    "DELETE FROM stored_answers WHERE key_id IN"
    " (SELECT id FROM api_keys WHERE user_id = %s AND team_id IS NULL)",
    "DELETE FROM provider_state WHERE key_id IN"
    " (SELECT id FROM api_keys WHERE user_id = %s AND team_id IS NULL)",
    "DELETE FROM user_provider_keys WHERE user_id = %s",
    "DELETE FROM identities WHERE user_id = %s",
    "DELETE FROM sessions WHERE user_id = %s",
    "DELETE FROM one_time_tokens WHERE user_id = %s",
    "DELETE FROM team_members WHERE user_id = %s",
    "DELETE FROM mail_outbox WHERE user_id = %s",
)


async def erase_account(connection: Connection, account: Account, n: int) -> None:
    """Take away all that tells of the person; the id stays, for the books."""
    for statement in _ERASE:
        await connection.execute(statement, (account.id,))
    await connection.execute(
        "DELETE FROM one_time_tokens WHERE lower(email) = lower(%s)", (account.stored_email,)
    )
    await connection.execute(
        "UPDATE users SET active = false, email = %s, email_verified = false, name = '', password_hash = NULL,"
        " preferences = '{}', settings = '{}', erased_at = now(), updated_at = now(), changed_n = %s"
        " WHERE id = %s",
        (f"{account.id}@{NOWHERE}", n, account.id),
    )
