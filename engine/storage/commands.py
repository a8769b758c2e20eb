"""`gatewayz keys` and `gatewayz migrate`: they work while the gateway runs, while it is stopped, and two at
once.
"""

import argparse
import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import psycopg

from engine.config.settings import read_settings
from engine.errors import ConfigRefused
from engine.secret import Secret
from engine.storage.embedded import borrow_embedded
from engine.storage.home import prepare_home
from engine.storage.interfaces import StorageRefused
from engine.storage.issuing import DEFAULT_USER, KeyRequest, issue_key, list_keys, revoke_key
from engine.storage.migrations import migrate
from engine.storage.postgres import Connection
from engine.storage.secrets import ENVIRONMENTS, load_keyring

Subparsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


class StorageSettings(Protocol):
    """The part of the settings that says where the state is."""

    @property
    def home(self) -> Path: ...
    @property
    def database_url(self) -> str | None: ...
    @property
    def keyring(self) -> Secret | None: ...


def register(subparsers: Subparsers) -> None:
    """Add `keys` and `migrate`; each sets `run`, which takes the arguments and returns the exit code."""
    keys = subparsers.add_parser("keys", help="create, list and revoke API keys").add_subparsers(
        required=True
    )
    create = keys.add_parser("create", help="create a key and print it, once")
    create.add_argument("--name", required=True, help="what the key is for")
    create.add_argument(
        "--user", default=DEFAULT_USER, metavar="EMAIL", help="who pays (default: %(default)s)"
    )
    create.add_argument("--role", choices=("user", "admin"), default="user")
    create.add_argument(
        "--credit", type=_read_amount, default=Decimal(0), metavar="USD", help="given to the user"
    )
    create.add_argument("--environment", choices=ENVIRONMENTS, default="live")
    create.add_argument("--models", metavar="A,B", help="globs of the models it may use (default: all)")
    _finish(create, create_key)
    _finish(keys.add_parser("list", help="list all keys"), show_keys)
    revoke = keys.add_parser("revoke", help="refuse a key from now on")
    revoke.add_argument("id", metavar="ID")
    _finish(revoke, end_key)
    _finish(subparsers.add_parser("migrate", help="bring the database to this version"), migrate_database)


def _finish(parser: argparse.ArgumentParser, run: Callable[[argparse.Namespace], int]) -> None:
    parser.add_argument("--format", choices=("text", "json"), default="text")
    parser.set_defaults(run=run)


def _read_amount(text: str) -> Decimal:
    try:
        amount = Decimal(text)
    except InvalidOperation:
        raise argparse.ArgumentTypeError(f"{text!r} is not an amount such as 12.50") from None
    if not amount.is_finite() or not 0 <= amount < 10**12:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 10^12")
    return amount


def create_key(args: argparse.Namespace) -> int:
    """`gatewayz keys create`: the key alone is the last line of stdout."""
    role = args.role
    asked = KeyRequest(
        name=args.name,
        user=args.user,
        role=role,
        environment=args.environment,
        models=tuple(args.models.split(",")) if args.models else None,
        scopes=("inference", "admin") if role == "admin" else ("inference",),
        credit_usd=args.credit,
    )

    async def work(connection: Connection, settings: StorageSettings) -> int:
        ring = load_keyring(settings.home, settings.keyring, embedded=settings.database_url is None)
        issued = await issue_key(connection, ring, asked)
        if args.format == "json":
            _print(json.dumps(issued.show()))
        else:
            _say(f"{issued.id} {issued.name} ({issued.role}), shown once:")
            _print(issued.key.reveal())
        return 0

    return _run(work)


def show_keys(args: argparse.Namespace) -> int:
    """`gatewayz keys list`."""

    async def work(connection: Connection, settings: StorageSettings) -> int:
        for key in await list_keys(connection):
            _print(json.dumps(key) if args.format == "json" else _show_row(key))
        return 0

    return _run(work)


def end_key(args: argparse.Namespace) -> int:
    """`gatewayz keys revoke`: running gateways refuse the key within a second."""

    async def work(connection: Connection, settings: StorageSettings) -> int:
        if not await revoke_key(connection, args.id):
            _say(f"there is no key {args.id}: see `gatewayz keys list`")
            return 1
        _print(
            json.dumps({"id": args.id, "revoked": True}) if args.format == "json" else f"{args.id} revoked"
        )
        return 0

    return _run(work)


def migrate_database(args: argparse.Namespace) -> int:
    """`gatewayz migrate`."""

    async def work(connection: Connection, settings: StorageSettings) -> int:
        applied = await migrate(connection)
        if args.format == "json":
            _print(json.dumps({"applied": applied}))
        else:
            _print(f"applied {', '.join(applied)}" if applied else "nothing to apply")
        return 0

    return _run(work, migrated=False)


@contextlib.asynccontextmanager
async def connect_for_command(settings: StorageSettings) -> AsyncIterator[Connection]:
    """A connection to where the state is: DATABASE_URL, the running gateway's server, or one started for
    this.
    """
    if settings.database_url is None:
        async with borrow_embedded(settings.home) as connection:
            await connection.set_autocommit(True)
            yield connection
    else:
        prepare_home(settings.home)
        async with await psycopg.AsyncConnection.connect(
            settings.database_url, prepare_threshold=None, autocommit=True, connect_timeout=5
        ) as connection:
            yield connection


def _run(work: Callable[[Connection, StorageSettings], Awaitable[int]], *, migrated: bool = True) -> int:
    async def connect_and_work() -> int:
        settings = read_settings()
        async with connect_for_command(settings) as connection:
            if migrated:
                await migrate(connection)
            return await work(connection, settings)

    return _report(connect_and_work())


def _report(working: Coroutine[Any, Any, int]) -> int:
    try:
        return asyncio.run(working)
    except (StorageRefused, ConfigRefused) as error:
        _say(str(error))
    except psycopg.Error as error:
        _say(f"the database did not do it: {error}")
    return 1


def _show_row(key: dict[str, Any]) -> str:
    state = "revoked" if key["revoked_at"] else "active"
    used = key["last_used_at"] or "never"
    what = f"{key['id']}  ...{key['last4']}  {key['role']:<5}  {state:<7}"
    return f"{what}  {key['user']}  {key['name']}  last used {used}"


def _print(text: str) -> None:
    sys.stdout.write(f"{text}\n")


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
