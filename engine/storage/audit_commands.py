"""`gatewayz audit`: whether the log is what was written."""

import argparse
import json
from dataclasses import asdict

from engine.storage.audit import verify_chain
from engine.storage.command_line import (
    StorageSettings,
    Subparsers,
    finish_parser,
    load_ring,
    run_work,
    say,
    show,
)
from engine.storage.postgres import Connection


def add_audit_commands(subparsers: Subparsers) -> None:
    audit = subparsers.add_parser("audit", help="check the audit log").add_subparsers(required=True)
    verify = audit.add_parser("verify", help="check every row of the audit log, from the first")
    verify.add_argument(
        "--head", metavar="SEAL", default="", help="a last seal noted earlier: it must be there"
    )
    finish_parser(verify, verify_log)


def verify_log(args: argparse.Namespace) -> int:
    """`gatewayz audit verify`: 0 when every row holds; the last seal goes to stdout, to be noted elsewhere."""

    async def work(connection: Connection, settings: StorageSettings) -> int:
        verdict = await verify_chain(connection, load_ring(settings), args.head)
        if args.format == "json":
            show(json.dumps(asdict(verdict)))
        elif verdict.head:
            show(verdict.head)
        if verdict.broken_at is not None:
            say(f"row {verdict.broken_at} of the audit log is not what was written: {verdict.reason}")
            return 1
        if not verdict.has_expected:
            say("the seal that was noted is not in the log: rows were cut off")
            return 1
        say(f"{verdict.rows} rows hold")
        return 0

    return run_work(work)
