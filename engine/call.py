"""One request, from the door to its record. Every room reads from and writes to the `Call`; nothing else travels."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from engine.config.networks import Networks
    from engine.config.snapshot import Budget, Credential, Limit, Model, Policy, Snapshot, Target
    from engine.wire.doors import Door
    from engine.wire.kept_state import CallState
    from engine.wire.streams import StreamWriter
    from engine.wire.usage import Usage


GUEST = "guest"
"""The role of callers who have no key (policies/guests.py)."""


@dataclass(frozen=True, slots=True)
class KeyBounds:
    """What a key may not do. Few keys have such rules, so nothing of it is asked on the way of the others."""

    rules: Mapping[str, Any]
    """As they are stored."""
    providers: tuple[str, ...] | None
    """Globs; None allows all."""
    addresses: "Networks"
    referrers: tuple[str, ...]
    limit: "Limit | None"
    """The tighter of what the key's owner and what administrators gave it."""
    user_limit: "Limit | None"
    """What administrators gave its user, all keys together."""
    max_requests: int | None
    max_spend_usd: Decimal | None
    is_capped: bool = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "is_capped", self.max_requests is not None)


@dataclass(frozen=True, slots=True)
class OwnKeys:
    """A user's own keys at providers, by provider: as they are stored, and opened."""

    sealed: Mapping[str, Any]
    credentials: Mapping[str, "Credential"]


@dataclass(frozen=True, slots=True)
class TrialTerms:
    """What somebody on trial may use in all. Moments are seconds since the epoch."""

    started_at: float
    ends_at: float
    credit_usd: Decimal
    day_usd: Decimal | None
    tokens: int
    requests: int
    concurrency: int | None


@dataclass(frozen=True, slots=True)
class Caller:
    """Who pays and what is allowed. `models` are globs over model names; None allows all."""

    key_id: str
    user_id: str
    role: str = "user"
    name: str = ""
    last4: str = ""
    models: tuple[str, ...] | None = None
    scopes: frozenset[str] = frozenset({"inference", "catalog"})
    """What the key opens: inference, catalog, read, admin."""
    expires_at: float | None = None
    unlimited: bool = False
    """True for the key of GATEWAYZ_ADMIN_KEY: no credit and no rate limits."""
    environment: str = "live"
    scoped_models: tuple[str, ...] | None = None
    """Globs of the only models that its scopes open."""
    bounds: KeyBounds | None = None
    own_keys: OwnKeys | None = None
    team_id: str = ""
    """Of a key that belongs to a team; then the team pays."""
    plan: str = ""
    """The plan of who pays; "" where there is none."""
    owner_role: str = ""
    """Of the user whose key it is: nothing that this role may not is done with the key. "" where nobody says."""
    budgets: "tuple[Budget, ...]" = ()
    """Of the key, its user and its team."""
    status: str = "active"
    """Of whose account it is: bot and suspended have no inference among their scopes."""
    prepaid: bool = False
    """Calls are paid from credit, and without credit there are none. Otherwise what they cost is written down."""
    trial: TrialTerms | None = None
    """Of who is on trial, or was and has not paid since."""
    payer: str = field(init=False)
    """Whose credit it is: `team:<id>` or `user:<id>`."""

    def __post_init__(self) -> None:
        payer = f"team:{self.team_id}" if self.team_id else f"user:{self.user_id}"
        object.__setattr__(self, "payer", payer)


@dataclass(slots=True)
class Attempt:
    """One request that an upstream saw (or that could not reach it)."""

    provider: str
    model: str
    credential: str
    started_s: float
    """Seconds after the call began."""
    outcome: str = "running"
    """`ok`, or the failure's kind: "429", connect, reset, timeout:first_token, broken_stream ..."""
    seconds: float = 0.0
    first_token_ms: float | None = None
    reason: str = ""
    mode: str = "first"
    """first, retry, failover, continue (rescue by prefill) or restart (rescue by prefix)."""
    usage: "Usage | None" = None

    def as_record(self) -> dict[str, Any]:
        # Cut, not rounded: `round` to decimals takes ten times as long, five times for each call.
        record: dict[str, Any] = {
            "provider": self.provider,
            "model": self.model,
            "credential": self.credential,
            "mode": self.mode,
            "outcome": self.outcome,
            "started_ms": int(self.started_s * 10_000) / 10,
            "ms": int(self.seconds * 10_000) / 10,
        }
        if self.first_token_ms is not None:
            record["first_token_ms"] = int(self.first_token_ms * 10) / 10
        if self.reason:
            record["reason"] = self.reason[:300]
        if self.usage is not None:
            record["tokens"] = self.usage.as_record()
        return record


