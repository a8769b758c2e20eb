"""Which of a provider's keys to use: by weight, skipping those that cool down after 401, 402, 403 or 429.

The cool-downs outlive reloads, keyed by the credential's stable name and its text: a key that was put right is used
at once. Time and chance are arguments.
"""

from collections.abc import Callable, Collection
from fnmatch import fnmatchcase

from engine.config.snapshot import Auth, Credential
from engine.errors import UpstreamFailure
from engine.secret import Secret

# Seconds. A wrong key does not become right by itself, an empty account is filled by a person.
COOL_DOWN_S = {"401": 60.0, "403": 60.0, "402": 300.0}
# After a 429 that names no time and is not waited for by this call.
LEFT_LIMITED_S = 1.0
# A timer may wake this much early; a credential whose pause was slept through is then cool.
EARLY_S = 0.01
COOLING_KINDS = frozenset({"401", "402", "403", "429"})


class CoolDowns:
    def __init__(self) -> None:
        self._until: dict[tuple[str, Secret], float] = {}

    def pick(
        self,
        auth: Auth,
        model: str,
        now: float,
        chance: Callable[[], float],
        asked: Collection[str] = (),
    ) -> Credential | None:
        """A credential that may be used now for this model, or None. Of several, not one that was just asked."""
        credentials = auth.credentials
        if len(credentials) == 1:
            only = credentials[0]
            if not self._until and only.models is None:
                return only
            return only if self._is_usable(only, model, now) else None
        usable = [
            each for each in credentials if each.name not in asked and self._is_usable(each, model, now)
        ]
        if not usable:
            return None
        point = chance() * sum(each.weight for each in usable)
        for each in usable:
            point -= each.weight
            if point <= 0:
                return each
        return usable[-1]

    def seconds_until_usable(self, auth: Auth, model: str, now: float) -> float | None:
        """When the first credential for this model is through its cool-down; None when none serves the model."""
        waits = [
            max(self._until.get(_key(each), 0.0) - now, 0.0)
            for each in auth.credentials
            if _serves(each, model)
        ]
        return min(waits, default=None)

    def note_failure(
        self, credential: Credential, failure: UpstreamFailure, pause_s: float | None, now: float
    ) -> None:
        """Cool down after a refusal of this very credential; 429 for as long as the provider or we would wait."""
        if failure.kind in COOLING_KINDS and not credential.owned:
            limited_s = LEFT_LIMITED_S if pause_s is None and failure.retry_after_s is None else pause_s
            wait_s = COOL_DOWN_S.get(failure.kind, limited_s or 0.0)
            self._until[_key(credential)] = now + max(wait_s, failure.retry_after_s or 0.0)

    def note_success(self, credential: Credential) -> None:
        if self._until:
            self._until.pop(_key(credential), None)

    def _is_usable(self, credential: Credential, model: str, now: float) -> bool:
        until = self._until.get(_key(credential)) if self._until else None
        return (until is None or until <= now + EARLY_S) and _serves(credential, model)


def _key(credential: Credential) -> tuple[str, Secret]:
    return credential.name, credential.secret


def _serves(credential: Credential, model: str) -> bool:
    return credential.models is None or any(fnmatchcase(model, glob) for glob in credential.models)
