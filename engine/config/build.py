"""Validated schemas -> the frozen values of the snapshot. Pure; whoever calls has checked all
cross-references.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from decimal import Decimal

from engine.config.credentials import build_auth
from engine.config.prices import build_price, build_unknown_price
from engine.config.references import Unset
from engine.config.schema import ModelEntry, TargetEntry
from engine.config.schema_gateway import ServerEntry
from engine.config.schema_policy import (
    BillingEntry,
    PolicyFile,
    ScopeLimitEntry,
    SpanBudgetEntry,
    TimeoutsEntry,
    WindowsEntry,
)
from engine.config.schema_provider import (
    FixesEntry,
    MessagesEntry,
    ParamsEntry,
    ProviderFile,
)
from engine.config.snapshot import (
    Backoff,
    BillingRule,
    BreakerRule,
    Budget,
    CorsRule,
    Endpoint,
    FailoverRule,
    Limit,
    Model,
    Policy,
    Price,
    Provider,
    RetryRule,
    ServerSettings,
    Target,
    Timeouts,
)
from engine.secret import Secret
from engine.wire.fixes import ParamFixes, When
from engine.wire.messages import MessageFixes

_WINDOWS_S = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400, "month": 2_592_000}
REASONING_FIRST_TOKEN_S = 120.0
"""First-token clock of a model with capability `reasoning` whose policy leaves that clock at its default."""
_DEFAULT_FIRST_TOKEN_S = TimeoutsEntry().first_token_s
_DEFAULT_HEADERS_S = TimeoutsEntry().headers_s


def _build_windows(entry: WindowsEntry) -> dict[int, int]:
    counts = ((seconds, getattr(entry, name)) for name, seconds in _WINDOWS_S.items())
    return {seconds: count for seconds, count in counts if count is not None}


def build_limit(entry: ScopeLimitEntry) -> Limit:
    return Limit(_build_windows(entry.requests), _build_windows(entry.tokens), entry.burst, entry.concurrency)


def _build_billing(entry: BillingEntry) -> BillingRule:
    away = entry.credit_when_database_away
    return BillingRule(
        entry.on_abort,
        entry.on_error,
        entry.fallback_attempts,
        entry.markup,
        build_unknown_price(entry.unknown_price),
        hold_wait_s=entry.hold_wait_s,
        min_output_tokens=entry.min_output_tokens,
        lower_max_tokens=entry.lower_max_tokens,
        lost_call=entry.lost_call,
        beyond_lease_usd=None if away == "refuse" else away.up_to,
    )


def build_budget(per: str, entry: SpanBudgetEntry) -> Budget:
    shares = tuple(Decimal(str(share)) for share in entry.alert_at)
    return Budget(per, entry.every, entry.usd, entry.hard, shares)


def build_policy(entry: PolicyFile) -> Policy:
    retry, breaker = entry.retry, entry.breaker
    scopes = {name: getattr(entry.limits, name) for name in type(entry.limits).model_fields}
    return Policy(
        name=entry.policy,
        retry=RetryRule(
            retry.max, frozenset(retry.on), Backoff(**dict(retry.backoff)), retry.honour_retry_after_s
        ),
        timeouts=Timeouts(**dict(entry.timeouts)),
        failover=FailoverRule(frozenset(entry.failover.on), frozenset(entry.failover.never)),
        breaker=BreakerRule(**{**dict(breaker), "counts": frozenset(breaker.counts)}),
        limits={name: build_limit(scope) for name, scope in scopes.items() if scope is not None},
        assume_output_tokens=entry.assume_output_tokens,
        when_redis_away=entry.when_redis_away,
        billing=_build_billing(entry.billing),
        on_disconnect=entry.on_disconnect,
        rescue=entry.rescue,
        restart_max_chars=entry.restart_max_chars,
        keepalive_s=entry.keepalive_s,
        on_loss=entry.on_loss,
        explore=entry.explore,
        budgets=tuple(build_budget(budget.per, budget) for budget in entry.budgets),
    )


def build_server(entry: ServerEntry) -> ServerSettings:
    return ServerSettings(
        host=entry.host,
        port=entry.port,
        workers=entry.workers,
        max_body_bytes=int(entry.max_body_mb * 1024 * 1024),
        max_upload_bytes=int(entry.max_upload_mb * 1024 * 1024),
        keep_upload_bytes=int(entry.keep_upload_mb * 1024 * 1024),
        header_s=entry.header_s,
        body_s=entry.body_s,
        keep_alive_s=entry.keep_alive_s,
        announce_s=entry.drain.announce_s,
        finish_s=entry.drain.finish_s,
        trusted_proxies=entry.trusted_proxies,
        admin=(entry.admin.host, entry.admin.port) if entry.admin is not None else None,
        cors=CorsRule(**dict(entry.cors)) if entry.cors is not None else None,
        hsts_s=entry.hsts_s,
        max_connections=entry.max_connections,
    )


def _build_params(entry: ParamsEntry) -> ParamFixes:
    rules = tuple((When(rule.models, rule.when, rule.unless), _build_fixes(rule)) for rule in entry.rules)
    return replace(_build_fixes(entry), rules=rules)


def _build_fixes(entry: FixesEntry) -> ParamFixes:
    return ParamFixes(
        drop=frozenset(entry.drop),
        rename=entry.rename,
        clamp=entry.clamp,
        default=entry.default,
        force=entry.force,
        replace=entry.replace,
        messages=_build_messages(entry.messages) if entry.messages is not None else None,
    )


def _build_messages(entry: MessagesEntry) -> MessageFixes:
    return MessageFixes(
        roles=entry.roles,
        drop=frozenset(entry.drop),
        rename=entry.rename,
        default=entry.default,
        flatten=frozenset(entry.flatten),
        call_id_length=entry.call_id_length,
        join=entry.join,
        tell_schema=entry.tell_schema,
    )


def build_provider(
    spec: ProviderFile,
    endpoints: Mapping[str, Endpoint],
    also: Mapping[str, Endpoint],
    simulator_url: str | None,
) -> Provider:
    auth, why_not = build_auth(spec.provider, spec.auth)
    base_url = spec.base_url
    if isinstance(base_url, Unset):
        why_not, base_url = why_not or base_url.reason, ""
    unset = next((value for value in spec.variables.values() if isinstance(value, Unset)), None)
    if unset is not None:
        why_not = why_not or unset.reason
    enabled, reason = spec.enabled, spec.reason or ("" if spec.enabled else "disabled in its file")
    if spec.simulator and not simulator_url:
        enabled, reason = False, "the simulator is off"
    return Provider(
        name=spec.provider,
        base_url=base_url,
        auth=auth,
        endpoints=endpoints,
        headers=_check_types(spec.headers),
        params=_build_params(spec.params),
        stream_usage=spec.stream_usage,
        allow_private=spec.allow_private,
        passthrough=spec.passthrough,
        simulator=spec.simulator,
        enabled=enabled,
        reason=(reason or why_not) if not (enabled and not why_not) else "",
        configured=not why_not,
        unknown_price=build_unknown_price(spec.unknown_price),
        prefill=spec.prefill.model_dump() if spec.prefill else None,
        models_listing=spec.models.model_dump(exclude_none=True) if spec.models else None,
        http2=spec.http2,
        also=also,
        variables={name: value for name, value in spec.variables.items() if isinstance(value, str)},
    )


def _check_types(headers: Mapping[str, str | Secret | Unset]) -> dict[str, str | Secret]:
    """An unset header is refused before; here the type says so."""
    return {name: value for name, value in headers.items() if not isinstance(value, Unset)}


def build_model(
    name: str, spec: ModelEntry, aliases: Iterable[str], providers: Mapping[str, Provider], policy: Policy
) -> Model:
    price = build_price(spec.price) if spec.price else None
    targets = tuple(_build_target(spec, entry, providers[entry.provider], price) for entry in spec.targets)
    return Model(
        name=name,
        aliases=tuple(aliases),
        capabilities=frozenset(spec.capabilities),
        context=spec.limits.context,
        output=spec.limits.output,
        price=price,
        strategy=spec.strategy,
        policy=policy,
        timeouts=_build_timeouts(spec, policy),
        targets=targets,
        created=spec.created,
        owned_by=spec.owned_by or targets[0].provider.name,
    )


def _build_target(spec: ModelEntry, entry: TargetEntry, provider: Provider, price: Price | None) -> Target:
    limits = entry.limits or spec.limits
    return Target(
        provider=provider,
        model=entry.model,
        weight=entry.weight,
        prefill=spec.prefill if entry.prefill is None else entry.prefill,
        price=build_price(entry.price) if entry.price else price,
        context=limits.context or spec.limits.context,
        output=limits.output or spec.limits.output,
        traits={**spec.traits, **entry.traits},
    )


def _build_timeouts(spec: ModelEntry, policy: Policy) -> Timeouts:
    own = {name: value for name, value in spec.timeouts if value is not None}
    base = policy.timeouts
    if "reasoning" in spec.capabilities and base.first_token_s == _DEFAULT_FIRST_TOKEN_S:
        own.setdefault("first_token_s", REASONING_FIRST_TOKEN_S)
        if base.headers_s == _DEFAULT_HEADERS_S:  # many providers send their headers with the first token
            own.setdefault("headers_s", REASONING_FIRST_TOKEN_S)
    if not own:
        return base
    return Timeouts(**{name: own.get(name, getattr(base, name)) for name in TimeoutsEntry.model_fields})
