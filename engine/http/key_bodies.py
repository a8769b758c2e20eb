"""What clients may say about their keys, checked before anything happens. Unknown fields are errors."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BeforeValidator, Field, StringConstraints

from engine.config.schema_base import Name as RoleName
from engine.config.schema_base import Strict
from engine.config.schema_policy import ScopeLimitEntry
from engine.storage.key_rules import (
    Budgets,
    Glob,
    Host,
    KeyRules,
    MostRequests,
    MostUsd,
    Network,
    Scope,
    Text,
)

TAGS = {"live": "live", "test": "test", "staging": "staging", "development": "dev"}
"""The environments by the names that clients use."""
_OLD_SCOPES = {"read": "read", "write": "inference", "admin": "admin"}
_MOST = 100

Name = Annotated[Text, StringConstraints(min_length=1, max_length=100, strip_whitespace=True)]
Tag = Literal["live", "test", "staging", "development"]
Days = Annotated[int, Field(ge=1, le=3660)]


def _read_scopes(value: Any) -> Any:
    """Also the older form: `{"read": ["*"], "write": ["gpt-*"]}`."""
    if not isinstance(value, dict):
        return value
    scopes: list[str] = []
    for name, globs in value.items():
        scope = _OLD_SCOPES.get(name)
        if scope is None or not isinstance(globs, list) or not all(isinstance(glob, str) for glob in globs):
            raise ValueError('scopes are a list, or {"read": ["*"], "write": ["*"], "admin": ["*"]}')
        if name == "write" and "*" not in globs:
            scopes += [f"models:{glob}" for glob in globs]
        elif globs == ["*"]:
            scopes.append(scope)
        elif globs:
            raise ValueError(f'{name} is all or nothing: ["*"] or []')
    return scopes


Scopes = Annotated[tuple[Scope, ...], BeforeValidator(_read_scopes), Field(max_length=_MOST)]
Globs = Annotated[tuple[Glob, ...], Field(max_length=_MOST)]


class KeyFields(Strict):
    """What a key may be given and later be changed to."""

    scope_permissions: Scopes | None = None
    expiration_days: Days | None = None
    max_requests: MostRequests | None = None
    max_spend_usd: MostUsd | None = None
    ip_allowlist: Annotated[tuple[Network, ...], Field(max_length=_MOST)] | None = None
    domain_referrers: Annotated[tuple[Host, ...], Field(max_length=_MOST)] | None = None
    models: Globs | None = None
    providers: Globs | None = None
    limits: ScopeLimitEntry | None = None
    budgets: Budgets | None = None

    def as_rules(self) -> KeyRules:
        return KeyRules(
            providers=self.providers,
            ip_allowlist=self.ip_allowlist or (),
            referrers=self.domain_referrers or (),
            max_requests=self.max_requests,
            max_spend_usd=self.max_spend_usd,
            limits=self.limits,
            budgets=self.budgets or (),
        )


class CreateKey(KeyFields):
    """POST .../api-keys"""

    action: Literal["create"] = "create"
    key_name: Name
    environment_tag: Tag = "live"
    role: RoleName | None = None
    """Of those that the asker covers; None: `user`, or less where the asker has less."""


class ChangeKey(KeyFields):
    """PUT .../api-keys/{id}"""

    action: Literal["update", "rotate", "bulk_rotate"] = "update"
    key_name: Name | None = None
    environment_tag: Tag | None = None
    role: RoleName | None = None
    grace_period_hours: Annotated[float, Field(ge=0, le=720)] = 0


class DeleteKey(Strict):
    """DELETE .../api-keys/{id}"""

    confirmation: Literal["DELETE_KEY"]


class AuditQuery(Strict):
    """Which events, newest first."""

    key_id: Annotated[Text, StringConstraints(max_length=100)] | None = None
    action: Annotated[Text, StringConstraints(max_length=100)] | None = None
    user_id: Annotated[Text, StringConstraints(max_length=100)] | None = None
    start_date: AwareDatetime | None = None
    end_date: AwareDatetime | None = None
    limit: Annotated[int, Field(ge=1, le=1000)] = 100
    before: Annotated[int, Field(ge=1, le=2**62)] | None = None


class KeysQuery(Strict):
    """Keys in the order in which they were made, behind one of them."""

    limit: Annotated[int, Field(ge=1, le=1000)] = 100
    after: Annotated[Text, StringConstraints(max_length=100)] | None = None


def find_end(days: int | None) -> datetime | None:
    return None if days is None else datetime.now(UTC) + timedelta(days=days)
