"""gateway.yaml: the process itself. Everything has a default; the file may be absent."""

import re
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from engine.config.files import DEFAULT_FOLDERS
from engine.config.networks import read_network
from engine.config.schema_base import (
    Count,
    CountOrNone,
    Seconds,
    SecondsOrNone,
    SecretText,
    Strict,
    Usd,
    described,
)
from engine.config.schema_payments import StripeEntry
from engine.secret import Secret

DEFAULT_TREE = {"database": "${DATABASE_URL:-embedded}", "redis": "${REDIS_URL:-none}"}
"""Goes below what gateway.yaml says, before references are expanded."""


_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://(\*\.)?[A-Za-z0-9.-]+(:\d{1,5})?")
_HEADER_NAME = r"^[A-Za-z0-9-]{1,64}$"


def _check_origin(text: str) -> str:
    if text != "*" and not _ORIGIN.fullmatch(text):
        raise ValueError("an origin such as https://app.example.com or https://*.example.com is expected")
    return text


OriginText = Annotated[str, AfterValidator(_check_origin)]
HeaderName = Annotated[str, Field(pattern=_HEADER_NAME)]


class CorsEntry(Strict):
    """Which pages of other origins may read answers."""

    origins: tuple[OriginText, ...] = described(
        "origins, exact or as https://*.example.com; `*` is everybody, and never with credentials",
        min_length=1,
    )
    headers: tuple[HeaderName, ...] = described(
        "request headers that pages may send; dialects may need more, such as a version of theirs",
        (
            *("authorization", "content-type", "accept", "x-api-key", "x-goog-api-key", "x-request-id"),
            *("x-tags", "x-max-cost-usd", "idempotency-key", "x-requested-with"),
        ),
    )
    expose: tuple[HeaderName, ...] = described(
        "answer headers that pages may read",
        ("x-request-id", "x-provider", "x-model", "x-cost-usd", "x-loss", "retry-after"),
    )
    credentials: bool = described("pages may send cookies and client certificates along", False)
    max_age_s: CountOrNone = described("browsers remember what a preflight was told for", 600)

    @model_validator(mode="after")
    def _refuse_everybody_with_credentials(self) -> "CorsEntry":
        if self.credentials and "*" in self.origins:
            raise PydanticCustomError("cors", "origin `*` and credentials: true do not go together")
        return self


class AdminPortEntry(Strict):
    """Administration at an address of its own."""

    host: str = described("address to listen on", "127.0.0.1", min_length=1)
    port: int = described("port to listen on; 0 picks a free one", ge=0, le=65535)


class DrainEntry(Strict):
    announce_s: SecondsOrNone = described("after SIGTERM: /health/ready says 503, the port stays open", 0)
    finish_s: SecondsOrNone = described("then open calls may finish for this long", 120)


def _check_network(text: str) -> str:
    read_network(text)
    return text


NetworkText = Annotated[str, AfterValidator(_check_network)]


class ServerEntry(Strict):
    host: str = described("address to listen on", "127.0.0.1", min_length=1)
    port: int = described("port to listen on; 0 picks a free one", 8000, ge=0, le=65535)
    workers: Count = described("worker processes", 1, le=256)
    max_body_mb: float = described("largest request body, MiB", 32, gt=0, le=2048)
    max_upload_mb: float = described("largest form with files, MiB; it is passed on as it arrives", 512, gt=0)
    keep_upload_mb: float = described(
        "a form up to this size is kept, so that another provider can be asked with it, MiB", 1, ge=0, le=64
    )
    header_s: Seconds = described("a request's header must be there within", 10)
    body_s: Seconds = described("a request's body must be there within", 120)
    keep_alive_s: Seconds = described("an idle client connection is kept for", 75)
    trusted_proxies: tuple[NetworkText, ...] = described(
        "networks of your own proxies: only through them is X-Forwarded-For believed, from the right", ()
    )
    drain: DrainEntry = described("how the process leaves", DrainEntry())
    admin: AdminPortEntry | None = described(
        "serve /admin, /api/admin and /metrics here and nowhere else; default: at the one port", None
    )
    cors: CorsEntry | None = described("pages of other origins that may read answers; default: none", None)
    hsts_s: CountOrNone = described(
        "tell browsers for so many seconds to come by https only; 0: say nothing", 0, le=63_072_000
    )
    max_connections: Count = described("open client connections of one worker", 10_000)

    @model_validator(mode="after")
    def _refuse_one_port_for_both(self) -> "ServerEntry":
        if self.admin is not None and self.admin.port == self.port != 0:
            raise PydanticCustomError("port", "server.admin.port must be another than server.port")
        return self


