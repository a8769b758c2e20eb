"""What a gateway needs before it serves: the database, its tables, and a key for whoever started it first.

An embedded database must be there before the first request; an external one may be away, and is migrated as
soon as it answers.
"""

import asyncio
import contextlib
import logging
from pathlib import Path

import psycopg

from engine.secret import Secret
from engine.storage.embedded import EmbeddedDatabase
from engine.storage.home import HomeLock
from engine.storage.issuing import issue_first_admin_key
from engine.storage.migrations import migrate
from engine.storage.postgres import cancel_tasks
from engine.storage.secrets import KeyRing, load_keyring

log = logging.getLogger(__name__)

EMBEDDED = "embedded"
RETRY_S = 2.0
CONNECT_WITHIN_S = 5
FIRST_TRY_WITHIN_S = 3.0


class State:
    """The database of one gateway. `start_early` may begin before the configuration has been read."""

    def __init__(self, home: Path, lock: HomeLock, keyring: Secret | None) -> None:
        self.url = ""
        self._home = home
        self._embedded = EmbeddedDatabase(home, lock=lock)
        self._keyring = keyring
        self._starting: asyncio.Task[str] | None = None
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def exists(self) -> bool:
        """Whether this home has an embedded database from an earlier start."""
        return (self._home / "postgres").exists()

    def start_early(self) -> None:
        self._starting = asyncio.get_running_loop().create_task(self._embedded.start())

    def choose(self, url: Secret) -> None:
        """Say which database it is. Raises StorageRefused when its key ring is missing."""
        self._ring = load_keyring(self._home, self._keyring, embedded=url.reveal() == EMBEDDED)
        self.url = self._embedded.url if url.reveal() == EMBEDDED else url.reveal()

    async def open(self, embedded: bool) -> Secret | None:
        """Start and migrate; the text of the first admin key when it was made just now."""
        if not embedded:
            return await self._open_external()
        if self._starting is None:
            self.start_early()
        assert self._starting is not None
        await self._starting
        self._tasks.append(asyncio.get_running_loop().create_task(self._embedded.watch()))
        return await prepare_database(self.url, self._ring)

    async def close(self) -> None:
        await cancel_tasks(*self._tasks)
        if self._starting is not None:
            with contextlib.suppress(Exception, asyncio.CancelledError):
                await self._starting
            await self._embedded.stop()

    async def _open_external(self) -> Secret | None:
        if self._starting is not None:
            await self.close()
        try:
            async with asyncio.timeout(FIRST_TRY_WITHIN_S):
                return await prepare_database(self.url, self._ring)
        except (psycopg.OperationalError, OSError, TimeoutError) as error:
            log.error("the database is away (%s): serving without it, and trying again", type(error).__name__)
        self._tasks.append(asyncio.get_running_loop().create_task(self._prepare_later()))
        return None

    async def _prepare_later(self) -> None:
        while True:
            await asyncio.sleep(RETRY_S)
            with contextlib.suppress(psycopg.OperationalError, OSError):
                await prepare_database(self.url, self._ring)
                log.info("the database is there and up to date")
                return


async def prepare_database(url: str, ring: KeyRing) -> Secret | None:
    """Bring the tables up to date; an admin key when there has never been one."""
    connection = await psycopg.AsyncConnection.connect(
        url, prepare_threshold=None, autocommit=True, connect_timeout=CONNECT_WITHIN_S
    )
    async with connection:
        await migrate(connection)
        issued = await issue_first_admin_key(connection, ring)
    return issued.key if issued is not None else None
