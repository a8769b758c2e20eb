"""`gatewayz serve`."""

import argparse
import asyncio
import sys
from pathlib import Path

from engine.config.settings import read_environment, read_settings
from engine.errors import ConfigRefused
from engine.serve.fleet import WorkersFailed
from engine.serve.supervisor import ServeOptions, ServeRefused, Supervisor
from engine.storage.interfaces import StorageRefused
from engine.telemetry.logs import Log, route_library_logs


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `serve` to a command line; the parsed arguments carry `run`, which returns the exit code."""
    parser = subparsers.add_parser("serve", help="run the gateway (SIGHUP reloads, SIGTERM drains)")
    parser.add_argument("-c", "--config", type=Path, help="gateway.yaml (default: GATEWAYZ_CONFIG)")
    parser.add_argument("--host", help="address to listen on")
    parser.add_argument("--port", type=int, help="port to listen on; 0 takes a free one")
    parser.add_argument("--workers", type=int, help="number of worker processes")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Serve until told to leave: 0, or 1 when the gateway could not start."""
    given = {name: getattr(arguments, name) for name in ("host", "port", "workers")}
    server = {name: value for name, value in given.items() if value is not None}
    try:
        options = ServeOptions(read_settings(config=arguments.config), read_environment(), server)
        return serve(options)
    except ConfigRefused as refused:
        return refuse(refused)


def serve(options: ServeOptions) -> int:
    route_library_logs(Log(level=options.settings.log_level), options.settings.log_level)
    try:
        asyncio.run(supervise(options))
    except (ConfigRefused, ServeRefused, StorageRefused, WorkersFailed) as refused:
        return refuse(refused)
    return 0


async def supervise(options: ServeOptions) -> None:
    await Supervisor(options, show).run()


def refuse(reason: Exception) -> int:
    show(str(reason))
    return 1


def show(text: str) -> None:
    """A line for the person who started the gateway."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
