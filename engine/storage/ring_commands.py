"""`gatewayz keyring`: what is encrypted at rest, under a new entry of the ring."""

import argparse
import json
from dataclasses import asdict

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
from engine.storage.ring_rotation import encrypt_anew


def add_ring_commands(subparsers: Subparsers) -> None:
    ring = subparsers.add_parser("keyring", help="work on the key ring").add_subparsers(required=True)
    rotate = ring.add_parser("rotate", help="encrypt all that is stored anew under the ring's newest entry")
    finish_parser(rotate, rotate_ring)


def rotate_ring(args: argparse.Namespace) -> int:
    """`gatewayz keyring rotate`: 1 when something could be read by no entry."""

    async def work(connection: Connection, settings: StorageSettings) -> int:
        done = await encrypt_anew(connection, load_ring(settings))
        if args.format == "json":
            show(json.dumps(asdict(done)))
        else:
            show(
                f"{done.provider_keys} provider keys, {done.states} states and {done.mails} mails are encrypted anew"
            )
        if done.api_keys_under_older_entries:
            say(
                f"{done.api_keys_under_older_entries} API keys need an older entry until they are used next: "
                "keep it in the ring"
            )
        if done.unreadable:
            say(f"{done.unreadable} values can be read by no entry of the ring")
        return 1 if done.unreadable else 0

    return run_work(work)
