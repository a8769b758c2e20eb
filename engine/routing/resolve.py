"""From a model's name to the targets that may answer, without any I/O, clock or chance.

Order of work: find the name (listed, else as the tables of names say: names.py), check that the caller may
use it, keep the targets that serve this operation and are configured, and make sure that what is used has a
price.
"""

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from fnmatch import fnmatchcase

from engine.call import Caller
from engine.config.snapshot import Model, Policy, Price, Provider, Snapshot, Target, Timeouts
from engine.errors import NobodyAvailable, NotAllowed, NotFound, Unpriced
from engine.routing.names import find_model
from engine.wire.operations import COUNTING

FREE = Price(*[Decimal(0)] * 11)
_NEAR_CANDIDATES = 300
CAPABILITIES = {
    "embeddings": "embeddings",
    "rerank": "rerank",
    "moderations": "moderation",
    "images": "images",
    "image_edits": "images",
    "transcriptions": "transcription",
    "translations": "transcription",
    "speech": "speech",
}
"""What a model that says what it is for must say to be asked for an operation. Chats are not judged."""
UNSAID = frozenset(("chat",))
"""The capabilities of a model that names none."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Who may answer this call, in no order yet, and under which rules. Nobody: the gateway itself."""

    model: Model
    policy: Policy
    timeouts: Timeouts
    targets: tuple[Target, ...]


def make_plan(snapshot: Snapshot, caller: Caller, name: str, operation: str) -> Plan:
    """The plan for a requested name; raises NotFound, NotAllowed, Unpriced or NobodyAvailable."""
    model = snapshot.names.get(name) or find_model(snapshot, name)
    if model is None:
        raise name_unknown_model(snapshot, caller, name)
    if not may_use(caller, model, name):
        raise NotAllowed(f"this key may not use the model {name!r}", code="model_not_allowed", param="model")
    plan: Plan | None = snapshot.plans.get((model, operation))
    if plan is None:
        if not may_serve(model, operation):
            raise name_wrong_operation(snapshot, caller, model, operation)
        plan = _lay_out_plan(model, operation)
        if snapshot.models.get(model.name) is model:
            snapshot.plans[model, operation] = plan
    if caller.bounds is not None and caller.bounds.providers is not None:
        return _keep_allowed(plan, caller.bounds.providers)
    return plan


def _keep_allowed(plan: Plan, globs: Sequence[str]) -> Plan:
    """The plan without targets at providers that a key may not reach."""
    targets = tuple(target for target in plan.targets if is_reached(target.provider, globs))
    if plan.targets and not targets:
        raise NotAllowed(
            f"this key may not use any provider of {plan.model.name!r}",
            code="provider_not_allowed",
            param="model",
        )
    return replace(plan, targets=targets)


def is_reached(provider: Provider, globs: Iterable[str]) -> bool:
    return any(fnmatchcase(provider.name, glob) for glob in globs)


def may_use(caller: Caller, model: Model, name: str) -> bool:
    """Whether a key's list of models and its scopes both cover the model."""
    return (caller.models is None or is_allowed(caller.models, model, name)) and (
        caller.scoped_models is None or is_allowed(caller.scoped_models, model, name)
    )


def _lay_out_plan(model: Model, operation: str) -> Plan:
    targets = tuple(target for target in model.targets if operation in target.provider.endpoints)
    if operation == COUNTING and not any(_is_usable(target.provider) for target in targets):
        return Plan(model, model.policy, model.timeouts, ())
    if not targets:
        raise NotFound(
            f"the model {model.name!r} does not serve {operation}", code="model_not_found", param="model"
        )
    usable = tuple(target for target in targets if _is_usable(target.provider))
    if not usable:
        raise NobodyAvailable(_why_unusable(model, targets), code="provider_not_configured")
    for target in usable:
        find_price(model, target)
    return Plan(model, model.policy, model.timeouts, usable)


def may_serve(model: Model, operation: str) -> bool:
    """Whether a model's capabilities leave room for an operation; one that only says `chat` says nothing by it."""
    word = CAPABILITIES.get(operation)
    return word is None or word in model.capabilities or model.capabilities <= UNSAID


def name_wrong_operation(snapshot: Snapshot, caller: Caller, model: Model, operation: str) -> NotFound:
    """The error for a model that is for something else, with some that would do."""
    fit = [
        other.name
        for other in list_visible(snapshot, caller)
        if CAPABILITIES[operation] in other.capabilities and may_serve(other, operation)
    ]
    near = difflib.get_close_matches(model.name, fit, n=3, cutoff=0.4) or fit[:3]
    hint = f" ({', '.join(map(repr, near))} would)" if near else ""
    return NotFound(
        f"the model {model.name!r} does not serve {operation}{hint}", code="model_not_found", param="model"
    )


def is_allowed(globs: Iterable[str], model: Model, name: str) -> bool:
    """Whether a key's list of names and globs covers the model under any of its names."""
    names = (model.name, name, *model.aliases)
    return any(fnmatchcase(candidate, glob) for glob in globs for candidate in names)


def find_price(model: Model, target: Target) -> Price:
    """The price of one target: its own, its model's, else what provider and policy say of unknown prices."""
    price = target.price or model.price
    if price is not None:
        return price
    rule = target.provider.unknown_price
    if rule is None:
        rule = model.policy.billing.unknown_price
    if isinstance(rule, Price):
        return rule
    if rule == "free":
        return FREE
    raise Unpriced(
        f"the model {model.name!r} has no price at {target.provider.name}; declare one, or `unknown_price: free`",
        param="model",
    )


def list_visible(snapshot: Snapshot, caller: Caller) -> list[Model]:
    """The models this key may ask for that somebody could serve, by name."""
    models = (snapshot.models[name] for name in sorted(snapshot.models))
    globs = caller.bounds.providers if caller.bounds is not None else None
    return [
        model
        for model in models
        if any(
            _is_usable(target.provider) and (globs is None or is_reached(target.provider, globs))
            for target in model.targets
        )
        and may_use(caller, model, model.name)
    ]


def _is_usable(provider: Provider) -> bool:
    return provider.enabled and provider.configured


def _why_unusable(model: Model, targets: Sequence[Target]) -> str:
    reasons = {f"{target.provider.name}: {target.provider.reason or 'not configured'}" for target in targets}
    return f"provider not configured for {model.name!r} ({'; '.join(sorted(reasons))})"


def name_unknown_model(snapshot: Snapshot, caller: Caller, name: str) -> NotFound:
    """The error for a model that is not there for this caller, with names like it that are."""
    near = find_near_names(name, snapshot.names)
    allowed = [each for each in near if may_use(caller, snapshot.names[each], each)]
    hint = f" (did you mean {', '.join(map(repr, allowed))}?)" if allowed else ""
    provider_name, _, model_id = name.partition("/")
    if model_id and provider_name in snapshot.providers:
        hint = hint or f" (the provider {provider_name!r} serves only the models listed for it)"
    return NotFound(f"the model {name[:200]!r} does not exist{hint}", code="model_not_found", param="model")


def find_near_names(name: str, names: Iterable[str]) -> list[str]:
    """Up to three names like `name`; bounded work, because a stranger may ask for it."""
    wanted = name[:100].casefold()
    pieces = {wanted[i : i + 3] for i in range(max(len(wanted) - 2, 1))}

    def shared(candidate: str) -> int:
        return sum(piece in candidate for piece in pieces)

    likely = sorted(((shared(each.casefold()), each) for each in names), reverse=True)[:_NEAR_CANDIDATES]
    return difflib.get_close_matches(name[:100], [each for score, each in likely if score], n=3, cutoff=0.6)
