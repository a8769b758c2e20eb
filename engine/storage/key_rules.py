"""What a key may do: its scopes, and the rules a person gives it, checked here and compiled once for the calls.

    inference       every model          models:<glob>   inference with these models only
    read            look at one's own account (role admin: at the gateway's)
    admin           change it; holds `read`

Every scope adds to the others. A key's list of models takes away again: what is not on it is refused.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Annotated, Any

from psycopg.types.json import Jsonb
from pydantic import AfterValidator, Field, StringConstraints, ValidationError

from engine.call import KeyBounds
from engine.config.build import build_budget, build_limit
from engine.config.networks import Networks, read_network
from engine.config.schema_base import Strict, Usd, described
from engine.config.schema_policy import ScopeLimitEntry, SpanBudgetEntry
from engine.config.snapshot import Budget, Limit
from engine.errors import InvalidRequest

SCOPES = ("inference", "read", "admin")
MODELS = "models:"
_GRANTED = {
    "inference": {"inference", "catalog"},
    "read": {"read", "catalog"},
    "admin": {"admin", "read", "catalog"},
}
_HOST = re.compile(r"(\*\.)?([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_MOST = 100


def _check_scope(text: str) -> str:
    if text in SCOPES or (text.startswith(MODELS) and len(text) > len(MODELS)):
        return text
    raise ValueError(f"{text[:60]!r} is no scope; scopes are {', '.join(SCOPES)} and models:<glob>")


def _check_network(text: str) -> str:
    read_network(text)
    return text


def _check_host(text: str) -> str:
    host = text.strip().lower()
    if len(host) > 253 or not _HOST.fullmatch(host):
        raise ValueError(f"{text[:60]!r} is not the name of a host such as app.example.com")
    return host.removeprefix("*.")


def _refuse_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("text must not hold a NUL character")
    return text


Text = Annotated[str, AfterValidator(_refuse_nul)]
Glob = Annotated[Text, StringConstraints(min_length=1, max_length=200)]
Scope = Annotated[Glob, AfterValidator(_check_scope)]
Network = Annotated[str, AfterValidator(_check_network)]
Host = Annotated[str, AfterValidator(_check_host)]


def _check_amount(amount: Decimal) -> Decimal:
    if amount >= 10**12:
        raise ValueError("an amount of this size cannot be meant")
    return amount


MostUsd = Annotated[Usd, AfterValidator(_check_amount)]
MostRequests = Annotated[int, Field(ge=0, le=2**53)]


def _refuse_twice(budgets: tuple[SpanBudgetEntry, ...]) -> tuple[SpanBudgetEntry, ...]:
    if len({(budget.every, budget.hard) for budget in budgets}) < len(budgets):
        raise ValueError("there may be one hard and one soft budget for each span")
    return budgets


Budgets = Annotated[tuple[SpanBudgetEntry, ...], Field(max_length=8), AfterValidator(_refuse_twice)]


class KeyRules(Strict):
    """The rules of one key, beside its scopes and its list of models. What is left out allows everything."""

    providers: tuple[Glob, ...] | None = described(
        "globs of the providers it may reach", None, max_length=_MOST
    )
    ip_allowlist: tuple[Network, ...] = described("networks it may be used from", (), max_length=_MOST)
    referrers: tuple[Host, ...] = described(
        "hosts, with those below them, whose pages may use it", (), max_length=_MOST
    )
    max_requests: MostRequests | None = described("calls in all its life", None)
    max_spend_usd: MostUsd | None = described("US dollars in all its life, as text", None)
    limits: ScopeLimitEntry | None = described("its own limits, shaped like `limits.key` of a policy", None)
    budgets: Budgets = described("its own budgets: every, usd, hard, alert_at", ())


def read_scopes(texts: Iterable[str]) -> tuple[str, ...]:
    """The scopes that a person named, each once. Raises ValueError."""
    return tuple(dict.fromkeys(map(_check_scope, texts)))


def word_problem(problem: ValidationError) -> InvalidRequest:
    """The first thing that pydantic found, as an error of this gateway; never with what was given."""
    first = problem.errors(include_input=False, include_url=False, include_context=False)[0]
    path = ".".join(str(step) for step in first["loc"]) or "body"
    sentence = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        sentence = "unknown field"
    return InvalidRequest(f"{path}: {sentence}", code="invalid_value", param=path)


def grant_scopes(scopes: Iterable[str]) -> tuple[frozenset[str], tuple[str, ...] | None]:
    """What the scopes of a key open, and the models that they alone allow (None: all)."""
    given, granted = set(scopes), set[str]()
    for scope in given:
        granted |= _GRANTED.get(scope, set())
    globs = tuple(sorted(scope[len(MODELS) :] for scope in given if scope.startswith(MODELS)))
    if not globs:
        return frozenset(granted), None
    narrowed = None if "inference" in given else globs
    return frozenset(granted | _GRANTED["inference"]), narrowed


def compile_bounds(rules: Mapping[str, Any]) -> KeyBounds | None:
    """The rules that a call has to be checked against; None for a key that has none.

    They were checked when they were written. `rules` is JSON as `KeyRules` writes it.
    """
    if not rules:
        return None
    most_usd = rules.get("max_spend_usd")
    providers = rules.get("providers")
    return KeyBounds(
        rules=rules,
        providers=None if providers is None else tuple(providers),
        addresses=Networks(rules.get("ip_allowlist") or ()),
        referrers=tuple(rules.get("referrers") or ()),
        limit=tighten(read_limit(rules.get("limits")), read_limit(rules.get("ceiling"))),
        user_limit=read_limit(rules.get("user_limits")),
        max_requests=rules.get("max_requests"),
        max_spend_usd=None if most_usd is None else Decimal(most_usd),
    )


def read_limit(stored: Any) -> Limit | None:
    return build_limit(ScopeLimitEntry.model_validate(stored)) if stored else None


def tighten(one: Limit | None, other: Limit | None) -> Limit | None:
    """The smaller number wherever both have one."""
    if one is None or other is None:
        return one or other

    def least(a: int | None, b: int | None) -> int | None:
        return min((number for number in (a, b) if number is not None), default=None)

    def join(a: Mapping[int, int], b: Mapping[int, int]) -> dict[int, int]:
        return {
            size_s: min(a.get(size_s, b.get(size_s, 0)), b.get(size_s, a.get(size_s, 0)))
            for size_s in {*a, *b}
        }

    return Limit(
        join(one.requests, other.requests),
        join(one.tokens, other.tokens),
        least(one.burst, other.burst),
        least(one.concurrency, other.concurrency),
    )


def compile_budgets(stored: Mapping[str, Any], max_spend_usd: str | None) -> tuple[Budget, ...]:
    """The budgets of a key, its user and its team, as they are stored; what a key may spend in all is one, too."""
    found = [
        build_budget(per, SpanBudgetEntry.model_validate(entry))
        for per, entries in stored.items()
        for entry in entries or ()
    ]
    if max_spend_usd is not None:
        found = _tighten(found, Budget("key", "total", Decimal(max_spend_usd)))
    return tuple(found)


def _tighten(budgets: list[Budget], most: Budget) -> list[Budget]:
    """With what a key may spend in all. There is one hard budget of a span, or each call would count twice."""
    same = next(
        (each for each in budgets if (each.per, each.every, each.hard) == ("key", "total", True)), most
    )
    others = [each for each in budgets if each is not same]
    return [*others, replace(same, usd=min(same.usd, most.usd))]


def pack_budgets(budgets: Iterable[Budget]) -> list[list[Any]]:
    """As JSON, for `keys.cache`."""
    return [
        [each.per, each.every, str(each.usd), each.hard, list(map(str, each.alert_at))] for each in budgets
    ]


def unpack_budgets(packed: Iterable[list[Any]]) -> tuple[Budget, ...]:
    return tuple(
        Budget(per, every, Decimal(usd), hard, tuple(map(Decimal, shares)))
        for per, every, usd, hard, shares in packed
    )


def write_budgets(budgets: Iterable[SpanBudgetEntry]) -> Jsonb:
    return Jsonb([budget.model_dump(mode="json") for budget in budgets])


def write_rules(rules: KeyRules) -> dict[str, Any]:
    """The values of a key's columns; of the limits only what was said."""
    limits = {} if rules.limits is None else rules.limits.model_dump(mode="json", exclude_unset=True)
    return {
        "providers": None if rules.providers is None else list(rules.providers),
        "ip_allowlist": list(rules.ip_allowlist) or None,
        "referrers": list(rules.referrers) or None,
        "max_requests": rules.max_requests,
        "max_spend_usd": rules.max_spend_usd,
        "limits": Jsonb(limits),
        "budgets": write_budgets(rules.budgets),
    }
