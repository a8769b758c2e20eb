"""The composition root of one worker: every room is built here once and handed what it needs.

`create_worker_app` builds, `start` opens what needs the loop, `swap` puts a new snapshot in force, `stop` closes.
"""

import asyncio
import contextlib
import importlib
import random
import time
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from engine.billing.books import Books, Record
from engine.billing.cashbox import Cashbox
from engine.billing.receipts import ReceiptSigner
from engine.call import Call
from engine.config.networks import Networks
from engine.config.reload import Runtime
from engine.config.schema_payments import StripeEntry
from engine.config.settings import Settings, read_environment
from engine.config.snapshot import Snapshot
from engine.errors import DependencyAway
from engine.gateway import Rooms
from engine.http.admin import Administration, Control
from engine.http.allowlist import AllowlistRoutes
from engine.http.answers import StoredAnswers
from engine.http.budgets import BudgetRoutes
from engine.http.catalog import ModelCatalog
from engine.http.commerce import Commerce
from engine.http.cors import Cors
from engine.http.endpoints import Route
from engine.http.house import HouseRoutes
from engine.http.identifiers import CallIds
from engine.http.inference import InferenceDoors, OpenCalls
from engine.http.keys import KeyRoutes
from engine.http.limits import LimitRoutes
from engine.http.login import Login, Neighbours
from engine.http.monitoring import Monitoring, Readiness
from engine.http.openapi import ApiDescription
from engine.http.own_usage import OwnUsageRoutes
from engine.http.payment_findings import FindingRoutes
from engine.http.payments import PaymentRoutes, without_payments
from engine.http.ports import App as Asgi
from engine.http.ports import split_ports
from engine.http.provider_keys import ProviderKeyRoutes
from engine.http.reading import Reader
from engine.http.receipts import ReceiptRoutes
from engine.http.roles import RoleRoutes
from engine.http.routes import Routes
from engine.http.statements import StatementRoutes
from engine.http.subscriptions import SubscriptionRoutes
from engine.http.team_keys import TeamKeyRoutes
from engine.http.teams import TeamRoutes
from engine.http.till import Till
from engine.http.users import UserRoutes
from engine.mail.sender import MailSender
from engine.payments.room import Hooks, Payments, build_payments, list_payment_chores, read_books
from engine.policies.admission import Admission, Stage
from engine.policies.attempts import Attempts
from engine.policies.caps import REFRESH_EACH_S, Caps
from engine.policies.identity import Identity
from engine.policies.limits import Limiter
from engine.policies.shared_limits import SCRIPT, SharedLimiter
from engine.policies.sharing import Sharing
from engine.policies.trials import TrialStage
from engine.routing.balance import Latencies
from engine.routing.breaker import Breakers
from engine.routing.credentials import CoolDowns
from engine.routing.failover import Router
from engine.storage.answers import AnswerStore
from engine.storage.calls import list_calls
from engine.storage.chores import Chores
from engine.storage.conversations import Conversations
from engine.storage.gifts import Gifts
from engine.storage.key_desk import KeyDesk
from engine.storage.key_usage import UsageRecords
from engine.storage.keys import KeyStore
from engine.storage.leaving import Leaving
from engine.storage.postgres import Connection, Database, cancel_tasks
from engine.storage.private_state import PrivateState
from engine.storage.redis import Redis
from engine.storage.referrals import purchase_made
from engine.storage.secrets import load_keyring
from engine.storage.state_vault import StateVault
from engine.storage.top_ups import finish_charge
from engine.storage.trial_usage import TrialRecords
from engine.telemetry.logs import Log, route_library_logs
from engine.telemetry.metrics import Metrics
from engine.upstream.exchange import Exchange
from engine.upstream.key_sets import KeySets
from engine.upstream.pools import Upstreams
from engine.wire.usage import Usage

NOTHING = Usage()
PROXY_VARIABLES = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY")


