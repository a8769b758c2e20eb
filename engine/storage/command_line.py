"""What the commands of this room share: a connection to where the state is, exit codes, and where words go."""

import argparse
import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import psycopg

from engine.config.settings import read_settings
from engine.errors import ConfigRefused, GatewayError
from engine.secret import Secret
from engine.storage.embedded import borrow_embedded
from engine.storage.home import prepare_home
from engine.storage.interfaces import StorageRefused
from engine.storage.migrations import migrate
from engine.storage.postgres import Connection
from engine.storage.secrets import KeyRing, load_keyring

Subparsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


class StorageSettings(Protocol):
    """The part of the settings that says where the state is."""

    @property
    def home(self) -> Path: ...
    @property
    def database_url(self) -> str | None: ...
    @property
    def keyring(self) -> Secret | None: ...


def load_ring(settings: StorageSettings) -> KeyRing:
    return load_keyring(settings.home, settings.keyring, embedded=settings.database_url is None)


def finish_parser(parser: argparse.ArgumentParser, run: Callable[[argparse.Namespace], int]) -> None:
    parser.add_argument("--format", choices=("text", "json"), default="text")
    parser.set_defaults(run=run)


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


def run_work(work: Callable[[Connection, StorageSettings], Awaitable[int]], *, migrated: bool = True) -> int:
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
    except (StorageRefused, ConfigRefused, GatewayError) as error:
        say(str(error))
    except psycopg.Error as error:
        say(f"the database did not do it: {error}")
    return 1


def show(text: str) -> None:
    sys.stdout.write(f"{text}\n")


def say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
