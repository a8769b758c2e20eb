"""The compiled configuration: what every room reads and nobody changes.

A `Snapshot` is built once from valid YAML, taken once by each call at the door, and dropped when the last call that
holds it has ended. State that outlives a reload (connections, breakers, counters) is keyed by the stable names here
and lives elsewhere.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, TypeVar

from engine.config.declared import DECLARED
from engine.config.naming import Naming
from engine.config.roles import Roles
from engine.config.schema_base import Strict
from engine.secret import Secret
from engine.wire.doors import DoorTable
from engine.wire.fixes import ParamFixes
from engine.wire.formats import Format

Declared = TypeVar("Declared", bound=Strict)
_KINDS = {schema: kind for kind, schema in DECLARED.items()}


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds. `headers_s`, `first_token_s` and `idle_s` run for streamed upstream calls only."""

    connect_s: float = 5
    headers_s: float = 30
    first_token_s: float = 30
    idle_s: float = 60
    answer_s: float = 600
    total_s: float = 1800


@dataclass(frozen=True, slots=True)
class Backoff:
    first_s: float = 0.4
    factor: float = 2
    jitter: float = 0.3
    max_s: float = 5


@dataclass(frozen=True, slots=True)
class RetryRule:
    """Tries on the same target beyond the first; `on` holds failure kinds (see UpstreamFailure.matches)."""

    max: int
    on: frozenset[str]
    backoff: Backoff
    honour_retry_after_s: float = 10


@dataclass(frozen=True, slots=True)
class FailoverRule:
    on: frozenset[str]
    never: frozenset[str]


@dataclass(frozen=True, slots=True)
class BreakerRule:
    failures: int
    window_s: float
    min_requests: int
    ratio: float
    open_s: float
    half_open: int
    counts: frozenset[str]


@dataclass(frozen=True, slots=True)
class Limit:
    """One scope's limits. `requests` and `tokens` map a window in seconds to a number."""

    requests: Mapping[int, int] = field(default_factory=dict)
    tokens: Mapping[int, int] = field(default_factory=dict)
    burst: int | None = None
    concurrency: int | None = None


@dataclass(frozen=True, slots=True)
class Budget:
    """What may be spent in a span, by whom `per` says."""

    per: str
    every: str
    """day, week, month, total."""
    usd: Decimal
    hard: bool = True
    alert_at: tuple[Decimal, ...] = ()


@dataclass(frozen=True, slots=True)
class BillingRule:
    on_abort: str = "delivered"
    on_error: str = "delivered"
    fallback_attempts: str = "never"
    markup: Decimal = Decimal(0)
    unknown_price: "str | Price" = "refuse"
    hold_wait_s: float = 2.0
    min_output_tokens: int = 256
    lower_max_tokens: bool = False
    lost_call: str = "release"
    beyond_lease_usd: Decimal | None = None
    """How far a worker may pass its lease while the database is away; None: not at all."""


@dataclass(frozen=True, slots=True)
class Policy:
    name: str
    retry: RetryRule
    timeouts: Timeouts
    failover: FailoverRule
    breaker: BreakerRule
    limits: Mapping[str, Limit]
    assume_output_tokens: int
    when_redis_away: str
    billing: BillingRule
    on_disconnect: str
    rescue: str
    restart_max_chars: int
    keepalive_s: float
    on_loss: str
    explore: float = 0.05
    budgets: tuple[Budget, ...] = ()
    limits_tokens: bool = field(init=False)
    """Some scope limits tokens, so that every call has to be estimated."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "limits_tokens", any(limit.tokens for limit in self.limits.values()))


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars per single token of each class (declared per million), per request and per unit. Never floats."""

    input: Decimal
    output: Decimal
    cached_input: Decimal
    cache_write: Decimal
    cache_write_1h: Decimal
    reasoning: Decimal
    audio_input: Decimal
    audio_output: Decimal
    image_input: Decimal
    image_output: Decimal
    request: Decimal = Decimal(0)
    units: Mapping[str, Decimal] = field(default_factory=dict, kw_only=True)
    """By the names of usage.UNITS; one that is not here costs nothing."""
    variants: Mapping[str, Decimal] = field(default_factory=dict, kw_only=True)
    """Of one image, by `quality/size`, quality or size."""
    tiers: tuple[tuple[int, "Price"], ...] = field(default=(), kw_only=True)
    """(prompt tokens, what a call with more of them costs), the longest first."""
    services: Mapping[str, "Price"] = field(default_factory=dict, kw_only=True)
    """By the service tier that was given, where it has rates of its own."""


