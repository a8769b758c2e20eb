"""A row of `api_keys` with its owner becomes a `Caller`, or the sentence why it is refused."""

import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, LiteralString

from engine.call import Caller
from engine.storage.key_rules import compile_bounds, compile_budgets, grant_scopes
from engine.storage.trial_terms import TRIAL_COLUMNS, read_terms

SELECT_KEY: LiteralString = (
    "SELECT c.n, k.hash, k.replaced_hash, extract(epoch FROM k.replaced_until)::float8, k.ring_id,"
    " k.revoked_at IS NOT NULL, coalesce(t.active, u.active), k.id, k.user_id, k.role, k.name,"
    " k.last4, k.environment, k.models, k.scopes, extract(epoch FROM k.expires_at)::float8,"
    " k.providers, k.ip_allowlist, k.referrers, k.max_requests, k.max_spend_usd::text, k.limits,"
    " k.ceiling, CASE WHEN k.team_id IS NULL THEN u.limits ELSE '{}' END,"
    " jsonb_build_object('key', k.budgets, 'user', u.budgets, 'team', t.budgets),"
    " coalesce(k.team_id, ''), coalesce(t.plan, u.plan), coalesce(t.prepaid, u.prepaid),"
    " CASE WHEN k.team_id IS NULL THEN u.role ELSE '' END,"
    " CASE WHEN k.team_id IS NULL THEN u.status ELSE coalesce((SELECT min(o.status) FROM team_members m"
    " JOIN users o ON o.id = m.user_id WHERE m.team_id = k.team_id AND m.role = 'owner' AND o.active), 'active') END,"
    f" (SELECT {TRIAL_COLUMNS} FROM trials r"
    " WHERE r.user_id = k.user_id AND r.lifted_at IS NULL AND k.team_id IS NULL),"
    " (SELECT jsonb_object_agg(p.provider, jsonb_build_array(p.id, p.sealed)) FROM user_provider_keys p"
    " WHERE p.user_id = k.user_id AND k.team_id IS NULL)"
    " FROM change_counter c LEFT JOIN"
    " (api_keys k JOIN users u ON u.id = k.user_id LEFT JOIN teams t ON t.id = k.team_id)"
    " ON k.hash = ANY(%(hashes)s::bytea[]) OR k.replaced_hash = ANY(%(hashes)s::bytea[])"
)
"""A team is marked when all of its owners are: "active" comes before the other words."""
FOR_TEAMS = frozenset({"inference", "catalog"})
"""What a team's key may open: it is nobody's account, least of all that of who made it."""
RULES = (
    "providers",
    "ip_allowlist",
    "referrers",
    "max_requests",
    "max_spend_usd",
    "limits",
    "ceiling",
    "user_limits",
)


@dataclass(frozen=True, slots=True)
class KeyRow:
    """What the database said of a key; `caller` is None when nobody has it, `refusal` says why not."""

    n: int
    caller: Caller | None = None
    refusal: str = ""
    is_current: bool = True
    """False: it was asked for with the text that the key had before its rotation."""
    ring_id: str = ""
    own_keys: Mapping[str, Any] | None = None
    """The owner's keys at providers, as they are stored."""


def read_key_row(row: tuple[Any, ...], hashes: Sequence[bytes], now: float) -> KeyRow:
    """Compares in constant time which of its two texts the key was asked for with."""
    n, stored, replaced, replaced_until, ring_id, revoked, active, *facts, own_keys = row
    is_current = stored is not None and _is_one_of(stored, hashes)
    if not is_current and (replaced is None or not _is_one_of(replaced, hashes)):
        return KeyRow(n, refusal="This API key is not known.")
    if revoked:
        return KeyRow(n, refusal="This API key was revoked.")
    if not active:
        return KeyRow(n, refusal="The owner of this API key is not active.")
    caller = make_caller(facts, None if is_current else replaced_until)
    if caller.expires_at is not None and caller.expires_at <= now:
        return KeyRow(n, refusal="This API key has expired.")
    return KeyRow(n, caller, is_current=is_current, ring_id=ring_id, own_keys=own_keys)


def _is_one_of(stored: bytes, hashes: Sequence[bytes]) -> bool:
    return any(hmac.compare_digest(stored, candidate) for candidate in hashes)


def make_caller(facts: Sequence[Any], until: float | None = None) -> Caller:
    """The caller of a key's columns; with `until` its old text, which ends then."""
    key_id, user_id, role, name, last4, environment, models, scopes, expires_at, *rest = facts
    *rules, budgets, team_id, plan, prepaid, owner_role, status, trial = rest
    granted, scoped_models = grant_scopes(scopes)
    if team_id:
        granted &= FOR_TEAMS
    if status != "active":
        granted -= {"inference"}
    given = {name: value for name, value in zip(RULES, rules, strict=True) if value not in (None, [], {})}
    ends = [moment for moment in (expires_at, until) if moment is not None]
    return Caller(
        key_id=key_id,
        user_id=user_id,
        role=role,
        name=name,
        last4=last4,
        environment=environment,
        models=tuple(models) if models is not None else None,
        scopes=granted,
        scoped_models=scoped_models,
        expires_at=min(ends, default=None),
        bounds=compile_bounds(given),
        budgets=compile_budgets(budgets, given.get("max_spend_usd")),
        team_id=team_id,
        plan=plan,
        prepaid=prepaid,
        owner_role=owner_role,
        status=status,
        trial=read_terms(trial),
    )
