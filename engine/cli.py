"""The command `gatewayz`: every room brings its own subcommands; this file only joins them.

A room is imported when its command is asked for: `serve` has to be ready soon, and needs none of the others.
"""

import argparse
import gc
import importlib
import sys
from collections.abc import Iterable, Mapping, Sequence

from engine import __version__
from engine.errors import ConfigRefused

ROOMS: Mapping[str, str] = {
    "serve": "engine.serve.commands",
    "check": "engine.config.commands",
    "schema": "engine.config.commands",
    "provider": "engine.config.commands",
    "models": "engine.catalog.commands",
    "explain": "engine.routing.commands",
    "render": "engine.routing.commands",
    "keys": "engine.storage.commands",
    "audit": "engine.storage.commands",
    "ledger": "engine.storage.commands",
    "rerate": "engine.billing.commands",
    "keyring": "engine.storage.commands",
    "rls": "engine.storage.commands",
    "migrate": "engine.storage.commands",
    "payments": "engine.payments.commands",
    "mail": "engine.mail.commands",
    "simulate": "engine.upstream.simulator.commands",
}
"""Who brings each command."""


def build_parser(rooms: Iterable[str] = tuple(ROOMS.values())) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gatewayz", description="One endpoint in front of every model provider."
    )
    parser.add_argument("--version", action="version", version=f"gatewayz {__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    gc.disable()  # what is imported stays: looking through it for garbage is a fifth of the time
    for room in dict.fromkeys(rooms):
        importlib.import_module(room).register(subparsers)
    gc.freeze()
    gc.enable()
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is 0, 1 for a refusal, 2 for wrong arguments."""
    words = sys.argv[1:] if arguments is None else arguments
    asked = ROOMS.get(words[0]) if words else None
    args = build_parser(ROOMS.values() if asked is None else [asked]).parse_args(words)
    try:
        code: int = args.run(args)
    except ConfigRefused as refusal:
        print(refusal, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return code


if __name__ == "__main__":
    sys.exit(main())
