"""How the simulator is started: `gatewayz simulate`, or as a process of its own on a socket handed over."""

import argparse
import asyncio
import gc
import os
import signal
import socket
import sys
from collections.abc import Callable

from engine.upstream.simulator.server import Server

try:
    import uvloop
except ImportError:  # where it has no wheel, the loop of the standard library serves as well
    new_event_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
else:
    new_event_loop = uvloop.new_event_loop

DEFAULT_PORT = 8899
_LOOK_S = 0.5


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `simulate` to a command line; the parsed arguments carry `run`, which returns the exit code."""
    parser = subparsers.add_parser("simulate", help="an upstream without a model, with faults chosen by name")
    _add_arguments(parser)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="simulate", description="An upstream without a model.")
    _add_arguments(parser)
    options = parser.parse_args(arguments)
    return run(options)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1)")
    parser.add_argument(
        "--port", type=int, default=DEFAULT_PORT, help=f"0 takes a free one (default {DEFAULT_PORT})"
    )
    parser.add_argument(
        "--fd", type=int, help="a listening socket that is open already, instead of host and port"
    )
    parser.add_argument(
        "--with-parent", action="store_true", help="leave when the process that started it is gone"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT; 1 when the port cannot be had."""
    parent = os.getppid() if options.with_parent else None
    try:
        listener = _open_listener(options)
    except OSError as error:
        sys.stderr.write(f"simulate: cannot listen on {options.host}:{options.port}: {error}\n")
        return 1
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(_serve(listener, parent))
    return 0


def _open_listener(options: argparse.Namespace) -> socket.socket:
    if options.fd is not None:
        return socket.socket(fileno=options.fd)
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((options.host, options.port))
        listener.listen(4096)
    except OSError:
        listener.close()
        raise
    return listener


async def _serve(listener: socket.socket, parent: int | None) -> None:
    loop, told = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, told.set)
    # A terminal signals the whole group; beside a parent that drains, the simulator must outlive its calls.
    for number in (signal.SIGINT, signal.SIGHUP):
        if parent is None:
            loop.add_signal_handler(number, told.set)
        else:
            signal.signal(number, signal.SIG_IGN)
    server = Server()
    await server.listen(listener)
    host, port = listener.getsockname()[:2]
    sys.stdout.write(f"simulator on http://{host}:{port}/v1 (GET /v1/models lists what it plays)\n")
    sys.stdout.flush()
    gc.freeze()
    await _wait_for_end(told, parent)
    await server.stop()


async def _wait_for_end(told: asyncio.Event, parent: int | None) -> None:
    while not told.is_set():
        if parent is not None and os.getppid() != parent:
            return
        try:
            await asyncio.wait_for(told.wait(), None if parent is None else _LOOK_S)
        except TimeoutError:
            continue
