"""Which of a provider's keys to use: by weight, skipping those that cool down after 401, 402, 403 or 429.

The cool-downs outlive reloads, keyed by the credential's stable name. Time and chance are arguments.
"""

from collections.abc import Callable
from fnmatch import fnmatchcase

from engine.config.snapshot import Auth, Credential
from engine.errors import UpstreamFailure

# Seconds. A wrong key does not become right by itself, an empty account is filled by a person.
COOL_DOWN_S = {"401": 60.0, "403": 60.0, "402": 300.0}
# A timer may wake this much early; a credential whose pause was slept through is then cool.
EARLY_S = 0.01
COOLING_KINDS = frozenset({"401", "402", "403", "429"})


class CoolDowns:
    def __init__(self) -> None:
        self._until: dict[str, float] = {}

    def pick(self, auth: Auth, model: str, now: float, chance: Callable[[], float]) -> Credential | None:
        """A credential that may be used now for this model, or None."""
        credentials = auth.credentials
        if len(credentials) == 1:
            only = credentials[0]
            return only if self._is_usable(only, model, now) else None
        usable = [each for each in credentials if self._is_usable(each, model, now)]
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
            max(self._until.get(each.name, 0.0) - now, 0.0)
            for each in auth.credentials
            if _serves(each, model)
        ]
        return min(waits, default=None)

    def note_failure(
        self, credential: Credential, failure: UpstreamFailure, pause_s: float, now: float
    ) -> None:
        """Cool down after a refusal of this very credential; 429 for as long as the provider or we would wait."""
        if failure.kind in COOLING_KINDS:
            wait_s = COOL_DOWN_S.get(failure.kind, pause_s)
            self._until[credential.name] = now + max(wait_s, failure.retry_after_s or 0.0)

    def note_success(self, credential: Credential) -> None:
        self._until.pop(credential.name, None)

    def _is_usable(self, credential: Credential, model: str, now: float) -> bool:
        until = self._until.get(credential.name)
        return (until is None or until <= now + EARLY_S) and _serves(credential, model)


def _serves(credential: Credential, model: str) -> bool:
    return credential.models is None or any(fnmatchcase(model, glob) for glob in credential.models)