@dataclass(frozen=True, slots=True)
class SigningKey:
    """What signs requests together with a secret key."""

    access_key: Secret
    region: str
    service: str
    session_token: Secret | None = None


@dataclass(frozen=True, slots=True)
class ServiceAccount:
    """A key that is exchanged for tokens: the credential's own text, or what stands in `file`."""

    scope: str
    file: str = ""


@dataclass(frozen=True, slots=True)
class Credential:
    """One of a provider's keys. `name` (provider#index) is stable across reloads and safe to log."""

    name: str
    secret: Secret
    weight: float = 1
    models: tuple[str, ...] | None = None
    base_url: str | None = None
    proof: SigningKey | ServiceAccount | None = None
    """What the kinds of auth need whose header is made for each request."""
    owned: bool = False
    """A user's own: when it fails, that says nothing about the provider or about the gateway's credentials."""

    @property
    def secrets(self) -> tuple[Secret, ...]:
        """Every text of it that nobody may read."""
        if not isinstance(self.proof, SigningKey):
            return (self.secret,)
        token = self.proof.session_token
        return (self.secret, self.proof.access_key, *(() if token is None else (token,)))


@dataclass(frozen=True, slots=True)
class Auth:
    """How a credential is sent. `kind` is a named verb: bearer, header, basic, query, sigv4,
    google_service_account, none.
    """

    kind: str
    header: str
    credentials: tuple[Credential, ...]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where one operation (chat, completions, embeddings) of a provider is served, and on which wire."""

    format: Format
    path: str | Callable[["Target"], str]
    traits: Mapping[str, Any] = field(default_factory=dict)
    """The format's, with what the provider says otherwise."""
    stream_path: str | Callable[["Target"], str] | None = None
    """Where it is served when streamed, if elsewhere."""

    def path_for(self, target: "Target", *, stream: bool = False) -> str:
        path = self.stream_path if stream and self.stream_path is not None else self.path
        return path if isinstance(path, str) else path(target)

    def traits_of(self, target: "Target") -> Mapping[str, Any]:
        """Target over model over provider over format."""
        return {**self.traits, **target.traits} if target.traits else self.traits


