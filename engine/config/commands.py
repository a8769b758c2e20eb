"""`gatewayz check`, `gatewayz schema` and `gatewayz provider new`: what files say, and the draft of one."""

import argparse
import json
import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from engine.config.curl import CurlRefused, read_curl
from engine.config.drafting import draft_provider
from engine.config.reload import Loader
from engine.config.schema import KINDS, write_json_schema
from engine.config.settings import read_environment, read_settings
from engine.errors import ConfigRefused, Problem


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `check` and `schema`; the parsed arguments carry `run`, which returns the exit code."""
    check = subparsers.add_parser("check", help="load, validate and run every example; change nothing")
    check.add_argument("-c", "--config", type=Path, help="gateway.yaml (default: GATEWAYZ_CONFIG)")
    check.add_argument("--format", choices=("text", "json"), default="text")
    check.set_defaults(run=check_config)
    schema = subparsers.add_parser("schema", help="the JSON Schema of one kind of file, for editors")
    schema.add_argument("kind", choices=sorted(KINDS))
    schema.set_defaults(run=show_schema)
    _register_provider(subparsers)


def _register_provider(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    provider = subparsers.add_parser("provider", help="files of providers")
    actions = provider.add_subparsers(dest="action", required=True, metavar="ACTION")
    new = actions.add_parser("new", help="draft the file of a provider from a request that works")
    new.add_argument("name", help="the provider's name")
    new.add_argument("--from-curl", required=True, metavar="COMMAND", help="the request, as a curl command")
    new.add_argument("--write", action="store_true", help="write providers.d/NAME.yaml beside gateway.yaml")
    new.add_argument("-c", "--config", type=Path, help="gateway.yaml (default: GATEWAYZ_CONFIG)")
    new.set_defaults(run=draft_new_provider)


def check_config(args: argparse.Namespace) -> int:
    """`gatewayz check`: 0, or 1 with every problem on its own line of stdout."""
    try:
        loader = Loader(read_settings(config=args.config), read_environment())
        snapshot = loader.prepare(loader.read(), run_examples=True)
    except ConfigRefused as refused:
        _show_problems(refused.problems, args.format)
        count = len(refused.problems)
        _tell(f"refused: {count} problem{'s' if count > 1 else ''}")
        return 1
    for warning in (*loader.warnings, *loader.list_untouched()):
        _tell(f"warning: {warning}")
    usable = sum(provider.enabled and provider.configured for provider in snapshot.providers.values())
    _tell(
        f"ok: {len(snapshot.models)} models, {len(snapshot.providers)} providers ({usable} configured), "
        f"{len(snapshot.policies)} policies, revision {snapshot.version[:12]}"
    )
    return 0


def draft_new_provider(args: argparse.Namespace) -> int:
    """`gatewayz provider new`: the draft on stdout, or in a file that was not there before."""
    loader = Loader(read_settings(config=args.config), read_environment())
    formats = loader.prepare(loader.read(), run_examples=False).formats
    try:
        text = draft_provider(args.name, read_curl(args.from_curl), formats.values())
    except CurlRefused as refused:
        _tell(str(refused))
        return 1
    if not args.write:
        sys.stdout.write(text)
        return 0
    file = loader.folder / "providers.d" / f"{args.name}.yaml"
    file.parent.mkdir(exist_ok=True)
    try:
        with file.open("x") as new:
            new.write(text)
    except FileExistsError:
        _tell(f"{file} is there already")
        return 1
    _tell(f"{file} is written; `gatewayz check` tries it")
    return 0


def show_schema(args: argparse.Namespace) -> int:
    """`gatewayz schema KIND`."""
    sys.stdout.write(write_json_schema(args.kind))
    return 0


def _show_problems(problems: Iterable[Problem], form: str) -> None:
    for problem in problems:
        sys.stdout.write(f"{json.dumps(asdict(problem)) if form == 'json' else problem}\n")


def _tell(message: str) -> None:
    sys.stderr.write(f"{message}\n")