class WorkerApp:
    """One worker's gateway. `asgi` is the application that the server calls."""

    def __init__(self, settings: Settings, runtime: Runtime, control: Control, worker: int) -> None:
        gateway = runtime.snapshot.settings
        embedded = gateway.database.url.reveal() == "embedded"
        self._runtime, self._grace_s = runtime, gateway.database.grace_s
        self._clock = time.monotonic
        self._draining, self._log_calls = False, gateway.telemetry.log_calls
        self.log = Log(level=gateway.telemetry.log_level or settings.log_level)
        route_library_logs(self.log, gateway.telemetry.log_level or settings.log_level)
        self.metrics = Metrics()
        self._database = Database(settings.database_url or "")
        ring = load_keyring(settings.home, settings.keyring, embedded=embedded)
        self._ring, self._receipts = ring, ReceiptSigner(ring)
        self._desk = KeyDesk(self._database, ring)
        self._chores = Chores(self._database)
        self._caps = Caps(UsageRecords(self._database), self._clock)
        self._refreshing: asyncio.Task[None] | None = None
        self._keys = KeyStore(self._database, ring, settings.home)
        self._cashbox = Cashbox(settings.home, self._database, gateway.journal.fsync_ms, self._clock)
        self._cashbox.follow(runtime.snapshot)
        kept = gateway.stored_answers
        self._answers = AnswerStore(
            self._database, keep_s=kept.days * 86400, most_bytes=int(kept.max_mb * (1 << 20))
        )
        state = gateway.state
        self._vault = StateVault(
            self._database, ring, keep_s=state.keep_h * 3600, most_bytes=int(state.max_mb * (1 << 20))
        )
        self._upstreams = Upstreams(proxies=read_proxies(read_environment()))
        self._exchange = Exchange(self._upstreams)
        folder = settings.config_path.absolute().parent
        self._mail = MailSender(self._database, ring, self._upstreams, self._read_snapshot, folder)
        self._payments = self._open_payments(gateway.billing.stripe)
        self._breakers = Breakers()
        workers = runtime.snapshot.server.workers
        self._redis, self._shared = self._share_limits(gateway.redis.url.reveal(), worker)
        self._limiter = self._shared.local if self._shared else Limiter(worker=worker, workers=workers)
        self.open_calls = OpenCalls()
        self._sharing = Sharing(
            self._database,
            self._shared or self._limiter,
            self._read_snapshot,
            ring.seal,
            self.metrics.observe_wait,
        )
        attempts = Attempts(self._shared or self._limiter, self._clock, workers)
        self._login = Login(
            self._database,
            ring,
            KeySets(self._upstreams, self._clock),
            attempts,
            self._read_snapshot,
            Neighbours(
                made=[Gifts(ring, self._read_snapshot)],
                erased=[Leaving(lambda: self._runtime.snapshot.roles)],
            ),
        )
        self._commerce = Commerce(Till(self._database, ring, self._read_snapshot, attempts), self._chores)
        identity = Identity(
            self._keys,
            settings.admin_key,
            lambda: self._runtime.snapshot.roles,
            self._login.sessions,
            self._sharing.edge,
        )
        rooms = Rooms(
            identity=identity,
            admission=Admission([*self._sharing.stages, *self._make_stages()]),
            exchange=self._exchange,
            router=Router(self._breakers, CoolDowns(), Latencies(), self._clock, random.random),
            books=Books(self._cashbox.journal, self._clock, (self._count_call, self._log_call)),
            clock=self._clock,
            report_bug=self._report_bug,
            conversations=Conversations(self._answers),
            private_state=PrivateState(self._vault),
            guests=self._sharing.guests,
            sign_receipt=self._receipts.sign_call,
            open_calls=self.open_calls,
        )
        self._watch_gauges()
        self.asgi = self._build_routes(rooms, identity, control)

    def open_ports(self, count: int) -> Sequence[Asgi]:
        """What each of the worker's sockets serves."""
        cors = self._runtime.snapshot.server.cors
        ports = split_ports(self.asgi, count)
        return [Cors(port, cors) for port in ports] if cors is not None else ports

    async def start(self) -> None:
        await self._database.open()
        await self._keys.start()
        self._cashbox.start()
        self._login.start()
        self._answers.start()
        if self._shared is not None:
            self._shared.start()
        self._vault.start()
        self._mail.start()
        self._sharing.start()
        self._refreshing = asyncio.create_task(self._refresh_caps())
        self._chores.start()

    def begin_drain(self) -> None:
        self._draining = True

    async def finish_calls(self, within_s: float) -> None:
        await self.open_calls.finish(within_s)

    async def stop(self) -> None:
        if self._shared is not None:
            await self._shared.stop()
        await self._chores.stop()
        await self._mail.stop()
        await self._sharing.stop()
        await self._answers.stop()
        await self._vault.stop()
        await self._login.stop()
        await self._cashbox.stop()
        if self._refreshing is not None:
            await cancel_tasks(self._refreshing)
        await self._keys.stop()
        await self._exchange.close()
        if self._payments is not None:
            await self._payments.stripe.close()
        await self._upstreams.close()
        await self._database.close()
        self.log.close()

    def swap(self, snapshot: Snapshot) -> None:
        """Put a new configuration in force; calls under way keep theirs."""
        self._runtime.swap(snapshot)
        self._cashbox.follow(snapshot)
        self._exchange.forget_heads()
        self.log.info("config.swapped", revision=snapshot.version)

    def _make_stages(self) -> list[Stage]:
        """Behind the shared limits: caps, trials, and last what must be paid."""
        return [self._caps, self._make_trial_stage(), self._cashbox.stage]

    def _share_limits(self, url: str, worker: int) -> tuple[Redis | None, SharedLimiter | None]:
        """redis-py is 6 MiB: who has no Redis there never imports it."""
        if url == "none":
            return None, None
        door = importlib.import_module("engine.storage.redis_door").RedisDoor(url)
        redis, workers = Redis(door, SCRIPT), self._runtime.snapshot.server.workers
        return redis, SharedLimiter(redis, self._clock, uuid.uuid4().hex[:12], worker, workers)

    def _open_payments(self, entry: StripeEntry) -> Payments | None:
        """Stripe's library costs half a second and 30 MiB: who has no key there never imports it."""
        if not entry.is_configured:
            return None
        stripe = importlib.import_module("engine.payments.stripe_api").StripeApi(entry, self._upstreams)
        payments = build_payments(
            self._database,
            self._ring,
            stripe,
            lambda: read_books(self._read_snapshot()),
            entry,
            Hooks(purchase_made, finish_charge),
        )
        self.metrics.watch("gatewayz_payment_events_total", lambda: as_reading(payments.inbox.counts))
        self.metrics.watch("gatewayz_payment_flags_total", lambda: as_reading(payments.flags))
        self.metrics.watch("gatewayz_payment_findings", lambda: payments.reconciler.open_findings)
        self._chores.add_look(payments.reconciler.count_open)
        self._chores.add(
            *list_payment_chores(
                payments, self._database, lambda: read_books(self._read_snapshot()), entry.reconcile
            )
        )
        return payments

    def _make_trial_stage(self) -> TrialStage:
        limiter = self._shared or self._limiter
        return TrialStage(TrialRecords(self._database), limiter, self._clock, time.time)

    def dump_metrics(self) -> dict[str, Any]:
        return self.metrics.dump()

    def _build_routes(self, rooms: Rooms, identity: Identity, control: Control) -> Routes:
        inference = InferenceDoors(rooms, self._read_snapshot, self.open_calls, CallIds())
        answers = StoredAnswers(identity, self._answers, self._read_snapshot)
        routes = Routes(inference, report_bug=self._report_route_bug, answers=answers)
        routes.trusted_proxies = Networks(self._runtime.snapshot.server.trusted_proxies)
        routes.identity = identity
        catalog = routes.catalog = ModelCatalog(rooms, self._read_snapshot)
        routes.add("GET", "/v1/models", catalog.list_models)
        routes.add("GET", "/models", catalog.list_models)
        routes.add_named("GET", "/v1/models/", catalog.show_model)
        monitoring = Monitoring(self.read_readiness, control.metrics)
        routes.add("GET", "/health", monitoring.show_health)
        routes.add("GET", "/health/ready", monitoring.show_readiness)
        routes.add("GET", "/metrics", monitoring.show_metrics)
        administration = Administration(control, self._list_calls, self._desk.note)
        routes.declare(*administration.list())
        routes.declare(*BudgetRoutes(self._database, self._ring).list())
        routes.declare(*KeyRoutes(self._desk, self._read_snapshot).list())
        routes.declare(*TeamRoutes(self._database, self._ring, self._read_snapshot).list())
        routes.declare(*TeamKeyRoutes(self._desk, self._database, self._read_snapshot).list())
        routes.declare(*RoleRoutes(self._database, self._ring, self._read_snapshot).list())
        routes.declare(*UserRoutes(self._database, self._ring, self._read_snapshot).list())
        limits = LimitRoutes(
            self._database,
            self._ring,
            self._desk,
            self._read_snapshot,
            lambda: self._sharing.describe(self._redis),
        )
        routes.declare(*limits.list(), *AllowlistRoutes(self._database, self._ring).list())
        routes.declare(*ProviderKeyRoutes(self._database, self._ring, self._read_snapshot).list())
        routes.declare(*list_payment_routes(self._payments, self._runtime.snapshot.settings.billing.stripe))
        flush = self._cashbox.flusher.flush
        routes.declare(*ReceiptRoutes(self._receipts, self._database, flush).list())
        reader = Reader(self._database, flush)
        routes.declare(*StatementRoutes(reader, self._read_snapshot).list())
        routes.declare(*OwnUsageRoutes(reader, self._read_snapshot).list())
        house = HouseRoutes(reader, self._read_snapshot, administration, control, self._count_kept)
        routes.declare(*house.list())
        routes.declare(*ApiDescription(lambda: routes.declared, self._read_snapshot).list())
        routes.declare(*self._login.list_routes(identity))
        routes.declare(*self._commerce.list_routes())
        if self._payments is not None:
            self._chores.add(self._commerce.charge_with(self._payments.charges))
        return routes

    def _count_kept(self) -> dict[str, Any]:
        """How much is kept in memory, so that nobody has to be asked for it."""
        snapshot = self._runtime.snapshot
        return {
            "keys": len(self._keys),
            "routes_of_models": len(snapshot.plans),
            "quotas_of_plans": len(snapshot.quotas),
            "tariffs": len(snapshot.tariffs),
            "limits": self._limiter.count_identities(),
        }

    async def _refresh_caps(self) -> None:
        while True:
            await asyncio.sleep(REFRESH_EACH_S)
            with contextlib.suppress(DependencyAway):
                await self._caps.refresh()

    def _read_snapshot(self) -> Snapshot:
        return self._runtime.snapshot

    def read_readiness(self) -> Readiness:
        """200 while this process can serve: a short database outage is no reason to leave."""
        away_since = self._database.away_since
        away_s = time.time() - away_since if away_since is not None else 0.0
        redis_away_since = self._redis.away_since if self._redis is not None else None
        absences = [moment for moment in (away_since, redis_away_since) if moment is not None]
        since = min(absences, default=self._runtime.snapshot.loaded_at)
        status = "degraded" if absences else "ok"
        if self._draining or away_s > self._grace_s:
            status = "down"
        return Readiness(
            status=status,
            database="ok" if away_since is None else "away",
            redis="none" if self._redis is None else "ok" if redis_away_since is None else "away",
            since=datetime.fromtimestamp(since, UTC).isoformat(timespec="milliseconds"),
        )

    async def _list_calls(self, after: str | None, limit: int, filters: Mapping[str, Any]) -> dict[str, Any]:
        async def select(connection: Connection) -> dict[str, Any]:
            page = await list_calls(connection, after, limit, filters)
            return {"object": "list", "data": page.records, "has_more": page.more}

        await self._cashbox.flusher.flush()
        return await self._database.run(select)

    def _count_call(self, call: Call, record: Record, written: bytes) -> None:
        metrics, served = self.metrics, call.served
        metrics.count_call(call.surface, call.http_status)
        self._sharing.edge.note(call.http_status, record["total_ms"] / 1000)
        if not call.attempts and call.error_code:
            metrics.count_refusal(call.error_code)
        for attempt in call.attempts:
            metrics.count_attempt(attempt.provider, attempt.model, attempt.outcome)
        if call.damaged:
            metrics.count_event_dropped(call.damaged)
        if served is not None:
            first_s = call.first_token_ms / 1000 if call.first_token_ms is not None else None
            total_s = record["total_ms"] / 1000
            usage = call.usage or NOTHING
            metrics.observe_call(served.provider.name, served.model, total_s, first_s, usage, call.cost)
            if "unpriced" in call.pricing:
                self._count_unpriced(call, usage.prompt + usage.completion)

    def _count_unpriced(self, call: Call, tokens: int) -> None:
        """What nobody declared a price for is loud, but for what costs nothing by its nature."""
        served = call.served
        if served is None or served.provider.simulator:
            return
        if self.metrics.count_unpriced(served.provider.name, served.model, tokens):
            self.log.warning("call.unpriced", request_id=call.request_id, target=served.name)

    def _log_call(self, call: Call, record: Record, written: bytes) -> None:
        if self._log_calls:
            self.log.finish_call(record, written)

    def _report_bug(self, call: Call, bug: Exception) -> None:
        self.log.error("call.broke", request_id=call.request_id, error=repr(bug), trace=bug)

    def _report_route_bug(self, path: str, request_id: str, bug: Exception) -> None:
        self.log.error("route.broke", path=path, request_id=request_id, error=repr(bug), trace=bug)

    def _watch_gauges(self) -> None:
        metrics = self.metrics
        metrics.watch("gatewayz_calls_in_progress", lambda: len(self.open_calls))
        metrics.watch("gatewayz_upstream_connections", lambda: as_reading(self._upstreams.count()))
        metrics.watch("gatewayz_dependency_up", self._read_dependencies)
        metrics.watch("gatewayz_journal_records", lambda: as_reading(self._cashbox.flusher.count_states()))
        metrics.watch("gatewayz_config_revision_info", lambda: {self._runtime.snapshot.version: 1})
        metrics.watch("gatewayz_breaker_state", self._read_breakers)
        metrics.watch("gatewayz_limit_identities", lambda: as_reading(self._limiter.count_identities()))
        metrics.watch("gatewayz_queue_active", lambda: self._sharing.queue.active)
        metrics.watch("gatewayz_queue_queued", lambda: self._sharing.queue.queued)
        metrics.watch("gatewayz_credit_usd", self._cashbox.purses.count)
        metrics.watch("gatewayz_credit_refusals_total", lambda: as_reading(self._cashbox.purses.refused))
        metrics.watch("gatewayz_written_off_usd_total", lambda: float(self._cashbox.flusher.written_off_usd))
        metrics.watch("gatewayz_budget_alerts_total", lambda: self._cashbox.flusher.alerts)
        metrics.watch("gatewayz_log_lines_dropped_total", lambda: self.log.dropped)
        metrics.watch("gatewayz_stored_answers_total", lambda: as_reading(self._answers.counts))
        metrics.watch("gatewayz_mails_total", lambda: as_reading(self._mail.counts))
        metrics.watch("gatewayz_provider_state_total", lambda: as_reading(self._vault.counts))

    def _read_dependencies(self) -> dict[str | tuple[str, ...], float]:
        up: dict[str | tuple[str, ...], float] = {"database": float(self._database.available)}
        if self._redis is not None:
            up["redis"] = float(self._redis.available)
        return up

    def _read_breakers(self) -> dict[str | tuple[str, ...], float]:
        states = self._breakers.states(self._clock())
        pairs = {tuple(name.split("/", 1)): state for name, state in states.items()}
        return {pair: 2.0 if state == "open" else 1.0 for pair, state in pairs.items()}


def as_reading(counts: Mapping[str, int]) -> dict[str | tuple[str, ...], float]:
    """Counts by state in the form that gauges are read in."""
    return {state: float(count) for state, count in counts.items()}


def list_payment_routes(payments: Payments | None, entry: StripeEntry) -> Sequence[Route]:
    """All of them in any case; without a key each says that there is none."""
    if payments is not None:
        rooms = (
            PaymentRoutes(payments.desk, payments.inbox),
            SubscriptionRoutes(payments.subscriptions),
            FindingRoutes(payments.reconciler, entry.reconcile),
        )
        return [route for room in rooms for route in room.list()]
    missing = (PaymentRoutes(None, None), SubscriptionRoutes(None), FindingRoutes(None, entry.reconcile))
    return without_payments([route for room in missing for route in room.list()])


def read_proxies(environ: Mapping[str, str]) -> dict[str, str]:
    """The forward proxies that the environment names, in either spelling."""
    found = {name: environ.get(name) or environ.get(name.lower(), "") for name in PROXY_VARIABLES}
    return {name: value for name, value in found.items() if value}


def create_worker_app(settings: Settings, runtime: Runtime, control: Control, worker: int) -> WorkerApp:
    return WorkerApp(settings, runtime, control, worker)
