"""`gatewayz keys`, `audit`, `ledger`, `keyring`, `rls` and `migrate`: they work while the gateway runs, while it is
stopped, and two at once.
"""

import argparse
import json

from engine.storage.audit_commands import add_audit_commands
from engine.storage.command_line import StorageSettings, Subparsers, finish_parser, run_work, show
from engine.storage.key_commands import add_key_commands
from engine.storage.ledger_commands import add_ledger_commands
from engine.storage.migrations import migrate
from engine.storage.postgres import Connection
from engine.storage.ring_commands import add_ring_commands
from engine.storage.rls_commands import add_rls_commands


def register(subparsers: Subparsers) -> None:
    """Add this room's commands; each sets `run`, which takes the arguments and returns the exit code."""
    add_key_commands(subparsers)
    add_audit_commands(subparsers)
    add_ledger_commands(subparsers)
    add_ring_commands(subparsers)
    add_rls_commands(subparsers)
    finish_parser(
        subparsers.add_parser("migrate", help="bring the database to this version"), migrate_database
    )


def migrate_database(args: argparse.Namespace) -> int:
    """`gatewayz migrate`."""

    async def work(connection: Connection, settings: StorageSettings) -> int:
        applied = await migrate(connection)
        if args.format == "json":
            show(json.dumps({"applied": applied}))
        else:
            show(f"applied {', '.join(applied)}" if applied else "nothing to apply")
        return 0

    return run_work(work, migrated=False)
