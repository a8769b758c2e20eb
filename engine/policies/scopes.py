"""Whom the limits count a call for. It is the same for every call of a key to a model, so it is worked out once."""

from collections.abc import Callable, Iterable
from typing import Any

from engine.call import GUEST, Call, Caller
from engine.config.networks import group_address
from engine.config.snapshot import Limit, Policy
from engine.policies.quotas import Quota, find_quota
from engine.policies.refusals import PLAN

Scope = tuple[str, str, Limit]
MOST_REMEMBERED = 2000


class Scopes(tuple[Scope, ...]):
    """Name, identity and limit of everybody whom a call counts for, and what was worked out from them."""

    def __init__(self, scopes: Iterable[Scope]) -> None:
        self.burst = min((limit.burst for _, _, limit in self if limit.burst is not None), default=None)
        self.told: Any = None
        """In the words of the script in Redis (shared_limits.py)."""


Name = tuple[str, str, str]
"""Of a key, of a model, and the address where addresses are counted."""
Known = tuple[Caller, Policy, Quota, Limit | None, Scopes]


class ScopeBook:
    """The scopes of the keys that called last; what they were made from is compared at every call."""

    def __init__(self) -> None:
        # Two halves, as in storage/keys.py: a hit costs one look-up, and what was not used for a while goes.
        self._newer: dict[Name, Known] = {}
        self._older: dict[Name, Known] = {}

    def __len__(self) -> int:
        return len(self._newer) + len(self._older)

    def find(self, call: Call, caller: Caller, policy: Policy, key_limit: Limit | None) -> Scopes:
        """`key_limit`: what administrators gave every key."""
        quota, model = find_quota(call), call.model
        address = call.client_ip if "ip" in policy.limits else ""
        name = (caller.key_id, model.name if model is not None else "", address)
        known = self._newer.get(name)
        if known is None:
            known = self._older.get(name)
            if known is not None:
                self._remember(name, known)
        if (
            known is None
            or known[0] is not caller
            or known[1] is not policy
            or known[2] is not quota
            or known[3] is not key_limit
        ):
            scopes = find_scopes(call, policy)
            if key_limit is not None:
                scopes.append(("key", f"{caller.key_id} each", key_limit))
            known = (caller, policy, quota, key_limit, Scopes(scopes))
            self._remember(name, known)
        return known[4]

    def _remember(self, name: Name, known: Known) -> None:
        if len(self._newer) >= MOST_REMEMBERED // 2:
            self._older, self._newer = self._newer, {}
        self._newer[name] = known


def find_scopes(call: Call, policy: Policy) -> list[Scope]:
    """Whom the limits count this call for. A key's own limit counts beside the policy's: the tighter one holds."""
    scopes = [
        (scope, identity, limit)
        for scope, limit in policy.limits.items()
        if (identity := IDENTIFY[scope](call))
    ]
    caller = call.caller
    if caller is None or caller.role == GUEST:
        return scopes
    if (bounds := caller.bounds) is not None:
        if bounds.limit is not None:
            scopes.append(("key", f"{caller.key_id} own", bounds.limit))
        if bounds.user_limit is not None:
            scopes.append(("user", f"{caller.user_id} own", bounds.user_limit))
    quota = find_quota(call)
    if quota.whole is not None:
        scopes.append((PLAN, caller.payer, quota.whole))
        if quota.part is not None:
            scopes.append((PLAN, f"{caller.payer} {caller.environment}", quota.part))
    return scopes


def _name_key(call: Call) -> str:
    return call.caller.key_id if call.caller else ""


def _name_user(call: Call) -> str:
    return call.caller.user_id if call.caller else ""


def _name_team(call: Call) -> str:
    return call.caller.team_id if call.caller else ""


def _name_model(call: Call) -> str:
    return call.model.name if call.model else ""


IDENTIFY: dict[str, Callable[[Call], str]] = {
    "key": _name_key,
    "user": _name_user,
    "model": _name_model,
    "team": _name_team,
    "ip": lambda call: group_address(call.client_ip),
    "system": lambda call: "all",
}
"""For whom a scope or a budget counts a call; "" for nobody: a key of no team counts for none."""
