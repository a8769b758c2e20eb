"""Callers without a key, where `anonymous` in policies.d lets them in: models that cost nothing, a few calls a day.

A guest is known by a keyed hash of its address and nothing else. It has no account, pays nothing, and nothing is kept
for it.
"""

from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase

from engine.billing.pricing import price_ceiling
from engine.call import GUEST, Call, Caller
from engine.config.networks import group_address
from engine.config.schema_anonymous import AnonymousFile
from engine.config.snapshot import Limit, Model, Policy, Price, Snapshot
from engine.errors import KeyRefused, NotAllowed
from engine.policies.refusals import HeaderPairs
from engine.wire.operations import WRITING
from engine.wire.output_length import limit_output

MISSING = "api_key_missing"
_SCOPES = frozenset({"inference"})
_MANY = 1_000_000
_MOST_NAMED = 20


class Guests:
    """Who they are (`welcome`), and the stage of admission that keeps them to what they may."""

    def __init__(self, seal: Callable[[bytes], str]) -> None:
        """`seal` is a keyed hash (storage/secrets.py)."""
        self._seal = seal
        self._limits: dict[int, Limit] = {}

    def welcome(self, call: Call, refused: KeyRefused) -> Caller | None:
        """The guest that a call without a key is of; None where there are none."""
        rule = call.snapshot.declared(AnonymousFile).get("default")
        if refused.code != MISSING or rule is None or not rule.enabled:
            return None
        hashed = self._seal(b"guest\n" + group_address(call.client_ip).encode()).rpartition(":")[2]
        return Caller(f"guest:{hashed[:24]}", "", role=GUEST, name=GUEST, scopes=_SCOPES)

    async def enter(self, call: Call, policy: Policy, headers: HeaderPairs) -> None:
        """Raises NotAllowed for a model that is not for guests; shortens the answer to what is."""
        caller, model = call.caller, call.model
        if caller is None or caller.role != GUEST or model is None:
            return
        rule = call.snapshot.declared(AnonymousFile)["default"]
        if not is_open(model, rule):
            names = list(list_open(call.snapshot, rule))
            shown = ", ".join(names[:_MOST_NAMED]) or "none"
            raise NotAllowed(
                f"without an API key only models that cost nothing are answered; allowed models: {shown}",
                code="anonymous_model_restricted",
                param="model",
            )
        if call.operation in WRITING:
            limit_output(call, rule.max_tokens)

    def limit(self, call: Call) -> Limit:
        """What a guest may ask for in a day; one object for each number, for limiters know limits by identity."""
        per_day = call.snapshot.declared(AnonymousFile)["default"].per_day
        return self._limits.setdefault(per_day, Limit({86_400: per_day}))


def is_open(model: Model, rule: AnonymousFile) -> bool:
    """Whether guests may ask for a model: it is named, and every target has the price zero."""
    if not any(fnmatchcase(model.name, glob) for glob in rule.models):
        return False
    prices = [target.price or model.price for target in model.targets]
    return bool(prices) and all(price is not None and is_free(price) for price in prices)


def is_free(price: Price) -> bool:
    return not price_ceiling(_MANY, _MANY, price) and not any(price.units.values())


def list_open(snapshot: Snapshot, rule: AnonymousFile) -> Iterator[str]:
    return (name for name, model in sorted(snapshot.models.items()) if is_open(model, rule))
