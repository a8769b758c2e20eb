"""Who else has something to do when an account is made or erased, in the same transaction."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from engine.storage.postgres import Connection


@dataclass(frozen=True, slots=True)
class NewcomerFacts:
    """What is known of a new user. `referral_code` and what else was sent along are the client's words: unproven."""

    email: str
    """"" for somebody without an address."""
    email_verified: bool
    name: str = ""
    method: str = "password"
    """password, or the name of an identity provider."""
    environment: str = "live"
    referral_code: str | None = None
    partner_code: str | None = None
    address: str = ""
    more: Mapping[str, Any] = field(default_factory=dict)


class NewUserListener(Protocol):
    """Trials, referrals, whatever begins with an account."""

    async def user_made(self, connection: Connection, user_id: str, facts: NewcomerFacts) -> None:
        """Called once for each account, in the transaction that makes it; what it raises undoes the account."""


class ErasedUserListener(Protocol):
    """Whoever keeps something of a person."""

    async def user_erased(self, connection: Connection, user_id: str, email: str) -> None:
        """Called in the transaction that erases the account."""