class DatabaseEntry(Strict):
    url: SecretText = described("`embedded`, or a PostgreSQL URL")
    grace_s: SecondsOrNone = described("how long /health/ready stays ok while the database is away", 900)


class RedisEntry(Strict):
    url: SecretText = described("`none`, or a Redis or Valkey URL: redis://, rediss:// (TLS) or unix://")

    @field_validator("url")
    @classmethod
    def _check_scheme(cls, url: Any) -> Any:
        if isinstance(url, Secret) and not re.match(r"none$|rediss?://|unix://", url.reveal()):
            raise ValueError("must be `none` or begin with redis://, rediss:// or unix://")
        return url


class IncludeEntry(Strict):
    folders: tuple[str, ...] = described(
        "folders beside this file whose YAML files are read", DEFAULT_FOLDERS
    )
    builtin: bool = described("whether the shipped providers, models and policies are there", True)


class TelemetryEntry(Strict):
    log_level: Literal["debug", "info", "warning", "error"] | None = described(
        "default: GATEWAYZ_LOG_LEVEL", None
    )
    log_calls: bool = described("one log line per call", True)


class SharedLimitsEntry(Strict):
    without_redis: Literal["refuse", "divide"] = described(
        "several workers without Redis: refuse to start, or give each worker its part of every limit",
        "refuse",
    )


class JournalEntry(Strict):
    fsync_ms: Count = described("a power cut loses at most this many milliseconds of call records", 100)


class StoredAnswersEntry(Strict):
    days: float = described(
        "how long an answer that a client may go on from is kept; 0: not at all", 30, ge=0
    )
    max_mb: float = described("larger answers, with what was said to get them, are not kept, MiB", 4, gt=0)


class StateEntry(Strict):
    keep_h: float = described(
        "how many hours signatures and encrypted reasoning are kept for clients that cannot carry them; 0: not at all",
        24,
        ge=0,
    )
    max_mb: float = described("of these so much stays in the memory of a worker, MiB", 64, gt=0)


class GatewayBillingEntry(Strict):
    new_users: Literal["metered", "prepaid"] = described(
        "who was never given money: calls are written down as owed, or need credit first", "metered"
    )
    grace_usd: Usd = described(
        "how far below zero a balance may go by calls that cost more than was held for them", Decimal(0)
    )
    stripe: StripeEntry = described("payments by Stripe", StripeEntry())


class SimulatorEntry(Strict):
    enabled: Literal["auto", True, False] = described(
        "the built-in upstream for rehearsals; auto: on unless DATABASE_URL is set", "auto"
    )


def _as_url_entry(value: Any) -> Any:
    return value if isinstance(value, dict | Strict) else {"url": value}


class GatewayFile(Strict):
    """The whole of gateway.yaml. Changes to server, database and redis need a restart."""

    server: ServerEntry = described("the HTTP server", ServerEntry())
    database: Annotated[
        DatabaseEntry, BeforeValidator(_as_url_entry, json_schema_input_type=str | DatabaseEntry)
    ] = described("`embedded`, a PostgreSQL URL, or {url, grace_s}")
    redis: Annotated[RedisEntry, BeforeValidator(_as_url_entry, json_schema_input_type=str | RedisEntry)] = (
        described("`none`, or a Redis URL")
    )
    include: IncludeEntry = described("what is read beside this file", IncludeEntry())
    telemetry: TelemetryEntry = described("logs", TelemetryEntry())
    sinks: tuple[dict[str, Any], ...] = described("where call records go besides the database", ())
    billing: GatewayBillingEntry = described("credit and payments", GatewayBillingEntry())
    limits: SharedLimitsEntry = described("limits across processes", SharedLimitsEntry())
    journal: JournalEntry = described("the call journal", JournalEntry())
    stored_answers: StoredAnswersEntry = described("answers that are kept for clients", StoredAnswersEntry())
    state: StateEntry = described("state that only its provider understands", StateEntry())
    simulator: SimulatorEntry = described("the built-in upstream", SimulatorEntry())