@dataclass(frozen=True, slots=True, eq=False)
class Provider:
    name: str
    base_url: str
    auth: Auth
    endpoints: Mapping[str, Endpoint]
    headers: Mapping[str, str | Secret]
    params: ParamFixes
    stream_usage: str
    """`ask`: send stream_options.include_usage; `always`: the provider sends it unasked; `never`: it cannot."""
    allow_private: bool
    passthrough: bool
    simulator: bool
    enabled: bool
    reason: str
    """Why it is not usable ("" when it is): disabled with a reason, or the missing environment variable."""
    configured: bool
    unknown_price: "str | Price | None"
    prefill: Mapping[str, Any] | None
    """`{message: {...}, body: {...}}` merged in when an answer is continued from an assistant prefill."""
    models_listing: Mapping[str, str] | None
    variables: Mapping[str, str] = field(default_factory=dict)
    """Names for what paths are made of: an account, a region."""
    http2: bool = False
    also: Mapping[str, Endpoint] = field(default_factory=dict)
    """Other wires that it speaks, by the name of their format."""

    @property
    def all_endpoints(self) -> Mapping[str, Endpoint]:
        return {**self.endpoints, **self.also}

    def find_endpoint(self, operation: str, dialect: str) -> Endpoint:
        """Where a call goes: on its caller's own wire if this provider speaks it, else on its main one."""
        own = self.also.get(dialect)
        return own if own is not None and own.format.operation == operation else self.endpoints[operation]


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """One way to be answered: a provider and its own name for the model."""

    provider: Provider
    model: str
    weight: float
    prefill: bool
    price: Price | None
    context: int | None
    output: int | None
    traits: Mapping[str, Any] = field(default_factory=dict)
    """What the model and the target itself say otherwise than the provider."""
    name: str = field(init=False)
    """provider/model: the key of everything that is remembered about it."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", f"{self.provider.name}/{self.model}")


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    name: str
    aliases: tuple[str, ...]
    capabilities: frozenset[str]
    context: int | None
    output: int | None
    price: Price | None
    strategy: str
    policy: Policy
    timeouts: Timeouts
    targets: tuple[Target, ...]
    created: int
    owned_by: str


@dataclass(frozen=True, slots=True)
class CorsRule:
    """Which pages of other origins may read answers; origins may begin with `*.` behind their scheme."""

    origins: tuple[str, ...]
    headers: tuple[str, ...]
    expose: tuple[str, ...]
    credentials: bool
    max_age_s: int


@dataclass(frozen=True, slots=True)
class ServerSettings:
    host: str
    port: int
    workers: int
    max_body_bytes: int
    max_upload_bytes: int
    keep_upload_bytes: int
    header_s: float
    body_s: float
    keep_alive_s: float
    announce_s: float
    finish_s: float
    trusted_proxies: tuple[str, ...] = ()
    admin: tuple[str, int] | None = None
    """Host and port of administration, when it has its own."""
    cors: CorsRule | None = None
    hsts_s: int = 0
    max_connections: int = 10_000

    def __post_init__(self) -> None:
        """Also from JSON, in which workers are told them."""
        object.__setattr__(self, "trusted_proxies", tuple(self.trusted_proxies))
        if self.admin is not None:
            object.__setattr__(self, "admin", tuple(self.admin))
        if isinstance(self.cors, dict):
            object.__setattr__(self, "cors", CorsRule(**self.cors))


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """All of it. `version` is the sha256 of every byte that was read."""

    version: str
    loaded_at: float
    server: ServerSettings
    models: Mapping[str, Model]
    names: Mapping[str, Model]
    """Every name a caller may ask for (canonical and alias) to its model."""
    providers: Mapping[str, Provider]
    policies: Mapping[str, Policy]
    formats: Mapping[str, Format]
    doors: DoorTable
    """Where clients may speak which format."""
    surfaces: Mapping[str, Format]
    """Operation to the format in which examples and commands take requests that do not name one."""
    settings: Any
    """The validated gateway.yaml (a pydantic model, frozen)."""
    warnings: tuple[str, ...] = ()
    naming: Naming = Naming()
    """What names mean that are not in `names`."""
    things: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """By kind and name: what needs no compiling (config/declared.py). Read with `declared`."""
    roles: Roles = field(init=False)
    prepays: bool = field(init=False)
    """Whoever was never given money needs credit, too (gateway.yaml: `billing.new_users`)."""
    listed: Mapping[str, Target] = field(init=False)
    """Targets of all models by provider/model, so that one which is asked for by that name has its price."""

    plans: dict[tuple[Model, str], Any] = field(init=False, default_factory=dict)
    """What routing made of a model and an operation (resolve.py): the same for every caller."""

    quotas: dict[tuple[str, str], Any] = field(init=False, default_factory=dict)
    """What admission made of a plan and an environment (quotas.py): the same for every payer."""

    tariffs: dict[tuple[Model, Target], Any] = field(init=False, default_factory=dict)
    """What price books say of a target (billing/tariffs.py)."""

    def __post_init__(self) -> None:
        targets = (target for model in self.models.values() for target in reversed(model.targets))
        prepays = self.settings is not None and self.settings.billing.new_users == "prepaid"
        object.__setattr__(self, "prepays", prepays)
        object.__setattr__(self, "listed", {target.name: target for target in targets})
        object.__setattr__(self, "roles", Roles(self.things.get("role", {})))

    def declared(self, schema: type[Declared]) -> Mapping[str, Declared]:
        """The things of the kind that has this schema, by name."""
        return self.things.get(_KINDS[schema], {})

    @property
    def default_policy(self) -> Policy:
        return self.policies["default"]
