"""`gatewayz ledger`: whether the ledger holds, and what a payer has."""

import argparse
import json
from dataclasses import asdict
from decimal import Decimal
from typing import Any

from engine.storage.command_line import StorageSettings, Subparsers, finish_parser, run_work, say, show
from engine.storage.ledger import read_balance
from engine.storage.ledger_reading import list_movements, verify_ledger
from engine.storage.postgres import Connection

_LATEST = 20


def add_ledger_commands(subparsers: Subparsers) -> None:
    ledger = subparsers.add_parser("ledger", help="check the ledger, look at a payer").add_subparsers(
        required=True
    )
    finish_parser(ledger.add_parser("verify", help="prove that every balance is its history"), verify_all)
    shown = ledger.add_parser("show", help="what a payer has, and the latest movements")
    shown.add_argument("payer", metavar="PAYER", help="user:ID, team:ID, or a user's address")
    finish_parser(shown, show_payer)


def verify_all(args: argparse.Namespace) -> int:
    """`gatewayz ledger verify`: 0 when every movement and balance holds."""

    async def work(connection: Connection, settings: StorageSettings) -> int:
        verdict = await verify_ledger(connection)
        if args.format == "json":
            show(_write_json(asdict(verdict)))
        for problem in verdict.problems:
            say(problem)
        if not verdict.problems:
            say(f"{verdict.movements} movements on {verdict.accounts} accounts hold")
        return 1 if verdict.problems else 0

    return run_work(work)


def show_payer(args: argparse.Namespace) -> int:
    """`gatewayz ledger show`: balances and the latest movements."""

    async def work(connection: Connection, settings: StorageSettings) -> int:
        payer = await _find_payer(connection, args.payer)
        if payer is None:
            say(f"there is no payer {args.payer}")
            return 1
        balance = await read_balance(connection, payer)
        movements = await list_movements(connection, payer, limit=_LATEST)
        if args.format == "json":
            show(_write_json({"payer": payer, **asdict(balance), "movements": movements}))
            return 0
        show(f"{payer}  credit {balance.credit_usd:f}  allowance {balance.allowance_usd:f}")
        for each in movements:
            show(
                f"{each['created_at']:%Y-%m-%d %H:%M:%S}  {each['kind']:<14} {each['amount_usd']:f}  {each['ref']}"
            )
        return 0

    return run_work(work)


async def _find_payer(connection: Connection, named: str) -> str | None:
    row = await (
        await connection.execute(
            "SELECT 'user:' || id FROM users WHERE 'user:' || id = %(named)s OR lower(email) = lower(%(named)s)"
            " UNION ALL SELECT 'team:' || id FROM teams WHERE 'team:' || id = %(named)s LIMIT 1",
            {"named": named.replace("\0", "")},
        )
    ).fetchone()
    return None if row is None else str(row[0])


def _write_json(facts: dict[str, Any]) -> str:
    return json.dumps(facts, default=lambda value: f"{value:f}" if isinstance(value, Decimal) else str(value))
