"""`gatewayz rerate`: recorded calls priced anew by a book; what differs becomes movements of the ledger."""

import argparse
import json
from dataclasses import asdict
from datetime import UTC, datetime

from engine.billing.rerating import Rerate, Rerater
from engine.config.reload import Loader
from engine.config.schema_prices import PricesFile
from engine.config.settings import read_environment, read_settings
from engine.storage.command_line import StorageSettings, Subparsers, finish_parser, run_work, say, show
from engine.storage.postgres import Connection


def register(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser("rerate", help="price recorded calls anew by a book")
    parser.add_argument(
        "--from",
        dest="since",
        metavar="DATE",
        required=True,
        type=read_date,
        help="calls that began on this day (UTC) or later",
    )
    parser.add_argument("--until", metavar="DATE", type=read_date, help="and before this day; default: all")
    parser.add_argument("--book", metavar="NAME", required=True, help="the price book, whatever its days say")
    parser.add_argument("--dry-run", action="store_true", help="book nothing, say what it would come to")
    parser.add_argument("-c", "--config", metavar="FILE", help="gateway.yaml")
    finish_parser(parser, rerate)


def read_date(text: str) -> datetime:
    found = datetime.fromisoformat(text)
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def rerate(args: argparse.Namespace) -> int:
    """1 when there is no such book."""
    loader = Loader(read_settings(config=args.config), read_environment())
    snapshot = loader.prepare(loader.read(), run_examples=False)
    books = snapshot.declared(PricesFile)
    if args.book not in books:
        say(f"there is no price book {args.book!r} ({', '.join(sorted(books)) or 'there is none at all'})")
        return 1

    async def work(connection: Connection, settings: StorageSettings) -> int:
        until = args.until or datetime.now(UTC)
        rerater = Rerater(snapshot, books[args.book])
        report(await rerater.run(connection, args.since, until, dry=args.dry_run), args)
        return 0

    return run_work(work)


def report(result: Rerate, args: argparse.Namespace) -> None:
    if args.format == "json":
        show(json.dumps({**asdict(result), "dry_run": args.dry_run}, default=lambda amount: f"{amount:f}"))
        return
    show(
        f"{result.calls} calls: {result.adjusted} {'would be ' if args.dry_run else ''}adjusted"
        f" (+{result.raised_usd:f} -{result.lowered_usd:f} USD), {result.repeated} done before,"
        f" {result.uncovered} not in the book, {result.unknown} of targets that are gone"
    )
