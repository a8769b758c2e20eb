"""From a requested name to a model: the snapshot's names, then its tables of names, step by step. Pure.

A call whose name is listed never comes here: `make_plan` looks into the one dict first. What comes here is
a name of a table's rule or of a provider that answers for any model, and `gatewayz explain`, which wants
to know the way.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from engine.config.naming import MAX_STEPS, Ask, Decision
from engine.config.snapshot import Model, Snapshot, Target


@dataclass(frozen=True, slots=True)
class Found:
    """The model and how its name was found: every step's name, its rule and where that is written."""

    model: Model
    steps: tuple[tuple[str, Decision], ...]


def find_model(snapshot: Snapshot, name: str) -> Model | None:
    """The model of a name that is not listed; None when nobody has it."""
    found = follow_name(snapshot, name)
    return found.model if found is not None else None


def follow_name(snapshot: Snapshot, name: str) -> Found | None:
    """The way from any name to its model."""
    here = name
    steps: list[tuple[str, Decision]] = []
    for _ in range(MAX_STEPS):
        rename = snapshot.naming.renames.get(here)
        if rename is None and (model := snapshot.names.get(here)) is not None:
            return Found(model, (*steps, (here, _tell_listed(model, here))))
        decision = snapshot.naming.decide(here, lambda provider: _is_open(snapshot, provider))
        if decision is None:
            return None
        steps.append((here, decision))
        if decision.asks:
            return Found(_make_model(snapshot, name, here, decision.asks), tuple(steps))
        here = decision.use
    return None


def _tell_listed(model: Model, name: str) -> Decision:
    if name == model.name:
        return Decision("models.d lists it", use=name)
    return Decision("an alias in models.d", use=model.name)


def _is_open(snapshot: Snapshot, name: str) -> bool:
    provider = snapshot.providers.get(name)
    return provider is not None and provider.passthrough


def _make_model(snapshot: Snapshot, name: str, here: str, asks: Iterable[Ask]) -> Model:
    """A model nobody listed. It bears the requested name: a key's globs and the record are about that."""
    policy = snapshot.default_policy
    targets = tuple(_find_target(snapshot, ask, here) for ask in asks)
    return Model(
        name=name,
        aliases=(),
        capabilities=frozenset(),
        context=None,
        output=None,
        price=None,
        strategy="failover",
        policy=policy,
        timeouts=policy.timeouts,
        targets=targets,
        created=0,
        owned_by=targets[0].provider.name,
    )


def _find_target(snapshot: Snapshot, ask: Ask, name: str) -> Target:
    """The target as some model lists it, with its price and limits; else a bare one."""
    provider = snapshot.providers[ask.provider]
    sent = name if provider.simulator else ask.model
    listed = snapshot.listed.get(f"{provider.name}/{sent}")
    return listed or Target(
        provider, sent, weight=1, prefill=False, price=ask.price, context=None, output=None
    )