class Upload(Protocol):
    """A form that is passed on as it arrives (http/uploads.py)."""

    content_type: str
    spent: bool
    """Some of it was passed on without being kept: nobody else can be asked with it."""

    async def read_head(self) -> dict[str, Any]: ...
    def open(self, edits: Mapping[str, Any]) -> Any:
        """Bytes, or a StreamedBody (upstream/reply.py)."""


class CreditHold(Protocol):
    """What a call has of the purses that it is paid from (billing/holds.py)."""

    @property
    def worker(self) -> str: ...
    @property
    def lent(self) -> bool: ...
    def list_purses(self) -> list[str]: ...
    def settle(self, call_id: str, cost: Decimal, now: float) -> None: ...


@dataclass(slots=True, eq=False)
class Call:
    """The state of one request. Filled from top to bottom of `gateway.py`."""

    id: str
    request_id: str
    door: "Door"
    """Where the client came in: its dialect and what it wants."""
    started_at: float
    """Wall clock, seconds since the epoch."""
    began: float
    """Monotonic clock of the loop."""
    snapshot: "Snapshot"
    client_ip: str = ""
    caller: Caller | None = None
    body: bytes = b""
    upload: Upload | None = None
    """Instead of a body: a form."""
    request: dict[str, Any] = field(default_factory=dict)
    as_asked: dict[str, Any] | None = None
    """The request as its caller wrote it, where the gateway put what was said before in front of it or bounded its
    answer."""
    chat: dict[str, Any] | None = None
    """What the request says in no dialect, once somebody needed it. Nobody changes it."""
    kept_state: Mapping[str, "CallState"] = field(default_factory=dict)
    """What is kept of the tool calls in it."""
    requested_model: str = ""
    stream: bool = False
    usage_asked: bool = False
    """The client itself asked for usage in the stream."""
    tags: dict[str, str] = field(default_factory=dict)
    model: "Model | None" = None
    policy: "Policy | None" = None
    served: "Target | None" = None
    targets: "tuple[Target, ...]" = ()
    """Who may answer it."""
    max_cost: Decimal | None = None
    wants_receipt: bool = False
    """The most that its caller wants to spend on it."""
    hold: "CreditHold | None" = None
    rescued_by: list[str] = field(default_factory=list)
    attempts: list[Attempt] = field(default_factory=list)
    input_estimate: int = 0
    usage: "Usage | None" = None
    cost: Decimal = Decimal(0)
    cost_text: str = "0"
    pricing: dict[str, Any] = field(default_factory=dict)
    """What the cost was worked out by, for the record."""
    status: str = "running"
    """running, ok, error, aborted, interrupted."""
    http_status: int = 0
    first_token_ms: float | None = None
    damaged: int = 0
    loss: tuple[str, ...] = ()
    error: str = ""
    error_code: str = ""
    client_gone: bool = False
    begun_recorded: bool = False
    settled: bool = False
    named_model: str = ""
    """The model that the path names."""
    passed_headers: tuple[tuple[str, str], ...] = ()
    """Headers of the client that go on to a provider of the same wire."""
    answer_type: bytes = b""
    """The media type of an answer that is passed as it comes, because it is no JSON."""
    writer: "StreamWriter | None" = None
    """What has written the stream so far, when it was translated: it knows how to go on."""

    @property
    def is_prepaid(self) -> bool:
        """Whether it is paid from credit; otherwise what it costs is owed."""
        return (self.caller is not None and self.caller.prepaid) or self.snapshot.prepays

    @property
    def operation(self) -> str:
        return self.door.operation

    @property
    def surface(self) -> str:
        """The path of the door, for records and metrics."""
        return self.door.path
