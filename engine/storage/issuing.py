"""Making API keys. Each change is seen by every worker within a second."""

from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from secrets import token_hex
from typing import Any

from engine.config.roles import ONLY_ADMINISTRATORS, Roles
from engine.secret import Secret
from engine.storage.audit import COMMAND, Actor, Event, write_event
from engine.storage.key_rules import KeyRules, write_rules
from engine.storage.ledger import grant
from engine.storage.postgres import Connection, count_change
from engine.storage.roles import raise_role
from engine.storage.secrets import KeyRing, generate_key
from engine.storage.users import get_or_create_user

DEFAULT_USER = "owner@localhost"


@dataclass(frozen=True, slots=True)
class KeyRequest:
    name: str
    user: str = DEFAULT_USER
    """An address; with `user_id`, whose key it is, nobody looks at it."""
    user_id: str | None = None
    role: str = "user"
    environment: str = "live"
    models: tuple[str, ...] | None = None
    scopes: tuple[str, ...] = ("inference",)
    credit_usd: Decimal = Decimal(0)
    expires_at: datetime | None = None
    rules: KeyRules = KeyRules()
    team_id: str | None = None
    """Of a key that belongs to a team; `user_id` is who made it."""
    raises_owner: Roles | None = None
    """At the command line the owner gets the key's role, too, if his own is less."""


@dataclass(frozen=True, slots=True)
class IssuedKey:
    """A new key: the only moment at which its text exists outside the client."""

    id: str
    key: Secret
    name: str
    role: str
    last4: str = field(repr=False)

    def show(self) -> dict[str, str]:
        return {
            "id": self.id,
            "key": self.key.reveal(),
            "name": self.name,
            "role": self.role,
            "last4": self.last4,
        }


async def issue_key(
    connection: Connection, ring: KeyRing, asked: KeyRequest, by: Actor = COMMAND
) -> IssuedKey:
    """Store a new key (as hash and last four characters) and return its text, once."""
    text = generate_key(asked.environment)
    issued = IssuedKey(f"key_{token_hex(8)}", Secret(text), asked.name, asked.role, text[-4:])
    async with connection.transaction():
        n = await count_change(connection)
        user_id = asked.user_id or await get_or_create_user(connection, asked.user)
        if asked.raises_owner is not None:
            await raise_role(connection, ring, asked.raises_owner, user_id, asked.role, by)
        if asked.credit_usd:
            await grant(
                connection,
                f"user:{user_id}",
                asked.credit_usd,
                ref=f"key:{issued.id}",
                kind="admin_credit",
                source="house:grants",
                description=f"with the key {asked.name}",
                by=by.user_id,
            )
        await connection.execute(
            "INSERT INTO api_keys (id, user_id, team_id, name, role, environment, hash, ring_id, last4, scopes,"
            " models, expires_at, changed_n, is_primary, providers, ip_allowlist, referrers, max_requests,"
            " max_spend_usd, limits, budgets) VALUES (%(id)s, %(user_id)s, %(team_id)s, %(name)s, %(role)s,"
            " %(environment)s,"
            " %(hash)s, %(ring_id)s, %(last4)s, %(scopes)s, %(models)s, %(expires_at)s, %(n)s,"
            " NOT EXISTS (SELECT 1 FROM api_keys WHERE user_id = %(user_id)s),"
            " %(providers)s, %(ip_allowlist)s, %(referrers)s, %(max_requests)s, %(max_spend_usd)s, %(limits)s,"
            " %(budgets)s)",
            {
                "id": issued.id,
                "user_id": user_id,
                "team_id": asked.team_id,
                "name": asked.name,
                "role": asked.role,
                "environment": asked.environment,
                "hash": ring.hash_key(text),
                "ring_id": ring.newest.id,
                "last4": issued.last4,
                "scopes": list(asked.scopes),
                "models": list(asked.models) if asked.models is not None else None,
                "expires_at": asked.expires_at,
                "n": n,
                **write_rules(asked.rules),
            },
        )
        event = Event("key.create", issued.id, user_id, after=describe_request(asked, issued))
        await write_event(connection, ring, by, event)
    return issued


def describe_request(asked: KeyRequest, issued: IssuedKey) -> dict[str, Any]:
    """What was asked for, as the audit log keeps it."""
    return {
        "name": asked.name,
        "role": asked.role,
        "environment": asked.environment,
        "last4": issued.last4,
        "scopes": asked.scopes,
        "models": asked.models,
        "expires_at": asked.expires_at,
        **({"team_id": asked.team_id} if asked.team_id else {}),
        **({"credit_usd": str(asked.credit_usd)} if asked.credit_usd else {}),
        **asked.rules.model_dump(mode="json", exclude_unset=True),
    }


async def issue_first_admin_key(connection: Connection, ring: KeyRing) -> IssuedKey | None:
    """An admin key when there has never been one; None otherwise, also for the second of two at once."""
    async with connection.transaction():
        await count_change(connection)  # its row lock lets one pass at a time
        found = await (
            await connection.execute("SELECT 1 FROM api_keys WHERE role = 'admin' LIMIT 1")
        ).fetchone()
        if found is not None:
            return None
        asked = KeyRequest(
            "first admin key",
            role="admin",
            scopes=("inference", "admin"),
            raises_owner=ONLY_ADMINISTRATORS,
        )
        return await issue_key(connection, ring, asked)
