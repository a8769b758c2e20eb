"""The command `gatewayz`: every room brings its own subcommands; this file only joins them."""

import argparse
import sys
from collections.abc import Sequence

from engine import __version__
from engine.catalog import commands as catalog_commands
from engine.config import commands as config_commands
from engine.errors import ConfigRefused
from engine.routing import commands as routing_commands
from engine.serve import commands as serve_commands
from engine.storage import commands as storage_commands
from engine.upstream.simulator import commands as simulator_commands


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gatewayz", description="One endpoint in front of every model provider."
    )
    parser.add_argument("--version", action="version", version=f"gatewayz {__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for room in (
        serve_commands,
        config_commands,
        catalog_commands,
        routing_commands,
        storage_commands,
        simulator_commands,
    ):
        room.register(subparsers)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is 0, 1 for a refusal, 2 for wrong arguments."""
    args = build_parser().parse_args(arguments)
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
