"""`gatewayz payments`: Stripe's books beside ours, while the gateway runs or is stopped."""

import argparse
import asyncio
import importlib
import json
import sys
import time
from datetime import UTC, datetime

from engine.config.reload import Loader
from engine.config.settings import read_environment, read_settings
from engine.errors import GatewayError
from engine.payments.interfaces import PaymentsMissing
from engine.payments.reconciling import Report
from engine.payments.room import build_payments, read_books
from engine.storage.command_line import connect_for_command, load_ring
from engine.storage.interfaces import StorageRefused
from engine.storage.migrations import migrate
from engine.storage.postgres import Connection, Database
from engine.upstream.pools import Upstreams


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    payments = subparsers.add_parser("payments", help="compare Stripe's books with ours").add_subparsers(
        required=True
    )
    compare = payments.add_parser("reconcile", help="list what Stripe has and we do not, and the reverse")
    compare.add_argument(
        "--since", metavar="DATE", type=read_date, help="from this day on (UTC); default: as the file says"
    )
    compare.add_argument("--replay", action="store_true", help="do the events that never came")
    compare.add_argument("--format", choices=("text", "json"), default="text")
    compare.set_defaults(run=reconcile)


def read_date(text: str) -> datetime:
    found = datetime.fromisoformat(text)
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def reconcile(args: argparse.Namespace) -> int:
    """0 when nothing differs, 3 when something does."""
    try:
        report = asyncio.run(_compare(args.since, replay=args.replay))
    except (GatewayError, StorageRefused) as problem:
        print(problem, file=sys.stderr)
        return 1
    if args.format == "json":
        print(json.dumps(report.as_document()))
    else:
        for each in report.findings:
            print(f"{each.kind:26} {each.subject} {json.dumps(each.details)}")
        print(
            f"{report.events} events and {report.intents} payments looked at, {len(report.replayed)} events done,"
            f" {len(report.findings)} differences",
            file=sys.stderr,
        )
    return 3 if report.findings else 0


async def _compare(since: datetime | None, *, replay: bool) -> Report:
    settings = read_settings()
    loader = Loader(settings, read_environment())
    snapshot = loader.prepare(loader.read(), run_examples=False)
    entry = snapshot.settings.billing.stripe
    if not entry.is_configured:
        raise PaymentsMissing
    began = time.time() - entry.reconcile.days * 86400 if since is None else since.timestamp()
    async with connect_for_command(settings) as connection:
        await migrate(connection)
        database = Database(settings.database_url or connection.info.dsn)
        await database.open()
        upstreams = Upstreams()
        stripe = importlib.import_module("engine.payments.stripe_api").StripeApi(entry, upstreams)
        try:
            await database.run(_look, probe=True)
            payments = build_payments(
                database, load_ring(settings), stripe, lambda: read_books(snapshot), entry
            )
            return await payments.reconciler.compare(int(began), replay=replay)
        finally:
            await stripe.close()
            await upstreams.close()
            await database.close()


async def _look(connection: Connection) -> None:
    await connection.execute("SELECT 1")
